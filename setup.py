"""Build the Cython extensions and the programs; all other metadata is in pyproject.toml.

A compilation that fails fails the build: there is no slow fallback to hide it.
Set PASST_DEBUG=1 for the assertions of `base/assertions.pxd`, -O0 and symbols with the lines of the sources;
PASST_SANITIZE=1 for assertions, AddressSanitizer and UndefinedBehaviorSanitizer (tools/sanitize), and
PASST_SANITIZE=coverage for calls besides that tell a fuzzer where the program went (tools/fuzz-dataplane).
"""

import json
import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

PROGRAMS = ("pasta", "passt", "qrap")

# Not before: setuptools brings distutils along, which Python has no more since 3.12.
from distutils.ccompiler import new_compiler  # noqa: E402
from distutils.command.build_scripts import build_scripts  # noqa: E402
from distutils.sysconfig import customize_compiler  # noqa: E402

SANITIZE = os.environ.get("PASST_SANITIZE", "")
DEBUG = os.environ.get("PASST_DEBUG") == "1" or SANITIZE != ""
DIRECTIVES = {
    "language_level": 3,
    "warn.unused": True,
    "warn.maybe_uninitialized": True,
    "binding": False,
    "embedsignature": False,
}
FLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter"]
FLAGS += ["-g", "-UNDEBUG", "-DPASST_DEBUG"] if DEBUG else ["-O3", "-g0", "-fno-plt"]
LINK_FLAGS = []
if SANITIZE:
    # What is not stopped at would be one line among many that nobody reads. Python's own flags have -fwrapv,
    # by which no overflow would be one.
    LINK_FLAGS = ["-fsanitize=address,undefined"]
    FLAGS += ["-O1", "-fno-omit-frame-pointer", "-fno-wrapv", *LINK_FLAGS, "-fno-sanitize-recover=undefined"]
    FLAGS += ["-fsanitize-coverage=trace-pc,trace-cmp"] if SANITIZE == "coverage" else []
elif DEBUG:
    FLAGS += ["-O0"]


def extension(source: Path) -> Extension:
    """Name an extension after its place below src/."""
    name = ".".join(source.relative_to("src").with_suffix("").parts)
    return Extension(name, [str(source)], extra_compile_args=FLAGS, extra_link_args=LINK_FLAGS,
                     define_macros=[("_GNU_SOURCE", None)])


class BuildPrograms(build_scripts):
    """Compiles the one launcher (`script-files` in pyproject.toml), under the name of each program."""

    def run(self) -> None:
        """Compile and link: its head says why this is no script."""
        # The versioned name: another minor version could not load the extensions.
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        macros = [("PYTHON_NAME", json.dumps(f"python{sys.version_info.major}.{sys.version_info.minor}")),
                  ("BUILD_PYTHON", json.dumps(python)), ("_GNU_SOURCE", None)]
        compiler = new_compiler(verbose=True)
        customize_compiler(compiler)
        objects = compiler.compile(self.scripts, output_dir=self.get_finalized_command("build").build_temp,
                                   macros=macros, extra_postargs=["-std=gnu11", "-Wall", "-Wextra", "-O2"])
        self.mkpath(self.build_dir)
        for name in PROGRAMS:
            compiler.link_executable(objects, name, output_dir=self.build_dir)


# tests/build_probes.py reads the constants above: it runs this file under another name.
if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    setup(
        cmdclass={"build_scripts": BuildPrograms},
        ext_modules=cythonize(
            [extension(path) for path in sorted(Path("src").glob("passt/**/*.pyx"))],
            compiler_directives=DIRECTIVES,
            include_path=["src"],
            emit_linenums=DEBUG,
            nthreads=os.cpu_count() or 1,
        ),
    )

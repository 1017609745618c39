"""Build the Cython extensions and the programs; all other metadata is in pyproject.toml.

A compilation that fails fails the build: there is no slow fallback to hide it.
Set PASST_DEBUG=1 for the assertions of `base/assertions.pxd`, -O0 and symbols with the lines of the sources;
PASST_SANITIZE=1 for assertions, AddressSanitizer and UndefinedBehaviorSanitizer (tools/sanitize), and
PASST_SANITIZE=coverage for calls besides that tell a fuzzer where the program went (tools/fuzz-dataplane).
"""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PROGRAMS = ("pasta", "passt", "qrap", "pesto", "passtctl")
# All modules of the data plane are one shared object: the package's __init__.py loads them from there.
DATAPLANE = Path("src/passt/dataplane")
PLANE = "passt.dataplane.plane"

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
LINK_FLAGS: list[str] = []
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


def join_plane(modules: list[Extension]) -> list[Extension]:
    """Make one extension of the modules of the data plane, once they are translated to C."""
    sources = [module.sources[0] for module in modules]
    parts = [source for source in sources if Path(source).is_relative_to(DATAPLANE)]
    others = [module for module in modules if module.sources[0] not in parts]
    plane = Extension(PLANE, parts, extra_compile_args=FLAGS, extra_link_args=LINK_FLAGS,
                      define_macros=[("_GNU_SOURCE", None)])
    return [plane, *others]


class BuildExtensions(build_ext):
    """Compiles what is stale of the data plane on all processors; setuptools compiles all of it, on one."""

    def build_extension(self, ext: Extension) -> None:
        """Compile and link."""
        if ext.name == PLANE:
            with ThreadPoolExecutor(self.parallel or os.cpu_count()) as pool:
                ext.extra_objects = list(pool.map(lambda source: self.compile_part(ext, source), ext.sources))
            # What is left to be done is to link, if an object is newer.
            ext.depends, ext.sources = ext.extra_objects, []
        super().build_extension(ext)

    def compile_part(self, ext: Extension, source: str) -> str:
        """Compile one module of the plane if it is older than its source; give the object's name."""
        [part] = self.compiler.object_filenames([source], output_dir=self.build_temp)
        if self.force or is_older(Path(part), [Path(source), Path("setup.py")]):
            self.announce(f"building '{source}'", 2)
            path = Path(source).relative_to(DATAPLANE).with_suffix("")
            rename = (f"PyInit_{path.name}", f"PyInit_{'_'.join(path.parts)}")
            self.compiler.compile([source], output_dir=self.build_temp, macros=[*ext.define_macros, rename],
                                  include_dirs=ext.include_dirs, debug=self.debug,
                                  extra_postargs=ext.extra_compile_args)
        return part


def is_older(path: Path, sources: list[Path]) -> bool:
    """Tell whether a file is missing or not newer than what it is made of."""
    return not path.exists() or path.stat().st_mtime <= max(source.stat().st_mtime for source in sources)


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
        cmdclass={"build_ext": BuildExtensions, "build_scripts": BuildPrograms},
        ext_modules=join_plane(cythonize(
            [extension(path) for path in sorted(Path("src").glob("passt/**/*.pyx"))],
            compiler_directives=DIRECTIVES,
            include_path=["src"],
            emit_linenums=DEBUG,
            nthreads=os.cpu_count() or 1,
        )),
    )

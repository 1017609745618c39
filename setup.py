"""Build the Cython extensions; all other metadata is in pyproject.toml.

A compilation that fails fails the build: there is no slow fallback to hide it.
Set PASST_DEBUG=1 for C asserts and -O0.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("PASST_DEBUG") == "1"
DIRECTIVES = {
    "language_level": 3,
    "warn.unused": True,
    "warn.maybe_uninitialized": True,
    "binding": False,
    "embedsignature": False,
}
FLAGS = ["-std=gnu11", "-Wall", "-Wextra", "-Wno-unused-parameter"]
FLAGS += ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g0", "-fno-plt"]


def extension(source: Path) -> Extension:
    """Name an extension after its place below src/."""
    name = ".".join(source.relative_to("src").with_suffix("").parts)
    return Extension(name, [str(source)], extra_compile_args=FLAGS, define_macros=[("_GNU_SOURCE", None)])


# tests/build_probes.py reads the constants above: it runs this file under another name.
if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    setup(
        ext_modules=cythonize(
            [extension(path) for path in sorted(Path("src").glob("passt/**/*.pyx"))],
            compiler_directives=DIRECTIVES,
            include_path=["src"],
            nthreads=os.cpu_count() or 1,
        ),
    )

"""Build bench/src/sums.pyx into bench/bin, with the flags of setup.py, if it is older than its sources.

To be run as `python -m bench.build_sums`.
"""

import os
import runpy
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent


def build() -> None:
    """Translate and compile."""
    os.chdir(ROOT)
    settings = runpy.run_path("setup.py", run_name="setup")
    extension = Extension(
        "sums", ["bench/src/sums.pyx"], extra_compile_args=settings["FLAGS"],
        define_macros=[("_GNU_SOURCE", None)],
    )  # fmt: skip
    modules = cythonize(  # type: ignore[no-untyped-call]
        [extension], compiler_directives=settings["DIRECTIVES"], include_path=["src"], build_dir="build/bench"
    )
    command = build_ext(Distribution({"ext_modules": modules}))
    command.build_lib = "bench/bin"
    command.build_temp = "build/bench"
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    build()

"""Build the probes: extensions for the tests alone, which show C functions of the data plane to pytest.

    python tests/build_probes.py [NAME...]

Every tests/dataplane/probes/*.pyx, or each that is named, becomes the module tests.dataplane.probes.NAME
beside its source, with the flags and directives of setup.py. The package's own extensions have to be built in
place first (`python setup.py build_ext --inplace`).
"""

import os
import runpy
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent.parent
PROBES = Path("tests/dataplane/probes")


def build(names: list[str]) -> None:
    """Translate, compile and put in place whatever is older than its sources; *names* empty: all."""
    os.chdir(ROOT)
    settings = runpy.run_path("setup.py", run_name="setup")
    extensions = [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            extra_compile_args=settings["FLAGS"],
            extra_link_args=settings["LINK_FLAGS"],
            define_macros=[("_GNU_SOURCE", None)],
        )
        for source in sorted(PROBES.glob("*.pyx"))
        if not names or source.stem in names
    ]
    modules = cythonize(  # type: ignore[no-untyped-call]
        extensions,
        compiler_directives=settings["DIRECTIVES"],
        include_path=["src", "."],
        emit_linenums=settings["DEBUG"],
    )
    command = build_ext(Distribution({"ext_modules": modules}))
    command.inplace = True
    command.build_temp = "build/probes"
    command.ensure_finalized()
    command.run()
    for module in modules:
        # A probe that needed no work is up to date too: conftest.py goes by the time of the file.
        os.utime(command.get_ext_fullpath(module.name))


if __name__ == "__main__":
    build(sys.argv[1:])

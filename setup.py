"""Build the Cython extensions and the programs; all other metadata is in pyproject.toml.

A compilation that fails fails the build: there is no slow fallback to hide it.
A source archive and what is installed name the commit, where git or PASST_COMMIT tells it. The same commit
makes the same archive, byte for byte; its time is the commit's, or SOURCE_DATE_EPOCH.
Set PASST_DEBUG=1 for the assertions of `base/assertions.pxd`, -O0 and symbols with the lines of the sources;
PASST_SANITIZE=1 for assertions, AddressSanitizer and UndefinedBehaviorSanitizer (tools/sanitize), and
PASST_SANITIZE=coverage for calls besides that tell a fuzzer where the program went (tools/fuzz-dataplane).
"""

import gzip
import json
import os
import re
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

PROGRAMS = ("pasta", "passt", "qrap", "pesto", "passtctl")
# All modules of the data plane are one shared object: the package's __init__.py loads them from there.
DATAPLANE = Path("src/passt/dataplane")
PLANE = "passt.dataplane.plane"
# Small programs that the main process starts; they lie beside the module that does.
HELPERS = Path("src/helpers")
HELPER_PROGRAMS = ("reader", "configurer")

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

    def run(self) -> None:
        """Compile and link all, the small programs too."""
        super().run()
        self.build_helpers(Path("src" if self.inplace else self.build_lib, "passt", "process"))

    def build_helpers(self, directory: Path) -> None:
        """Compile and link the small programs that the main process starts, into the package."""
        compiler = new_compiler(verbose=True)
        customize_compiler(compiler)
        shared = HELPERS / "confine.c"
        for name in HELPER_PROGRAMS:
            sources = [HELPERS / f"{name}.c", shared]
            program = directory / f"passt-{name}"
            if self.force or is_older(program, [*sources, HELPERS / "confine.h", Path("setup.py")]):
                objects = compiler.compile(list(map(str, sources)), output_dir=self.build_temp,
                                           macros=[("_GNU_SOURCE", None)],
                                           extra_postargs=["-std=gnu11", "-Wall", "-Wextra", "-O2", "-g0"])
                self.mkpath(str(directory))
                compiler.link_executable(objects, program.name, output_dir=str(directory))

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
        # The versioned name, with "t" if it is free-threaded: no other one could load the extensions.
        python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        name = f"python{sys.version_info.major}.{sys.version_info.minor}{sys.abiflags}"
        macros = [("PYTHON_NAME", json.dumps(name)), ("BUILD_PYTHON", json.dumps(python)),
                  ("_GNU_SOURCE", None)]
        if "t" in sys.abiflags:
            macros.append(("FREE_THREADED", None))
        compiler = new_compiler(verbose=True)
        customize_compiler(compiler)
        options = ["-std=gnu11", "-Wall", "-Wextra", "-O2", "-g0"]
        objects = compiler.compile(self.scripts, output_dir=self.get_finalized_command("build").build_temp,
                                   macros=macros, extra_postargs=options)
        self.mkpath(self.build_dir)
        for name in PROGRAMS:
            compiler.link_executable(objects, name, output_dir=self.build_dir)


def ask_git(*arguments: str) -> str:
    """Ask git about this tree; empty if this is no clone."""
    if not Path(".git").exists():
        return ""
    # A clone may be another user's, as in `sudo make install`.
    command = ["git", "-c", f"safe.directory={Path.cwd()}", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def find_commit() -> str:
    """Give the commit that this tree is, with a plus sign if something in it has been changed since."""
    commit = ask_git("rev-parse", "--short=12", "HEAD")
    changed = commit and ask_git("status", "--porcelain", "--untracked-files=no")
    return os.environ.get("PASST_COMMIT") or f"{commit}{'+' if changed else ''}"


def source_time_s() -> int:
    """Give the time of the files in a source archive: the commit's, else the first that ZIP can express."""
    return int(os.environ.get("SOURCE_DATE_EPOCH") or ask_git("log", "-1", "--format=%ct") or 315532800)


def name_commit(package: Path, commit: str) -> None:
    """Write *commit* into the copy of the package in *package*, if it is known."""
    path = package / "__init__.py"
    text = path.read_text(encoding="utf-8")
    if commit:
        path.unlink()             # it may be a link to the tree's own file
        named = re.sub(r'(?m)^__commit__ = ".*"$', f'__commit__ = "{commit}"', text)
        path.write_text(named, encoding="utf-8")


def write_archive(directory: Path, archive: Path, time_s: int) -> None:
    """Pack *directory* as *archive*: the same contents make the same bytes, whoever packs them, and when."""

    def level(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = "root"
        entry.mtime = time_s
        entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
        return entry

    with (archive.open("wb") as file, gzip.GzipFile("", "wb", 9, file, time_s) as packed,
          tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar):
        for path in [directory, *sorted(directory.rglob("*"))]:
            tar.add(path, directory.name / path.relative_to(directory), recursive=False, filter=level)


class BuildModules(build_py):
    """Copies the modules, and names the commit in the copy."""

    def run(self) -> None:
        """Copy; an editable package is the tree itself."""
        super().run()
        if not self.editable_mode:
            name_commit(Path(self.build_lib, "passt"), find_commit())


class SourceArchive(sdist):
    """Makes a source archive that is the same each time."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Link or copy the files, and name the commit in the copy."""
        super().make_release_tree(base_dir, files)
        name_commit(Path(base_dir, "src", "passt"), find_commit())

    def make_archive(self, base_name: str, *_format: str, base_dir: str, **_owner: object) -> str:
        """Pack *base_dir*, as .tar.gz whatever is asked for."""
        archive = Path(f"{base_name}.tar.gz")
        archive.parent.mkdir(parents=True, exist_ok=True)
        write_archive(Path(base_dir), archive, source_time_s())
        return str(archive)


def needs_extensions(arguments: list[str]) -> bool:
    """Tell whether the commands in *arguments* build; what describes the tree needs no translation to C."""
    builds = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"}
    return not {"sdist", "egg_info"}.intersection(arguments) or bool(builds.intersection(arguments))


# tests/build_probes.py reads the constants above: it runs this file under another name.
if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    setup(
        cmdclass={"build_ext": BuildExtensions, "build_py": BuildModules, "build_scripts": BuildPrograms,
                  "sdist": SourceArchive},
        ext_modules=join_plane(cythonize(
            [extension(path) for path in sorted(Path("src").glob("passt/**/*.pyx"))],
            compiler_directives=DIRECTIVES,
            include_path=["src"],
            emit_linenums=DEBUG,
            nthreads=os.cpu_count() or 1,
        )) if needs_extensions(sys.argv[1:]) else [],
    )

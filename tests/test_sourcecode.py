"""The sources themselves: typed, linted, stubs true to the compiled modules, built without a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from passt.process.signals import LIBRARY_SIGNALS
from tests.support import apparmor

pytestmark = pytest.mark.slow

TREE = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent
STUBS = sorted(path for path in (TREE / "src").rglob("*.pyi") if path.with_suffix(".pyx").exists())
# What Cython adds to every module; and Python 3.13 gives a function without arguments a "self".
# Links are made by methods of Engine, whose stub says what they are.
# The last ones have no parameter: some versions of Python find a "self" in such a function of C.
STUBTEST_ALLOWED = r""".*\.__pyx_capi__
.*\.__test__
.*\.__reduce_cython__
.*\.__setstate_cython__
.*\.__pyx_vtable__
.*\.__pyx_unpickle_.*
passt\.dataplane\.link\.(vhost\.VhostLink|vhost_rings\.VhostRings)
passt\.host\.syscalls\.(capget|inotify_init)
passt\.dataplane\.tcp\.states\.transitions
"""


def run(argv: list[str], timeout: float = 1200, variables: dict[str, str] | None = None) -> str:
    """Run a tool in the tree, with *variables* in its environment too; its findings are the failure."""
    done = subprocess.run(
        argv,
        cwd=TREE,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TREE / "src"), "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
             **(variables or {})},
    )
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_types_are_strict() -> None:
    run([str(PROGRAMS / "mypy")])


def test_linter_finds_nothing() -> None:
    run([str(PROGRAMS / "ruff"), "check"])


def test_cython_linter_finds_nothing() -> None:
    sources = [
        str(path)
        for top in ("src", "tests")
        for pattern in ("*.pyx", "*.pxd")
        for path in (TREE / top).rglob(pattern)
    ]
    run([str(PROGRAMS / "cython-lint"), *sources])


def test_shell_scripts_parse() -> None:
    for path in [TREE / ".ci" / "run", *(TREE / "tools").iterdir(), *(TREE / "demo").iterdir()]:
        if path.is_file() and path.read_bytes()[:11] == b"#!/bin/bash":
            run(["bash", "-n", str(path)])


def test_stubs_are_true_to_the_compiled_modules(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(STUBTEST_ALLOWED, encoding="ascii")
    modules = [".".join(stub.relative_to(TREE / "src").with_suffix("").parts) for stub in STUBS]
    options = ["--ignore-unused-allowlist", "--ignore-disjoint-bases"]
    said = run([sys.executable, "-m", "mypy.stubtest", "--allowlist", str(allowed), *options, *modules])
    assert f"no issues found in {len(modules)} modules" in said


def test_every_python_visible_extension_has_a_stub() -> None:
    imported = {"engine"} | {path.stem for path in (TREE / "src" / "passt" / "host").glob("*.pyx")}
    assert imported <= {path.stem for path in STUBS}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Build a wheel from a copy of the sources, as `pip install .` does; give it and the build's log."""
    copy = tmp_path_factory.mktemp("build") / "tree"
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info", "passt-*")
    shutil.copytree(TREE / "src" / "passt", copy / "src" / "passt", ignore=ignored)
    for name in ("launcher", "helpers"):
        shutil.copytree(TREE / "src" / name, copy / "src" / name)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(TREE / name, copy)
    log = run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-v",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            str(copy / "wheels"),
            str(copy),
        ],
        timeout=3000,
    )
    return next((copy / "wheels").glob("*.whl")), log


def test_build_emits_no_warning(wheel: tuple[Path, str]) -> None:
    _, log = wheel
    assert "-Wextra" in log
    # pip and setuptools warn of other things, which are none of the compilers' business.
    found = [
        line for line in log.splitlines() if "warning:" in line.lower() and (".c:" in line or ".p" in line)
    ]
    assert found == []


def test_wheel_holds_what_a_user_needs(wheel: tuple[Path, str]) -> None:
    path, _ = wheel
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        modes = {entry.filename: entry.external_attr >> 16 for entry in archive.infolist()}
        metadata = next(name for name in names if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    built = {name.partition(".")[0] for name in names if name.endswith(".so")}
    assert built == {"passt/dataplane/plane", "passt/host/seccomp", "passt/host/syscalls"}
    small_programs = {name for name in names if name.startswith("passt/process/passt-")}
    assert small_programs == {"passt/process/passt-configurer", "passt/process/passt-reader"}
    assert all(modes[name] & 0o111 == 0o111 for name in small_programs)
    assert "passt/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in text
    assert not any(name.endswith((".pyx", ".c")) for name in names)
    # All programs are launchers: a script of pip's would obey the caller's PYTHON variables.
    assert sorted(name.rpartition("/")[2] for name in names if ".data/scripts/" in name) == [
        "passt", "passtctl", "pasta", "pesto", "qrap"]
    assert not any(name.endswith("/entry_points.txt") for name in names)


@pytest.fixture(scope="module")
def installed(wheel: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Install the wheel in every way that pip has; give the directory of the programs for each."""
    path, _ = wheel
    top = tmp_path_factory.mktemp("installed") / "a b"  # no shell and no first line of a script would bear it
    run([sys.executable, "-m", "venv", "--without-pip", str(top / "venv")])
    base = Path(getattr(sys, "_base_executable", sys.executable))
    pip = [sys.executable, "-m", "pip", "--python"]
    options = ["install", "--no-deps", "--no-index", "--ignore-installed", str(path)]
    variables = {"PYTHONPATH": "", "PYTHONUSERBASE": str(top / "user"), "PIP_BREAK_SYSTEM_PACKAGES": "1"}
    run([*pip, str(top / "venv" / "bin" / "python"), *options], variables=variables)
    for more in (["--target", str(top / "target")], ["--user"], ["--prefix", str(top / "prefix")]):
        run([*pip, str(base), *options, *more], variables=variables)
    (top / "link").mkdir()
    (top / "link" / "pasta").symlink_to(top / "venv" / "bin" / "pasta")
    places = {name: top / name / "bin" for name in ("venv", "target", "user")}
    # Debian puts local/ in between.
    [prefix] = (found.parent for found in (top / "prefix").rglob("bin/pasta"))
    return {**places, "prefix": prefix, "link": top / "link"}


WAYS = ["venv", "target", "user", "prefix", "link"]
# What would end, change or slow down an interpreter of the caller's; HOSTILE is a directory with modules.
VARIABLES = [
    "PYTHONHOME=/nonexistent", "PYTHONPATH=HOSTILE", "PYTHONIOENCODING=bogus", "PYTHONINSPECT=1",
    "PYTHONPLATLIBDIR=lib64", "PYTHONSAFEPATH=1", "PYTHONWARNINGS=error", "PYTHONDEVMODE=1",
    "PYTHONTRACEMALLOC=5", "PYTHONSTARTUP=HOSTILE/socket.py", "PYTHONMALLOC=debug", "PYTHONVERBOSE=1",
    "PYTHONUTF8=bogus", "PYTHONBREAKPOINT=hostile", "PYTHONPROFILEIMPORTTIME=1", "PYTHONEXECUTABLE=/none",
    "PYTHONUSERBASE=HOSTILE", "PYTHONHASHSEED=bogus", "PYTHONNOUSERSITE=1", "PYTHONCASEOK=1",
]  # fmt: skip


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Lend a directory with modules that nobody of us wants to run."""
    write_hostile(tmp_path, "socket", "signal", "os", "site", "sitecustomize", "usercustomize", "select")
    return tmp_path


def write_hostile(directory: Path, *names: str) -> None:
    for name in names:
        text = "raise SystemExit('a file of the caller ran')\n"
        (directory / f"{name}.py").write_text(text, encoding="ascii")


def start(argv: list[str], cwd: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    environment = dict(each.split("=", 1) for each in ("PATH=/usr/bin:/bin", "LANG=C.UTF-8", *variables))
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, cwd=cwd,
                          env=environment, stdin=subprocess.DEVNULL)  # fmt: skip


def say_version(argv: list[str], cwd: Path, *variables: str) -> subprocess.CompletedProcess[str]:
    return start([*argv, "--version"], cwd, *variables)


@pytest.mark.parametrize("way", WAYS)
def test_wheel_installs_and_runs(installed: dict[str, Path], tmp_path: Path, way: str) -> None:
    for name in ["pasta"] if way == "link" else ["pasta", "passt", "qrap", "pesto"]:
        done = say_version([str(installed[way] / name)], tmp_path)
        assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, name, "")


@pytest.mark.parametrize("way", WAYS[:4])
def test_small_programs_may_be_executed(installed: dict[str, Path], way: str) -> None:
    package = next(installed[way].parent.rglob("passt/__main__.py")).parent
    for name in ("reader", "configurer"):
        program = package / "process" / f"passt-{name}"
        assert os.access(program, os.X_OK)
        # Without arguments it does nothing.
        assert subprocess.run([program], check=False).returncode == 1


@pytest.mark.parametrize("way", WAYS[:4])
def test_profiles_cover_an_installation(installed: dict[str, Path], tmp_path: Path, way: str) -> None:
    """Every file of the package, for AppArmor; the interpreter is a link, or that of the build."""
    # A program in PREFIX/bin, or in PREFIX/local/bin where Debian puts it.
    prefix = installed[way].parent
    profiles = apparmor.load(tmp_path, [str(prefix)])
    package = next(prefix.rglob("passt/__main__.py")).parent
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for name in ("pasta", "passt"):
        launcher = profiles[f"{name}-python"]
        program = profiles.get(f"{name}-python-program", launcher)
        assert launcher.attaches_to(str(installed[way] / name))
        for python in {path.resolve() for path in installed[way].glob("python3.*")} or {base}:
            assert launcher.allows(str(python), "x", owner=False)
        files = [path for path in package.rglob("*") if path.is_file()]
        assert any(path.suffix == ".so" for path in files)
        for path in files:
            assert program.allows(str(path), "rm" if path.suffix == ".so" else "r", owner=False), path


@pytest.mark.parametrize("variable", VARIABLES)
@pytest.mark.parametrize("way", WAYS)
def test_installed_program_does_not_obey_variables(
    installed: dict[str, Path], hostile: Path, way: str, variable: str
) -> None:
    done = say_version([str(installed[way] / "pasta")], hostile, variable.replace("HOSTILE", str(hostile)))
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "pasta", "")


# The interpreter has started by then: what hinders that is its caller's matter, or is told by it already.
@pytest.mark.parametrize("variable", [
    "PYTHONINSPECT=1", "PYTHONSAFEPATH=1", "PYTHONWARNINGS=error", "PYTHONDEVMODE=1", "PYTHONTRACEMALLOC=5",
    "PYTHONSTARTUP=HOSTILE/socket.py", "PYTHONMALLOC=debug", "PYTHONPATH=LATE", "LANG=C.UTF-8",
])  # fmt: skip
def test_module_as_a_program_does_not_obey_variables(
    installed: dict[str, Path], tmp_path: Path, variable: str
) -> None:
    late = tmp_path / "late"
    late.mkdir()
    for directory in (late, tmp_path):  # of PYTHONPATH, and the working directory
        write_hostile(directory, "socket", "signal", "select")
    python = str(installed["venv"] / "python")
    setting = variable.replace("HOSTILE", str(late)).replace("LATE", str(late))
    done = say_version([python, "-m", "passt", "pasta"], tmp_path, setting)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "pasta", "")
    # A start that loads what is named there.
    command = ["pasta", "--userns", "/nonexistent", "--", "true"]
    refused = start([python, "-m", "passt", *command], tmp_path, setting)
    assert "a file of the caller ran" not in refused.stderr
    assert refused.stderr.startswith("pasta: ")


@pytest.mark.needs_userns
@pytest.mark.parametrize("names", [[], ["PIPE"], ["XFSZ"], ["PIPE", "XFSZ"]], ids="-".join)
def test_command_ignores_what_the_caller_of_an_installed_program_did(
    installed: dict[str, Path], tmp_path: Path, names: list[str]
) -> None:
    trap = f"trap '' {' '.join(names)}; " if names else ""
    caller = ["sh", "-c", trap + 'exec "$@"', "sh"]
    pasta = [str(installed["venv"] / "pasta"), "-q", "--"]
    plain, inside = (start([*caller, *words, "grep", "SigIgn", "/proc/self/status"], tmp_path)
                     for words in ([], pasta))
    # posix_spawn(3), by which make may have started us, leaves two of the C library ignored; pasta does not.
    own = sum(1 << (number - 1) for number in LIBRARY_SIGNALS)
    ignored = int(plain.stdout.split()[1], 16) & ~own
    assert (int(inside.stdout.split()[1], 16), inside.stderr) == (ignored, "")


def test_launcher_without_its_interpreter_says_so(installed: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    launcher = tmp_path / "bin" / "pasta"
    shutil.copy(installed["venv"] / "pasta", launcher)
    done = say_version([str(launcher)], tmp_path)
    # The interpreter of the build is there, but no package.
    assert done.returncode == 1
    assert "No module named" in done.stderr

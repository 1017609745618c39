"""The sources themselves: typed, linted, stubs true to the compiled modules, built without a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TREE = Path(__file__).parent.parent
PROGRAMS = Path(sys.executable).parent
STUBS = sorted(path for path in (TREE / "src").rglob("*.pyi") if path.with_suffix(".pyx").exists())
# What Cython adds to every module; and Python 3.13 gives a function without arguments a "self".
STUBTEST_ALLOWED = r""".*\.__pyx_capi__
.*\.__test__
.*\.__reduce_cython__
.*\.__setstate_cython__
.*\.__pyx_vtable__
.*\.__pyx_unpickle_.*
passt\.host\.syscalls\.capget
"""


def run(argv: list[str], timeout: float = 300) -> str:
    """Run a tool in the tree; its findings are the failure."""
    done = subprocess.run(
        argv,
        cwd=TREE,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": str(TREE / "src"), "PATH": f"{PROGRAMS}:{os.environ['PATH']}"},
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


@pytest.mark.parametrize("stub", STUBS, ids=lambda path: path.stem)
def test_stub_is_true_to_the_compiled_module(stub: Path, tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.write_text(STUBTEST_ALLOWED, encoding="ascii")
    module = ".".join(stub.relative_to(TREE / "src").with_suffix("").parts)
    run(
        [
            sys.executable,
            "-m",
            "mypy.stubtest",
            "--allowlist",
            str(allowed),
            "--ignore-unused-allowlist",
            "--ignore-disjoint-bases",
            module,
        ]
    )


def test_every_python_visible_extension_has_a_stub() -> None:
    imported = {"engine"} | {path.stem for path in (TREE / "src" / "passt" / "host").glob("*.pyx")}
    assert imported <= {path.stem for path in STUBS}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Build a wheel from a copy of the sources, as `pip install .` does; give it and the build's log."""
    copy = tmp_path_factory.mktemp("build") / "tree"
    ignored = shutil.ignore_patterns("*.so", "*.c", "__pycache__", "*.egg-info")
    shutil.copytree(TREE / "src", copy / "src", ignore=ignored)
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
        timeout=900,
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
        metadata = next(name for name in names if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    built = {name.partition(".")[0] for name in names if name.endswith(".so")}
    assert built == {
        str(path.relative_to(TREE / "src").with_suffix("")) for path in (TREE / "src").rglob("*.pyx")
    }
    assert "passt/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in text
    assert not any(name.endswith((".pyx", ".c")) for name in names)


def test_wheel_installs_and_runs(wheel: tuple[Path, str], tmp_path: Path) -> None:
    path, _ = wheel
    place = tmp_path / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(place)])
    run(
        [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(place / "bin" / "python"),
            "install",
            "--no-deps",
            "--no-index",
            str(path),
        ]
    )
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    for argv in (["pasta"], ["passt"], ["python", "-m", "passt", "pasta"]):
        full = [str(place / "bin" / argv[0]), *argv[1:], "--version"]
        done = subprocess.run(full, capture_output=True, text=True, timeout=60, check=True, env=environment)
        assert done.stdout.startswith(("pasta ", "passt ")), done.stdout

"""What the launcher tells the program of its caller: seen by a stand-in for the interpreter, and read."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from passt.facts import launcher

SOURCE = Path(__file__).parents[2] / "src" / "launcher" / "launcher.c"
BOTH = {signal.SIGPIPE, signal.SIGXFSZ}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the launcher, beside an interpreter that prints its arguments."""
    built = compile_launcher(tmp_path_factory.mktemp("launcher"), "stand-in")
    built.with_name("stand-in").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="ascii")
    built.with_name("stand-in").chmod(0o755)
    return built


def compile_launcher(directory: Path, python: str, *options: str) -> Path:
    """Compile a launcher for an interpreter of the name *python*, as on a machine that has it elsewhere."""
    built = directory / "bin" / "pasta"
    built.parent.mkdir()
    compiler = shutil.which("cc") or pytest.skip("needs a C compiler")
    subprocess.run([compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", f'-DPYTHON_NAME="{python}"',
                    '-DBUILD_PYTHON="/none"', *options, "-o", str(built), str(SOURCE)], check=True)
    return built


def test_interpreter_of_the_system_is_found_where_the_build_had_none(tmp_path: Path) -> None:
    program = compile_launcher(tmp_path, "printf")  # of /usr/bin: it takes the first argument for a format
    done = subprocess.run([str(program)], check=False, capture_output=True, text=True)
    assert "-I" in done.stdout + done.stderr
    assert "install the program anew" not in done.stderr


def test_a_missing_interpreter_is_named_with_the_places_where_it_could_be(tmp_path: Path) -> None:
    program = compile_launcher(tmp_path, "python3.0")
    done = subprocess.run([str(program)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"{program}: there is no python3.0 in {program.parent}, /usr/bin or"
                           " /usr/local/bin, nor /none: install the program anew\n")


def test_a_free_threaded_python_is_told_to_have_its_lock(tmp_path: Path) -> None:
    for options, told in (((), b"-I"), (("-DFREE_THREADED",), b"-X")):
        directory = tmp_path / f"made{len(options)}"
        directory.mkdir()
        program = compile_launcher(directory, "stand-in", *options)
        program.with_name("stand-in").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n', encoding="ascii")
        program.with_name("stand-in").chmod(0o755)
        words = subprocess.run([str(program)], check=True, capture_output=True).stdout.split(b"\0")
        assert words[0] == told
        assert (b"gil=1" in words) is bool(options)


@pytest.mark.parametrize(("names", "option"), [
    ("", []), ("PIPE", ["-X", "passt_ignored=13"]), ("XFSZ", ["-X", f"passt_ignored={int(signal.SIGXFSZ)}"]),
    ("PIPE XFSZ HUP", ["-X", f"passt_ignored=13,{int(signal.SIGXFSZ)}"]), ("HUP", []),
])
def test_signals_that_python_will_ignore_are_named_if_the_caller_does(program: Path, names: str,
                                                                      option: list[str]) -> None:
    trap = f"trap '' {names}; " if names else ""
    argv = ["sh", "-c", trap + 'exec "$@"', "sh", str(program), "--", "a b"]
    words = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    assert words == [*option, "-I", "-m", "passt", str(program), "--", "a b"]


@pytest.mark.parametrize(("value", "ignored"), [
    (None, set()), ("13", {signal.SIGPIPE}), (f"13,{int(signal.SIGXFSZ)}", BOTH), ("1,2,15", set()),
    ("", set()), ("x,,-13, 13", set()), (True, set()),
])
def test_what_was_named_is_read(monkeypatch: pytest.MonkeyPatch, value: str | bool | None, ignored: set[int]
                                ) -> None:
    monkeypatch.setattr(sys, "_xoptions", {} if value is None else {launcher.OPTION: value})
    assert launcher.ignored_signals() == ignored

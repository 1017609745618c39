"""Which of the two closes the paths: an empty root, Landlock, both, or neither, and what is said of it."""

from __future__ import annotations

import pytest

from passt import log
from passt.process import empty_root, interpreter, landlock
from passt.process.stages import COMMAND, PASST, STAGES, Progress
from passt.run import isolation
from passt.run.isolation import Isolation


def at_namespaces(form: str, off: str = "") -> Progress:
    progress = Progress(form, {"PASST_WITHOUT": off}, is_privileged=False)
    for stage in STAGES:
        if stage.name == "namespaces":
            break
        if form in stage.forms:
            progress.enter(stage.name)
    return progress


class FakeFilter:
    thread_program = b"thread"

    def __init__(self, form: str) -> None:
        assert form in {COMMAND, PASST}


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def restrict(*, signals: bool) -> int:
        calls.append(f"landlock {signals}")
        return 7

    monkeypatch.setattr(empty_root, "enter_namespaces", lambda: calls.append("namespaces"))
    monkeypatch.setattr(empty_root, "enter", lambda: calls.append("root"))
    monkeypatch.setattr(landlock, "restrict", restrict)
    monkeypatch.setattr(interpreter, "close_paths", lambda: None)
    monkeypatch.setattr(isolation, "CallFilter", FakeFilter)
    return calls


@pytest.mark.parametrize(("form", "signals"), [(COMMAND, False), (PASST, True)])
def test_both_where_both_are_to_be_had(done: list[str], form: str, signals: bool) -> None:
    Isolation(at_namespaces(form)).close_paths()
    assert done == ["namespaces", "root", f"landlock {signals}"]


def test_interpreter_has_read_what_it_needs_before_paths_are_closed(done: list[str],
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "close_paths", lambda: done.append("interpreter"))
    Isolation(at_namespaces(PASST)).close_paths()
    assert done == ["interpreter", "namespaces", "root", "landlock True"]


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize(("broken", "expected", "text"), [
    ((), ["namespaces", "root", "landlock True"], "closed by an empty root directory and Landlock"),
    (("enter_namespaces",), ["landlock True"], "closed by Landlock"),
    (("enter",), ["namespaces", "landlock True"], "closed by Landlock"),
    (("restrict",), ["namespaces", "root"], "closed by an empty root directory"),
    (("enter_namespaces", "restrict"), [], "keeps sight of the host's files"),
])
def test_one_stands_in_for_the_other(done: list[str], monkeypatch: pytest.MonkeyPatch,
                                     capfd: pytest.CaptureFixture[str], broken: tuple[str, ...],
                                     expected: list[str], text: str) -> None:
    for name in broken:
        monkeypatch.setattr(landlock if name == "restrict" else empty_root, name, refuse)
    log.configure(debug=True)
    try:
        Isolation(at_namespaces(PASST)).close_paths()
    finally:
        log.configure()
    assert done == expected
    assert text in capfd.readouterr().err


@pytest.mark.parametrize(("off", "expected"), [
    ("root", ["namespaces", "landlock True"]),
    ("namespaces", ["landlock True"]),
    ("landlock", ["namespaces", "root"]),
    ("root,landlock", ["namespaces"]),
])
def test_switched_off_stages_are_left_out(done: list[str], off: str, expected: list[str]) -> None:
    Isolation(at_namespaces(PASST, off)).close_paths()
    assert done == expected


@pytest.mark.parametrize(("off", "program"), [("", b"thread"), ("filter", b"")])
def test_thread_gets_its_filter_unless_that_is_off(done: list[str], off: str, program: bytes) -> None:
    one = Isolation(at_namespaces(PASST, off))
    one.close_paths()
    assert one.thread_program == program
    assert done

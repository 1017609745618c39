"""Which of the two closes the paths: an empty root, Landlock, both, or neither, and what is said of it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, cast

import pytest

from passt import log
from passt.host import syscalls
from passt.namespace import create
from passt.process import empty_root, interpreter, landlock
from passt.process.stages import COMMAND, PASST, STAGES, Progress
from passt.run import isolation
from passt.run.isolation import Isolation
from tests.support.isolated import errno_of, isolated

if TYPE_CHECKING:
    from passt.dataplane import engine

SCOPES = 6  # the version of Landlock that can forbid signals


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


def landlock_version() -> int:
    try:
        return syscalls.landlock_version()
    except OSError:
        return 0


class Engine:
    """Would log refused calls; there is no filter."""


@pytest.mark.parametrize("off", ["", "root", "landlock"])
def test_intruder_fails_without_the_filter_too(off: str) -> None:
    """In the kernel: what the other stages leave to a process whose filter has a hole."""
    if off == "root" and not landlock_version():
        pytest.skip("this kernel has no Landlock")
    test = os.getpid()

    def body() -> tuple[dict[str, int], tuple[int, int, int], int]:
        progress = at_namespaces(PASST, f"filter,{off}".rstrip(","))
        create.enter_private_user_namespace()
        one = Isolation(progress)
        one.close_paths()
        for name in ("inner-ports", "signals"):
            progress.enter(name)
        one.finish(cast("engine.Engine", Engine()))
        return {
            "read": errno_of(os.open, "/etc/passwd", os.O_RDONLY),
            "make": errno_of(os.open, "/tmp/passt-intruder", os.O_WRONLY | os.O_CREAT),  # noqa: S108
            "execute": errno_of(os.execv, "/bin/true", ["true"]),
            "list": errno_of(os.listdir, f"/proc/{test}/fd"),
            "mount": errno_of(syscalls.mount, b"tmpfs", b"/", b"tmpfs", 0),
            "namespace": errno_of(syscalls.unshare, syscalls.CLONE_NEWNS),
            "user": errno_of(os.setuid, 1),
        }, syscalls.capget(), int(errno_of(os.kill, test, 0) == errno.EPERM)

    found, capabilities, is_kept_from_signals = isolated(body, flags=0)
    paths = {found[name] for name in ("read", "make", "execute", "list")}
    assert paths <= ({errno.EACCES} if off == "root" else {errno.ENOENT, errno.EROFS, errno.EACCES})
    assert {found[name] for name in ("mount", "namespace")} == {errno.EPERM}
    assert found["user"] in {errno.EPERM, errno.EINVAL}
    assert capabilities == (0, 0, 0)
    if off != "landlock" and landlock_version() >= SCOPES:
        assert is_kept_from_signals

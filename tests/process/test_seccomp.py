"""The filter of a run: its programs, what it says; system/test_seccomp.py has what it does."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from passt import log
from passt.host import seccomp
from passt.process.seccomp import CallFilter, explain_load
from passt.process.seccomp_filters import FILTERS, PID_MARK
from tests.support.classic_bpf import decode
from tests.support.isolated import isolated
from tests.support.processes import is_readable

if TYPE_CHECKING:
    from collections.abc import Callable

MACHINE = "x86_64"


class Loop:
    """Keeps its readers."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Keep one."""
        self.readers[fd] = callback


def operands(form: str) -> tuple[set[int], int]:
    """Make a filter in a process of its own; the operands of its two programs, and its process number."""

    def make() -> tuple[set[int], int]:
        made = CallFilter(form, MACHINE)
        programs = (made.thread_program, made._main_program)  # the one that `install` loads
        return {step.k for program in programs for step in decode(program)}, os.getpid()

    return isolated(make, flags=0)


@pytest.mark.parametrize("form", ["command", "attached", "passt"])
def test_programs_bear_the_number_of_the_process_that_made_them(form: str) -> None:
    found, pid = operands(form)
    assert pid in found
    assert PID_MARK not in found


def test_unknown_machine_goes_on_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", said.append)
    made = CallFilter("passt", "riscv64")
    loop = Loop()
    made.watch(loop)
    made.install()
    assert said == ["there is no filter of system calls for this machine (riscv64): goes on without one"]
    assert (made.thread_program, loop.readers) == (b"", {})


def test_every_filter_is_there_for_every_machine() -> None:
    assert {name: sorted(programs) for name, programs in FILTERS.items()} == {
        machine: ["attached", "command", "configurer", "helper", "names", "passt", "reader", "thread",
                  "vhost-user"]
        for machine in ("x86_64", "aarch64")
    }


def test_each_refused_call_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def tell() -> list[str]:
        said: list[str] = []
        refused = {41: (1, 2, 3), 63: (0x7F0000000000, 0, 0)}
        monkeypatch.setattr(log, "warning", said.append)
        monkeypatch.setattr(seccomp, "refusals", lambda: refused)
        loop = Loop()
        CallFilter("passt", MACHINE).watch(loop)
        ((fd, callback),) = loop.readers.items()
        os.eventfd_write(fd, 1)
        assert is_readable(fd)
        callback()
        assert not is_readable(fd)
        callback()
        refused[467] = refused[1000] = refused[1023] = (0, 0, 0)
        callback()
        return said

    said = isolated(tell, flags=0)
    end = ", which the sandbox does not know: refused with ENOSYS; please report"
    assert said == [
        f"the kernel was asked for {what}{end}"
        for what in ("socket(0x1, 0x2, 0x3), number 41", "uname(..., 0x0, 0x0), number 63",
                     "open_tree_attr(0x0, 0x0, 0x0), number 467", "system call 1000(0x0, 0x0, 0x0)",
                     "a system call above 1023")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "why"),
    [(errno.EINVAL, "without CONFIG_SECCOMP_FILTER"), (errno.ENOSYS, "without CONFIG_SECCOMP_FILTER"),
     (errno.EPERM, "Operation not permitted")],
)  # fmt: skip
def test_kernel_without_filters_is_named(number: int, why: str) -> None:
    assert why in explain_load(OSError(number, os.strerror(number)))

"""Somebody who has broken in meets the filter: each attempt of intruder.py, in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from errno import ECHILD, ENOENT, ENOSYS
from pathlib import Path

import pytest

INTRUDER = Path(__file__).with_name("intruder.py")
MACHINE = os.uname().machine
FORMS = ("command", "attached", "passt", "vhost-user")
KILLED = (
    "execve", "execveat", "openat", "openat2", "memfd_create", "ptrace", "process_vm_readv", "pidfd_getfd",
    "mount", "fsopen", "setns", "unshare", "clone", "fork", "bpf", "io_uring_setup", "setresuid", "capset",
    "netlink", "packet", "vsock", "mmap exec", "mprotect exec", "dumpable", "type into the terminal",
)  # fmt: skip
SYSCTL_NO_I386 = -signal.SIGSEGV  # a kernel without CONFIG_IA32_EMULATION: there is no way in at all

pytestmark = pytest.mark.skipif(MACHINE not in ("x86_64", "aarch64"), reason=f"no filter for {MACHINE}")


def attempt(form: str, name: str, prefix: tuple[str, ...] = ()) -> tuple[int, str, str]:
    """Try; the exit status (negative: the signal), standard output, standard error."""
    done = subprocess.run([*prefix, sys.executable, INTRUDER, form, name], capture_output=True, text=True,
                          check=False, stdin=subprocess.DEVNULL, timeout=60)  # fmt: skip
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.mark.parametrize("name", KILLED)
def test_what_only_an_intruder_asks_for_kills(name: str) -> None:
    for form in FORMS if name in ("execve", "openat", "mmap exec") else FORMS[:1]:
        assert attempt(form, name) == (-signal.SIGSYS, "", "")


@pytest.mark.skipif(MACHINE != "x86_64", reason="only x86-64 has a call open, and more than one ABI")
@pytest.mark.parametrize("name", ["open", "x32", "i386"])
def test_old_call_and_foreign_abi_kill(name: str) -> None:
    status, out, err = attempt("passt", name)
    assert status in ((-signal.SIGSYS, SYSCTL_NO_I386) if name == "i386" else (-signal.SIGSYS,))
    assert (out, err) == ("", "")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("unix", "socket(0x1, 0x1, 0x0)"),
        ("raw", "socket(0x2, 0x3, 0x1)"),
        ("kill another", "kill("),
        ("kill all", "kill("),
        ("attach a filter", "setsockopt(0x0, 0x1, 0x1a)"),
        ("uname", "uname("),
        ("new call", "system call 511("),
        ("future call", "a system call above 1023"),
    ],
)
def test_unknown_call_is_refused_and_told(name: str, call: str) -> None:
    status, out, err = attempt("attached", name)
    assert (status, out) == (0, f"-1 {ENOSYS}")
    assert f"the kernel was asked for {call}" in err
    assert "refused with ENOSYS; please report" in err


def test_unknown_call_is_told_once() -> None:
    status, out, err = attempt("passt", "uname twice")
    assert (status, out) == (0, f"-1 {ENOSYS} -1 {ENOSYS}")
    assert len(err.splitlines()) == 1


def test_path_is_absent_in_silence() -> None:
    assert attempt("passt", "stat") == (0, f"-1 {ENOENT}", "")


def test_name_of_a_namespace_is_found_by_who_is_attached() -> None:
    assert attempt("attached", "find a name") == (0, "True", "")
    assert attempt("command", "find a name") == (0, f"OSError {ENOENT}", "")


@pytest.mark.parametrize(
    ("form", "name", "out"),
    [
        ("passt", "fstat", "True"),
        ("passt", "memory", str(64 << 20)),
        ("passt", "signal 0", "0 0"),
        ("command", "wait for a child", f"-1 {ECHILD}"),
        ("attached", "splice", None),
        ("vhost-user", "memory that keeps its size", str(64 << 20)),
    ],
)
def test_what_a_form_needs_works(form: str, name: str, out: str | None) -> None:
    status, printed, err = attempt(form, name)
    assert (status, err) == (0, "")
    assert printed == (out or printed)
    assert str(ENOSYS) not in printed.split()[1:]


@pytest.mark.parametrize(("form", "name"), [("attached", "wait for a child"), ("passt", "splice")])
def test_what_another_form_needs_is_refused(form: str, name: str) -> None:
    status, out, err = attempt(form, name)
    assert (status, out) == (0, f"-1 {ENOSYS}")
    assert "please report" in err


@pytest.mark.parametrize(
    ("name", "number"),
    [("end by a signal", signal.SIGINT), ("abort", signal.SIGABRT), ("signalled", signal.SIGSYS)],
)
def test_process_can_end_itself_by_a_signal(name: str, number: int) -> None:
    assert attempt("command", name) == (-number, "", "")


def test_signal_sent_to_pid_1_leaves_the_handler() -> None:
    """The kernel keeps signals with default actions from PID 1; a refused call would end it after that."""
    status, out, err = attempt("passt", "signalled, then new call", ("unshare", "-Ur", "--pid", "--fork"))
    assert (status, out) == (0, f"still there, -1 {ENOSYS}")
    assert "the kernel was asked for system call 511(" in err


@pytest.mark.parametrize(
    ("name", "out", "told"),
    [
        ("late import", "ImportError wave", ""),
        ("codec", "LookupError unknown encoding: cp1140", ""),
        ("local time", "True", ""),
        ("warning", "None", ""),
        ("unraisable", "False", "an error was ignored in"),
    ],
)
def test_interpreter_opens_no_file(name: str, out: str, told: str) -> None:
    status, printed, err = attempt("passt", name)
    assert (status, printed) == (0, out)
    assert told in err
    assert bool(told) == bool(err)


def test_mistake_of_ours_is_told_and_ends_with_status_1() -> None:
    status, out, err = attempt("passt", "uncaught")
    assert (status, out) == (1, "")
    assert "ZeroDivisionError: " in err
    assert "intruder.py, in main" in err


def test_thread_opens_what_it_is_there_for() -> None:
    assert attempt("attached", "thread: tcp") == (0, "True", "")
    assert attempt("attached", "thread: listener") == (0, "1", "")
    assert attempt("attached", "thread: ends") == (0, "ended", "")


def test_thread_opens_nothing_else() -> None:
    status, out, err = attempt("attached", "thread: unix")
    assert (status, out) == (0, f"OSError {ENOSYS}")
    assert "socket(0x1, " in err
    assert attempt("attached", "thread: netlink") == (-signal.SIGSYS, "", "")

"""The compiled system calls: results, and errno as OSError."""

from __future__ import annotations

import errno
import os
import signal
from typing import TYPE_CHECKING

import pytest

from passt.host import syscalls
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.mark.parametrize(("call", "number"), [
    (lambda: syscalls.setns(-1, 0), errno.EBADF),
    (lambda: syscalls.unshare(-1), errno.EINVAL),
    (lambda: syscalls.clone(syscalls.CLONE_NEWNS | 0x200, 9), errno.EINVAL),  # CLONE_FS with CLONE_NEWNS
    (lambda: syscalls.prctl(-1), errno.EINVAL),
    (lambda: syscalls.capset(1, 0, 0), errno.EPERM),
    (lambda: syscalls.mount(b"none", b"/proc/none", b"proc", 0), errno.ENOENT),
    (lambda: syscalls.sethostname(b"x" * 65), errno.EINVAL),
    (lambda: syscalls.close_range(9, 8, 0), errno.EINVAL),
    (lambda: syscalls.signalfd([0]), errno.EINVAL),
    (lambda: syscalls.share_memory(0), errno.EINVAL),
    (lambda: syscalls.share_memory(1 << 62), errno.ENOMEM),
])
def test_failure_is_an_oserror(call: Callable[[], object], number: int) -> None:
    # In namespaces of its own, so that nothing could happen if it did not fail.
    def attempt() -> int | None:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS)
        try:
            call()
        except OSError as error:
            return error.errno
        return None

    assert isolated(attempt, flags=0) == number


def test_clone_runs_python_in_a_new_pid_namespace() -> None:
    def start() -> tuple[int, bool, bool]:
        pid, pidfd = syscalls.clone(syscalls.CLONE_NEWPID, signal.SIGKILL)
        if pid == 0:
            os._exit(40 + os.getpid())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return status, os.get_inheritable(pidfd), os.getpid() == pid

    assert isolated(start, flags=syscalls.CLONE_NEWUSER) == (41, False, False)


def test_child_asks_for_its_death_signal() -> None:
    reader, writer = os.pipe()
    pid, pidfd = syscalls.clone(0, signal.SIGUSR1)
    if pid == 0:
        import ctypes

        wanted = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(wanted), 0, 0, 0)  # PR_GET_PDEATHSIG
        os.write(writer, bytes((wanted.value,)))
        os._exit(0)
    assert os.read(reader, 1)[0] == signal.SIGUSR1
    os.waitpid(pid, 0)
    for fd in (reader, writer, pidfd):
        os.close(fd)


def test_capabilities_are_set_and_read() -> None:
    def change() -> tuple[tuple[int, int, int], ...]:
        _, permitted, _ = syscalls.capget()
        syscalls.capset(1 << 12, 1 << 12 | 1 << 39, 1 << 39)
        middle = syscalls.capget()
        syscalls.capset(0, 0, 0)
        return (permitted & 1 << 39, 0, 0), middle, syscalls.capget()

    assert isolated(change) == ((1 << 39, 0, 0), (1 << 12, 1 << 12 | 1 << 39, 1 << 39), (0, 0, 0))


def test_signalfd_reads_a_blocked_signal() -> None:
    def receive() -> tuple[int, bool, bool, int]:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        fd = syscalls.signalfd([signal.SIGUSR2])
        os.kill(os.getpid(), signal.SIGUSR2)
        data = os.read(fd, 1024)
        return len(data), os.get_inheritable(fd), os.get_blocking(fd), data[0]

    assert isolated(receive, flags=0) == (128, False, False, signal.SIGUSR2)


def test_memory_is_shared_with_children() -> None:
    memory = syscalls.share_memory(100)
    assert (len(memory), bytes(memory)) == (100, bytes(100))
    pid = os.fork()
    if pid == 0:
        memory[99] = 7
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory[99] == 7


def test_close_range_closes_only_its_range() -> None:
    def close() -> list[bool]:
        fds = [os.dup(0) for _ in range(3)]
        syscalls.close_range(fds[1], fds[1], 0)
        found = []
        for fd in fds:
            try:
                os.fstat(fd)
                found.append(True)
            except OSError:
                found.append(False)
        return found

    assert isolated(close, flags=0) == [True, False, True]


@pytest.mark.parametrize("number", [signal.SIGUSR1, 32, 33])
def test_default_action_is_restored(number: int) -> None:
    def restore() -> tuple[int, int]:
        import ctypes

        bit = 1 << (number - 1)
        ignore = (1).to_bytes(8, "little") + bytes(56)  # SIG_IGN in the kernel's struct sigaction
        ctypes.CDLL(None).syscall(13, number, ignore, None, 8)  # rt_sigaction on x86-64
        before = ignored() & bit
        syscalls.set_default_action(number)
        return before, ignored() & bit

    if os.uname().machine != "x86_64":
        pytest.skip("the number of rt_sigaction is that of x86-64")
    assert isolated(restore, flags=0) == (1 << (number - 1), 0)


def ignored() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line[8:], 16) for line in file if line.startswith("SigIgn"))

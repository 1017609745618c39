"""What somebody would try who has broken into the program: one attempt, under the filter of one form.

    python tests/system/intruder.py FORM ATTEMPT

Prints what came of it: the result, and the errno if it is -1. Killed calls end the process by SIGSYS. Then
the log's lines of refused calls follow.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

TREE = Path(__file__).parent.parent.parent
sys.path[:0] = [str(TREE / "src"), str(TREE)]

from passt.dataplane.sockets.namespace_thread import NamespaceThread  # noqa: E402 - found by the line above
from passt.host import seccomp  # noqa: E402
from passt.process import interpreter  # noqa: E402
from passt.process.seccomp import CallFilter  # noqa: E402
from passt.process.seccomp_filters import NAMES  # noqa: E402
from passt.run import start  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY = ctypes.CDLL(None, use_errno=True)
NUMBERS = {name: number for number, name in enumerate(NAMES[os.uname().machine].split())}
PROT_EXEC = 4
GETPID_I386 = bytes.fromhex("b814000000 cd80 c3")  # mov eax, 20; int 0x80; ret
X32_BIT = 0x40000000
PATH = ctypes.create_string_buffer(b"/bin/true")
BUFFER = ctypes.create_string_buffer(256)
PAGE = 4096


# Made while that is allowed.
THREADS: list[NamespaceThread] = []
DIRECTORY = os.open("/bin", os.O_PATH)


class Loop:
    """Reads what is there at once."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Keep *callback*; the descriptor is read when `poll` is called."""
        del fd
        self.callbacks.append(callback)

    def poll(self) -> None:
        """Call everybody."""
        for callback in self.callbacks:
            callback()


def ask(number: int | str, *args: object) -> str:
    """Make a system call; its result and errno."""
    ctypes.set_errno(0)
    result = LIBRARY.syscall(ctypes.c_long(NUMBERS[number] if isinstance(number, str) else number),
                             *(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args))
    return f"{result} {ctypes.get_errno()}"


def code(machine_code: bytes) -> Callable[[], int]:
    """Make a function of machine code, while that is allowed."""
    memory = mmap.mmap(-1, PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE | PROT_EXEC)
    memory.write(machine_code)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    function.memory = memory  # type: ignore[attr-defined]
    return function


INTO_I386 = code(GETPID_I386) if os.uname().machine == "x86_64" else lambda: 0


def opener() -> NamespaceThread:
    """Give the thread in the namespace."""
    return THREADS[0]


def say(text: str) -> None:
    """Print a line."""
    os.write(1, f"{text}\n".encode())


def end_by(number: int) -> str:
    """Send ourselves a signal that ends us."""
    if number != signal.SIGSYS:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return "still there"


def end_thread() -> str:
    """End the thread, and wait for its end."""
    opener().close()
    return "ended"


def share_memory() -> str:
    """Make a file in memory that keeps its size, and map it."""
    fd = os.memfd_create("shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 64 << 20)
    fcntl.fcntl(fd, 1033, 1 | 2 | 4)  # F_ADD_SEALS
    with mmap.mmap(fd, 64 << 20) as memory:
        return str(len(memory))


class Ends:
    """Has an error at its end that nobody can catch."""

    def __del__(self) -> None:
        """Raise it."""
        raise ValueError("ends")


ATTEMPTS: dict[str, Callable[[], str]] = {
    "execve": lambda: ask("execve", PATH, 0, 0),
    "execveat": lambda: ask("execveat", -100, PATH, 0, 0, 0),
    "openat": lambda: ask("openat", -100, PATH, os.O_RDONLY),
    "open": lambda: ask("open", PATH, os.O_RDONLY),
    "openat2": lambda: ask("openat2", -100, PATH, BUFFER, 24),
    "memory that keeps its size": share_memory,
    "memfd_create": lambda: ask("memfd_create", PATH, 0),
    "ptrace": lambda: ask("ptrace", 16, os.getppid(), 0, 0),
    "process_vm_readv": lambda: ask("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
    "pidfd_getfd": lambda: ask("pidfd_getfd", 0, 0, 0),
    "mount": lambda: ask("mount", PATH, PATH, PATH, 0, 0),
    "fsopen": lambda: ask("fsopen", PATH, 0),
    "setns": lambda: ask("setns", 0, 0),
    "unshare": lambda: ask("unshare", 0x10000000),
    "clone": lambda: ask("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "fork": lambda: str(os.fork()),
    "bpf": lambda: ask("bpf", 0, 0, 0),
    "io_uring_setup": lambda: ask("io_uring_setup", 8, BUFFER),
    "setresuid": lambda: ask("setresuid", 0, 0, 0),
    "capset": lambda: ask("capset", 0, 0),
    "netlink": lambda: ask("socket", socket.AF_NETLINK, socket.SOCK_RAW, 0),
    "packet": lambda: ask("socket", socket.AF_PACKET, socket.SOCK_RAW, 3),
    "vsock": lambda: ask("socket", 40, socket.SOCK_STREAM, 0),
    "mmap exec": lambda: ask("mmap", 0, PAGE, 7, 0x22, -1, 0),
    "mprotect exec": lambda: ask("mprotect", ctypes.cast(BUFFER, ctypes.c_void_p), 1, 5),
    "dumpable": lambda: ask("prctl", 4, 1, 0, 0, 0),
    "type into the terminal": lambda: ask("ioctl", 0, 0x5412, PATH),
    "x32": lambda: ask(X32_BIT | 39),
    "i386": lambda: str(INTO_I386()),
    # Refused, and told.
    "unix": lambda: ask("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0),
    "raw": lambda: ask("socket", socket.AF_INET, socket.SOCK_RAW, 1),
    "kill another": lambda: ask("kill", os.getppid(), signal.SIGKILL),
    "kill all": lambda: ask("kill", -1, signal.SIGKILL),
    "attach a filter": lambda: ask("setsockopt", 0, socket.SOL_SOCKET, 26, BUFFER, 16),
    "uname": lambda: ask("uname", BUFFER),
    "uname twice": lambda: f"{ask('uname', BUFFER)} {ask('uname', BUFFER)}",
    "new call": lambda: ask(511),
    "future call": lambda: ask(5000),
    # Refused in silence.
    "stat": lambda: ask("newfstatat", -100, PATH, BUFFER, 0),
    "find a name": lambda: str(os.stat("true", dir_fd=DIRECTORY, follow_symlinks=False).st_nlink > 0),
    # Allowed.
    "fstat": lambda: str(os.fstat(0).st_mode != 0),
    "wait for a child": lambda: ask("wait4", -1, 0, 1, 0),
    "splice": lambda: ask("splice", 0, 0, 0, 0, 0, 0),
    "signal 0": lambda: ask("kill", os.getpid(), 0),
    "end by a signal": lambda: end_by(signal.SIGINT),
    "signalled": lambda: end_by(signal.SIGSYS),
    "signalled, then new call": lambda: f"{end_by(signal.SIGSYS)}, {ask(511)}",
    "abort": os.abort,
    # Python's ways to files.
    "uncaught": lambda: str(1 // int("0")),
    "unraisable": lambda: str(Ends() is None),
    "warning": lambda: str(warnings.warn("beware", stacklevel=1)),
    "late import": lambda: str(__import__("wave")),
    "codec": lambda: str(b"x".decode("cp1140")),
    "local time": lambda: str(time.localtime().tm_year > 2000),
    "memory": lambda: str(len(bytearray(64 << 20))),
    # The thread in the namespace.
    "thread: tcp": lambda: str(opener().open_socket(socket.AF_INET, socket.SOCK_STREAM, 6) > 0),
    "thread: listener": lambda: str(len(opener().open_listener(17, 0, ip4=True, ip6=True))),
    "thread: ends": end_thread,
    "thread: unix": lambda: str(opener().open_socket(socket.AF_UNIX, socket.SOCK_STREAM, 0)),
    "thread: netlink": lambda: str(opener().open_socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
}  # fmt: skip


def main(form: str, attempt: str) -> None:
    """Go under the filter, and try."""
    call_filter = CallFilter(form)
    loop = Loop()
    call_filter.watch(loop)
    if attempt.startswith("thread"):
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        THREADS.append(NamespaceThread(namespace, 4, call_filter.thread_program, seccomp.LOADER))
    sys.unraisablehook = start._on_ignored  # as `start.run` does
    interpreter.close_paths()
    call_filter.install()
    try:
        say(ATTEMPTS[attempt]())
    except OSError as error:
        say(f"OSError {error.errno}")
    except ImportError as error:
        say(f"ImportError {error.name}")
    except LookupError as error:
        say(f"LookupError {error}")
    loop.poll()


if __name__ == "__main__":
    main(*sys.argv[1:])

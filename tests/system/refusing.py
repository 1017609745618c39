"""Text of a program that is the lab's with one difference: one of the system calls of its start is refused.

Its first two arguments are a number N and an errno: the Nth call of all, whichever of its processes makes it,
fails. The third names a file of REPORT_LEN bytes: the number of calls and the length of the lines, two C
integers; the name of the refused call in NAME_LEN bytes; and the lines, number and name of each call.

What is counted is what Python code can call: the functions below and the creation of sockets. Two processes
that count at once may give two calls the same number: a semaphore lets one call only be refused.
"""

from __future__ import annotations

REPORT_LEN = 1 << 18
NAME_LEN = 64
LINES_AT = 8 + NAME_LEN
NAMES = {
    "os": "open dup dup2 pipe write fstat stat lstat listdir scandir readlink getcwd chdir setsid "
          "setpgid setgroups setresuid setresgid fork kill unlink ftruncate memfd_create "
          "pidfd_open urandom",
    "fcntl": "fcntl ioctl flock",
    "resource": "getrlimit setrlimit",
    "_socket": "socketpair if_indextoname gethostname",
    "passt.host.syscalls": "setns unshare clone prctl capset capget signalfd inotify_init inotify_add_watch "
                           "mount sethostname close_range file_system_type set_default_action",
}

REFUSING = f"""
import _multiprocessing, importlib, mmap, os, struct
names = {NAMES!r}
wanted, number, report = int(sys.argv.pop(1)), int(sys.argv.pop(1)), sys.argv.pop(1)
fd = os.open(report, os.O_RDWR)
shared = mmap.mmap(fd, {REPORT_LEN})  # stays when there are no paths any more
os.close(fd)
# A semaphore of value 1, in memory that all processes share.
once = _multiprocessing.SemLock(1, 1, 1, f"/passt-refusing-{{os.getpid()}}", True)
_strerror = os.strerror

def count(name):
    n, end = struct.unpack_from("II", shared)
    n += 1
    line = f"{{n}} {{name}}\\n".encode()
    shared[{LINES_AT} + end:{LINES_AT} + end + len(line)] = line
    struct.pack_into("II", shared, 0, n, end + len(line))
    if n == wanted and once.acquire(False):
        struct.pack_into("{NAME_LEN}s", shared, 8, name.encode())
        raise OSError(number, _strerror(number))

def refusing(name, function):
    def call(*args, **keywords):
        count(name)
        return function(*args, **keywords)
    return call

import _socket
class Socket(_socket.socket):
    __slots__ = ()
    def __init__(self, *args, **keywords):
        if keywords.get("fileno") is None:
            count("socket")
        super().__init__(*args, **keywords)
_socket.socket = Socket

for module, functions in names.items():
    module = importlib.import_module(module)
    for name in functions.split():
        setattr(module, name, refusing(module.__name__ + "." + name, getattr(module, name)))
from passt.cli import main
"""

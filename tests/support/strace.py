"""What strace(1) noted of a program: its calls, and the rights that a security module would ask for each.

`CALLS` is what to trace; with `OPTIONS` strace tells the path behind each descriptor as the kernel knows it,
after all links, which is what a security module sees.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CALLS = (
    "execve", "open", "openat", "openat2", "creat", "unlink", "unlinkat", "rename", "renameat",
    "renameat2", "link", "linkat", "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat",
    "truncate", "chmod", "fchmod", "fchmodat", "chown", "lchown", "fchown", "fchownat", "connect",
    "bind", "flock", "mmap", "socket", "socketpair", "mount", "umount2", "pivot_root",
)  # fmt: skip
OPTIONS = ("-f", "-y", "-q", "-s", "4096", "-e", f"trace={','.join(CALLS)}")
MOUNT_FLAGS = {"MS_RDONLY": 1, "MS_NOSUID": 2, "MS_NODEV": 4, "MS_NOEXEC": 8, "MS_REC": 1 << 14,
               "MS_PRIVATE": 1 << 18, "MS_SLAVE": 1 << 19}  # fmt: skip

_LINE = re.compile(r"(\d+) +(?:<\.\.\. )?(\w+)(?: resumed>|\()(.*)")
_UNFINISHED = " <unfinished ...>"
_RESULT = re.compile(r"(.*)\) += (-?\d+|0x[0-9a-f]+)(?:<(.*)>)?(?: (E\w+) .*)?")
_STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
_DESCRIPTOR = re.compile(r"\d+<(/.*?)>")
_SOCKET_PATH = re.compile(r'sun_path="(.*?)"')
_PERMISSIONS = {"O_RDONLY": "r", "O_WRONLY": "w", "O_RDWR": "rw"}


class Call(NamedTuple):
    """One call of process *pid*, its *arguments* as text; *path* is that of a descriptor it returned."""

    pid: int
    name: str
    arguments: str
    path: str | None
    errno: str | None

    def strings(self) -> list[str]:
        """Return the arguments that are strings."""
        return _STRING.findall(self.arguments)

    def flags(self) -> set[str]:
        """Return all names of flags among the arguments."""
        return set(re.findall(r"\b[A-Z]+_\w+\b", self.arguments))

    def wants(self) -> tuple[str, str] | None:
        """Return the path and the permissions asked for, if it is a call on a file."""
        flags, path, permissions = self.flags(), self.path or "", ""
        if self.name in {"open", "openat", "openat2"} and "O_PATH" not in flags:
            permissions = "".join(_PERMISSIONS[flag] for flag in flags if flag in _PERMISSIONS)
        elif self.name == "flock" or (self.name == "mmap" and "PROT_EXEC" in flags):
            descriptor = _DESCRIPTOR.search(self.arguments)
            path, permissions = descriptor[1] if descriptor else "", "k" if self.name == "flock" else "m"
        elif self.name in {"connect", "bind"}:
            named = _SOCKET_PATH.search(self.arguments)
            path, permissions = named[1] if named else "", "w"
        elif self.name in {"unlink", "unlinkat"}:
            path, permissions = self.strings()[-1], "w"
            directory = _DESCRIPTOR.search(self.arguments)
            if directory and not path.startswith("/"):
                path = f"{directory[1]}/{path}"
        # Else it was refused, or is about a pipe, a namespace, a socket without a name.
        return (path, permissions) if permissions and path.startswith("/") else None

    def kind_of_socket(self) -> tuple[int, int]:
        """Return family and type of socket(2) or socketpair(2)."""
        family, kind = self.arguments.split(", ")[:2]
        return int(getattr(socket, family)), int(getattr(socket, kind.partition("|")[0]))

    def mount_flags(self) -> int:
        """Return the flags of mount(2) as a number."""
        return sum(MOUNT_FLAGS[name] for name in self.flags() if name.startswith("MS_"))


def read(lines: Sequence[str]) -> Iterator[Call]:
    """Read a trace; a call that another process interrupted is put together."""
    begun: dict[str, str] = {}
    for line in lines:
        found = _LINE.match(line)
        if not found:
            continue              # a signal, an exit
        pid, name, rest = found.groups()
        if rest.endswith(_UNFINISHED):
            begun[pid] = rest.removesuffix(_UNFINISHED)
            continue
        if line.split(maxsplit=1)[1].startswith("<..."):
            rest = begun.pop(pid) + rest
        done = _RESULT.fullmatch(rest)
        if done:
            arguments, _, path, errno = done.groups()
            yield Call(int(pid), name, arguments, path, errno)

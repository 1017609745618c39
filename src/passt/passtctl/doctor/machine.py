"""What checks ask of the machine: files, the user, programs. Tests have one in a directory of theirs.

Nothing that is read is trusted: files are read up to a limit and without waiting for a writer, numbers may be
no numbers, names may hold anything.
"""

from __future__ import annotations

import os
import select
import time

from passt.host.ping_permission import outer_group

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_LEN = 1 << 16       # bytes read of a file
MAX_PRINTED = 1 << 20   # bytes read of a program
MAX_DIGITS = 19         # of a number in a file
NOBODY = 65534
_SEPARATORS = str.maketrans("./", "/.")
_NAME_FIELDS = 4        # of a line in /etc/passwd, up to the group


class Machine:
    """The machine whose files are below *root*, as the user *uid* with *groups* sees it.

    *groups* are the effective group and the others, with the numbers that the host has for them. No program
    that is asked runs longer than *limit_s* seconds from now on; None is no limit.
    """

    def __init__(self, root: str = "", *, uid: int | None = None, groups: Sequence[int] | None = None,
                 environ: Mapping[str, str] | None = None, limit_s: float | None = None) -> None:
        self._root = root
        self._end = None if limit_s is None else time.monotonic() + limit_s
        self.uid = os.geteuid() if uid is None else uid
        self.environ = os.environ if environ is None else environ
        self.groups = (tuple(outer_group(group) for group in (os.getegid(), *os.getgroups()))
                       if groups is None else tuple(groups))

    @property
    def is_root(self) -> bool:
        """Tell whether the user is root, here or in a container."""
        return self.uid == 0

    def path(self, name: str) -> str:
        """Return where the file *name*, an absolute path, lies."""
        return self._root + name

    def read(self, name: str, limit: int = MAX_LEN) -> str | None:
        """Return the first *limit* bytes of a file as text; None if it is not there or may not be read."""
        try:
            # A named pipe must not block us.
            fd = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            with open(fd, "rb") as file:
                return (file.read(limit) or b"").decode(errors="replace")
        except OSError:
            return None

    def exists(self, name: str) -> bool:
        """Tell whether there is a file *name*, as far as this user can see."""
        return os.path.exists(self.path(name))

    def names(self, directory: str) -> list[str]:
        """List a directory in order; nothing if that is not possible."""
        try:
            return sorted(os.listdir(self.path(directory)))
        except OSError:
            return []

    def sysctl(self, name: str) -> str | None:
        """Return the value of a sysctl, with one blank between its words; None if there is none.

        As for sysctl(8), a slash in *name* stands for a dot in a file's name: net.ipv6.conf.eth0/7.mtu.
        """
        text = self.read("/proc/sys/" + name.translate(_SEPARATORS))
        return None if text is None else " ".join(text.split())

    def number(self, name: str) -> int | None:
        """Return the value of a sysctl that is one number; None if there is none, or it is no number."""
        return parse_number(self.sysctl(name))

    def is_container(self) -> bool:
        """Tell whether this is a container of Podman or Docker, by the files that they put there."""
        return self.exists("/run/.containerenv") or self.exists("/.dockerenv")

    def group_of_nobody(self) -> int:
        """Return the group of the user that root's pasta becomes."""
        for line in (self.read("/etc/passwd", 1 << 20) or "").splitlines():
            fields = line.split(":")
            if fields[0] == "nobody" and len(fields) >= _NAME_FIELDS:
                group = parse_number(fields[3])
                return NOBODY if group is None else group
        return NOBODY

    def find_programs(self, name: str) -> list[str]:
        """List the programs of that name in PATH, the first one first; each file once."""
        found: dict[str, str] = {}
        for directory in self.environ.get("PATH", os.defpath).split(":"):
            path = f"{directory.rstrip('/')}/{name}"
            # A relative directory is another one elsewhere.
            if directory.startswith("/") and os.path.isfile(path) and os.access(path, os.X_OK):
                found.setdefault(os.path.realpath(path), path)
        return list(found.values())

    def run(self, argv: Sequence[str]) -> str | None:
        """Return what a program prints; None if it cannot run, fails, prints too much or takes long."""
        import subprocess

        try:
            with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/",
                                  stderr=subprocess.DEVNULL, env=self.environ) as program:
                try:
                    assert program.stdout is not None  # noqa: S101 - it was asked for
                    data = self._read_all(program.stdout.fileno())
                    status = program.wait(self._left_s())
                finally:
                    program.kill()
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
        return data.decode(errors="replace") if status == 0 else None

    def _left_s(self) -> float | None:
        return None if self._end is None else max(self._end - time.monotonic(), 0)

    def _read_all(self, fd: int) -> bytes:
        """Read a pipe to its end. Raises ValueError if that is far off, or does not come in time."""
        poll, data = select.poll(), bytearray()
        poll.register(fd, select.POLLIN)
        while True:
            left_s = self._left_s()
            if not poll.poll(None if left_s is None else 1000 * left_s):
                raise ValueError("no end in time")
            piece = os.read(fd, MAX_LEN)
            if not piece:
                return bytes(data)
            data += piece
            if len(data) > MAX_PRINTED:
                raise ValueError(f"more than {MAX_PRINTED} bytes")


def parse_number(text: str | None) -> int | None:
    """Read a whole number, as files of the kernel have them; None if *text* is no such number."""
    if text is None:
        return None
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS):
        return None
    return int(text)


def parse_version(text: str) -> tuple[int, ...] | None:
    """Return the numbers of the first word in *text* that is a version, like 7.2.1; None without one."""
    for word in text.replace("(", " ").replace(")", " ").split():
        parts = word.rstrip(",").split("-")[0].split("+")[0].split(".")
        if len(parts) > 1 and all(part.isascii() and part.isdecimal() for part in parts[:2]):
            return tuple(int(part[:MAX_DIGITS]) for part in parts if part.isascii() and part.isdecimal())
    return None

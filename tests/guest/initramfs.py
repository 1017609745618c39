"""The file system of a guest: busybox, a few clients with their libraries, and the drivers of its card.

It is written in the format that the kernel unpacks at boot, "newc": for each file a header of
hexadecimal fields, its name and its bytes, each padded to four (Documentation/driver-api/early-userspace/
buffer-format.rst in the kernel's sources). There are no compression and no device nodes: the one costs
the guest more time than it saves, the others come with devtmpfs.
"""

from __future__ import annotations

import lzma
import re
import shutil
import stat
import subprocess
from pathlib import Path

from tests.support.lab import PATH, LabError

HERE = Path(__file__).parent
TREE = HERE.parent.parent
KERNEL = TREE / ".guest" / "kernel"
PROGRAMS = ("busybox", "socat", "dhclient", "rdisc6", "ethtool")
DIRECTORIES = ("bin", "dev", "etc", "modules", "proc", "run", "sys", "tmp", "var", "var/lib", "var/lib/dhcp")
SCRIPTS = {"init": "init.sh", "etc/udhcpc.sh": "udhcpc.sh", "etc/dhclient6.sh": "dhclient6.sh",
           "etc/dhclient.conf": "dhclient.conf"}
TRAILER = "TRAILER!!!"


class Archive:
    """A growing archive in the format newc."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._names: set[str] = set()

    def add_directory(self, name: str) -> None:
        """Add a directory, once, and those that it is in."""
        for path in [*reversed(Path(name).parents), Path(name)]:
            if str(path) not in self._names | {"."}:
                self._add(str(path), stat.S_IFDIR | 0o755, b"")

    def add_file(self, name: str, data: bytes, *, executable: bool = False) -> None:
        """Add a file, once."""
        self.add_directory(str(Path(name).parent))
        if name not in self._names:
            self._add(name, stat.S_IFREG | (0o755 if executable else 0o644), data)

    def build(self) -> bytes:
        """Give the whole archive, which can then take no more."""
        self._add(TRAILER, 0, b"")
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, data: bytes) -> None:
        self._names.add(name)
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device (2), special device (2), name size, checksum
        fields = (len(self._names), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._parts += [header, bytes(-len(header) % 4), data, bytes(-len(data) % 4)]


def libraries(program: str) -> list[str]:
    """Give the paths of all libraries of a program, and of the loader; none if it is static."""
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return re.findall(r"(/\S+) \(0x", listed)


def build_initramfs() -> bytes:
    """Make the file system. `LabError` if a program or the kernel is missing on this machine."""
    check_kernel()
    archive = Archive()
    for name in DIRECTORIES:
        archive.add_directory(name)
    for name in PROGRAMS:
        program = find_program(name)
        archive.add_file(f"bin/{name}", Path(program).read_bytes(), executable=True)
        for library in libraries(program):
            archive.add_file(library.lstrip("/"), Path(library).read_bytes(), executable=True)
    for name, script in SCRIPTS.items():
        archive.add_file(name, (HERE / script).read_bytes(), executable=True)
    archive.add_file("modules/order", (HERE / "modules").read_bytes())
    for path in sorted(KERNEL.glob("*.ko*")):
        data = path.read_bytes()
        archive.add_file(f"modules/{path.name.removesuffix('.xz')}",
                         lzma.decompress(data) if path.suffix == ".xz" else data)
    return archive.build()


def find_program(name: str) -> str:
    """Give the path of a program of this machine. `LabError` if it is missing."""
    program = shutil.which(name, path=PATH)
    if program is None:
        raise LabError(f"{name} is missing: 'make test' installs it")
    return program


def check_kernel() -> None:
    """Raise `LabError` if the guests' kernel has not been downloaded."""
    if not (KERNEL / "package").exists():
        raise LabError(f"no kernel for guests in {KERNEL}: 'make test' downloads it (tools/guest-kernel)")

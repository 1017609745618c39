"""AppArmor profiles of share/apparmor: compiled by apparmor_parser(8), and asked as the kernel asks them.

What the parser hands to the kernel are state machines: for each profile one for files and one for the
programs that get it, whose input are the bytes of a path, and one for all else. The last state has the
permissions. Here is the kernel's way through them (security/apparmor/match.c, mount.c, net.c of Linux), so
the meaning of patterns, variables and `deny` is the parser's, not ours.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

POLICY = Path(__file__).parent.parent.parent / "share" / "apparmor"
PROFILES = ("pasta-python", "passt-python")
SYSTEM = Path("/etc/apparmor.d")
PARSER = "/usr/sbin/apparmor_parser"
FILE_PERMISSIONS = {"x": 0x01, "w": 0x02, "r": 0x04, "a": 0x08, "l": 0x10, "k": 0x20, "m": 0x40}
_OTHERS_SHIFT = 14                # the lower half is for the file's owner

_CLASS_MOUNT, _CLASS_NET = 7, 14
_MAY_PIVOT_ROOT, _MAY_MOUNT, _MAY_UMOUNT, _MAY_CREATE = 0x01, 0x02, 0x04, 0x10
_N_MOUNT_FLAGS = 31

# Codes of the stream that the kernel unpacks (security/apparmor/policy_unpack.c), and the lengths of values.
_SIZES = {0: 1, 1: 2, 2: 4, 3: 8, 7: 0, 8: 0, 9: 0, 10: 0, 11: 2, 12: 0}
_NAME, _STRING, _BLOB, _STRUCT, _STRUCT_END = 4, 5, 6, 7, 8
_MAGIC = struct.pack(">I", 0x1B5E783D)
_TABLE_HEADER = struct.Struct(">HHII")
_ENTRIES = {1: "B", 2: "H", 4: "I"}
_ACCEPT, _BASE, _CHECK, _DEFAULT, _CLASSES, _NEXT = 1, 2, 3, 4, 5, 8
_DIFF_ENCODED = 0x8000_0000
_START = 1


def parse(profile: Path, *options: str, includes: Sequence[Path] = ()) -> subprocess.CompletedProcess[bytes]:
    """Run the parser with all warnings on *profile*, without the kernel; *includes* come before POLICY's.

    On a system before AppArmor 4.0 the files for it come before the others.
    """
    abi = SYSTEM / "abi" / "4.0"
    ours = [POLICY / "apparmor.d"]
    if not abi.exists():
        abi = SYSTEM / "abi" / "3.0"
        ours.insert(0, POLICY / "before-4.0")
    places = [f"--Include={path}" for path in (*includes, *ours)]
    argv = [PARSER, "--skip-kernel-load", "--skip-cache", "--skip-read-cache", "--warn=all",
            f"--features-file={abi}", *places, *options, str(profile)]
    return subprocess.run(argv, capture_output=True, check=False, timeout=300)


class Profile:
    """The rules of one compiled profile."""

    def __init__(self, parts: Mapping[str, bytes]) -> None:
        self._machines = {name: _Machine(text) for name, text in parts.items() if name != "capabilities"}
        low = parts.get("capabilities", b"")
        self.capabilities = {number for number in range(32) if int.from_bytes(low, "little") >> number & 1}

    def attaches_to(self, path: str) -> bool:
        """Tell whether a program at *path* gets this profile when a process without one executes it."""
        return bool(self._accept("attachment", path.encode()) & FILE_PERMISSIONS["x"])

    def allows(self, path: str, permissions: str, *, owner: bool) -> bool:
        """Tell whether all of *permissions*, letters of FILE_PERMISSIONS, are given for *path*."""
        accepted = self._accept("files", path.encode()) >> (0 if owner else _OTHERS_SHIFT)
        return all(accepted & FILE_PERMISSIONS[letter] for letter in permissions)

    def allows_mount(self, source: str, target: str, kind: str, flags: int) -> bool:
        """Tell whether mount(2) is permitted; with an empty *kind*, a change of propagation."""
        set_flags = bytes(bit + 1 for bit in range(_N_MOUNT_FLAGS) if flags >> bit & 1)
        text = b"\0".join((target.encode(), source.encode() if kind else b"", kind.encode(), set_flags))
        return bool(self._accept_class(_CLASS_MOUNT, text) & _MAY_MOUNT)

    def allows_umount(self, target: str) -> bool:
        """Tell whether umount(2) is permitted."""
        return bool(self._accept_class(_CLASS_MOUNT, target.encode()) & _MAY_UMOUNT)

    def allows_pivot_root(self, new: str, old: str) -> bool:
        """Tell whether pivot_root(2) is permitted."""
        return bool(self._accept_class(_CLASS_MOUNT, f"{new}\0{old}".encode()) & _MAY_PIVOT_ROOT)

    def allows_socket(self, family: int, kind: int) -> bool:
        """Tell whether socket(2) with protocol 0 is permitted."""
        return bool(self._accept_class(_CLASS_NET, struct.pack(">HH", family, kind)) & _MAY_CREATE)

    def _accept_class(self, rule_class: int, text: bytes) -> int:
        return self._accept("other", bytes((rule_class,)) + text)

    def _accept(self, part: str, text: bytes) -> int:
        return self._machines[part].accept(text) if part in self._machines else 0


class _Machine:
    """A state machine in the form that the kernel reads."""

    def __init__(self, text: bytes) -> None:
        self._tables: dict[int, Sequence[int]] = dict(_read_tables(text))

    def accept(self, text: bytes) -> int:
        """Return what the state after *text* accepts."""
        state = _START
        for byte in text:
            state = self._step(state, byte)
        return self._tables[_ACCEPT][state]

    def _step(self, state: int, byte: int) -> int:
        table = self._tables
        column = table[_CLASSES][byte] if _CLASSES in table else byte
        while True:
            base = table[_BASE][state]
            at = (base & 0xFF_FFFF) + column
            if table[_CHECK][at] == state:
                return table[_NEXT][at]
            state = table[_DEFAULT][state]
            if not base & _DIFF_ENCODED:
                return state


def load(directory: Path, prefixes: Iterable[str] = ()) -> dict[str, Profile]:
    """Compile all profiles, for installations in *prefixes* too; *directory* takes the file that says so."""
    local = directory / "tunables" / "passt-python.d"
    local.mkdir(parents=True)
    text = "".join(f'@{{passt_prefix}}+="{prefix}"\n' for prefix in prefixes)
    (local / "test").write_text(text, encoding="utf-8")
    found: dict[str, Profile] = {}
    for name in PROFILES:
        # The older form of permissions, whichever parser it is.
        done = parse(POLICY / "apparmor.d" / name, "--stdout", f"--features-file={SYSTEM}/abi/3.0",
                     includes=(directory, POLICY / "before-4.0"))
        assert done.returncode == 0, done.stderr.decode()
        found.update(_read_profiles(done.stdout))
    return found


class _Item(NamedTuple):
    code: int
    data: bytes


def _read_profiles(stream: bytes) -> Iterator[tuple[str, Profile]]:
    """Find the profiles in what the parser wrote."""
    found: dict[str, dict[str, bytes]] = {}
    name, part = "", ""
    items = [_Item(_NAME, b""), _Item(_NAME, b""), *_read_items(stream)]
    for second, before, item in zip(items, items[1:], items[2:], strict=False):
        if item.code == _STRING and second == _Item(_NAME, b"profile"):
            name, part = item.data.decode(), "attachment"
            found[name] = {}
        elif item == _Item(_NAME, b"flags"):
            part = "files"
        elif item.code == _STRUCT and before.data == b"policydb":
            part = "other"
        elif item.code == _STRUCT_END:
            part = "files"
        elif item.code == _BLOB and before == _Item(_NAME, b"aadfa"):
            found[name][part] = item.data
        elif second == _Item(_NAME, b"path_flags"):
            found[name]["capabilities"] = item.data
    for name, parts in found.items():
        yield name, Profile(parts)


def _read_items(stream: bytes) -> Iterator[_Item]:
    at = 0
    while at < len(stream):
        code = stream[at]
        at += 1
        if code in {_NAME, _STRING}:
            size = int.from_bytes(stream[at:at + 2], "little")
            at += 2
        elif code == _BLOB:
            size = int.from_bytes(stream[at:at + 4], "little")
            at += 4
        else:
            size = _SIZES[code]
        data = stream[at:at + size]
        yield _Item(code, data.rstrip(b"\0") if code in {_NAME, _STRING} else data)
        at += size


def _read_tables(text: bytes) -> Iterator[tuple[int, Sequence[int]]]:
    """Read the tables of a state machine, all big-endian, each at a multiple of 8 bytes."""
    start = text.index(_MAGIC)
    header_len, total = struct.unpack_from(">II", text, start + len(_MAGIC))
    at = start + header_len
    while at < start + total:
        kind, size, _, n_entries = _TABLE_HEADER.unpack_from(text, at)
        yield kind, struct.unpack_from(f">{n_entries}{_ENTRIES[size]}", text, at + _TABLE_HEADER.size)
        at += (_TABLE_HEADER.size + size * n_entries + 7) & ~7

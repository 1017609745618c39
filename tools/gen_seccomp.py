# ruff: noqa: INP001 - a script, in no package
"""Write src/passt/process/seccomp_filters.py, the programs for the kernel, from tools/seccomp_policy.py.

    python tools/gen_seccomp.py            rewrite the file in place
    python tools/gen_seccomp.py --check    exit with 1 if it is out of date
    python tools/gen_seccomp.py --show command    print a filter for this machine, in libseccomp's words

libseccomp makes them, for every architecture on any. It is needed here only: what it makes is in the tree.
Versions of it may arrange a program differently, so --check compares byte by byte with the same version only;
tests/process/test_seccomp_filters.py compares what programs do.
"""

from __future__ import annotations

import base64
import ctypes
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools import seccomp_policy as policy  # noqa: E402 - found by the line above

MODULE = ROOT / "src" / "passt" / "process" / "seccomp_filters.py"

# seccomp.h of libseccomp.
_ALLOW, _KILL_PROCESS, _TRAP, _ERRNO = 0x7FFF0000, 0x80000000, 0x00030000, 0x00050000
_ATTR_BAD_ARCH, _ATTR_OPTIMIZE = 2, 8
_BINARY_TREE = 2
_MASKED_EQUAL = 7
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*, by the name of uname(2)
_FIRST_SHARED = 424  # from here on calls have one number on all architectures
# Known to the kernel (6.18), not to all versions of libseccomp; for messages only.
_NEWEST = {
    457: "statmount", 458: "listmount", 459: "lsm_get_self_attr", 460: "lsm_set_self_attr",
    461: "lsm_list_modules", 462: "mseal", 463: "setxattrat", 464: "getxattrat", 465: "listxattrat",
    466: "removexattrat", 467: "open_tree_attr", 468: "file_getattr", 469: "file_setattr",
}  # fmt: skip
_WIDTH = 100


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int),
                ("mask", ctypes.c_uint64), ("value", ctypes.c_uint64))  # fmt: skip


class _Version(ctypes.Structure):
    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


def load_library() -> ctypes.CDLL:
    """Load libseccomp. Raises OSError."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    library.seccomp_arch_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_arch_remove.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.seccomp_attr_set.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32]
    library.seccomp_syscall_resolve_name_arch.argtypes = [ctypes.c_uint32, ctypes.c_char_p]
    library.seccomp_syscall_resolve_name.argtypes = [ctypes.c_char_p]
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_num_arch.argtypes = [ctypes.c_uint32, ctypes.c_int]
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Compare)]  # fmt: skip
    library.seccomp_export_bpf.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_export_pfc.argtypes = [ctypes.c_void_p, ctypes.c_int]
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    return library


def version(library: ctypes.CDLL) -> str:
    """Give the version of the library."""
    found = library.seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def _check(result: int, what: str) -> None:
    if result < 0:
        raise OSError(-result, f"{os.strerror(-result)}: {what}")


class Filter:
    """One filter of libseccomp, for one *machine* (as uname -m says)."""

    def __init__(self, library: ctypes.CDLL, machine: str) -> None:
        self._library = library
        self._arch = _ARCHITECTURES[machine]
        self._context = library.seccomp_init(_TRAP)
        if os.uname().machine != machine:
            _check(library.seccomp_arch_add(self._context, self._arch), machine)
            _check(library.seccomp_arch_remove(self._context, _ARCHITECTURES[os.uname().machine]), "native")
        _check(library.seccomp_attr_set(self._context, _ATTR_BAD_ARCH, _KILL_PROCESS), "foreign ABI")
        _check(library.seccomp_attr_set(self._context, _ATTR_OPTIMIZE, _BINARY_TREE), "binary tree")

    def add(self, action: int, name: str, conditions: tuple[policy.Condition, ...] = ()) -> None:
        """Add one rule; none if the architecture does not have the call. Raises OSError, ValueError."""
        if self._library.seccomp_syscall_resolve_name_arch(self._arch, name.encode()) < 0:
            if self._library.seccomp_syscall_resolve_name(name.encode()) == -1:
                raise ValueError(f"libseccomp does not know the system call {name}")
            return
        compares = (_Compare * len(conditions))(
            *(_Compare(each.arg, _MASKED_EQUAL, each.mask, each.value) for each in conditions))  # fmt: skip
        number = self._library.seccomp_syscall_resolve_name(name.encode())  # the library translates it
        _check(self._library.seccomp_rule_add_array(self._context, action, number, len(conditions), compares),
               f"{name} {conditions}")  # fmt: skip

    def export(self, *, readable: bool = False) -> bytes:
        """Give the program: an array of struct sock_filter, or a *readable* text."""
        with tempfile.TemporaryFile() as file:
            export = self._library.seccomp_export_pfc if readable else self._library.seccomp_export_bpf
            _check(export(self._context, file.fileno()), "export")
            file.seek(0)
            return file.read()

    def close(self) -> None:
        """Release it."""
        self._library.seccomp_release(self._context)


def build(library: ctypes.CDLL, machine: str, name: str, *, readable: bool = False) -> bytes:
    """Build the filter *name* of the policy for *machine*."""
    made = Filter(library, machine)
    rules = policy.FILTERS[name]
    allowed = {call for rule in rules for call in rule.names()}
    try:
        for rule in rules:
            for call in rule.names():
                for conditions in rule.when:
                    made.add(_ALLOW, call, conditions)
        for rule in policy.DEADLY_ARGUMENTS:
            for call in set(rule.names()) & allowed:
                for conditions in rule.when:
                    made.add(_KILL_PROCESS, call, conditions)
        for call in policy.absent(rules):
            made.add(_ERRNO | policy.ABSENT_ERRNO, call, policy.absent_if(rules, call))
        for call in policy.deadly(rules):
            made.add(_KILL_PROCESS, call)
        program = made.export(readable=readable)
        if not readable:
            _check_mark(program)
        return program
    finally:
        made.close()


def _check_mark(program: bytes) -> None:
    """Check that the mark's bytes are operands only, as a loader replaces them all. Raises ValueError."""
    mark = policy.PID_MARK.to_bytes(4, sys.byteorder)
    places = [at for at in range(len(program)) if program.startswith(mark, at)]
    if not places or any(at % 8 != 4 for at in places):
        raise ValueError("PID_MARK is not unique: choose another one")


def call_names(library: ctypes.CDLL, machine: str) -> list[str]:
    """List the names of all calls by number, "-" where there is none."""
    names = []
    for number in range(max(_NEWEST) + 1):
        found = library.seccomp_syscall_resolve_num_arch(_ARCHITECTURES[machine], number)
        name = _NEWEST.get(number) or (ctypes.string_at(found).decode() if found else "-")
        names.append(name)
    return names


def _quoted(text: str, *, indent: int) -> str:
    """Give a long text as literals that Python joins."""
    pad = " " * indent
    return "\n".join(f'{pad}"{text[at:at + _WIDTH]}"' for at in range(0, len(text), _WIDTH))


def module(library: ctypes.CDLL) -> str:
    """Give the text of the module."""
    lines = [
        '"""The filters of system calls, by machine and name. Written by tools/gen_seccomp.py, do not edit.',
        "",
        f"Made by libseccomp {version(library)} from tools/seccomp_policy.py: arrays of struct sock_filter,",
        "in base64.",
        '"""',
        "",
        "# Stands for our own process number in the programs.",
        f"PID_MARK = 0x{policy.PID_MARK:X}",
        "",
        "# The calls by number, for messages; - where there is none.",
        "NAMES = {",
    ]
    for machine in _ARCHITECTURES:
        lines += [f'    "{machine}":', _quoted(" ".join(call_names(library, machine)), indent=8) + ","]
    lines += ["}", "", "FILTERS = {"]
    for machine in _ARCHITECTURES:
        lines.append(f'    "{machine}": {{')
        for name in policy.FILTERS:
            text = base64.b64encode(build(library, machine, name)).decode()
            lines += [f'        "{name}":', _quoted(text, indent=12) + ","]
        lines.append("    },")
    return "\n".join([*lines, "}", ""])


def main(argv: list[str]) -> int:
    """Write the module, compare it, or show a filter; returns the exit status."""
    library = load_library()
    if argv[1:2] == ["--show"]:
        sys.stdout.write(build(library, os.uname().machine, argv[2], readable=True).decode())
        return 0
    text = module(library)
    before = MODULE.read_text(encoding="ascii") if MODULE.exists() else ""
    if argv[1:] == ["--check"]:
        if text != before:
            sys.stderr.write(f"{MODULE.relative_to(ROOT)} is out of date: run python tools/gen_seccomp.py\n")
        return int(text != before)
    MODULE.write_text(text, encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))

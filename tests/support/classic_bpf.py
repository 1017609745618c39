"""An interpreter of seccomp's programs: which end a call with given arguments meets.

Classic BPF over struct seccomp_data (Documentation/userspace-api/seccomp_filter.rst, linux/filter.h): the
subset that the kernel's seccomp_check_filter() admits.
"""

from __future__ import annotations

import operator
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOW, ERRNO, TRAP, KILL = 0x7FFF0000, 0x00050000, 0x00030000, 0x80000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}

_INSTRUCTION = struct.Struct("=HBBI")
_WORD = 0xFFFF_FFFF

# BPF_LD | BPF_W | BPF_ABS; BPF_ALU | BPF_AND | BPF_K; BPF_RET | BPF_K; BPF_JMP | BPF_JA; and BPF_JMP with
# BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET
_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_CONDITIONS: dict[int, Callable[[int, int], bool]] = {
    0x15: operator.eq, 0x25: operator.gt, 0x35: operator.ge, 0x45: lambda a, k: bool(a & k),
}  # fmt: skip


@dataclass(frozen=True)
class Instruction:
    """One struct sock_filter."""

    code: int
    jt: int
    jf: int
    k: int


@dataclass(frozen=True)
class Verdict:
    """What the program answers, and the number of instructions that this took."""

    action: int
    steps: int


def decode(program: bytes) -> list[Instruction]:
    """Take a program apart. Raises ValueError if it is no whole number of instructions."""
    if len(program) % _INSTRUCTION.size:
        raise ValueError("not an array of struct sock_filter")
    return [Instruction(*each) for each in _INSTRUCTION.iter_unpack(program)]


def run(program: list[Instruction], machine: str, number: int, *args: int) -> Verdict:
    """Decide the call *number* of *machine*'s ABI. Raises ValueError for what seccomp would not load."""
    words = _words(machine, number, args)
    accumulator = place = steps = 0
    while place < len(program):
        step = program[place]
        place += 1
        steps += 1
        code = step.code
        if code == _LOAD:
            accumulator = words[step.k]
        elif code == _AND:
            accumulator &= step.k
        elif code == _RETURN:
            return Verdict(step.k, steps)
        elif code == _JUMP:
            place += step.k
        elif code in _CONDITIONS:
            place += step.jt if _CONDITIONS[code](accumulator, step.k) else step.jf
        else:
            raise ValueError(f"instruction {code:#x}")
    raise ValueError("the program has no end")


def _words(machine: str, number: int, args: tuple[int, ...]) -> dict[int, int]:
    """Give struct seccomp_data as its words by offset, of a little-endian machine."""
    words = {0: number & _WORD, 4: AUDIT_ARCH[machine], 8: 0, 12: 0}
    for i in range(6):
        arg = args[i] if i < len(args) else 0
        words[16 + 8 * i] = arg & _WORD
        words[20 + 8 * i] = arg >> 32 & _WORD
    return words


def action_name(verdict: Verdict) -> str:
    """Give the verdict's action in a word: allow, kill, trap or errno N."""
    if verdict.action & 0xFFFF0000 == ERRNO:
        return f"errno {verdict.action & 0xFFFF}"
    return {ALLOW: "allow", KILL: "kill", TRAP: "trap"}[verdict.action]

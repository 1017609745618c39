"""Signal dispositions, masks, and the signalfd reader."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from passt.facts.launcher import INTERPRETERS
from passt.process import signals
from tests.support.isolated import isolated

KERNEL, USER, TKILL, POLL_IN = 0x80, 0, -6, 1


@pytest.mark.parametrize(("code", "from_kernel", "from_user"), [
    (KERNEL, True, False), (USER, False, True), (TKILL, False, True), (-1, False, True),
    (POLL_IN, False, False),
])
def test_origin_of_a_signal_is_told_by_its_code(code: int, from_kernel: bool, from_user: bool) -> None:
    received = signals.ReceivedSignal(signal.SIGINT, code)
    assert (received.is_from_kernel, received.is_from_user) == (from_kernel, from_user)


def test_reader_reads_what_was_sent() -> None:
    def receive() -> tuple[list[tuple[int, bool]], int]:
        reader = signals.SignalReader(signals.FORWARDED)
        sent = [number for number in signals.FORWARDED if number != signal.SIGTSTP]
        for number in sent:
            os.kill(os.getpid(), number)
        found = sorted((one.number, one.is_from_user) for one in reader.read())
        assert found == sorted((number, True) for number in sent)
        left = len(reader.read())
        reader.close()
        return found, left

    found, left = isolated(receive, flags=0)
    assert len(found) == len(signals.FORWARDED) - 1
    assert left == 0


def bit(number: int) -> int:
    return 1 << (number - 1)


# The C library keeps these two to itself; its posix_spawn(3), by which make starts programs, leaves
# them ignored, and no program can change that through it.
LIBRARY_SIGNALS = bit(32) | bit(33)


def masks() -> dict[str, int]:
    with open("/proc/self/status", encoding="ascii") as file:
        return {line[:6]: int(line[8:], 16) & ~LIBRARY_SIGNALS for line in file
                if line.startswith(("SigBlk", "SigIgn", "SigCgt"))}


def test_command_starts_with_defaults() -> None:
    def start() -> dict[str, int]:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: None)
        signals.block_all()
        signals.restore(signals.CallerSignals())
        return masks()

    assert isolated(start, flags=0) == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


def use_defaults() -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)


@pytest.mark.parametrize("number", [*signals.RESPECTED, signal.SIGCHLD, signal.SIGTERM, signal.SIGTSTP,
                                    signal.SIGUSR1, signal.SIGRTMAX])
def test_what_the_caller_ignores_and_blocks_is_the_commands(number: int) -> None:
    def start() -> tuple[frozenset[int], frozenset[int], dict[str, int], dict[str, int]]:
        use_defaults()
        for one in (number, *INTERPRETERS):
            signal.signal(one, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [number, signal.SIGALRM])
        caller = signals.let_signals_end_us()
        ours = masks()
        signals.restore(caller)
        return caller.ignored, caller.blocked, ours, masks()

    ignored, blocked, ours, theirs = isolated(start, flags=0)
    assert ignored == {number}
    assert blocked == {number, signal.SIGALRM}
    # Ours ends us, unless the caller means a start too; statuses of children are kept.
    assert ours["SigBlk"] == bit(signals.ASKING)
    interpreters = sum(map(bit, INTERPRETERS))
    assert ours["SigIgn"] == interpreters | (bit(number) if number in signals.RESPECTED else 0)
    assert theirs == {"SigBlk": bit(number) | bit(signal.SIGALRM), "SigIgn": bit(number), "SigCgt": 0}


def test_signals_that_the_launcher_saw_ignored_are_ignored_by_the_command() -> None:
    def start() -> tuple[dict[str, int], dict[str, int]]:
        use_defaults()
        for one in INTERPRETERS:
            signal.signal(one, signal.SIG_IGN)
        sys._xoptions["passt_ignored"] = f"{int(signal.SIGXFSZ)}"
        caller = signals.let_signals_end_us()
        ours = masks()
        signals.restore(caller)
        return ours, masks()

    ours, theirs = isolated(start, flags=0)
    assert ours["SigIgn"] == bit(signal.SIGPIPE) | bit(signal.SIGXFSZ)
    assert theirs["SigIgn"] == bit(signal.SIGXFSZ)


def test_signals_end_a_start() -> None:
    def start() -> dict[str, int]:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        signals.let_signals_end_us()
        return masks()

    found = isolated(start, flags=0)
    assert found["SigBlk"] == bit(signals.ASKING)
    assert not found["SigCgt"] & bit(signal.SIGINT)


def test_all_is_blocked_but_what_cannot_be() -> None:
    def block() -> int:
        signals.block_all()
        return masks()["SigBlk"]

    blocked = isolated(block, flags=0)
    assert not blocked & (bit(signal.SIGKILL) | bit(signal.SIGSTOP))
    wanted = (*signals.FORWARDED, *signals.TERMINAL_STOPS, signal.SIGCHLD)
    assert all(blocked & bit(number) for number in wanted)


def test_die_by_a_blocked_signal() -> None:
    pid = os.fork()
    if pid == 0:
        signals.block_all()
        signals.die_by(signal.SIGINT)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGINT

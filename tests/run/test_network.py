"""What the parts of a run agree on: which signals end it, and which have rules read again."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from passt.process import signals
from passt.process.signals import ReceivedSignal
from passt.run.network import watch_signals

if TYPE_CHECKING:
    from collections.abc import Callable

KERNEL, USER = 0x80, 0             # si_code: of a terminal, of kill(2)


class _Script:
    """Engine, reader of signals and reader of the file in one."""

    fd = 3

    def __init__(self, received: ReceivedSignal) -> None:
        self._received = received
        self.told: list[str] = []

    def read(self) -> list[ReceivedSignal]:
        return [self._received]

    def add_reader(self, _fd: int, callback: Callable[[], None]) -> None:
        callback()

    def stop(self) -> None:
        self.told.append("end")

    def ask(self) -> None:
        self.told.append("read")


@pytest.mark.parametrize(("number", "code", "is_ignored", "in_background", "told"), [
    (signal.SIGHUP, USER, False, False, ["read"]),
    (signal.SIGHUP, USER, True, True, ["read"]),
    (signal.SIGHUP, KERNEL, False, False, ["end"]),
    (signal.SIGHUP, KERNEL, False, True, []),
    (signal.SIGHUP, KERNEL, True, False, []),       # nohup(1)
    (signal.SIGTERM, USER, False, False, ["end"]),
    (signal.SIGTERM, USER, True, True, ["end"]),
])
def test_hangup_of_a_terminal_ends_who_heeds_it_and_that_of_a_user_reads_rules(
        number: int, code: int, is_ignored: bool, in_background: bool, told: list[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    script: Any = _Script(ReceivedSignal(number, code))
    monkeypatch.setattr(signals, "read_ending", lambda **_: script)
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN if is_ignored else signal.SIG_DFL)
    watch_signals(script, script, in_background=in_background)
    assert script.told == told

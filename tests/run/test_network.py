"""What the parts of a run agree on: what signals do, and when the host is followed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pytest

from passt import log
from passt.errors import ConfigError, HostError
from passt.facts.settings import AddressSettings, NamespaceSettings, Settings
from passt.follow import watched_host
from passt.process import signals, small_program
from passt.process.signals import ReceivedSignal
from passt.run import network
from passt.run.network import MIN_FILES_TO_FOLLOW, follow_if_possible, watch_host, watch_signals

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


def asked(*, must: bool) -> Settings:
    return Settings("pasta", addresses=AddressSettings(follow=True, must_follow=must),
                    namespace=NamespaceSettings(config_net=True))


def test_start_that_was_not_told_to_follow_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(log, "debug", told.append)

    def fail(error: Exception) -> Callable[[], object]:
        def step() -> object:
            raise error

        return step

    for error in (HostError("no such program"), OSError(24, "Too many open files")):
        assert follow_if_possible(asked(must=False), fail(error)) is None
        with pytest.raises(type(error)):
            follow_if_possible(asked(must=True), fail(error))
    with pytest.raises(ConfigError):
        follow_if_possible(asked(must=False), fail(ConfigError("there is no such interface")))
    assert told == ["the host is not followed: no such program",
                    "the host is not followed: [Errno 24] Too many open files"]


def test_start_without_the_small_programs_follows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_program, "_DIRECTORY", "/nowhere")
    settings, host = watch_host(asked(must=False))
    assert (host, settings.addresses.follow) == (None, False)
    with pytest.raises(HostError, match="install the package anew"):
        watch_host(asked(must=True))


def test_few_descriptors_are_not_taken_by_what_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Settings] = []
    monkeypatch.setattr(watched_host, "WatchedHost", made.append)
    monkeypatch.setattr(network, "file_limit", lambda: MIN_FILES_TO_FOLLOW - 1)
    settings, host = watch_host(asked(must=False))
    assert (made, host, settings.addresses.follow) == ([], None, False)
    assert watch_host(asked(must=True))[0].addresses.follow is False, "the fake is None"
    assert made == [asked(must=True)]

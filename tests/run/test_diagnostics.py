"""The counters as they are shown: the engine's and the responders' together."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from passt import log
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.settings import DiagnosticSettings, LogSettings, Settings
from passt.responders.dispatch import Dispatcher
from passt.run import network
from passt.run.diagnostics import Diagnostics, describe, row
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Callable

NET = GuestNet(GuestFamily(None, 24, None, None), None, "eth0")
ENGINE = dict.fromkeys((
    "frames_from_guest", "bytes_from_guest", "frames_to_guest", "bytes_to_guest", "flows_tcp", "flows_udp",
    "flows_ping", "flows_splice_tcp", "flows_splice_udp", "flows_opened", "flows_refused", "flows_evicted",
    "drop_short", "wakeups",
), 0)
BAD_ARP = bytes(12) + b"\x08\x06" + bytes(46)


class Loop:
    """An engine with counters only: tests call what it would call."""

    def __init__(self) -> None:
        self.readers: list[Callable[[], None]] = []
        self.later: list[Callable[[], None]] = []
        self.on_run: Callable[[], object] = lambda: None

    def add_reader(self, _fd: int, callback: Callable[[], None]) -> None:
        self.readers.append(callback)

    def call_later(self, _delay_s: float, callback: Callable[[], None]) -> int:
        self.later.append(callback)
        return len(self.later)

    def counters(self) -> dict[str, int]:
        return dict(ENGINE)

    def set_trace(self, *_: object) -> None:
        pass

    def run(self) -> None:
        self.on_run()

    def close(self) -> None:
        pass


def said_in_a_run(settings: Settings, on_run: Callable[[Loop, Dispatcher], object]) -> list[str]:
    """Return what is printed in a run during which *on_run* is called."""

    def run() -> list[str]:
        # A child of its own: a report blocks SIGUSR1, and messages go to descriptor 2.
        log.tell_held()           # what the tests before left in the one logger is not of this run
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        log.configure(debug=settings.log.debug)
        dispatcher, loop = Dispatcher(NET), Loop()
        loop.on_run = lambda: on_run(loop, dispatcher)
        diagnostics = Diagnostics(settings.diagnostics, debug=settings.log.debug, clock=lambda: 0.0)
        network.run_loop(loop, diagnostics, dispatcher.counters)  # type: ignore[arg-type]
        return os.read(reading, 1 << 16).decode().splitlines()

    return isolated(run, flags=0)


def test_malformed_control_frame_is_a_drop_with_its_layer() -> None:
    dispatcher = Dispatcher(NET)
    dispatcher.respond(BAD_ARP)
    dispatcher.respond(b"")
    counters = ENGINE | {"drop_short": 3} | dispatcher.counters()
    lines = describe(counters, 1.0)
    assert lines[5:] == [
        "    drops: 5 (short 3, control_ethernet_malformed 1, control_arp_malformed 1)",
        "    others: control_ethernet_received 2, control_arp_received 1",
    ]
    assert row(counters, 1.0).split()[-1] == "5"


def test_names_of_the_two_planes_are_apart() -> None:
    assert not Dispatcher(NET).counters().keys() & {"control_frames", "drop_control_rate"}
    assert all(name.startswith(("control_", "drop_control_")) for name in Dispatcher(NET).counters())


def test_last_counters_of_a_run_have_those_of_the_responders() -> None:
    settings = Settings("pasta", log=LogSettings(debug=True))
    lines = said_in_a_run(settings, lambda _, dispatcher: dispatcher.respond(BAD_ARP))
    assert any(line.endswith("    drops: 1 (control_arp_malformed 1)") for line in lines), lines


def test_answer_to_a_signal_has_those_of_the_responders() -> None:
    def ask(loop: Loop, dispatcher: Dispatcher) -> None:
        dispatcher.respond(BAD_ARP)
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.readers[0]()

    lines = said_in_a_run(Settings("pasta"), ask)
    assert "    drops: 1 (control_arp_malformed 1)" in lines


def test_row_of_stats_is_printed_for_a_control_frame_alone() -> None:
    def wait(loop: Loop, dispatcher: Dispatcher) -> None:
        loop.later[0]()
        dispatcher.respond(BAD_ARP)
        loop.later[1]()
        loop.later[2]()

    _, *rows = said_in_a_run(Settings("pasta", diagnostics=DiagnosticSettings(stats_s=1)), wait)
    assert [line.split()[-1] for line in rows] == ["0", "1"]

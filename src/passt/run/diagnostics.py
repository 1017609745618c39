"""Diagnostics of a run: the packet capture, the trace, and the counters.

`Diagnostics` opens the capture at the start, with the caller's rights, and is attached to the engine when the
loop begins. The counters are printed whenever SIGUSR1 comes, and at the end of a run with --debug; --stats
prints them as a table. SIGUSR1 is blocked from the first step of a start on (`signals.let_signals_end_us`),
so a signal that comes before the loop runs is answered when it does.
"""

from __future__ import annotations

import time

from passt import log
from passt.process.signals import ASKING, SignalReader

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Protocol

    from passt.facts.settings import DiagnosticSettings

    class Loop(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
            """Call *callback* whenever *fd* is readable."""

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once, after *delay_s* seconds."""

        def counters(self) -> dict[str, int]:
            """Return all counters by name."""

        def start_capture(self, fd: int, on_end: Callable[[int], None]) -> None:
            """Write all frames to *fd*; call *on_end* with the errno if that fails."""

        def end_capture(self) -> tuple[int, int] | None:
            """End the capture; return the numbers of frames written and lost."""

        def set_trace(self, flows: Callable[[str], None] | None,
                      frames: Callable[[bytes, int, bool, int, int, int], None] | None = None) -> None:
            """Call *flows* with a line for each flow, *frames* for each frame."""

# Counters with a place in a line; all others are listed if they are not 0.
_FRAMES = ("frames_from_guest", "frames_to_guest", "bytes_from_guest", "bytes_to_guest")
_FLOWS = {"flows_tcp": "TCP", "flows_udp": "UDP", "flows_ping": "ping", "flows_splice_tcp": "bypassed TCP",
          "flows_splice_udp": "bypassed UDP"}
_ALL_FLOWS = {"flows_opened": "opened", "flows_refused": "refused", "flows_evicted": "evicted"}
_COLUMNS = ("seconds", "frames in", "frames out", "bytes in", "bytes out", "TCP", "UDP", "ping", "drops")
_WIDTH = 12
_HEADING_EVERY = 20


class Diagnostics:
    """The capture, trace and counters of one run. Raises HostError if the capture cannot be made.

    With *debug* a line is logged for each flow, and the counters at the end. *on_asked* is called after each
    answer to SIGUSR1, *on_created* with the path of a capture file that was not there.
    """

    def __init__(self, settings: DiagnosticSettings, *, debug: bool,
                 on_created: Callable[[str], None] | None = None,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._debug = debug
        self._clock = clock
        self._start_s = clock()
        self._engine: Loop | None = None
        self._control_counters: Callable[[], dict[str, int]] = dict
        self.on_asked: Callable[[], None] | None = None
        self._capture = -1
        self._shown: dict[str, int] = {}
        self._n_rows = 0
        self._reader = SignalReader((ASKING,))
        if settings.pcap is not None:
            from passt.run import pcap_file

            self._capture, created = pcap_file.create(settings.pcap)
            if created is not None and on_created is not None:
                on_created(created)
            self._explain_end = pcap_file.explain_end
        if settings.trace:
            # Loaded now, while we may read the program's files.
            from passt.log.frame_text import FrameTracer

            self._tracer = FrameTracer(log.debug)

    def attach(self, engine: Loop, control_counters: Callable[[], dict[str, int]] = dict) -> None:
        """Observe *engine* from now on; *control_counters* returns what else is counted, as by responders."""
        self._engine = engine
        self._control_counters = control_counters
        reader = self._reader

        def on_signal() -> None:
            if reader.read():
                log.tell_held()
                self._print_counters(log.answer)
                if self.on_asked is not None:
                    self.on_asked()

        engine.add_reader(reader.fd, on_signal)
        if self._settings.trace:
            engine.set_trace(log.debug, self._tracer.on_frame)
        elif self._debug:
            engine.set_trace(log.debug)
        if self._capture >= 0:
            engine.start_capture(self._capture, self._on_capture_end)
        if self._settings.stats_s is not None:
            engine.call_later(self._settings.stats_s, self._on_stats)

    def finish(self) -> None:
        """Print the final counters; call after `Engine.run`, before `Engine.close`."""
        log.tell_held()
        if self._engine is None:
            return
        if self._debug:
            self._print_counters(log.debug)
        counts = self._engine.end_capture() if self._capture >= 0 else None
        if counts is not None and counts[1]:
            log.warning(f"the packet capture lacks {counts[1]} frames: its reader was too slow")

    def _on_capture_end(self, number: int) -> None:
        log.warning(self._explain_end(self._settings.pcap or "", number))

    def _print_counters(self, write: Callable[[str], None]) -> None:
        if self._engine is not None:
            for line in describe(self._counters(self._engine), self._clock() - self._start_s):
                write(line)

    def _counters(self, engine: Loop) -> dict[str, int]:
        return engine.counters() | self._control_counters()

    def _on_stats(self) -> None:
        """Print a row of --stats if a counter has changed since the last row."""
        if self._engine is None or self._settings.stats_s is None:
            return
        counters = self._counters(self._engine)
        if {**counters, "wakeups": 0} != {**self._shown, "wakeups": 0}:
            if self._n_rows % _HEADING_EVERY == 0:
                log.answer("".join(name.rjust(_WIDTH) for name in _COLUMNS))
            self._n_rows += 1
            self._shown = counters
            log.answer(row(counters, self._clock() - self._start_s))
        self._engine.call_later(self._settings.stats_s, self._on_stats)


def describe(counters: Mapping[str, int], seconds: float) -> list[str]:
    """Describe *counters*, taken *seconds* after the start, in a few lines."""
    drops = {name: n for name, n in counters.items() if name.startswith("drop_") and n}
    told = {*_FRAMES, *_FLOWS, *_ALL_FLOWS, *drops}
    others = [f"{name} {n}" for name, n in counters.items() if name not in told and n]
    reasons = ", ".join(f"{name.removeprefix('drop_')} {n}" for name, n in drops.items())
    lines = [
        f"Counters after {seconds:.1f} s (process {log.own_pid()}):",
        f"    from guest: {counters['frames_from_guest']} frames, {counters['bytes_from_guest']} bytes",
        f"    to guest: {counters['frames_to_guest']} frames, {counters['bytes_to_guest']} bytes",
        "    flows now: " + ", ".join(f"{label} {counters[name]}" for name, label in _FLOWS.items()),
        "    flows ever: " + ", ".join(f"{label} {counters[name]}" for name, label in _ALL_FLOWS.items()),
        f"    drops: {sum(drops.values())}{f' ({reasons})' if reasons else ''}",
    ]
    return [*lines, f"    others: {', '.join(others)}"] if others else lines


def row(counters: Mapping[str, int], seconds: float) -> str:
    """Make one row of --stats."""
    names = (*("frames_from_guest", "frames_to_guest", "bytes_from_guest", "bytes_to_guest"),
             "flows_tcp", "flows_udp", "flows_ping")
    drops = sum(n for name, n in counters.items() if name.startswith("drop_"))
    values = (f"{seconds:.1f}", *(str(counters[name]) for name in names), str(drops))
    return "".join(value.rjust(_WIDTH) for value in values)

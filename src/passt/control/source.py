"""What the control socket takes of the engine; `dataplane.engine.Engine` has all of it (see engine.pyi)."""

from __future__ import annotations

from passt.light.values import Protocol

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.contracts import (
        FlowDetail,
        FlowWatcher,
        ListenerInfo,
        PacketFilter,
        Recorder,
        TurnsMeasured,
        WaitLimit,
    )


class Loop(Protocol):
    """Watches descriptors."""

    def add_reader(self, fd: int, callback: Callable[[], None], readable: bool = ...,
                   writable: bool = ...) -> None:
        """Call *callback* whenever *fd* is readable or writable."""

    def remove_reader(self, fd: int) -> None:
        """Stop watching *fd*."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        """Call *callback* once, after *delay_s* seconds."""

    def wait_limit(self) -> WaitLimit:
        """Bound the waits for descriptors that somebody has sent; they are closed by each read and close."""


class Source(Loop, Protocol):
    """Tells of flows, ports and counters."""

    def detail_page(self, start: int = ..., limit: int = ...) -> tuple[list[FlowDetail], int | None]:
        """Look at *limit* records of the flow table; return flows, and the start of the next page."""

    def close_flow(self, index: int, generation: int) -> bool:
        """End a flow; False if it is gone."""

    def listeners_at(self, proto: int, port: int) -> list[ListenerInfo]:
        """Return the open listeners of one port."""

    def listener_page(self, start: int = ..., limit: int = ...) -> tuple[list[ListenerInfo], int | None]:
        """Look at *limit* places for listeners; return them, and the start of the next page."""

    def measure_turns(self, wanted: bool = ...) -> TurnsMeasured:
        """Measure turns of the loop from now on, or not; return what was measured since the last call."""

    def counters(self) -> dict[str, int]:
        """Return all counters."""

    def usage(self) -> dict[str, tuple[int, int]]:
        """Return what there is of each thing that has a limit, and the limit."""

    def memory_ceiling(self) -> int:
        """Return how many bytes flows can take."""

    def set_watcher(self, watcher: FlowWatcher | None) -> None:
        """Tell *watcher* of flows and ports."""

    def n_untold(self) -> int:
        """Return how many events were told to nobody, as there were too many."""

    def start_recorder(self, packets: PacketFilter, header: bytes, room: int, *, snap_len: int,
                       keeps_newest: bool = ..., fd: int = ...,
                       on_change: Callable[[], None] | None = ...) -> Recorder:
        """Keep packets as pcapng."""

    def stop_recorder(self, recorder: Recorder) -> None:
        """Give *recorder* no packets any more."""

    def trace_flows(self, flows: Callable[[str], None] | None) -> None:
        """Call *flows* with a line for each change of a connection's state."""

"""Ends the flows that a change of the host's network has left behind.

A connection whose local address the host has lost would hang for minutes: the kernel keeps its socket, and
nothing comes any more; so would one whose address the namespace is about to lose. A UDP flow keeps the way
that it was given, though the address that the guest talks to means another host by now. All of these are
ended, so that the guest sees a reset, or its next datagram goes the new way.

The flow table is looked at a few records in a turn of the loop, as the kernel is asked for each.
"""

from __future__ import annotations

from socket import IPPROTO_UDP

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from passt.facts.contracts import FlowDetail
    from passt.facts.guest import GuestFamily, GuestNet

    class Source(Protocol):
        """The part of `dataplane.engine.Engine` that is used."""

        def detail_page(self, start: int = ..., limit: int = ...) -> tuple[list[FlowDetail], int | None]:
            """Look at some records of the flow table; return flows, and the start of the next page."""

        def close_flow(self, index: int, generation: int) -> bool:
            """End a flow."""

        def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
            """Call *callback* once."""


class Sweep:
    """Ends flows of *source* whose local address is one of *gone*, and UDP flows to one of *moved*.

    *left* are addresses of the guest's own whose flows end, too. Addresses are packed; those of *moved* and
    *left* are as the guest sees them. It starts at once; *on_done* is called at the end.
    """

    def __init__(self, source: Source, gone: frozenset[bytes], moved: frozenset[bytes] = frozenset(),
                 left: frozenset[bytes] = frozenset(),
                 on_done: Callable[[], None] = lambda: None) -> None:
        self._source = source
        self._gone = gone
        self._moved = moved
        self._left = left
        self._on_done = on_done
        self.n_ended = 0
        if gone or moved or left:
            self._go_on(0)
        else:
            on_done()

    def _go_on(self, start: int) -> None:
        flows, following = self._source.detail_page(start)
        for flow in flows:
            if self._is_stale(flow):
                self.n_ended += self._source.close_flow(flow.number, flow.generation)
        if following is None:
            self._on_done()
        else:
            self._source.call_later(0.0, lambda: self._go_on(following))

    def _is_stale(self, flow: FlowDetail) -> bool:
        return flow.local_address in self._gone or flow.guest_address in self._left or (
            flow.proto == IPPROTO_UDP and not flow.inbound and flow.remote_address in self._moved)


def moved_addresses(before: GuestNet, after: GuestNet) -> frozenset[bytes]:
    """Return the addresses of the guest's view that lead to another place than *before*, packed."""
    return frozenset(_moved(before.ip4, after.ip4) | _moved(before.ip6, after.ip6))


def _moved(before: GuestFamily | None, after: GuestFamily | None) -> set[bytes]:
    if before is None or after is None:
        return set()
    old, new = _meanings(before), _meanings(after)
    return {address for address, meaning in old.items() if new.get(address) != meaning}


def _meanings(family: GuestFamily) -> dict[bytes, object]:
    """Return what each address that stands for another one leads to; the rows of `forward.policy`."""
    host = family.host_address or family.address
    rows = ((family.map_guest, host), (family.map_host_loopback, "loopback"),
            (family.dns_match, ("name server", family.dns_host)))
    return {address.packed: meaning for address, meaning in rows if address is not None}

"""What people are told of flows that rules of egress refuse: each target once a second. Pure, no I/O.

A guest chooses targets freely, so the memory of them is bounded; with more of them at a time some are told
again within the second. How many lines there are at most is for who writes them (`log.limited`).
"""

from __future__ import annotations

from socket import IPPROTO_TCP, IPPROTO_UDP

from passt.facts.address import format_endpoint, format_ip

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.forward.egress import Refused

MAX_TARGETS = 256
INTERVAL_S = 1.0
_ANSWER = -1                       # no protocol
_NAMES = {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP"}


class RefusalTeller:
    """Calls *tell* with a line for a flow that is refused, but for a target that was told of just now."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._tell = tell
        self._clock = clock
        self._told: dict[tuple[int, bytes, int], float] = {}   # the oldest first

    def note(self, refused: Refused) -> None:
        """Take it that a flow was refused."""
        has_ports = refused.proto in _NAMES
        if not self._is_due((refused.proto, refused.address, refused.port if has_ports else 0)):
            return
        where = format_endpoint(refused.address, refused.port) if has_ports else format_ip(refused.address)
        self._tell(f"refused: {_NAMES.get(refused.proto, 'ping')} to {where}: {refused.why}")

    def note_answer(self, address: bytes, why: str) -> None:
        """Take it that the answer to a query was refused since it had *address*."""
        if self._is_due((_ANSWER, address, 0)):
            self._tell(f"refused: an answer with {format_ip(address)}: {why}")

    def _is_due(self, target: tuple[int, bytes, int]) -> bool:
        """Tell whether *target* was not told of within the second, and remember that it is now."""
        now = self._clock()
        last = self._told.get(target)
        if last is not None and now - last < INTERVAL_S:
            return False
        self._told.pop(target, None)
        if len(self._told) >= MAX_TARGETS:
            del self._told[next(iter(self._told))]
        self._told[target] = now
        return True

"""What people are told of flows and names that rules of egress refuse: each once a second. Pure, no I/O.

How many lines there are at most is for who writes them (`log.limited`).
"""

from __future__ import annotations

from socket import IPPROTO_TCP, IPPROTO_UDP

from passt.facts.address import format_endpoint, format_ip
from passt.log.recent import Recent

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.forward.egress import Refused

_ANSWER = -1                       # no protocol
_NAMES = {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP"}


class RefusalTeller:
    """Calls *tell* with a line for a flow that is refused, but for a target that was told of just now.

    *tell_name* gets lines about names, of which the forwarder keeps back what was told of just now: so that a
    flood of names hides no flows, and the other way round.
    """

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float],
                 tell_name: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self._tell_name = tell_name or tell
        self._recent = Recent(clock)

    def note(self, refused: Refused) -> None:
        """Take it that a flow was refused."""
        has_ports = refused.proto in _NAMES
        if not self._recent.is_due((refused.proto, refused.address, refused.port if has_ports else 0)):
            return
        where = format_endpoint(refused.address, refused.port) if has_ports else format_ip(refused.address)
        self._tell(f"refused: {_NAMES.get(refused.proto, 'ping')} to {where}: {refused.why}")

    def note_answer(self, address: bytes, why: str) -> None:
        """Take it that the answer to a query was refused since it had *address*."""
        if self._recent.is_due((_ANSWER, address, 0)):
            self._tell(f"refused: an answer with {format_ip(address)}: {why}")

    def note_name(self, name: str, why: str) -> None:
        """Take it that a query for *name* was refused, or the answer to it."""
        self._tell_name(f"refused: the name {name}: {why}")

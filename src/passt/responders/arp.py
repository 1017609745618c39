"""ARP server of the guest's link: it answers for every address except the guest's own.

The guest has the host's prefix, so it may take any address for on-link; packets to all of them go through us.
The answer has the MAC address of the host that has the address where that is known (`neighbours`), else ours:
frames to either come to us. These addresses count as taken, so probes for them (sender 0.0.0.0; RFC 5227
2.1.1) are answered as well.
Two kinds of request get no answer:

* for an address of the guest, assigned or seen in use: the guest would take the reply for a conflict and give
  up the address (RFC 5227 2.4);
* announcements, whose sender and target are the same (RFC 5227 2.3).
"""

from __future__ import annotations

from passt.wire.arp import ArpOp, ArpPacket

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.guest import GuestFamily
    from passt.responders.neighbours import Neighbours


class ArpResponder:
    """Answers requests with the MAC addresses of *neighbours*.

    *family* has the addresses assigned to the guest. *is_guest* returns whether the guest was last seen to
    use a packed address.
    """

    def __init__(self, family: GuestFamily, neighbours: Neighbours,
                 is_guest: Callable[[bytes], bool]) -> None:
        self._neighbours = neighbours
        self._is_guest = is_guest
        self._guest_owned = {family.address, *(copied.address for copied in family.copied_addresses)}

    def respond(self, request: ArpPacket) -> ArpPacket | None:
        """Return the reply to *request*; None if it must get none."""
        asked = request.target_ip
        if request.op is not ArpOp.REQUEST or asked in self._guest_owned or self._is_guest(asked.packed):
            return None
        # Old launchers of QEMU test the socket with a probe for 0.0.0.0 and expect an answer.
        is_probe = request.sender_ip.is_unspecified
        if not is_probe and request.sender_ip == asked:
            return None
        mac = self._neighbours.tell(asked.packed, request.sender_mac)
        return ArpPacket(ArpOp.REPLY, mac, asked, request.sender_mac, request.sender_ip)

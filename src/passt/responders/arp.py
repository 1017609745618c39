"""Who has an IPv4 address on the guest's link: we, for every address that is not the guest's.

The guest may believe any address on-link, because its prefix is the host's; all such hosts are
reached through us. Their addresses are taken, so probes for them (sender 0.0.0.0; RFC 5227 2.1.1)
are answered as well. Two kinds of request get no answer:

* for an address of the guest, assigned or seen in use: a reply would be taken for a conflict, and the
  guest would give up its own address (RFC 5227 2.4);
* announcements, where sender and target are the same (RFC 5227 2.3).
"""

from __future__ import annotations

from passt.wire.arp import ArpOp, ArpPacket

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.guest import GuestFamily


class ArpResponder:
    """Answers requests as *family* demands, with *our_mac*.

    *is_guest* tells whether a packed address is one that the guest was last seen to use.
    """

    def __init__(self, family: GuestFamily, our_mac: bytes, is_guest: Callable[[bytes], bool]) -> None:
        self._our_mac = our_mac
        self._is_guest = is_guest
        self._guest_owned = {family.address, *(copied.address for copied in family.copied_addresses)}

    def respond(self, request: ArpPacket) -> ArpPacket | None:
        """Reply for the asker; None where silence is right."""
        asked = request.target_ip
        if request.op is not ArpOp.REQUEST or asked in self._guest_owned or self._is_guest(asked.packed):
            return None
        # Old QEMU launchers test the socket with a probe for 0.0.0.0, and want an answer.
        is_probe = request.sender_ip.is_unspecified
        if not is_probe and request.sender_ip == asked:
            return None
        return ArpPacket(ArpOp.REPLY, self._our_mac, asked, request.sender_mac, request.sender_ip)

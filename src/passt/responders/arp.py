"""Who has an IPv4 address on the guest's link: we, for every address that is not the guest's.

The guest may believe any address on-link, because its prefix is the host's; all such hosts are
reached through us. Three kinds of request get no answer:

* for an address assigned to the guest: a reply would be taken for a conflict (RFC 5227);
* announcements, where sender and target are the same;
* probes (sender 0.0.0.0; RFC 5227, 2.1.1) for addresses that do not stand for us, so that the guest
  is free to take any other address. A probe for 0.0.0.0 is answered: old QEMU launchers test the
  socket with one.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from passt.wire.arp import ArpOp, ArpPacket

if TYPE_CHECKING:
    from passt.model import GuestFamily

_UNSPECIFIED = IPv4Address("0.0.0.0")


class ArpResponder:
    """Answers requests as *family* demands, with *our_mac*; no state."""

    def __init__(self, family: GuestFamily, our_mac: bytes) -> None:
        self._our_mac = our_mac
        self._guest_owned = {family.address, *(copied.address for copied in family.copied_addresses)}
        self._ours = {_UNSPECIFIED, family.gateway, family.our_address, family.map_host_loopback,
                      family.map_guest, family.dns_match}

    def respond(self, request: ArpPacket) -> ArpPacket | None:
        """Reply for the asker; None where silence is right."""
        if request.op is not ArpOp.REQUEST or request.target_ip in self._guest_owned:
            return None
        is_probe = request.sender_ip == _UNSPECIFIED
        if is_probe and request.target_ip not in self._ours:
            return None
        if not is_probe and request.sender_ip == request.target_ip:
            return None
        return ArpPacket(ArpOp.REPLY, self._our_mac, request.target_ip, request.sender_mac, request.sender_ip)

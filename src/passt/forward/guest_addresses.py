"""The addresses that the guest was last seen to use.

Theory of operation: the data plane reports each new source address of the guest; the last
plausible one of a kind is where inbound flows go. There are three kinds: IPv4, IPv6 beyond the
link, and IPv6 link-local. Until one is seen, the assigned address stands for it. Without an assigned
IPv6 address (local mode) a link-local address stands for the one beyond the link as well, until
such a one is seen. An address that the user chose stays where flows go, whatever else the guest uses.
`on_guest_address` and `on_guest_mac` are the only writers.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from passt.facts.address import IP4_LEN, format_ip, format_mac, is_host_unicast, is_link_local6

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.guest import GuestFamily, GuestNet


class Observed:
    """Implements `contracts.GuestEvents`; packed addresses, None while unknown.

    *explain* gets a line for each change, if given. *on_ping_forbidden* is called the first time that the
    data plane says so. *ask*, when set, sends questions for `addresses` to the guest's link.
    """

    ask: Callable[[], None] | None = None

    def __init__(self, net: GuestNet, *, explain: Callable[[str], None] | None = None,
                 on_ping_forbidden: Callable[[], None] | None = None) -> None:
        self._explain = explain
        self._on_ping_forbidden = on_ping_forbidden
        self._never = _stand_ins(net.ip4) | _stand_ins(net.ip6) | _network_and_broadcast(net.ip4)
        self._is_fixed4 = net.ip4 is not None and net.ip4.is_fixed
        self._is_fixed6 = net.ip6 is not None and net.ip6.is_fixed
        self.ip4 = _assigned(net.ip4)
        self.ip6 = _assigned(net.ip6)
        self.ip6_link_local: bytes | None = None
        self.mac: bytes | None = None
        if self.ip6 is not None and is_link_local6(self.ip6):
            self.ip6_link_local = self.ip6

    def on_guest_address(self, address: bytes) -> None:
        """Take note of a source address; ignored unless a guest can have it.

        A guest can have no loopback, multicast, broadcast, unspecified or IPv4-mapped address, nor one
        that stands for us or the host: inbound flows would be sent from the guest's own address.
        """
        if not is_host_unicast(address) or address in self._never:
            return
        before = (self.ip4, self.ip6, self.ip6_link_local)
        if len(address) == IP4_LEN:
            self.ip4 = self.ip4 if self._is_fixed4 else address
        elif is_link_local6(address):
            self.ip6_link_local = address
            if self.ip6 is None or (is_link_local6(self.ip6) and not self._is_fixed6):
                self.ip6 = address
        elif not self._is_fixed6:
            self.ip6 = address
        if self._explain and before != (self.ip4, self.ip6, self.ip6_link_local):
            self._explain(f"guest uses address {format_ip(address)}")

    def on_guest_mac(self, mac: bytes) -> None:
        """Take note of the guest's hardware address."""
        if self._explain and mac != self.mac:
            self._explain(f"guest uses MAC address {format_mac(mac)}")
        self.mac = mac

    def on_guest_silent(self) -> None:
        """Have the guest asked whether it is still there."""
        if self.ask is not None:
            self.ask()

    def on_ping_forbidden(self) -> None:
        """Pass on, once, that there are no ping sockets."""
        told, self._on_ping_forbidden = self._on_ping_forbidden, None
        if told is not None:
            told()

    def inbound_destination(self, source: bytes) -> bytes | None:
        """Where in the guest a flow goes whose guest-visible source is *source*; None if not known yet.

        A link-local source wants a link-local destination (passt(1), "Handling of traffic with
        loopback destination and source addresses"), as far as one is known.
        """
        if len(source) == IP4_LEN:
            return self.ip4
        if is_link_local6(source):
            return self.ip6_link_local or self.ip6
        return self.ip6 or self.ip6_link_local

    def addresses(self) -> list[bytes]:
        """Return where the guest can be asked for, each once."""
        known = (self.ip4, self.ip6, self.ip6_link_local)
        return list(dict.fromkeys(address for address in known if address))

    def is_guest(self, address: bytes) -> bool:
        """Whether *address* is one of those last seen."""
        return address in {self.ip4, self.ip6, self.ip6_link_local}


def _assigned(family: GuestFamily | None) -> bytes | None:
    return family.address.packed if family and family.address else None


def _stand_ins(family: GuestFamily | None) -> set[bytes]:
    """Guest-visible addresses that mean us or the host, and those that are no interface's."""
    if family is None:
        return set()
    addresses = (family.gateway, family.our_address, family.map_host_loopback, family.map_guest,
                 family.dns_match)
    return {address.packed for address in addresses if address} - {_assigned(family) or b""}


def _network_and_broadcast(family: GuestFamily | None) -> set[bytes]:
    """First and last address of the IPv4 subnet, which no host has (RFC 1122, 3.2.1.3; RFC 3021)."""
    if family is None or family.address is None or family.prefix_len >= 31:
        return set()
    network = IPv4Network((int(family.address), family.prefix_len), strict=False)
    return {network.network_address.packed, network.broadcast_address.packed} - {_assigned(family) or b""}

"""The addresses that the guest last used, which inbound flows go to.

Theory of operation: the data plane reports each new source address of the guest. The last plausible address
of each kind is kept; the kinds are IPv4, IPv6 of wider scope, and IPv6 link-local. Until one is seen, the
assigned address is used. Without an assigned IPv6 address (local mode) the link-local address is used for
both kinds of IPv6, until one of wider scope is seen. If the user chose an address, inbound flows go there
whatever else the guest uses. `on_guest_address`, `on_guest_mac` and `renew` are the only writers.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from passt.facts.address import IP4_LEN, format_ip, format_mac, is_host_unicast, is_link_local6

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.guest import GuestFamily, GuestNet

NO_GUEST = "no guest address known yet"  # why a flow to the guest is refused


class Observed:
    """Implements `contracts.GuestEvents`; packed addresses, None while unknown.

    *explain* gets a line for each change, if given. *on_ping_forbidden* is called once, when the data plane
    finds that the host refuses ping sockets. *ask*, when set, sends questions for `addresses` to the guest.
    *on_learnt*, when set, gets each new packed address, of 4, 16 or, for hardware, 6 bytes.
    """

    ask: Callable[[], None] | None = None
    on_learnt: Callable[[bytes], None] | None = None

    def __init__(self, net: GuestNet, *, explain: Callable[[str], None] | None = None,
                 on_ping_forbidden: Callable[[], None] | None = None) -> None:
        self._explain = explain
        self._on_ping_forbidden = on_ping_forbidden
        self._seen: set[bytes] = set()  # of those below, what the guest was seen to use
        self.ip6_link_local: bytes | None = None
        self.mac: bytes | None = None
        self._take(net)
        self.ip4 = _assigned(net.ip4)
        self.ip6 = _assigned(net.ip6)
        if self.ip6 is not None and is_link_local6(self.ip6):
            self.ip6_link_local = self.ip6

    def _take(self, net: GuestNet) -> None:
        self._never = _stand_ins(net.ip4) | _stand_ins(net.ip6) | _network_and_broadcast(net.ip4)
        self._is_fixed4 = net.ip4 is not None and net.ip4.is_fixed
        self._is_fixed6 = net.ip6 is not None and net.ip6.is_fixed

    def renew(self, net: GuestNet) -> None:
        """Take it that *net* is the guest's network now.

        An address that the guest was seen to use stays until it uses another one, as it may keep it until
        its lease ends; one that it was only assigned is replaced.
        """
        self._take(net)
        kept = self._seen - self._never
        if self._is_fixed4 or self.ip4 not in kept:
            self.ip4 = _assigned(net.ip4)
        if self._is_fixed6 or self.ip6 not in kept:
            self.ip6 = _assigned(net.ip6) or self.ip6_link_local

    def on_guest_address(self, address: bytes) -> None:
        """Keep a source address of the guest, unless no guest can have it.

        A guest can have no loopback, multicast, broadcast, unspecified or IPv4-mapped address, nor one that
        means us or the host: an inbound flow would have the same source and destination.
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
        self._seen = ({address} | self._seen) & {*self.addresses()}
        if before == (self.ip4, self.ip6, self.ip6_link_local):
            return
        if self._explain:
            self._explain(f"guest uses address {format_ip(address)}")
        if self.on_learnt is not None:
            self.on_learnt(address)

    def on_guest_mac(self, mac: bytes) -> None:
        """Keep the guest's hardware address."""
        if mac == self.mac:
            return
        self.mac = mac
        if self._explain:
            self._explain(f"guest uses MAC address {format_mac(mac)}")
        if self.on_learnt is not None:
            self.on_learnt(mac)

    def on_guest_silent(self) -> None:
        """Have the guest asked whether it is still there."""
        if self.ask is not None:
            self.ask()

    def on_ping_forbidden(self) -> None:
        """Pass on, once, that the host refuses ping sockets."""
        told, self._on_ping_forbidden = self._on_ping_forbidden, None
        if told is not None:
            told()

    def inbound_destination(self, source: bytes) -> bytes | None:
        """Return the guest's address for a flow with the guest-visible *source*; None if not known yet.

        A link-local source gets a link-local destination, if one is known (passt(1), "Handling of traffic
        with loopback destination and source addresses").
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
        """Tell whether the guest has *address*, of IP or hardware, as far as seen."""
        return address in {self.ip4, self.ip6, self.ip6_link_local, self.mac}


def _assigned(family: GuestFamily | None) -> bytes | None:
    return family.address.packed if family and family.address else None


def _stand_ins(family: GuestFamily | None) -> set[bytes]:
    """Return the guest-visible addresses that mean us, the host or its resolver."""
    if family is None:
        return set()
    addresses = (family.gateway, family.our_address, family.map_host_loopback, family.map_guest,
                 family.dns_match)
    return {address.packed for address in addresses if address} - {_assigned(family) or b""}


def _network_and_broadcast(family: GuestFamily | None) -> set[bytes]:
    """Return first and last address of the IPv4 subnet, which no host has (RFC 1122 3.2.1.3; RFC 3021)."""
    if family is None or family.address is None or family.prefix_len >= 31:
        return set()
    network = IPv4Network((int(family.address), family.prefix_len), strict=False)
    return {network.network_address.packed, network.broadcast_address.packed} - {_assigned(family) or b""}

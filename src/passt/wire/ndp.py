"""Neighbour discovery messages (RFC 4861 4), and the rules for the packets that carry them.

Bodies, after the four bytes of the ICMPv6 header::

    router solicitation        0 reserved  4 options ...
    router advertisement       0 hop limit 1 flags 2 lifetime 4 reachable 8 retransmit 12 options ...
    neighbour solicitation     0 reserved  4 target  20 options ...
    neighbour advertisement    0 flags     4 target  20 options ...

`parse_message` is the door: it checks the packet around a message against RFC 4861 6.1 and 7.1 (hop limit
255, so no router forwarded it; code 0; addresses that fit the message).
"""

from __future__ import annotations

import struct
from ipaddress import IPv6Address

from passt.errors import WireError
from passt.facts.address import solicited_node
from passt.light.values import Value
from passt.wire.cursor import Reader, require_bits
from passt.wire.icmp6 import Icmp6Message, Icmp6Type
from passt.wire.ndp_options import NdpOption, SourceLinkLayer, build_options, parse_options

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import ClassVar, Self

    from passt.wire.ip6 import Ip6Packet

_ROUTER_SOLICITATION = struct.Struct("!4x")
_ROUTER_ADVERTISEMENT = struct.Struct("!BBHII")
_NEIGHBOUR = struct.Struct("!B3x16s")
_HOP_LIMIT = 255


class RouterSolicitation(Value):
    """Router solicitation (RFC 4861 4.1)."""

    KIND: ClassVar[int] = Icmp6Type.ROUTER_SOLICITATION

    options: tuple[NdpOption, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the body. Raises `WireError` if it is short or has a bad option."""
        reader = Reader(data, "router solicitation")
        reader.pull(_ROUTER_SOLICITATION)
        return cls(parse_options(reader.pull_rest()))

    def build(self) -> bytes:
        """Write the body."""
        return _ROUTER_SOLICITATION.pack() + build_options(self.options)


class RouterAdvertisement(Value):
    """Router advertisement (RFC 4861 4.2); 0 as *hop_limit*, *reachable_ms*, *retransmit_ms*: unspecified."""

    KIND: ClassVar[int] = Icmp6Type.ROUTER_ADVERTISEMENT
    _MANAGED: ClassVar[int] = 0x80
    _OTHER: ClassVar[int] = 0x40

    hop_limit: int
    managed: bool
    other: bool
    lifetime_s: int
    reachable_ms: int = 0
    retransmit_ms: int = 0
    options: tuple[NdpOption, ...] = ()

    def __post_init__(self) -> None:
        require_bits("RA hop limit", self.hop_limit, 8)
        require_bits("RA lifetime", self.lifetime_s, 16)
        require_bits("RA reachable time", self.reachable_ms, 32)
        require_bits("RA retransmit timer", self.retransmit_ms, 32)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the body. Raises `WireError` if it is short or has a bad option."""
        reader = Reader(data, "router advertisement")
        hop_limit, flags, lifetime_s, reachable_ms, retransmit_ms = reader.pull(_ROUTER_ADVERTISEMENT)
        return cls(hop_limit, bool(flags & cls._MANAGED), bool(flags & cls._OTHER), lifetime_s,
                   reachable_ms, retransmit_ms, parse_options(reader.pull_rest()))

    def build(self) -> bytes:
        """Write the body."""
        flags = self.managed * self._MANAGED | self.other * self._OTHER
        return _ROUTER_ADVERTISEMENT.pack(self.hop_limit, flags, self.lifetime_s, self.reachable_ms,
                                          self.retransmit_ms) + build_options(self.options)


class NeighbourSolicitation(Value):
    """Neighbour solicitation (RFC 4861 4.3)."""

    KIND: ClassVar[int] = Icmp6Type.NEIGHBOUR_SOLICITATION

    target: IPv6Address
    options: tuple[NdpOption, ...] = ()

    def __post_init__(self) -> None:
        _require_unicast(self.target)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the body. Raises `WireError` if it is short or has a multicast target or a bad option."""
        _, target, options = _parse_neighbour(data, "neighbour solicitation")
        return cls(target, options)

    def build(self) -> bytes:
        """Write the body."""
        return _NEIGHBOUR.pack(0, self.target.packed) + build_options(self.options)


class NeighbourAdvertisement(Value):
    """Neighbour advertisement (RFC 4861 4.4)."""

    KIND: ClassVar[int] = Icmp6Type.NEIGHBOUR_ADVERTISEMENT
    _ROUTER: ClassVar[int] = 0x80
    _SOLICITED: ClassVar[int] = 0x40
    _OVERRIDE: ClassVar[int] = 0x20

    target: IPv6Address
    router: bool
    solicited: bool
    override: bool
    options: tuple[NdpOption, ...] = ()

    def __post_init__(self) -> None:
        _require_unicast(self.target)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read the body. Raises `WireError` if it is short or has a multicast target or a bad option."""
        flags, target, options = _parse_neighbour(data, "neighbour advertisement")
        return cls(target, bool(flags & cls._ROUTER), bool(flags & cls._SOLICITED),
                   bool(flags & cls._OVERRIDE), options)

    def build(self) -> bytes:
        """Write the body."""
        flags = self.router * self._ROUTER | self.solicited * self._SOLICITED | self.override * self._OVERRIDE
        return _NEIGHBOUR.pack(flags, self.target.packed) + build_options(self.options)


NdpMessage = RouterSolicitation | RouterAdvertisement | NeighbourSolicitation | NeighbourAdvertisement

_MESSAGES: dict[int, type[NdpMessage]] = {
    cls.KIND: cls
    for cls in (RouterSolicitation, RouterAdvertisement, NeighbourSolicitation, NeighbourAdvertisement)
}


def is_ndp(kind: int) -> bool:
    """Return whether `parse_message` reads messages of ICMPv6 type *kind*."""
    return kind in _MESSAGES


def parse_message(icmp: Icmp6Message, packet: Ip6Packet) -> NdpMessage:
    """Read the message in *icmp*, carried by *packet*; its type must be one that `is_ndp` accepts.

    Raises `WireError` for any violation of RFC 4861 6.1.1, 6.1.2, 7.1.1 or 7.1.2.
    """
    if packet.hop_limit != _HOP_LIMIT:
        raise WireError(f"ND: hop limit {packet.hop_limit}, the packet was forwarded")
    if icmp.code:
        raise WireError(f"ND: code {icmp.code}")
    message = _MESSAGES[icmp.kind].parse(icmp.body)
    match message:
        case RouterSolicitation():
            _check_unspecified_source(packet, message.options)
        case RouterAdvertisement():
            if not packet.source.is_link_local:
                raise WireError("router advertisement: source is not link-local")
        case NeighbourSolicitation(target=target):
            _check_unspecified_source(packet, message.options)
            if packet.source.is_unspecified and packet.destination != solicited_node(target):
                raise WireError("neighbour solicitation: unspecified source, not to the solicited-node group")
        case NeighbourAdvertisement(solicited=solicited):
            if solicited and packet.destination.is_multicast:
                raise WireError("neighbour advertisement: solicited, but to a group")
    return message


def build_message(message: NdpMessage) -> Icmp6Message:
    """Wrap *message* in ICMPv6; the packet must have hop limit 255."""
    return Icmp6Message(message.KIND, 0, message.build())


def _check_unspecified_source(packet: Ip6Packet, options: tuple[NdpOption, ...]) -> None:
    if packet.source.is_unspecified and any(isinstance(option, SourceLinkLayer) for option in options):
        raise WireError("ND: unspecified source with a source link-layer address")


def _parse_neighbour(data: bytes, name: str) -> tuple[int, IPv6Address, tuple[NdpOption, ...]]:
    reader = Reader(data, name)
    flags, packed = reader.pull(_NEIGHBOUR)
    target = IPv6Address(packed)
    if target.is_multicast:
        raise WireError(f"{name}: target is multicast")
    return flags, target, parse_options(reader.pull_rest())


def _require_unicast(target: IPv6Address) -> None:
    if target.is_multicast:
        raise ValueError(f"ND target {target} is multicast")

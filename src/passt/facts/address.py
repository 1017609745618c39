"""Hardware addresses as text, and questions about packed addresses.

A packed address is network-order `bytes`: 6 for MAC-48, 4 for IPv4, 16 for IPv6. The questions are asked once
per flow and look at the bytes alone, at a fraction of the cost of an `ipaddress` object.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

IPAddress = IPv4Address | IPv6Address

MAC_LEN = 6
IP4_LEN = 4
IP6_LEN = 16

MAC_BROADCAST = b"\xff" * MAC_LEN
IP4_LOOPBACK = bytes((127, 0, 0, 1))
IP4_BROADCAST = b"\xff" * IP4_LEN
IP6_UNSPECIFIED = bytes(IP6_LEN)
IP6_LOOPBACK = bytes(15) + b"\x01"
IP6_ALL_NODES = IPv6Address("ff02::1")

_IP6_NOWHERE = frozenset((IP6_UNSPECIFIED, IP6_LOOPBACK))
_IP4_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_SOLICITED_NODE_PREFIX = bytes.fromhex("ff0200000000000000000001ff")


def format_mac(mac: bytes) -> str:
    """Write *mac* as lower-case pairs joined by colons."""
    return mac.hex(":")


def format_ip(packed: bytes) -> str:
    """Write a packed IPv4 or IPv6 address in its usual notation."""
    return str(ip_address(packed))


def format_endpoint(packed: bytes, port: int) -> str:
    """Write address and port as in a URL: the IPv6 address in brackets."""
    text = format_ip(packed)
    return f"[{text}]:{port}" if len(packed) == IP6_LEN else f"{text}:{port}"


def is_unspecified(packed: bytes) -> bool:
    """0.0.0.0 or ::."""
    return not any(packed)


def is_loopback(packed: bytes) -> bool:
    """127.0.0.0/8 or ::1."""
    return packed[0] == 127 if len(packed) == IP4_LEN else packed == IP6_LOOPBACK


def is_multicast(packed: bytes) -> bool:
    """224.0.0.0/4 or ff00::/8."""
    return packed[0] & 0xf0 == 0xe0 if len(packed) == IP4_LEN else packed[0] == 0xff


def is_link_local6(packed: bytes) -> bool:
    """fe80::/10 (RFC 4291 2.4); false for every IPv4 address."""
    return packed[0] == 0xfe and packed[1] & 0xc0 == 0x80 and len(packed) == IP6_LEN


def needs_scope6(packed: bytes) -> bool:
    """Whether an address has a meaning on one link only: fe80::/10, ffx1::/16, ffx2::/16 (RFC 4007 4)."""
    if packed[0] == 0xff:
        return packed[1] & 0xf in {1, 2} and len(packed) == IP6_LEN
    return is_link_local6(packed)


def is_host_unicast(packed: bytes) -> bool:
    """Whether *packed* can be the source address of a packet on a link.

    Neither unspecified, loopback, multicast, limited broadcast, 0.0.0.0/8 (RFC 1122 3.2.1.3) nor
    IPv4-mapped.
    """
    if len(packed) == IP4_LEN:
        return packed[0] not in {0, 127} and packed[0] & 0xf0 != 0xe0 and packed != IP4_BROADCAST
    return packed[0] != 0xff and packed not in _IP6_NOWHERE and not packed.startswith(_IP4_MAPPED_PREFIX)


def is_subnet_broadcast(packed: bytes, prefix_len: int) -> bool:
    """Whether an IPv4 address is the broadcast address of its prefix (RFC 922 7); not of a /31 (RFC 3021)."""
    if len(packed) != IP4_LEN or prefix_len > 30:
        return False
    host_mask = (1 << (32 - prefix_len)) - 1
    return int.from_bytes(packed, "big") & host_mask == host_mask


def multicast_mac(group: IPv6Address) -> bytes:
    """Ethernet address of an IPv6 multicast group (RFC 2464 7)."""
    return b"\x33\x33" + group.packed[-4:]


def solicited_node(address: IPv6Address) -> IPv6Address:
    """Multicast group in which the owner of *address* hears solicitations (RFC 4291 2.7.1)."""
    return IPv6Address(_SOLICITED_NODE_PREFIX + address.packed[-3:])

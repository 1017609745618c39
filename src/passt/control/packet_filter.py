"""The filter of a capture: a few words, as tcpdump(8) users know them, without its grammar.

Words of one kind are alternatives, and a packet has to fit each kind that there is: `tcp udp port 53` are
TCP or UDP packets with port 53 at either end.
"""

from __future__ import annotations

from ipaddress import ip_interface

from passt.control.http import RefusalError
from passt.facts.contracts import (
    MAX_FILTER_PARTS,
    ON_BYPASS,
    ON_LINK,
    SEEN_ARP,
    SEEN_ICMP,
    SEEN_ICMP6,
    SEEN_IP4,
    SEEN_IP6,
    SEEN_TCP,
    SEEN_UDP,
    PacketFilter,
)

MAX_TEXT = 1024
PROTOCOLS = {"tcp": SEEN_TCP, "udp": SEEN_UDP, "icmp": SEEN_ICMP, "icmp6": SEEN_ICMP6, "arp": SEEN_ARP}
FAMILIES = {"ip": SEEN_IP4, "ip4": SEEN_IP4, "ip6": SEEN_IP6}
PATHS = {"link": ON_LINK, "bypass": ON_BYPASS}


def parse_filter(text: str) -> PacketFilter:
    """Read the words of a filter. Raises RefusalError."""
    if len(text) > MAX_TEXT:
        raise RefusalError(400, f"the filter has more than {MAX_TEXT} characters")
    protocols = families = interfaces = 0
    ports: list[tuple[int, int]] = []
    networks: list[tuple[bytes, int]] = []
    words = text.split()
    while words:
        word = words.pop(0)
        protocols |= PROTOCOLS.get(word, 0)
        families |= FAMILIES.get(word, 0)
        interfaces |= PATHS.get(word, 0)
        if word in PROTOCOLS or word in FAMILIES or word in PATHS:
            continue
        if word in {"port", "host", "net"} and not words:
            raise RefusalError(400, f"'{word}' at the end of the filter lacks its value")
        if word == "port":
            ports.append(_ports(words.pop(0)))
        elif word in {"host", "net"}:
            networks.append(_network(words.pop(0)))
        elif word.startswith(":") and word[1:2].isdigit():
            ports.append(_ports(word[1:]))
        else:
            networks.append(_network(word))
    if len(ports) > MAX_FILTER_PARTS or len(networks) > MAX_FILTER_PARTS:
        raise RefusalError(400, f"a filter has at most {MAX_FILTER_PARTS} ports, and as many addresses")
    return PacketFilter(protocols, families, interfaces, tuple(ports), tuple(networks))


def _ports(text: str) -> tuple[int, int]:
    """Read a port, or FIRST-LAST. Raises RefusalError."""
    first, dash, last = text.partition("-")
    bounds = [int(part) for part in ((first, last) if dash else (first, first))
              if part.isascii() and part.isdecimal() and len(part) <= 5]
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1] <= 0xFFFF:
        raise RefusalError(400, f"'{text[:40]}' is not a port or FIRST-LAST in the filter")
    return bounds[0], bounds[1]


def _network(text: str) -> tuple[bytes, int]:
    """Read an address, with or without a prefix length. Raises RefusalError."""
    try:
        network = ip_interface(text.strip("[]"))
    except ValueError:
        known = ", ".join((*PROTOCOLS, *FAMILIES, *PATHS))
        raise RefusalError(400, f"'{text[:60]}' makes no sense in the filter; there are {known},"
                                " port N or N-M, host ADDRESS, net ADDRESS/LENGTH") from None
    return network.ip.packed, network.network.prefixlen

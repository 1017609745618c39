"""The words of a capture's filter."""

from __future__ import annotations

import pytest

from passt.control.http import RefusalError
from passt.control.packet_filter import MAX_TEXT, parse_filter
from passt.facts.contracts import (
    MAX_FILTER_PARTS,
    ON_BYPASS,
    ON_LINK,
    SEEN_ARP,
    SEEN_IP4,
    SEEN_IP6,
    SEEN_TCP,
    SEEN_UDP,
    PacketFilter,
)
from tests.support.frames import packed


@pytest.mark.parametrize(("text", "expected"), [
    ("", PacketFilter()),
    ("tcp port 80 host 192.0.2.1", PacketFilter(
        protocols=SEEN_TCP, ports=((80, 80),), networks=((packed("192.0.2.1"), 32),))),
    (" tcp  udp\tport 1-1024 :443", PacketFilter(
        protocols=SEEN_TCP | SEEN_UDP, ports=((1, 1024), (443, 443)))),
    ("ip link arp", PacketFilter(protocols=SEEN_ARP, families=SEEN_IP4, interfaces=ON_LINK)),
    ("ip6 bypass link", PacketFilter(families=SEEN_IP6, interfaces=ON_LINK | ON_BYPASS)),
    ("net 192.0.2.7/24 2001:db8::1", PacketFilter(
        networks=((packed("192.0.2.7"), 24), (packed("2001:db8::1"), 128)))),
    ("host [2001:db8::1]", PacketFilter(networks=((packed("2001:db8::1"), 128),))),
    ("net 0.0.0.0/0", PacketFilter(networks=((bytes(4), 0),))),
])  # fmt: skip
def test_words_have_their_meaning(text: str, expected: PacketFilter) -> None:
    assert parse_filter(text) == expected


@pytest.mark.parametrize("text", [
    "port", "host", "net", "port x", "port 0", "port 65536", "port 9-8", "port 1-2-3", "port -1", "port 80-",
    "host example.org", "net 192.0.2.0/33", "and", "not tcp", "src", ":", ":http", "tcp or udp",
    "port \u0663",
    "port 1 " * (MAX_FILTER_PARTS + 1), "192.0.2.1 " * (MAX_FILTER_PARTS + 1),
    "tcp " * MAX_TEXT,
])  # fmt: skip
def test_what_makes_no_sense_is_told(text: str) -> None:
    with pytest.raises(RefusalError) as refusal:
        parse_filter(text)
    assert refusal.value.status == 400

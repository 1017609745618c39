"""Text of hardware addresses, and the questions about packed addresses."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from passt.facts import address


def test_mac_is_written_in_lower_case_pairs() -> None:
    assert address.format_mac(bytes.fromhex("9A550F00FF01")) == "9a:55:0f:00:ff:01"


def packed(text: str) -> bytes:
    return ip_address(text).packed


@pytest.mark.parametrize(
    ("question", "yes", "no"),
    [
        (address.is_unspecified, ["0.0.0.0", "::"], ["0.0.0.1", "::1"]),
        (
            address.is_loopback,
            ["127.0.0.1", "127.255.0.9", "::1"],
            ["126.0.0.1", "128.0.0.1", "::", "::2", "7f00::"],
        ),
        (
            address.is_multicast,
            ["224.0.0.1", "239.255.255.255", "ff02::1", "ff00::"],
            ["223.255.255.255", "240.0.0.0", "255.255.255.255", "fe80::1", "e000::1"],
        ),
        (address.is_link_local6, ["fe80::", "febf::1"], ["fec0::1", "fe00::1", "254.128.0.1", "169.254.0.1"]),
        (
            address.needs_scope6,
            ["fe80::1", "ff02::1", "ff01::1", "ff12::1", "ff32::5"],
            ["ff05::1", "ff0e::1", "2001:db8::1", "255.2.0.0", "254.128.0.1"],
        ),
        (
            address.is_host_unicast,
            [
                "192.0.2.1",
                "1.0.0.0",
                "169.254.2.1",
                "223.255.255.255",
                "240.0.0.1",
                "2001:db8::1",
                "fe80::1",
                "::2",
            ],
            [
                "0.0.0.0",
                "0.1.2.3",
                "127.0.0.1",
                "127.9.9.9",
                "224.0.0.1",
                "239.1.1.1",
                "255.255.255.255",
                "::",
                "::1",
                "ff02::1",
                "::ffff:192.0.2.1",
            ],
        ),
    ],
)
def test_questions(question: Callable[[bytes], bool], yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not question(packed(text))] == []
    assert [text for text in no if question(packed(text))] == []


@given(st.ip_addresses())
def test_questions_agree_with_the_standard_library(theirs: IPv4Address | IPv6Address) -> None:
    assume(not getattr(theirs, "ipv4_mapped", None))     # from Python 3.13 on these answer as IPv4
    assert address.is_loopback(theirs.packed) == theirs.is_loopback
    assert address.is_unspecified(theirs.packed) == theirs.is_unspecified
    assert address.is_multicast(theirs.packed) == theirs.is_multicast
    assert address.is_link_local6(theirs.packed) == (theirs.version == 6 and theirs.is_link_local)
    assert address.format_ip(theirs.packed) == str(theirs)


def test_endpoints() -> None:
    assert address.format_endpoint(packed("192.0.2.1"), 80) == "192.0.2.1:80"
    assert address.format_endpoint(packed("2001:db8::1"), 80) == "[2001:db8::1]:80"


def test_groups() -> None:
    assert address.multicast_mac(IPv6Address("ff02::2")) == bytes.fromhex("333300000002")
    # The example of RFC 4291, 2.7.1.
    assert address.solicited_node(IPv6Address("4037::01:800:200e:8c6c")) == IPv6Address("ff02::1:ff0e:8c6c")

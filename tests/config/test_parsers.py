"""Checks of option arguments."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from passt.config import parsers
from passt.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD: list[tuple[Callable[[str], object], str, object]] = [
    (parsers.parse_mtu, "0", None),
    (parsers.parse_mtu, "68", 68),
    (parsers.parse_mtu, "65521", 65521),
    (parsers.parse_host_address, "192.0.2.1", ip_address("192.0.2.1")),
    (parsers.parse_host_address, "169.254.2.1", ip_address("169.254.2.1")),
    (parsers.parse_host_address, "fe80::1", ip_address("fe80::1")),
    (parsers.parse_host_address, "2001:DB8::1", ip_address("2001:db8::1")),
    (parsers.parse_assigned_address, "192.0.2.1", (ip_address("192.0.2.1"), None)),
    (parsers.parse_assigned_address, "192.0.2.1/25", (ip_address("192.0.2.1"), 25)),
    (parsers.parse_assigned_address, "2001:db8::1/128", (ip_address("2001:db8::1"), 128)),
    (parsers.parse_source_address, "127.0.0.2", ip_address("127.0.0.2")),
    (parsers.parse_source_address, "fd00::2", ip_address("fd00::2")),
    (parsers.parse_mapped_address, "none", None),
    (parsers.parse_mapped_address, "169.254.1.2", ip_address("169.254.1.2")),
    (parsers.parse_netmask, "24", 24),
    (parsers.parse_netmask, "32", 32),
    (parsers.parse_netmask, "0", None),
    (parsers.parse_netmask, "0.0.0.0", None),
    (parsers.parse_netmask, "255.255.255.0", 24),
    (parsers.parse_netmask, "128.0.0.0", 1),
    (parsers.parse_netmask, "255.255.255.255", 32),
    (parsers.parse_mac, "9A:55:9a:55:9a:0f", bytes.fromhex("9a559a559a0f")),
    (parsers.parse_mac, "00:00:00:00:00:00", bytes(6)),
    (parsers.parse_our_mac, "02:00:00:00:00:01", bytes.fromhex("020000000001")),
    (parsers.parse_ifname, "eth0", "eth0"),
    (parsers.parse_ifname, "lo", "lo"),
    (parsers.parse_ifname, "a%d", "a%d"),
    (parsers.parse_ifname, "x" * 15, "x" * 15),
    (parsers.parse_new_ifname, "tap0", "tap0"),
    (parsers.parse_pid, "1", 1),
    (parsers.parse_pid, "0042", 42),
    (parsers.parse_pid, "2147483647", 2147483647),
]

NOT_UNICAST = ["0.0.0.0", "255.255.255.255", "224.0.0.1", "239.1.2.3", "::", "::1", "ff02::1",
               "::ffff:192.0.2.1", "::192.0.2.1"]
NOT_ADDRESS = ["", "x", "1.2.3", "1.2.3.4.5", "1.2.3.04", "1.2.3.256", " 1.2.3.4", "1.2.3.4 ", "0x1.2.3.4",
               "fe80::1%eth0", "fe80::1%", "1::2::3", "[fd00::1]", "fd00::1/64x", "\u0661.2.3.4"]
BAD: list[tuple[Callable[[str], object], list[str]]] = [
    (parsers.parse_mtu, ["", "abc", "1500x", "0x5dc", "01500", "+1500", "-1", " 1500", "1", "67", "65522",
                         "65535", "9" * 5000, "1500.0", "1_500", "\u0661\u0665\u0660\u0660"]),
    (parsers.parse_host_address, [*NOT_UNICAST, *NOT_ADDRESS, "127.0.0.1", "127.9.9.9", "192.0.2.1/24"]),
    (parsers.parse_assigned_address, [*NOT_UNICAST, *NOT_ADDRESS, "127.0.0.1", "192.0.2.1/", "192.0.2.1/0",
                                      "192.0.2.1/33", "192.0.2.1/24x", "fd00::1/129", "192.0.2.1/24/24"]),
    (parsers.parse_source_address, [*NOT_UNICAST, *NOT_ADDRESS]),
    (parsers.parse_mapped_address, [*NOT_UNICAST, *NOT_ADDRESS, "127.0.0.1", "None"]),
    (parsers.parse_netmask, ["", "33", "24x", "-1", "255.0.255.0", "0.0.0.255", "255.255.255", "a.b.c.d",
                             "/24"]),
    (parsers.parse_mac, ["", "9a:55:9a:55:9a", "9a:55:9a:55:9a:55:55", "9a559a559a55", "9a-55-9a-55-9a-55",
                         "9a:55:9a:55:9a:5g", "9a:55:9a:55:9a:5", " 9a:55:9a:55:9a:55", "9:a55:9a:55:9a:55",
                         "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"]),
    (parsers.parse_our_mac, ["00:00:00:00:00:00", "01:00:5e:00:00:01"]),
    (parsers.parse_ifname, ["", "x" * 16, "ä" * 8, "a/b", "a:b", "a b", "a\nb", ".", ".."]),
    (parsers.parse_new_ifname, ["", "lo", "tap%d", "x" * 16]),
    (parsers.parse_pid, ["0", "-1", "-0", "2147483648", "9" * 5000]),
]


@pytest.mark.parametrize(("parse", "text", "value"), GOOD)
def test_good_argument_is_read(parse: Callable[[str], object], text: str, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text"), [(parse, text) for parse, texts in BAD for text in texts])
def test_bad_argument_is_refused_in_one_clear_line(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert len(str(caught.value)) > len(text)
    assert text in str(caught.value)


def test_kind_of_address_is_named() -> None:
    for text, kind in (("0.0.0.0", "an unspecified"), ("0.1.2.3", "a 0.0.0.0/8"),
                       ("::1", "a loopback"), ("ff02::1", "a multicast"),
                       ("255.255.255.255", "a broadcast"), ("::ffff:1.2.3.4", "an IPv4-mapped"),
                       ("::1.2.3.4", "an IPv4-compatible")):
        with pytest.raises(ConfigError, match=f" is {kind} address"):
            parsers.parse_host_address(text)

"""Which source addresses of the guest are believed, and what they stand for."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest

from passt.facts.guest import GuestFamily, GuestNet
from passt.forward.guest_addresses import Observed
from passt.light.values import replace

if TYPE_CHECKING:
    from passt.facts.contracts import GuestEvents

NET = GuestNet(
    GuestFamily(
        IPv4Address("192.0.2.5"),
        24,
        IPv4Address("192.0.2.1"),
        IPv4Address("192.0.2.1"),
        map_host_loopback=IPv4Address("192.0.2.2"),
        map_guest=IPv4Address("192.0.2.3"),
        dns_match=IPv4Address("192.0.2.4"),
    ),
    GuestFamily(
        IPv6Address("2001:db8::5"),
        64,
        IPv6Address("fe80::1"),
        IPv6Address("fe80::2"),
        map_host_loopback=IPv6Address("2001:db8::2"),
    ),
    "eth0",
)
assert NET.ip6
LOCAL_MODE = replace(NET, ip6=replace(NET.ip6, address=None))


def packed(text: str) -> bytes:
    return ip_address(text).packed


def seen(observed: Observed) -> tuple[str | None, ...]:
    values = (observed.ip4, observed.ip6, observed.ip6_link_local)
    return tuple(None if value is None else str(ip_address(value)) for value in values)


def test_starts_with_the_assigned_addresses() -> None:
    events: GuestEvents = Observed(NET)
    assert isinstance(events, Observed)
    assert seen(events) == ("192.0.2.5", "2001:db8::5", None)
    assert events.mac is None


def test_starts_with_nothing_where_nothing_is_assigned() -> None:
    assert seen(Observed(replace(NET, ip4=None, ip6=None))) == (None, None, None)
    assert seen(Observed(LOCAL_MODE)) == ("192.0.2.5", None, None)


def test_assigned_link_local_address_counts_as_such() -> None:
    assert NET.ip6
    net = replace(NET, ip6=replace(NET.ip6, address=IPv6Address("fe80::5")))
    assert seen(Observed(net)) == ("192.0.2.5", "fe80::5", "fe80::5")


@pytest.mark.parametrize(
    ("address", "after"),
    [
        ("192.0.2.99", ("192.0.2.99", "2001:db8::5", None)),
        ("10.1.2.3", ("10.1.2.3", "2001:db8::5", None)),
        ("2001:db8::99", ("192.0.2.5", "2001:db8::99", None)),
        ("fe80::99", ("192.0.2.5", "2001:db8::5", "fe80::99")),
    ],
)
def test_plausible_address_is_noted(address: str, after: tuple[str | None, ...]) -> None:
    observed = Observed(NET)
    observed.on_guest_address(packed(address))
    assert seen(observed) == after


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "ff02::1",
        "::ffff:192.0.2.9",
        "192.0.2.1",
        "192.0.2.2",
        "192.0.2.3",
        "192.0.2.4",
        "192.0.2.0",
        "192.0.2.255",
        "fe80::1",
        "fe80::2",
        "2001:db8::2",
    ],
)
def test_impossible_address_is_ignored(address: str) -> None:
    observed = Observed(NET)
    observed.on_guest_address(packed(address))
    assert seen(observed) == ("192.0.2.5", "2001:db8::5", None)


@pytest.mark.parametrize(
    ("address", "prefix_len"), [("192.0.2.0", 31), ("192.0.2.255", 32), ("192.0.2.255", 16)]
)
def test_ends_of_another_subnet_are_addresses_like_others(address: str, prefix_len: int) -> None:
    assert NET.ip4
    observed = Observed(replace(NET, ip4=replace(NET.ip4, prefix_len=prefix_len)))
    observed.on_guest_address(packed(address))
    assert seen(observed)[0] == address


def test_address_that_the_user_chose_stays() -> None:
    assert NET.ip4
    assert NET.ip6
    net = replace(NET, ip4=replace(NET.ip4, is_fixed=True), ip6=replace(NET.ip6, is_fixed=True))
    observed = Observed(net)
    for text in ("192.0.2.99", "2001:db8::99", "fe80::99"):
        observed.on_guest_address(packed(text))
    assert seen(observed) == ("192.0.2.5", "2001:db8::5", "fe80::99")
    local = replace(NET, ip6=replace(NET.ip6, address=IPv6Address("fe80::5"), is_fixed=True))
    observed = Observed(local)
    observed.on_guest_address(packed("fe80::99"))
    assert seen(observed)[1:] == ("fe80::5", "fe80::99")


def test_link_local_address_stands_in_until_another_is_seen() -> None:
    observed = Observed(LOCAL_MODE)
    observed.on_guest_address(packed("fe80::8"))
    assert seen(observed)[1:] == ("fe80::8", "fe80::8")
    observed.on_guest_address(packed("fe80::9"))
    assert seen(observed)[1:] == ("fe80::9", "fe80::9")
    observed.on_guest_address(packed("2001:db8::9"))
    observed.on_guest_address(packed("fe80::a"))
    assert seen(observed)[1:] == ("2001:db8::9", "fe80::a")


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("192.0.2.1", "192.0.2.5"),
        ("2001:db8::1", "2001:db8::5"),
        ("fe80::1", "fe80::99"),
    ],
)
def test_inbound_destination(source: str, destination: str) -> None:
    observed = Observed(NET)
    observed.on_guest_address(packed("fe80::99"))
    assert observed.inbound_destination(packed(source)) == packed(destination)


def test_inbound_destination_falls_back_to_what_is_known() -> None:
    assert Observed(NET).inbound_destination(packed("fe80::1")) == packed("2001:db8::5")
    observed = Observed(LOCAL_MODE)
    assert observed.inbound_destination(packed("fe80::1")) is None
    assert observed.inbound_destination(packed("2001:db8::1")) is None
    observed.on_guest_address(packed("fe80::99"))
    assert observed.inbound_destination(packed("2001:db8::1")) == packed("fe80::99")


def test_is_guest() -> None:
    observed = Observed(NET)
    observed.on_guest_address(packed("fe80::99"))
    assert all(observed.is_guest(packed(text)) for text in ("192.0.2.5", "2001:db8::5", "fe80::99"))
    assert not any(observed.is_guest(packed(text)) for text in ("192.0.2.1", "2001:db8::1", "fe80::1"))
    mac = bytes.fromhex("020000000005")
    assert not observed.is_guest(mac)
    observed.on_guest_mac(mac)
    assert observed.is_guest(mac)


def test_changes_are_explained_once() -> None:
    lines: list[str] = []
    observed = Observed(NET, explain=lines.append)
    for text in ("192.0.2.5", "192.0.2.9", "192.0.2.9", "127.0.0.1", "fe80::9"):
        observed.on_guest_address(packed(text))
    observed.on_guest_mac(bytes.fromhex("020000000005"))
    observed.on_guest_mac(bytes.fromhex("020000000005"))
    assert observed.mac == bytes.fromhex("020000000005")
    assert lines == [
        "guest uses address 192.0.2.9",
        "guest uses address fe80::9",
        "guest uses MAC address 02:00:00:00:00:05",
    ]


assert NET.ip4
NET4, NET6 = NET.ip4, NET.ip6
MOVED = replace(
    NET,
    ip4=replace(NET4, address=IPv4Address("198.51.100.5"), gateway=IPv4Address("198.51.100.1"),
                our_address=IPv4Address("198.51.100.1"), map_host_loopback=IPv4Address("198.51.100.1")),
    ip6=replace(NET6, address=IPv6Address("2001:db8:9::5")),
)  # fmt: skip


def test_assigned_address_is_replaced_by_the_next_one() -> None:
    observed = Observed(NET)
    observed.renew(MOVED)
    assert seen(observed) == ("198.51.100.5", "2001:db8:9::5", None)


def test_address_in_use_stays_until_the_guest_uses_another_one() -> None:
    observed = Observed(NET)
    for text in ("192.0.2.5", "2001:db8::5", "fe80::77"):
        observed.on_guest_address(packed(text))
    observed.renew(MOVED)
    assert seen(observed) == ("192.0.2.5", "2001:db8::5", "fe80::77")
    observed.on_guest_address(packed("198.51.100.5"))
    observed.on_guest_address(packed("2001:db8:9::5"))
    assert seen(observed) == ("198.51.100.5", "2001:db8:9::5", "fe80::77")
    observed.renew(NET)
    assert seen(observed) == ("198.51.100.5", "2001:db8:9::5", "fe80::77")


def test_address_in_use_that_means_the_host_now_is_replaced() -> None:
    observed = Observed(NET)
    observed.on_guest_address(packed("198.51.100.1"))
    observed.renew(MOVED)
    assert seen(observed)[0] == "198.51.100.5"
    observed.on_guest_address(packed("198.51.100.1"))
    assert seen(observed)[0] == "198.51.100.5"


def test_address_that_the_user_chose_is_taken_whatever_the_guest_uses() -> None:
    assert MOVED.ip4
    observed = Observed(NET)
    observed.on_guest_address(packed("192.0.2.77"))
    observed.renew(replace(MOVED, ip4=replace(MOVED.ip4, is_fixed=True)))
    assert seen(observed)[0] == "198.51.100.5"


def test_guest_of_local_mode_keeps_its_link_local_address_when_a_network_comes() -> None:
    observed = Observed(LOCAL_MODE)
    observed.on_guest_address(packed("fe80::77"))
    observed.renew(LOCAL_MODE)
    assert seen(observed) == ("192.0.2.5", "fe80::77", "fe80::77")

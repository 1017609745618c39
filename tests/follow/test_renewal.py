"""What the guest gets when the host has changed: what follows, what options fix, what stays meanwhile."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

import pytest

from passt.config.getopt import scan
from passt.config.resolve import resolve
from passt.config.settings import build_settings
from passt.facts.host import FamilyFacts, HostFacts, InterfaceAddress, ResolverFacts
from passt.follow.renewal import Renewal, is_same, renew
from passt.light.values import replace

if TYPE_CHECKING:
    from passt.facts.guest import GuestFamily
    from passt.facts.settings import Settings

DEPRECATED, DADFAILED = 0x20, 0x08


def address(text: str, length: int, flags: int = 0x80, message: bytes = b"") -> InterfaceAddress:
    return InterfaceAddress(ip_address(text), length, 0, flags, message)


def family(ifname: str, ifindex: int, gateway: str | None, *texts: str) -> FamilyFacts:
    """Describe an interface; the first address is the one chosen."""
    addresses = tuple(address(text.partition("/")[0], int(text.partition("/")[2])) for text in texts)
    return FamilyFacts(ifname, ifindex, 1500, addresses, (), addresses[0].address, addresses[0].prefix_len,
                       None if gateway is None else ip_address(gateway),
                       IPv6Address("fe80::aa") if addresses[0].address.version == 6 else None)


WIFI4 = family("wlan0", 3, "192.0.2.1", "192.0.2.2/24")
CABLE4 = family("eth0", 2, "198.51.100.1", "198.51.100.7/25")
TUNNEL4 = family("tun0", 9, None, "10.8.0.2/24")
WIFI6 = family("wlan0", 3, "fe80::1", "2001:db8:1::2/64")
CABLE6 = family("eth0", 2, "fe80::2", "2001:db8:2::7/64")
SERVERS = ResolverFacts((ip_address("192.0.2.53"),), ("home.example",))
OTHERS = ResolverFacts((ip_address("203.0.113.53"), ip_address("2001:db8::53")), ("work.example",))
HOME = HostFacts(WIFI4, WIFI6, SERVERS)
WORK = HostFacts(CABLE4, CABLE6, OTHERS)
NOTHING = HostFacts(None, None)


def settings_of(arguments: str, mode: str = "passt") -> Settings:
    return build_settings(mode, scan(mode, arguments.split()))[0]


def moved(arguments: str, known: HostFacts, found: HostFacts, mode: str = "passt") -> Renewal:
    settings = settings_of(arguments, mode)
    return renew(settings, known, found, resolve(settings, known), keeps_inside="--config-net" in arguments)


def of4(renewal: Renewal) -> GuestFamily:
    assert renewal.guest.ip4 is not None
    return renewal.guest.ip4


def of6(renewal: Renewal) -> GuestFamily:
    assert renewal.guest.ip6 is not None
    return renewal.guest.ip6


def texts(renewal: Renewal) -> list[str]:
    return [change.text.partition("changed: ")[2] for change in renewal.changes]


def test_host_that_is_as_it_was_changes_nothing() -> None:
    renewal = moved("", HOME, HOME)
    assert renewal.changes == ()
    assert is_same(renewal.guest, resolve(settings_of(""), HOME))


def test_everything_follows_to_another_interface() -> None:
    renewal = moved("", HOME, WORK)
    fresh = resolve(settings_of(""), WORK)
    assert renewal.facts == WORK
    assert is_same(renewal.guest, replace(fresh, ifname="wlan0"))
    assert texts(renewal) == [
        "IPv4 interface wlan0 (3) -> eth0 (2)",
        "IPv4 address 192.0.2.2/24 -> 198.51.100.7/25",
        "IPv4 gateway 192.0.2.1 -> 198.51.100.1",
        "IPv4 name servers 192.0.2.53 -> 203.0.113.53",
        "IPv6 interface wlan0 (3) -> eth0 (2)",
        "IPv6 address 2001:db8:1::2/64 -> 2001:db8:2::7/64",
        "IPv6 gateway fe80::1 -> fe80::2",
        "IPv6 name servers none -> 2001:db8::53",
        "search domains home.example -> work.example",
    ]


@pytest.mark.parametrize(("arguments", "kept"), [
    ("-a 10.1.1.2 -n 24", ("address", "prefix_len")),
    ("-g 192.0.2.254", ("gateway", "map_host_loopback", "our_address")),
    ("-D 192.0.2.99", ("resolvers",)),
    ("--map-host-loopback 192.0.2.3", ("map_host_loopback",)),
    ("--map-guest-addr 192.0.2.4", ("map_guest",)),
    ("-o 192.0.2.2", ("outbound_address",)),
    ("--dns-forward 192.0.2.5 --dns-host 192.0.2.6", ("dns_match", "dns_host")),
])
def test_what_an_option_fixes_stays(arguments: str, kept: tuple[str, ...]) -> None:
    before = resolve(settings_of(arguments), HOME).ip4
    after = of4(moved(arguments, HOME, WORK))
    assert before is not None
    assert [getattr(after, name) for name in kept] == [getattr(before, name) for name in kept]
    loose = {"address", "gateway", "resolvers", "map_host_loopback"} - set(kept)
    assert any(getattr(after, name) != getattr(before, name) for name in loose)


@pytest.mark.parametrize(("arguments", "field", "value"), [
    ("-m 1400", "mtu", 1400), ("-S a.example", "search", ("a.example",)), ("-M 02:00:00:00:00:01", "our_mac",
                                                                         bytes.fromhex("020000000001"))])
def test_what_an_option_fixes_for_both_families_stays(arguments: str, field: str, value: object) -> None:
    assert getattr(moved(arguments, HOME, WORK).guest, field) == value


def test_network_that_is_gone_leaves_what_was_there() -> None:
    renewal = moved("", HOME, NOTHING)
    assert renewal.changes == ()
    assert renewal.facts == HOME
    assert moved("", HOME, replace(HOME, ip4=None)).changes == ()
    assert texts(moved("", HOME, HostFacts(None, CABLE6)))[0].startswith("IPv6")


def test_first_network_takes_the_place_of_link_local_addresses() -> None:
    renewal = moved("", NOTHING, HOME)
    assert (str(of4(renewal).address), str(of6(renewal).address)) == ("192.0.2.2", "2001:db8:1::2")
    assert texts(renewal)[:2] == ["IPv4 interface none -> wlan0 (3)",
                                 "IPv4 address 169.254.2.1/16 -> 192.0.2.2/24"]
    assert renewal.guest.ifname == "tap0"


def test_tunnel_without_a_gateway_keeps_the_one_there_was() -> None:
    """Without one there would be no DHCP server, and the lease of a running guest would end."""
    after = of4(moved("", HOME, replace(HOME, ip4=TUNNEL4)))
    assert (str(after.address), str(after.gateway), str(after.our_address)) == (
        "10.8.0.2", "192.0.2.1", "192.0.2.1")


def test_address_that_the_host_still_has_stays() -> None:
    newer = replace(WIFI6, addresses=(address("2001:db8:1::ff", 64), *WIFI6.addresses),
                    address=ip_address("2001:db8:1::ff"))
    assert moved("", HOME, replace(HOME, ip6=newer)).changes == ()
    for flags in (DEPRECATED, DADFAILED):
        old = tuple(replace(entry, flags=flags) for entry in WIFI6.addresses)
        worn = replace(newer, addresses=(address("2001:db8:1::ff", 64), *old))
        assert str(of6(moved("", HOME, replace(HOME, ip6=worn))).address) == "2001:db8:1::ff"
    elsewhere = replace(newer, ifindex=7)
    assert str(of6(moved("", HOME, replace(HOME, ip6=elsewhere))).address) == "2001:db8:1::ff"


def test_address_stays_with_another_prefix_length() -> None:
    wider = family("wlan0", 3, "192.0.2.1", "192.0.2.2/16")
    assert texts(moved("", HOME, replace(HOME, ip4=wider))) == [
        "IPv4 address 192.0.2.2/24 -> 192.0.2.2/16"]


def test_resolv_conf_that_is_empty_for_a_moment_changes_nothing() -> None:
    assert moved("", HOME, replace(HOME, resolvers=ResolverFacts())).changes == ()


def test_lifetimes_and_routes_are_no_change_but_other_addresses_are() -> None:
    settings = settings_of("")
    guest = resolve(settings, HOME)
    aged = replace(WIFI4, addresses=(address("192.0.2.2", 24, message=b"aged"),), routes=(b"other",))
    assert is_same(renew(settings, HOME, replace(HOME, ip4=aged), guest, keeps_inside=False).guest,
                   guest)
    more = replace(WIFI4, addresses=(*WIFI4.addresses, address("192.0.2.77", 24)))
    renewal = renew(settings, HOME, replace(HOME, ip4=more), guest, keeps_inside=False)
    assert renewal.changes == ()
    assert not is_same(renewal.guest, guest)
    wider = replace(WIFI4, addresses=(*WIFI4.addresses, address("192.0.2.77", 16)))
    other = renew(settings, HOME, replace(HOME, ip4=wider), guest, keeps_inside=False)
    assert not is_same(other.guest, renewal.guest), "rules of egress are about the network"


def test_namespace_that_was_set_up_keeps_its_addresses_and_leads_to_the_new_ones() -> None:
    arguments = "--config-net --map-guest-addr 169.254.1.2 --dns-forward 169.254.1.1"
    settings = settings_of(arguments, "pasta")
    before = resolve(settings, HOME)
    renewal = renew(settings, HOME, WORK, before, keeps_inside=True)
    for family_before, after in ((before.ip4, of4(renewal)), (before.ip6, of6(renewal))):
        assert family_before is not None
        for name in ("address", "prefix_len", "gateway", "our_address", "map_host_loopback", "map_guest",
                     "dns_match", "copied_addresses"):
            assert getattr(after, name) == getattr(family_before, name)
    assert (str(of4(renewal).host_address), str(of4(renewal).dns_host)) == ("198.51.100.7", "203.0.113.53")
    assert (of4(renewal).template_ifindex, of6(renewal).template_ifindex) == (2, 2)
    assert "IPv4 address of the host 192.0.2.2 -> 198.51.100.7" in texts(renewal)
    back = renew(settings, renewal.facts, HOME, renewal.guest, keeps_inside=True)
    assert is_same(back.guest, before)
    assert "IPv4 address of the host 198.51.100.7 -> 192.0.2.2" in texts(back)


def test_forwarder_asks_the_new_servers_whatever_stays() -> None:
    for arguments in ("", "--config-net", "-a 10.1.1.2"):
        renewal = moved(f"{arguments} --dns-forward 169.254.1.1", HOME, WORK, "pasta")
        assert renewal.guest.names is not None
        assert renewal.guest.names.servers == WORK.resolvers.servers
        assert ("name servers behind --dns-forward 192.0.2.53 -> 203.0.113.53 2001:db8::53") in texts(renewal)


def test_resolver_on_the_loopback_is_reached_by_the_address_that_a_namespace_knows() -> None:
    local = ResolverFacts((ip_address("127.0.0.53"),))
    after = of4(moved("--config-net", HOME, replace(WORK, resolvers=local), "pasta"))
    assert (str(after.dns_match), str(after.dns_host)) == ("192.0.2.1", "127.0.0.53")


def test_options_that_do_not_fit_the_new_network_change_nothing() -> None:
    narrow = family("eth0", 2, "203.0.113.1", "203.0.113.2/30")
    renewal = moved("-g 203.0.113.3", HOME, HostFacts(narrow, None))
    assert renewal.changes == ()
    assert "203.0.113.3 is the broadcast address" in renewal.fault
    assert renewal.facts == HOME

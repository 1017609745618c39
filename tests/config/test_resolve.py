"""What the guest gets, for settings and host facts."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING, Any

import pytest

from passt.config.getopt import scan
from passt.config.resolve import resolve
from passt.config.settings import build_settings
from passt.errors import ConfigError
from passt.facts.host import FamilyFacts, HostFacts, InterfaceAddress, ResolverFacts
from passt.facts.settings import OUR_MAC
from passt.light.values import replace

if TYPE_CHECKING:
    from passt.facts.address import IPAddress
    from passt.facts.guest import GuestNet


def ip(text: str) -> IPAddress:
    return ip_address(text)


def address(text: str, length: int, scope: int = 0, flags: int = 0x80) -> InterfaceAddress:
    return InterfaceAddress(ip(text), length, scope, flags, text.encode())


HOST4 = FamilyFacts(
    "eth0", 2, 1500,
    (address("192.0.2.2", 24), address("10.1.2.3", 22), address("169.254.7.7", 16, scope=253),
     address("192.0.2.9", 24, flags=0xA0)),
    (b"default", b"192.0.2.0/24"), ip("192.0.2.2"), 24, ip("192.0.2.1"))
LINK_LOCAL = IPv6Address("fe80::aa")
HOST6 = FamilyFacts(
    "eth1", 3, 1500, (address("2001:db8::2", 120), address("fe80::aa", 64, scope=253)),
    (b"default",), ip("2001:db8::2"), 120, ip("fe80::1234"), LINK_LOCAL)
BOTH = HostFacts(HOST4, HOST6)
NONE = HostFacts(None, None)


def resolved(arguments: str, facts: HostFacts = BOTH, mode: str = "pasta") -> GuestNet:
    settings = build_settings(mode, scan(mode, arguments.split()))[0]
    return resolve(settings, facts, may_come=settings.addresses.must_follow)


def fields(value: object, *names: str) -> list[Any]:
    return [getattr(value, name) for name in names]


def test_families_follow_their_templates() -> None:
    net = resolved("")
    assert net.ip4 is not None
    assert net.ip6 is not None
    assert fields(net.ip4, "address", "prefix_len", "gateway", "our_address", "map_host_loopback") == [
        ip("192.0.2.2"), 24, ip("192.0.2.1"), ip("192.0.2.1"), ip("192.0.2.1")]
    assert fields(net.ip6, "address", "prefix_len", "gateway", "our_address", "map_host_loopback") == [
        ip("2001:db8::2"), 64, ip("fe80::1234"), ip("fe80::1234"), ip("fe80::1234")]
    assert fields(net.ip4, "template_ifname", "template_ifindex", "map_guest", "outbound_address",
                  "outbound_ifname") == ["eth0", 2, None, None, None]
    assert fields(net.ip6, "template_ifname", "template_ifindex") == ["eth1", 3]
    assert fields(net, "ifname", "our_mac", "ns_mac", "mtu", "search") == ["eth0", OUR_MAC, None, 65520, ()]


@pytest.mark.parametrize("option", ["-i eth9", "--outbound-if4 eth9", "--outbound-if6 eth9"])
def test_interface_that_is_not_there_may_come_with_follow(option: str) -> None:
    with pytest.raises(ConfigError):
        resolved(option, NONE)
    net = resolved(f"--follow {option}", NONE)
    assert net.ip4 is not None
    assert str(net.ip4.address) == "169.254.2.1"
    assert net.notes


def test_link_local_and_deprecated_addresses_are_not_copied() -> None:
    net = resolved("")
    assert net.ip4 is not None
    assert net.ip6 is not None
    assert [str(copied.address) for copied in net.ip4.copied_addresses] == ["192.0.2.2", "10.1.2.3"]
    assert [str(copied.address) for copied in net.ip6.copied_addresses] == ["2001:db8::2"]
    assert resolved("--no-follow").ip4 == resolved("--config-net --no-follow").ip4 == net.ip4
    followed = resolved("--config-net").ip4
    assert followed is not None
    assert [str(copied.address) for copied in followed.copied_addresses] == [
        "192.0.2.2", "10.1.2.3", "192.0.2.9"], "the lifetimes of the last one are followed"
    assert net.ip4.copied_routes == HOST4.routes
    assert net.ip6.copied_routes == HOST6.routes


@pytest.mark.parametrize(("arguments", "n_copied"), [
    ("", (2, 2, 1, 1)),
    ("-a 192.0.2.77", (0, 2, 1, 1)),
    ("-n 16", (0, 2, 1, 1)),
    ("-g 192.0.2.3", (2, 0, 1, 1)),
    ("-a 2001:db8::7", (2, 2, 0, 1)),
    ("-g 2001:db8::7", (2, 2, 1, 0)),
    ("--no-follow --config-net --no-copy-addrs", (0, 2, 0, 1)),
    ("--no-follow --config-net --no-copy-routes", (2, 0, 1, 0)),
])
def test_what_is_given_is_not_copied_for_that_family(
        arguments: str, n_copied: tuple[int, int, int, int]) -> None:
    net = resolved(arguments)
    assert net.ip4 is not None
    assert net.ip6 is not None
    assert (len(net.ip4.copied_addresses), len(net.ip4.copied_routes),
            len(net.ip6.copied_addresses), len(net.ip6.copied_routes)) == n_copied


@pytest.mark.parametrize(("arguments", "host", "length"), [
    ("", HOST4, 24),
    ("-n 16", HOST4, 16),
    ("-n 0", HOST4, 24),
    ("-a 192.0.2.77 -n 20", HOST4, 20),
    ("-a 192.0.2.77/21", HOST4, 21),
    ("-a 192.0.2.77", HOST4, 24),       # the subnet of 192.0.2.2/24
    ("-a 10.1.3.200", HOST4, 22),       # the subnet of 10.1.2.3/22, not its class
    ("-a 10.9.9.9", HOST4, 8),
    ("-a 10.9.9.9", None, 8),
    ("-a 172.16.0.1", HOST4, 16),
    ("-a 198.51.100.1", HOST4, 24),
    ("-a 240.0.0.1", HOST4, 32),
    ("", None, 16),
    ("-n 30", None, 30),
])
def test_ip4_prefix_length(arguments: str, host: FamilyFacts | None, length: int) -> None:
    net = resolved(arguments, HostFacts(host, None))
    assert net.ip4 is not None
    assert net.ip4.prefix_len == length


@pytest.mark.parametrize(("gateway", "link_local", "given", "ours"), [
    ("fe80::1234", "fe80::aa", "", "fe80::1234"),
    ("2001:db8::1", "fe80::aa", "", "fe80::aa"),
    (None, "fe80::aa", "", "fe80::aa"),
    ("fe80::1234", "fe80::aa", "-g 2001:db8::7", "fe80::aa"),
    ("2001:db8::1", "fe80::aa", "-g fe80::9", "fe80::9"),
    ("2001:db8::1", None, "", "fe80::1"),
])
def test_ip6_address_that_we_speak_by(
        gateway: str | None, link_local: str | None, given: str, ours: str) -> None:
    host = replace(HOST6, gateway=ip(gateway) if gateway else None,
                   link_local=IPv6Address(link_local) if link_local else None)
    net = resolved(given, HostFacts(None, host))
    assert net.ip6 is not None
    assert net.ip6.our_address == ip(ours)


def test_prefix_length_of_a_given_ip6_address() -> None:
    for arguments, length in (("-a 2001:db8::7", 64), ("-a 2001:db8::7/56", 56)):
        net = resolved(arguments)
        assert net.ip6 is not None
        assert (net.ip6.address, net.ip6.prefix_len) == (ip("2001:db8::7"), length)


@pytest.mark.parametrize(("arguments", "expected4", "expected6"), [
    ("", "192.0.2.1", "fe80::1234"),
    ("--no-map-gw", None, None),
    ("--map-host-loopback none", None, None),
    ("--map-host-loopback 192.0.2.50", "192.0.2.50", "fe80::1234"),
    ("--map-host-loopback 2001:db8::50 --no-map-gw", None, "2001:db8::50"),
    ("--map-host-loopback none --map-host-loopback 192.0.2.50", "192.0.2.50", None),
    ("-g 192.0.2.3", "192.0.2.3", "fe80::1234"),
])
def test_address_of_the_hosts_loopback(arguments: str, expected4: str | None, expected6: str | None) -> None:
    net = resolved(arguments)
    assert net.ip4 is not None
    assert net.ip6 is not None
    assert net.ip4.map_host_loopback == (ip(expected4) if expected4 else None)
    assert net.ip6.map_host_loopback == (ip(expected6) if expected6 else None)


def test_host_without_a_gateway_maps_nothing() -> None:
    net = resolved("", HostFacts(replace(HOST4, gateway=None), None))
    assert net.ip4 is not None
    assert fields(net.ip4, "gateway", "our_address", "map_host_loopback") == [None, None, None]


def test_ip6_next_hop_is_no_ip4_gateway() -> None:
    net = resolved("", HostFacts(replace(HOST4, gateway=ip("fe80::1")), None))
    assert net.ip4 is not None
    assert net.ip4.gateway is None


NO_ADDRESS4 = replace(HOST4, address=None, addresses=())


@pytest.mark.parametrize(("arguments", "facts", "address4", "address6", "ifname"), [
    ("", BOTH, "192.0.2.2", "2001:db8::2", "eth0"),
    ("-4", BOTH, "192.0.2.2", "off", "eth0"),
    ("-6", BOTH, "off", "2001:db8::2", "eth1"),
    ("", HostFacts(HOST4, None), "192.0.2.2", None, "eth0"),
    ("", HostFacts(None, HOST6), "169.254.2.1", "2001:db8::2", "eth1"),
    ("", HostFacts(NO_ADDRESS4, HOST6), "169.254.2.1", "2001:db8::2", "eth1"),
    ("-a 192.0.2.7", HostFacts(NO_ADDRESS4, HOST6), "192.0.2.7", "2001:db8::2", "eth0"),
    ("-4", HostFacts(HOST4, None), "192.0.2.2", "off", "eth0"),
    ("-6", HostFacts(None, HOST6), "off", "2001:db8::2", "eth1"),
    ("", HostFacts(HOST4, None, has_ip6=False), "192.0.2.2", "off", "eth0"),
    ("", HostFacts(None, None, has_ip6=False), "169.254.2.1", "off", "tap0"),
    ("-i eth0", HostFacts(HOST4, None), "192.0.2.2", None, "eth0"),
    ("", NONE, "169.254.2.1", None, "tap0"),
    ("", HostFacts(NO_ADDRESS4, None), "169.254.2.1", None, "tap0"),
    ("-4", NONE, "169.254.2.1", "off", "tap0"),
    ("-6", NONE, "off", None, "tap0"),
    ("-6", HostFacts(HOST4, None), "off", None, "tap0"),
    ("-4", HostFacts(None, HOST6), "169.254.2.1", "off", "tap0"),
    ("-a 192.0.2.7", NONE, "192.0.2.7", None, "tap0"),
    ("-a 2001:db8::7", NONE, "169.254.2.1", "2001:db8::7", "tap0"),
    ("-I net7", BOTH, "192.0.2.2", "2001:db8::2", "net7"),
    ("-I net7", NONE, "169.254.2.1", None, "net7"),
    ("", HostFacts(replace(HOST4, ifname="lo"), None), "192.0.2.2", None, "tap0"),
])
def test_families_local_mode_and_interface_name(
        arguments: str, facts: HostFacts, address4: str | None, address6: str | None, ifname: str) -> None:
    net = resolved(arguments, facts)
    for family, expected in ((net.ip4, address4), (net.ip6, address6)):
        if expected == "off":
            assert family is None
        else:
            assert family is not None
            assert family.address == (ip(expected) if expected else None)
    assert net.ifname == ifname


def test_local_mode_gateways_stand_for_the_host_and_nothing_is_copied() -> None:
    net = resolved("", NONE)
    for family, gateway in ((net.ip4, "169.254.2.2"), (net.ip6, "fe80::1")):
        assert family is not None
        assert fields(family, "gateway", "our_address", "map_host_loopback") == [ip(gateway)] * 3
        assert fields(family, "copied_addresses", "copied_routes", "template_ifname", "template_ifindex") == [
            (), (), None, 0]


@pytest.mark.parametrize(("arguments", "facts", "families"), [
    ("", BOTH, ""), ("", NONE, "46"), ("", HostFacts(HOST4, None), "6"), ("", HostFacts(None, HOST6), "4"),
    ("-4", HostFacts(HOST4, None), ""), ("-4", NONE, "4"), ("", HostFacts(HOST4, None, has_ip6=False), ""),
])
def test_local_mode_is_told_for_each_family(arguments: str, facts: HostFacts, families: str) -> None:
    net = resolved(arguments, facts)
    assert [note.split(": ")[1] for note in net.notes] == [
        f"local mode for IPv{family}, with link-local addresses" for family in families]
    assert net.warnings == ()


def test_local_mode_of_one_family_is_like_that_of_both() -> None:
    one, both = resolved("", HostFacts(HOST4, None)), resolved("", NONE)
    assert one.ip6 == both.ip6
    assert resolved("", HostFacts(None, HOST6)).ip4 == both.ip4


def test_ip6_address_for_a_kernel_without_ip6_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^option '--address': 2001:db8::7 cannot be used, as the kernel"):
        resolved("-a 2001:db8::7", HostFacts(HOST4, None, has_ip6=False))


def test_local_mode_takes_given_gateways() -> None:
    net = resolved("-g 169.254.9.9 -g 2001:db8::9", NONE)
    assert net.ip4 is not None
    assert net.ip6 is not None
    assert fields(net.ip4, "gateway", "our_address") == [ip("169.254.9.9")] * 2
    assert fields(net.ip6, "gateway", "our_address") == [ip("2001:db8::9"), ip("fe80::1")]


def test_other_options_pass_through() -> None:
    net = resolved("-o 192.0.2.2 -o 2001:db8::2 --outbound-if4 eth0 --outbound-if6 eth1 -m 0"
                   " -M 02:00:00:00:00:01 --ns-mac-addr 02:00:00:00:00:02"
                   " --map-guest-addr 192.0.2.60 --map-guest-addr 2001:db8::60")
    assert net.ip4 is not None
    assert net.ip6 is not None
    assert fields(net.ip4, "outbound_address", "outbound_ifname", "map_guest") == [
        ip("192.0.2.2"), "eth0", ip("192.0.2.60")]
    assert fields(net.ip6, "outbound_address", "outbound_ifname", "map_guest") == [
        ip("2001:db8::2"), "eth1", ip("2001:db8::60")]
    assert fields(net, "mtu", "our_mac", "ns_mac") == [
        None, bytes.fromhex("020000000001"), bytes.fromhex("020000000002")]


@pytest.mark.parametrize(("arguments", "facts", "message"), [
    ("-i eth9", NONE, "option '--interface': eth9 has no usable address;"),
    ("-i eth9 -6", HostFacts(HOST4, None), "option '--interface': eth9 has no usable address;"),
    ("--outbound-if4 eth9", HostFacts(None, HOST6),
     "option '--outbound-if4': the template interface eth9 has no usable IPv4 address;"),
    ("--outbound-if6 eth9 -i eth0", HostFacts(HOST4, None),
     "option '--outbound-if6': the template interface eth0 has no usable IPv6 address;"),
])
def test_interface_that_cannot_serve_is_refused(arguments: str, facts: HostFacts, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(arguments, facts)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(("servers", "arguments", "expected4", "expected6"), [
    # match, host, resolvers of each family
    ("", "", (None, None, []), (None, None, [])),
    ("9.9.9.9", "", (None, "9.9.9.9", ["9.9.9.9"]), (None, None, [])),
    ("127.0.0.53", "", ("192.0.2.1", "127.0.0.53", ["192.0.2.1"]), (None, None, [])),
    ("127.0.0.53", "--no-map-gw", (None, "127.0.0.53", []), (None, None, [])),
    ("127.0.0.53", "--map-host-loopback 192.0.2.50", ("192.0.2.50", "127.0.0.53", ["192.0.2.50"]),
     (None, None, [])),
    # The gateway is the resolver: queries to it are for the real one, the rest is for the host.
    ("192.0.2.1", "", ("192.0.2.1", "192.0.2.1", ["192.0.2.1"]), (None, None, [])),
    ("192.0.2.1", "--no-map-gw", (None, "192.0.2.1", ["192.0.2.1"]), (None, None, [])),
    ("9.9.9.9 127.0.0.1 127.0.0.2 8.8.8.8 1.1.1.1", "",
     ("192.0.2.1", "9.9.9.9", ["9.9.9.9", "192.0.2.1", "8.8.8.8"]), (None, None, [])),
    ("1.0.0.1 1.0.0.2 1.0.0.3 127.0.0.1", "", (None, "1.0.0.1", ["1.0.0.1", "1.0.0.2", "1.0.0.3"]),
     (None, None, [])),
    ("::1 2001:db8::53", "", (None, None, []), ("fe80::1234", "::1", ["fe80::1234", "2001:db8::53"])),
    # What means the host itself to its resolver means the guest to the guest's.
    ("0.0.0.0 ::", "", ("192.0.2.1", "0.0.0.0", ["192.0.2.1"]), ("fe80::1234", "::", ["fe80::1234"])),
    # A link-local server is on the template's link, or not.
    ("fe80::53", "", (None, None, []), (None, "fe80::53", ["fe80::53"])),
    ("fe80::53%3", "", (None, None, []), (None, "fe80::53%3", ["fe80::53"])),
    ("fe80::53%9", "", (None, None, []), ("fe80::1234", "fe80::53%9", ["fe80::1234"])),
    ("fe80::53%9", "--no-map-gw", (None, None, []), (None, "fe80::53%9", [])),
    ("9.9.9.9", "-D none", (None, "9.9.9.9", []), (None, None, [])),
    ("127.0.0.1", "-D 127.0.0.1", (None, "127.0.0.1", ["127.0.0.1"]), (None, None, [])),
    ("127.0.0.1 ::1", "-D 9.9.9.9", (None, "127.0.0.1", ["9.9.9.9"]), ("fe80::1234", "::1", ["fe80::1234"])),
    ("", "-D 1.0.0.1 -D 1.0.0.2 -D 1.0.0.1 -D 1.0.0.3 -D 1.0.0.4",
     (None, None, ["1.0.0.1", "1.0.0.2", "1.0.0.3"]), (None, None, [])),
    ("", "--dns-forward 10.9.9.9", ("10.9.9.9", None, []), (None, None, [])),
    ("127.0.0.53 9.9.9.9", "--dns-forward 10.9.9.9",
     ("10.9.9.9", "127.0.0.53", ["10.9.9.9", "9.9.9.9"]), (None, None, [])),
    ("127.0.0.53", "--dns-forward 10.9.9.9 --no-map-gw",
     ("10.9.9.9", "127.0.0.53", ["10.9.9.9"]), (None, None, [])),
    ("9.9.9.9", "--dns-forward 10.9.9.9 --dns-host 127.0.0.1", ("10.9.9.9", "127.0.0.1", ["9.9.9.9"]),
     (None, None, [])),
    ("9.9.9.9", "-D none --dns-forward 10.9.9.9", ("10.9.9.9", "9.9.9.9", []), (None, None, [])),
])
def test_resolvers(servers: str, arguments: str, expected4: tuple[str | None, str | None, list[str]],
                   expected6: tuple[str | None, str | None, list[str]]) -> None:
    resolvers = ResolverFacts(tuple(ip(server) for server in servers.split()), ("example.org",))
    for told in (True, False):
        net = resolved(f"{arguments} --dhcp-dns" if told else arguments, replace(BOTH, resolvers=resolvers))
        for family, expected in ((net.ip4, expected4), (net.ip6, expected6)):
            assert family is not None
            match, host, handed_out = expected
            assert family.dns_match == (ip(match) if match else None)
            assert family.dns_host == (ip(host) if host else None)
            assert [str(resolver) for resolver in family.resolvers] == (handed_out if told else [])


@pytest.mark.parametrize(("servers", "arguments", "expected"), [
    ("9.9.9.9", "", None),
    ("9.9.9.9 2001:db8::53", "--dns-forward 10.9.9.9", "9.9.9.9 2001:db8::53"),
    ("2001:db8::53", "-4 --dns-forward 10.9.9.9", "2001:db8::53"),
    ("0.0.0.0 :: 0.0.0.0", "--dns-forward 10.9.9.9", "127.0.0.1 ::1"),
    ("", "--dns-forward 10.9.9.9", "127.0.0.1 ::1"),
    ("9.9.9.9 2001:db8::53", "--dns-forward fd00::9 --dns-host 127.0.0.1", "127.0.0.1"),
    ("9.9.9.9", "--dns-forward fd00::9 --dns-host 2001:db8::1 --dns-host 127.0.0.1", "127.0.0.1 2001:db8::1"),
])
def test_whom_the_forwarder_asks(servers: str, arguments: str, expected: str | None) -> None:
    resolvers = ResolverFacts(tuple(ip(server) for server in servers.split()), (), 7, 4, rotate=True)
    net = resolved(arguments, replace(BOTH, resolvers=resolvers))
    if expected is None:
        assert net.names is None
        return
    assert net.names is not None
    assert " ".join(map(str, net.names.servers)) == expected
    assert (net.names.timeout_s, net.names.attempts, net.names.rotate) == (7, 4, True)


def test_forwarder_serves_the_families_of_dns_forward() -> None:
    resolvers = ResolverFacts((ip("127.0.0.53"), ip("::1")))
    net = resolved("--dns-forward 10.9.9.9", replace(BOTH, resolvers=resolvers))
    assert net.ip4 is not None
    assert net.ip6 is not None
    # ::1 is handed out as the gateway, as without the option; that is no matter of the forwarder's.
    assert (net.ip4.is_forwarded, net.ip6.is_forwarded, str(net.ip6.dns_match)) == (True, False, "fe80::1234")


@pytest.mark.parametrize(("servers", "arguments", "expected"), [
    ("9.9.9.9 1.0.0.1 2001:db8::53", "", ("9.9.9.9", "2001:db8::53")),
    ("9.9.9.9 2001:db8::53", "--dns-forward 10.9.9.9", ("10.9.9.9", None)),
    # What the guest cannot reach, or is not there, is the gateway.
    ("127.0.0.53", "", ("192.0.2.1", "fe80::1234")),
    ("127.0.0.53 9.9.9.9 fe80::53%9", "", ("9.9.9.9", "fe80::1234")),
    ("", "-4", ("192.0.2.1", None)),
    ("9.9.9.9", "--no-map-gw", ("9.9.9.9", None)),
    ("9.9.9.9", "-D 1.0.0.1 --dns-forward 10.9.9.9", ("10.9.9.9", None)),
])
def test_rules_by_name_have_a_forwarder_where_the_guest_asks(servers: str, arguments: str,
                                                             expected: tuple[str | None, ...]) -> None:
    facts = replace(BOTH, resolvers=ResolverFacts(tuple(map(ip, servers.split()))))
    for rule, is_by_name in (("--allow www.example", True), ("--deny *.example", True),
                             ("--learn a.toml", True), ("--allow 9.9.9.9", False)):
        net = resolved(f"{rule} {arguments}", facts)
        found = [str(family.dns_match) if family is not None and family.is_forwarded else None
                 for family in (net.ip4, net.ip6)]
        if is_by_name:
            assert found == list(expected)
            assert net.names is not None
        else:
            assert found == ["10.9.9.9" if "--dns-forward" in arguments else None, None]


@pytest.mark.parametrize(("servers", "arguments"), [("127.0.0.53", "--no-map-gw"), ("9.9.9.9", "-D 1.0.0.1"),
                                                    ("9.9.9.9", "-D none"), ("", "--no-map-gw")])
def test_rules_by_name_without_a_place_for_the_forwarder_are_refused(servers: str, arguments: str) -> None:
    facts = replace(BOTH, resolvers=ResolverFacts(tuple(map(ip, servers.split()))))
    why = "--dns says whom the guest asks" if "-D" in arguments else "there is no server of the host"
    with pytest.raises(ConfigError, match=f"^rules of egress by name need --dns-forward.* and {why}"):
        resolved(f"--allow www.example {arguments}", facts)
    assert resolved(f"--learn a.toml {arguments}", facts).names is None


@pytest.mark.parametrize(("mode", "arguments", "told"), [
    ("pasta", "", ()), ("pasta", "--dhcp-search", ("example.org",)), ("passt", "", ("example.org",)),
    ("passt", "--no-dhcp-search", ()), ("passt", "-S none", ()), ("passt", "-S a.example.", ("a.example",)),
])
def test_search_list(mode: str, arguments: str, told: tuple[str, ...]) -> None:
    facts = replace(BOTH, resolvers=ResolverFacts((), ("example.org",)))
    assert resolved(arguments, facts, mode).search == told


def test_search_domains_that_cannot_be_told_are_left_out_with_one_warning() -> None:
    search = ("a..b", "x" * 64, *(f"d{number}.example" for number in range(33)), "d0.example")
    facts = replace(BOTH, resolvers=ResolverFacts((IPv4Address("192.0.2.9"),), search))
    net = resolved("", facts, "passt")
    assert net.search == search[2:34]
    (warning,) = net.warnings
    assert "a..b" in warning
    assert "d32.example" in warning
    assert resolved("", facts).warnings == ()


@pytest.mark.parametrize(("arguments", "n_warnings"), [
    ("", 1), ("-D none", 0), ("--no-dhcp-dns", 0), ("-D 192.0.2.9", 0),
])
def test_guest_without_name_server_gives_a_warning(arguments: str, n_warnings: int) -> None:
    assert len(resolved(arguments, BOTH, "passt").warnings) == n_warnings
    assert resolved("").warnings == ()


def test_names_of_the_guest() -> None:
    net = resolved("-H box --fqdn box.example.org.")
    assert (net.hostname, net.fqdn) == ("box", "box.example.org")


@pytest.mark.parametrize(("arguments", "fixed"), [
    ("", [False, False]), ("-a 192.0.2.5", [True, False]), ("-a 2001:db8::5", [False, True]),
])
def test_address_that_the_user_chose_is_fixed(arguments: str, fixed: list[bool]) -> None:
    net = resolved(arguments)
    assert [family.is_fixed for family in (net.ip4, net.ip6) if family] == fixed


def test_types_stay_per_family() -> None:
    net = resolved("")
    assert net.ip4 is not None
    assert isinstance(net.ip4.address, IPv4Address)


@pytest.mark.parametrize(("arguments", "option"), [
    ("-a 192.0.2.255", "--address"),            # the host's prefix, /24
    ("-a 10.255.255.255", "--address"),         # that of the class, /8
    ("-a 198.51.100.7/29", "--address"),
    ("-a 198.51.100.7 -n 29", "--address"),
    ("-a 198.51.100.1/24 -g 198.51.100.255", "--gateway"),
    ("-g 192.0.2.255", "--gateway"),
])
def test_broadcast_address_of_the_subnet_is_refused(arguments: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"^option '{option}': [0-9.]+ is the broadcast address of "):
        resolved(arguments)


@pytest.mark.parametrize("arguments", ["-a 192.0.2.255/32", "-a 192.0.2.255/31", "-a 198.51.100.7/28",
                                       "-a 192.0.2.2 -g 198.51.100.255"])
def test_last_address_of_a_larger_network_is_a_hosts(arguments: str) -> None:
    assert resolved(arguments).ip4 is not None

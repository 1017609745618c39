"""read_host() in one namespace, configure() in another, with ip(8) as the judge.

Each test runs in a child process that makes its namespaces itself; they end with it. The "host" has a
veth named h0 whose other end is up, the target a tap of the same name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import struct
import time
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from passt.errors import HostError
from passt.facts.guest import GuestFamily, GuestNet
from passt.host.host_facts import read_host
from passt.host.rtnetlink.routes import RouteMessage
from passt.host.syscalls import CLONE_NEWNET, unshare
from passt.light.values import replace
from passt.namespace.interface import TX_QUEUE_LEN, TapFacts, bring_lo_up, configure
from tests.support.isolated import HOST, PLAIN, ip, ip_batch, isolated_as_root, make_host

if TYPE_CHECKING:
    from passt.facts.host import FamilyFacts

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
]

Json = list[dict[str, Any]]
CLONE_NEWUSER = 0x10000000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_TAP, IFF_NO_PI = 1, 2, 0x1000
PR_SET_DUMPABLE = 4
MAC = bytes.fromhex("02a0a1a2a3a4")
LINK_LOCAL = IPv6Address("fe80::a0:a1ff:fea2:a3a4")


def open_tap(name: str = "h0") -> int:
    """Make a tap; its descriptor stays open until the child ends."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def addresses(family: int) -> Json:
    """List what guest and host shall have in common: no lifetimes, no mark of how an address was made."""
    found = json.loads(ip("-j", f"-{family}", "addr", "show", "dev", "h0"))
    own = {"nodad", "label", "valid_life_time", "preferred_life_time", "dynamic", "tentative"}
    return [{key: value for key, value in entry.items() if key not in own}
            for entry in (found[0]["addr_info"] if found else []) if entry["scope"] != "link"]


def routes(family: int) -> Json:
    found: Json = json.loads(ip("-j", f"-{family}", "route", "show"))
    return [route for route in found if route.get("dev") == "h0" or "nexthops" in route]


def copied(facts: FamilyFacts | None) -> GuestFamily | None:
    if facts is None:
        return None
    return GuestFamily(
        address=facts.address,
        prefix_len=facts.prefix_len,
        gateway=facts.gateway,
        our_address=facts.gateway,
        template_ifname=facts.ifname,
        template_ifindex=facts.ifindex,
        copied_addresses=facts.addresses,
        copied_routes=facts.routes,
    )


def single(address: str | None, prefix_len: int, gateway: str | None) -> GuestFamily:
    via = None if gateway is None else ip_address(gateway)
    return GuestFamily(None if address is None else ip_address(address), prefix_len, via, via)


def copy(host_commands: str) -> dict[str, Any]:
    """Set up a host, copy it to a tap in another namespace; what ip(8) shows in both, and the facts."""
    def run() -> dict[str, Any]:
        make_host(host_commands)
        facts = read_host()
        before = {f"addr{family}": addresses(family) for family in (4, 6)}
        before |= {f"route{family}": routes(family) for family in (4, 6)}
        unshare(CLONE_NEWNET)
        open_tap()
        tap = configure("h0", GuestNet(copied(facts.ip4), copied(facts.ip6), "h0", ns_mac=MAC), True)
        after = {f"addr{family}": addresses(family) for family in (4, 6)}
        after |= {f"route{family}": routes(family) for family in (4, 6)}
        return {"facts": facts, "tap": tap, "before": before, "after": after,
                "link_local": ip("-6", "addr", "show", "dev", "h0", "scope", "link")}
    return isolated_as_root(run)


SEVERAL = """
    addr add 192.0.2.2/24 dev h0
    addr add 192.0.2.3/24 dev h0
    addr add 198.51.100.9/28 dev h0 metric 77
    addr add 2001:db8::2/64 dev h0 nodad
    addr add 2001:db8:1::2/128 dev h0 nodad
    route add default via 192.0.2.1 src 192.0.2.3 metric 50
    route add 203.0.113.0/24 via 198.51.100.1 mtu 1400
    route add default via fe80::1 dev h0
    route add 2001:db8:9::/48 via 2001:db8::9 src 2001:db8:1::2
"""
DHCP_CLIENT = """
    addr add 192.0.2.2/24 dev h0
    route del 192.0.2.0/24 dev h0
    route add 192.0.2.0/24 dev h0 proto dhcp scope link src 192.0.2.2 metric 202
    route add default via 192.0.2.1 dev h0 proto dhcp src 192.0.2.2 metric 202
"""
NETWORK_MANAGER = """
    addr add 192.0.2.2/24 dev h0 noprefixroute
    route add 192.0.2.0/24 dev h0 proto kernel scope link src 192.0.2.2 metric 100
    route add default via 192.0.2.1 dev h0 metric 100
    addr add 2001:db8::2/64 dev h0 noprefixroute nodad
    route add 2001:db8::/64 dev h0 proto ra metric 100
    route add default via 2001:db8::1 dev h0 proto ra metric 100
"""
ON_LINK_GATEWAY = """
    addr add 192.0.2.2/32 dev h0
    route add 10.0.0.1 dev h0 scope link
    route add default via 10.0.0.1 dev h0
    addr add 2001:db8::2/128 dev h0 nodad
    route add default via 2001:db8:5::1 dev h0 onlink
"""
ON_LINK_FLAG = """
    addr add 192.0.2.2/32 dev h0
    route add default via 10.0.0.1 dev h0 onlink
"""
POINT_TO_POINT = """
    addr add 192.0.2.2 peer 192.0.2.77/32 dev h0
    addr add 2001:db8::2 peer 2001:db8::77/128 dev h0 nodad
    route replace 2001:db8::77 dev h0 proto kernel metric 256
    route add default dev h0
    route add default dev h0 metric 5
    route add ::/0 dev h0
"""
MULTIPATH = """
    addr add 192.0.2.2/24 dev h0
    addr add 2001:db8::2/64 dev h0 nodad
    route add default nexthop via 192.0.2.1 weight 1 nexthop via 192.0.2.5 weight 9 nexthop via 192.0.2.6
    route add default nexthop via 2001:db8::1 dev h0 weight 1 nexthop via 2001:db8::5 dev h0 weight 2
"""
IP4_OVER_IP6 = """
    addr add 192.0.2.2/32 dev h0
    addr add 2001:db8::2/64 dev h0 nodad
    route add 0.0.0.0/0 via inet6 2001:db8::1 dev h0
    route add 203.0.113.0/24 via inet6 fe80::1 dev h0
"""
NEXTHOP_OBJECTS = """
    addr add 192.0.2.2/24 dev h0
    nexthop add id 7 via 192.0.2.1 dev h0
    route add default nhid 7
"""
SAME_METRIC = """
    addr add 192.0.2.2/24 dev h0
    route append 203.0.113.0/24 via 192.0.2.1
    route append 203.0.113.0/24 via 192.0.2.5
    route append 203.0.113.0/24 via 192.0.2.6
    route add default via 192.0.2.1 metric 9
    route add default via 192.0.2.5 metric 4
"""
PREFIX_ROUTE_WITH_METRICS = """
    addr add 192.0.2.2/24 dev h0
    route replace 192.0.2.0/24 dev h0 proto kernel scope link src 192.0.2.2 mtu 1300
    route add default via 192.0.2.1
    addr add 2001:db8::2/64 dev h0 nodad
    route replace 2001:db8::/64 dev h0 proto kernel metric 256 mtu 1300
    route add default via 2001:db8::1
"""


METRICS = """
    addr add 192.0.2.2/24 dev h0
    addr add 192.0.2.3/24 dev h0 noprefixroute
    addr add 2001:db8::2/64 dev h0 nodad mngtmpaddr
    route add default via 192.0.2.1 mtu lock 1400 advmss 1360 rtt 100ms window 65535 initcwnd 20 quickack 1
    route add default via 192.0.2.1 metric 7 tos 0x10
    route add 203.0.113.0/24 via 192.0.2.1 proto 186 realm 5 mtu 1280
    route add 198.51.100.0/24 dev h0 scope link src 192.0.2.3 metric 3
    route add default via 2001:db8::1 mtu 1400 hoplimit 3 pref high
    route add 2001:db8:9::/48 dev h0 metric 5 proto bgp pref low
"""
UNNUMBERED = """
    link set lo up
    addr add 192.0.2.2/32 dev lo
    addr add 2001:db8::2/64 dev h0 nodad
    route add 0.0.0.0/0 via inet6 fe80::1 dev h0 src 192.0.2.2 proto bgp metric 20
    route add default via fe80::1 dev h0 proto bgp metric 20
"""
LINK_LOCAL_METRIC = """
    link set h0 addrgenmode none
    addr flush dev h0 scope link
    addr add fe80::5/64 dev h0 nodad noprefixroute
    route add fe80::/64 dev h0 proto kernel metric 1024
    addr add 192.0.2.2/24 dev h0
    route add default via 192.0.2.1
    addr add 2001:db8::2/64 dev h0 nodad
    route add default via fe80::1 dev h0 metric 1024
"""


@pytest.mark.parametrize("commands", [
    pytest.param(METRICS, id="metrics"),
    pytest.param(UNNUMBERED, id="unnumbered"),
    pytest.param(LINK_LOCAL_METRIC, id="link-local-metric"),
    pytest.param(PLAIN, id="plain"),
    pytest.param(SEVERAL, id="several"),
    pytest.param(NETWORK_MANAGER, id="network-manager"),
    pytest.param(ON_LINK_GATEWAY, id="on-link-gateway"),
    pytest.param(ON_LINK_FLAG, id="on-link-flag"),
    pytest.param(POINT_TO_POINT, id="point-to-point"),
    pytest.param(MULTIPATH, id="multipath"),
    pytest.param(IP4_OVER_IP6, id="ip4-over-ip6"),
    pytest.param(SAME_METRIC, id="same-metric"),
    pytest.param(PREFIX_ROUTE_WITH_METRICS, id="prefix-route-with-metrics"),
])
def test_copy_shows_the_same_as_the_host(commands: str) -> None:
    result = copy(commands)
    assert result["tap"].warnings == ()
    assert "default" in [route["dst"] for route in result["before"]["route4"]]
    if commands == UNNUMBERED:
        # The address lies on another interface of the host, and on the only one of the namespace.
        assert result["before"].pop("addr4") == []
        assert [address["local"] for address in result["after"].pop("addr4")] == ["192.0.2.2"]
    assert result["after"] == result["before"]


def test_copy_of_nexthop_object_blanks_its_id() -> None:
    result = copy(NEXTHOP_OBJECTS)
    for route in result["before"]["route4"]:
        route.pop("nhid", None)
    assert result["after"] == result["before"]


NEXTHOP_GROUP = """
    link set lo up
    addr add 192.0.2.2/24 dev h0
    addr add 2001:db8::2/64 dev h0 nodad
    nexthop add id 7 via 192.0.2.1 dev h0
    nexthop add id 8 via 192.0.2.5 dev h0
    nexthop add id 9 group 7,1/8,6
    nexthop add id 20 via fe80::1 dev h0
    nexthop add id 21 blackhole
    route add default nhid 9
    route add 203.0.113.0/24 nhid 8
    route add 198.51.100.0/24 nhid 20
    route add 198.18.0.0/15 nhid 21
    route add ::/0 nhid 20
"""


@pytest.mark.parametrize("compat_mode", ["1", "0"])
def test_copy_of_nexthop_objects_is_of_what_they_say(compat_mode: str) -> None:
    def run() -> tuple[FamilyFacts, FamilyFacts, Json, Json]:
        mode = Path("/proc/sys/net/ipv4/nexthop_compat_mode")
        make_host(NEXTHOP_GROUP)
        mode.write_text(compat_mode, encoding="ascii")
        facts = read_host()
        assert facts.ip4 is not None
        assert facts.ip6 is not None
        unshare(CLONE_NEWNET)
        open_tap()
        tap = configure("h0", GuestNet(copied(facts.ip4), copied(facts.ip6), "h0", ns_mac=MAC), True)
        assert tap.warnings == ()
        return facts.ip4, facts.ip6, routes(4), routes(6)
    ip4, ip6, found4, found6 = isolated_as_root(run)
    assert (ip4.gateway, ip6.gateway) == (IPv4Address("192.0.2.5"), IPv6Address("fe80::1"))
    by_destination = {route["dst"]: route for route in found4}
    assert set(by_destination) == {"default", "192.0.2.0/24", "203.0.113.0/24", "198.51.100.0/24"}
    assert [(hop["gateway"], hop["weight"]) for hop in by_destination["default"]["nexthops"]] == [
        ("192.0.2.1", 1), ("192.0.2.5", 6)]
    assert by_destination["203.0.113.0/24"]["gateway"] == "192.0.2.5"
    assert by_destination["198.51.100.0/24"]["via"] == {"family": "inet6", "host": "fe80::1"}
    assert ("default", "fe80::1") in [(route["dst"], route.get("gateway")) for route in found6]


def test_copy_without_the_kernels_prefix_route_suppresses_it() -> None:
    result = copy(DHCP_CLIENT)
    assert [address.pop("noprefixroute", False) for address in result["after"]["addr4"]] == [True]
    assert result["after"] == result["before"]


def test_configured_link_is_usable_at_once() -> None:
    result = copy(PLAIN)
    assert result["tap"] == TapFacts(MAC, LINK_LOCAL, ())
    assert str(LINK_LOCAL) in result["link_local"]
    assert "tentative" not in result["link_local"]


def test_copy_of_a_tun_device_of_a_vpn() -> None:
    """The template has no Ethernet: addresses of both ends of the tunnel, routes without gateways."""
    def run() -> dict[str, Any]:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", b"h0", IFF_TUN | IFF_NO_PI))
        ip_batch("""
            link set h0 up mtu 1420
            addr add 10.8.0.6 peer 10.8.0.5/32 dev h0
            addr add 2001:db8:8::6/64 dev h0 nodad
            route add default via 10.8.0.5
            route add 10.0.0.0/8 dev h0 metric 50
        """)
        ip("-6", "route", "add", "default", "dev", "h0")
        facts = read_host()
        before = (addresses(4), addresses(6), routes(4), routes(6))
        unshare(CLONE_NEWNET)
        open_tap()
        tap = configure("h0", GuestNet(copied(facts.ip4), copied(facts.ip6), "h0"), True)
        after = (addresses(4), addresses(6), routes(4), routes(6))
        return {"facts": facts, "warnings": tap.warnings, "before": before, "after": after}
    result = isolated_as_root(run)
    assert result["warnings"] == ()
    assert (result["facts"].ip4.address, result["facts"].ip4.gateway) == (
        IPv4Address("10.8.0.6"), IPv4Address("10.8.0.5"))
    assert (result["facts"].ip6.address, result["facts"].ip6.gateway) == (IPv6Address("2001:db8:8::6"), None)
    assert result["after"] == result["before"]


def test_copy_keeps_only_the_hops_through_the_template() -> None:
    result = copy("""
        link add h1 type veth peer name p1
        link set p1 up
        link set h1 up
        addr add 192.0.2.2/24 dev h0
        addr add 198.51.100.2/24 dev h1
        route add default nexthop via 198.51.100.1 weight 1 nexthop via 192.0.2.1 weight 5
        route add 203.0.113.0/24 via 198.51.100.1
    """)
    facts = result["facts"].ip4
    assert (facts.ifname, facts.gateway) == ("h0", IPv4Address("192.0.2.1"))
    assert {(route["dst"], route.get("gateway")) for route in result["after"]["route4"]} == {
        ("default", "192.0.2.1"), ("192.0.2.0/24", None)}


def test_copy_leaves_out_deprecated_and_link_scope_addresses() -> None:
    result = copy("""
        addr add 192.0.2.2/24 dev h0
        addr add 192.0.2.9/24 dev h0 preferred_lft 0 valid_lft 1000
        addr add 169.254.7.7/16 dev h0 scope link
        addr add 2001:db8::9/64 dev h0 nodad preferred_lft 0 valid_lft 1000
        addr add 2001:db8::2/64 dev h0 nodad preferred_lft 100 valid_lft 1000
        route add default via 192.0.2.1
        route add default via 2001:db8::1
    """)
    assert [entry["local"] for family in ("addr4", "addr6") for entry in result["after"][family]] == [
        "192.0.2.2", "2001:db8::2"]


def test_copy_with_link_scope_address_only_uses_it_as_the_single_one() -> None:
    result = copy("""
        addr add 169.254.7.7/16 dev h0 scope link
        route add default dev h0
    """)
    assert result["tap"].warnings == ()
    assert {route["dst"] for route in result["after"]["route4"]} == {"default", "169.254.0.0/16"}


def configured(guest: GuestNet, *, config_net: bool = True, sysctl: str | None = None) -> dict[str, Any]:
    """configure() in a new namespace, with *sysctl* of net.ipv6.conf.default set to 1."""
    def run() -> dict[str, Any]:
        if sysctl is not None:
            Path("/proc/sys/net/ipv6/conf/default", sysctl).write_text("1", encoding="ascii")
        open_tap()
        tap = configure("h0", guest, config_net)
        link = json.loads(ip("-j", "link", "show", "dev", "h0"))[0]
        return {"tap": tap, "link": link, "addr4": addresses(4), "addr6": addresses(6),
                "route4": routes(4), "route6": routes(6)}
    return isolated_as_root(run)


def refused(guest: GuestNet, *, config_net: bool = True, sysctl: str | None = None) -> str:
    def run() -> str:
        if sysctl is not None:
            Path("/proc/sys/net/ipv6/conf/default", sysctl).write_text("1", encoding="ascii")
        open_tap()
        with pytest.raises(HostError) as caught:
            configure("h0", guest, config_net)
        return str(caught.value)
    return isolated_as_root(run)


LOCAL4 = single("169.254.2.1", 16, "169.254.2.2")
LOCAL6 = single(None, 64, "fe80::1")


def test_local_mode_gets_link_local_addresses_and_default_routes() -> None:
    result = configured(GuestNet(LOCAL4, LOCAL6, "h0"))
    assert result["link"]["mtu"] == 65520
    assert result["link"]["txqlen"] == TX_QUEUE_LEN
    assert "UP" in result["link"]["flags"]
    assert "NOARP" not in result["link"]["flags"]
    assert [entry["local"] for entry in result["addr4"]] == ["169.254.2.1"]
    assert result["addr6"] == []
    assert [(route["dst"], route.get("gateway")) for route in result["route4"]] == [
        ("default", "169.254.2.2"), ("169.254.0.0/16", None)]
    assert [(route["dst"], route.get("gateway")) for route in result["route6"]] == [
        ("fe80::/64", None), ("default", "fe80::1")]


def test_gateway_outside_the_prefix_gets_a_route_of_its_own() -> None:
    ip4, ip6 = single("192.0.2.2", 24, "10.9.9.1"), single("2001:db8::2", 64, "2001:db8:f::1")
    result = configured(GuestNet(ip4, ip6, "h0"))
    assert [(route["dst"], route.get("gateway")) for route in result["route4"]] == [
        ("default", "10.9.9.1"), ("10.9.9.1", None), ("192.0.2.0/24", None)]
    assert {(route["dst"], route.get("gateway")) for route in result["route6"]} == {
        ("default", "2001:db8:f::1"), ("2001:db8:f::1", None), ("2001:db8::/64", None), ("fe80::/64", None)}


def test_single_ip4_address_takes_an_ip6_gateway() -> None:
    result = configured(GuestNet(single("192.0.2.2", 32, "fe80::1"), LOCAL6, "h0"))
    assert result["route4"][0]["via"] == {"family": "inet6", "host": "fe80::1"}


def test_single_ip6_address_always_has_a_64_bit_prefix() -> None:
    result = configured(GuestNet(None, single("2001:db8::2", 128, "fe80::1"), "h0"))
    assert [(entry["local"], entry["prefixlen"]) for entry in result["addr6"]] == [("2001:db8::2", 64)]


def test_without_config_net_only_the_hardware_address_is_set() -> None:
    result = configured(GuestNet(LOCAL4, LOCAL6, "h0", ns_mac=MAC, mtu=9000), config_net=False)
    assert result["tap"] == TapFacts(MAC, None, ())
    assert "UP" not in result["link"]["flags"]
    assert (result["link"]["mtu"], result["link"]["address"]) == (1500, "02:a0:a1:a2:a3:a4")
    assert result["addr4"] == result["route4"] == []


def test_no_mtu_leaves_the_drivers() -> None:
    assert configured(GuestNet(LOCAL4, LOCAL6, "h0", mtu=None))["link"]["mtu"] == 1500


def test_mtu_beyond_the_driver_is_a_warning() -> None:
    result = configured(GuestNet(LOCAL4, LOCAL6, "h0", mtu=65535))
    assert result["link"]["mtu"] == 1500
    assert [text.split(":")[0] for text in result["tap"].warnings] == ["cannot set --mtu 65535 on h0"]


@pytest.mark.parametrize(("mtu", "sysctl", "text"), [
    (1000, None, "its MTU is 1000"),
    (1500, "disable_ipv6", "disable_ipv6 is 1 in the namespace"),
])
def test_ip6_not_possible_is_a_warning(mtu: int, sysctl: str | None, text: str) -> None:
    ip6 = replace(single("2001:db8::2", 64, "fe80::1"), template_ifname="h0")
    result = configured(GuestNet(LOCAL4, ip6, "h0", mtu=mtu), sysctl=sysctl)
    assert len(result["tap"].warnings) == 1
    assert text in result["tap"].warnings[0]
    assert result["tap"].link_local is None
    assert [entry["local"] for entry in result["addr4"]] == ["169.254.2.1"]
    assert result["addr6"] == result["route6"] == []
    assert "UP" in result["link"]["flags"]


def test_ip6_not_possible_is_not_missed_in_local_mode() -> None:
    result = configured(GuestNet(LOCAL4, LOCAL6, "h0"), sysctl="disable_ipv6")
    assert result["tap"].warnings == ()
    assert result["addr6"] == result["route6"] == []


def test_ip6_alone_not_possible_is_an_error() -> None:
    text = refused(GuestNet(None, LOCAL6, "h0"), sysctl="disable_ipv6")
    assert text == ("cannot set up h0: only IPv6 is wanted, but net.ipv6.conf.h0.disable_ipv6 is 1 "
                    "in the namespace")


def test_administrators_link_local_choice_is_left_alone() -> None:
    assert configured(GuestNet(None, LOCAL6, "h0"), sysctl="addr_gen_mode")["tap"].link_local is None


@pytest.mark.parametrize(("guest", "text"), [
    (GuestNet(LOCAL4, None, "h0", ns_mac=bytes([1] * 6)),
     f"cannot set --ns-mac-addr 01:01:01:01:01:01 on h0: {os.strerror(errno.EADDRNOTAVAIL)}"),
    (GuestNet(None, single("ff02::5", 64, None), "h0"),
     f"cannot set address ff02::5/64 on h0: {os.strerror(errno.EADDRNOTAVAIL)}"),
    (GuestNet(None, single("2001:db8::2", 64, "2001:db8::2"), "h0"),
     f"cannot set the default route via 2001:db8::2 on h0: {os.strerror(errno.EINVAL)} (Gateway "),
])
def test_refusal_names_what_was_set_and_why(guest: GuestNet, text: str) -> None:
    assert text in refused(guest)


def test_missing_tap_is_an_error() -> None:
    def run() -> str:
        with pytest.raises(HostError) as caught:
            configure("h9", GuestNet(LOCAL4, None, "h9"), True)
        return str(caught.value)
    assert isolated_as_root(run) == "there is no interface h9 in this network namespace"


def test_lo_comes_up() -> None:
    def run() -> Json:
        bring_lo_up()
        found: Json = json.loads(ip("-j", "addr", "show", "dev", "lo"))
        return found
    link = isolated_as_root(run)[0]
    assert "UP" in link["flags"]
    assert [entry["local"] for entry in link["addr_info"]] == ["127.0.0.1", "::1"]


def test_plain_user_configures_a_namespace_of_their_own() -> None:
    def run() -> Json:
        user = 65534
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        # A change of user makes /proc/self root's.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1)
        if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWUSER | CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1", encoding="ascii")
        Path("/proc/self/gid_map").write_text(f"0 {user} 1", encoding="ascii")
        ip_batch(HOST)
        bring_lo_up()
        configure("h0", GuestNet(LOCAL4, LOCAL6, "h0", mtu=1400), True)
        return routes(4) + routes(6)
    destinations = [route["dst"] for route in isolated_as_root(run)]
    assert destinations == ["default", "169.254.0.0/16", "fe80::/64", "default"]


def test_given_gateway_works_with_copied_addresses_of_a_network_manager() -> None:
    def run() -> Json:
        make_host(NETWORK_MANAGER)
        family = copied(read_host().ip4)
        assert family is not None
        unshare(CLONE_NEWNET)
        open_tap()
        family = replace(family, copied_routes=(), gateway=IPv4Address("192.0.2.200"))
        configure("h0", GuestNet(family, None, "h0"), True)
        return routes(4)
    assert [(route["dst"], route.get("gateway")) for route in isolated_as_root(run)] == [
        ("default", "192.0.2.200"), ("192.0.2.0/24", None)]


def test_given_address_with_copied_routes_has_one_route_to_its_prefix() -> None:
    def run() -> tuple[Json, Json]:
        make_host(PLAIN)
        facts = read_host()
        unshare(CLONE_NEWNET)
        open_tap()
        ip4, ip6 = copied(facts.ip4), copied(facts.ip6)
        assert ip4 is not None
        assert ip6 is not None
        ip4 = replace(ip4, address=IPv4Address("192.0.2.99"), copied_addresses=())
        ip6 = replace(ip6, address=IPv6Address("2001:db8::99"), copied_addresses=())
        configure("h0", GuestNet(ip4, ip6, "h0"), True)
        return routes(4), routes(6)
    found4, found6 = isolated_as_root(run)
    assert [(route["dst"], route.get("gateway"), route.get("prefsrc")) for route in found4] == [
        ("default", "192.0.2.1", None), ("192.0.2.0/24", None, "192.0.2.99")]
    assert [route["dst"] for route in found6] == ["2001:db8::/64", "fe80::/64", "default"]


def test_routes_that_cannot_be_reached_are_warned_of_and_bounded() -> None:
    def run() -> tuple[tuple[str, ...], Json]:
        make_host("addr add 192.0.2.2/24 dev h0\n"
                  + "".join(f"route add 198.51.{third}.0/24 via 192.0.2.1\n" for third in range(9)))
        facts = read_host().ip4
        assert facts is not None
        beyond = tuple(payload for payload in facts.routes if RouteMessage.parse(payload).hops[0].gateway)
        family = copied(replace(facts, routes=beyond))
        unshare(CLONE_NEWNET)
        open_tap()
        return configure("h0", GuestNet(family, None, "h0"), True).warnings, routes(4)
    warnings, found = isolated_as_root(run)
    assert found == []
    assert len(warnings) == 5
    assert warnings[0].startswith("cannot set route 198.51.0.0/24 via 192.0.2.1 on h0: "
                                  + os.strerror(errno.ENETUNREACH))
    assert warnings[4] == "cannot set 5 more routes on h0 either"


def test_route_over_ip6_is_a_warning_where_the_namespace_has_no_ip6() -> None:
    def run() -> tuple[tuple[str, ...], Json]:
        make_host(IP4_OVER_IP6 + "route add 198.51.100.1 dev h0\n")
        facts = read_host()
        unshare(CLONE_NEWNET)
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1", encoding="ascii")
        open_tap()
        warnings = configure("h0", GuestNet(copied(facts.ip4), copied(facts.ip6), "h0"), True).warnings
        return warnings, routes(4)
    warnings, found = isolated_as_root(run)
    assert [text.split(":")[0] for text in warnings][:2] == [
        "no IPv6 on h0", "cannot set route 0.0.0.0/0 via 2001"]
    assert len(warnings) == 3
    assert [route["dst"] for route in found] == ["198.51.100.1"]


@pytest.mark.parametrize("family", [4, 6])
def test_ten_thousand_routes_are_copied_in_time(family: int) -> None:
    total = 10_000
    lines = ("addr add 192.0.2.2/24 dev h0\n" if family == 4 else "addr add 2001:db8::2/64 dev h0 nodad\n")
    for index in range(total):
        high, low = divmod(index, 256)
        lines += (f"route add 10.{high}.{low}.0/24 via 192.0.2.1\n" if family == 4
                  else f"route add 2001:db8:1:{index:x}::/64 via 2001:db8::1\n")

    def run() -> tuple[int, float, float]:
        make_host(lines)
        start = time.process_time()
        facts = read_host()
        probed = time.process_time()
        unshare(CLONE_NEWNET)
        open_tap()
        configure("h0", GuestNet(copied(facts.ip4), copied(facts.ip6), "h0"), True)
        return len(routes(family)), probed - start, time.process_time() - probed
    found, probe_s, configure_s = isolated_as_root(run)
    assert found >= total
    # CPU time of this process, kernel included; a quadratic copy would take a hundred times as long.
    assert probe_s < 3
    assert configure_s < 5
    print(f"IPv{family}: probe {probe_s:.3f} s, configure {configure_s:.3f} s")  # noqa: T201

"""read_host() in namespaces that the tests make themselves."""

from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from passt.errors import ConfigError, HostError
from passt.facts.host import ResolverFacts
from passt.host.host_facts import HostReader, read_host
from tests.host.test_interface_index import leave_no_descriptor
from tests.support.isolated import (
    HOST,
    PLAIN,
    ip_batch,
    isolated_as_root,
    wait_for_source,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.host import HostFacts

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make network namespaces"),
]


def probed(commands: str, **arguments: Any) -> HostFacts:
    """Probe in a namespace after *commands*."""
    def run() -> HostFacts:
        if commands:
            ip_batch(commands)
        return read_host(**arguments)
    return isolated_as_root(run)


def test_probe_of_an_empty_namespace_finds_no_template() -> None:
    facts = probed("")
    assert facts.ip4 is None
    assert facts.ip6 is None


def test_probe_ignores_lo_and_link_local_routes() -> None:
    facts = probed(HOST + """
        link set lo up
        addr add 192.0.2.2/24 dev lo
        route add default dev lo
        addr add 169.254.9.9/16 dev h0
    """)
    assert facts.ip4 is None


def test_probe_without_default_route_takes_the_first_other() -> None:
    facts = probed(HOST + "addr add 192.0.2.2/24 dev h0\n").ip4
    assert facts is not None
    assert (facts.ifname, facts.gateway, facts.prefix_len) == ("h0", None, 24)


SECOND_LINK = """
    link add h1 type veth peer name p1
    link set p1 up
    link set h1 up
"""


@pytest.mark.parametrize(("commands", "ifname", "address", "gateway"), [
    pytest.param("""
        addr add 192.0.2.2/24 dev h0
        addr add 198.51.100.2/24 dev h1
        route add default via 192.0.2.1 metric 100
        route add default via 198.51.100.1 metric 50
        route add default via 192.0.2.1 tos 0x10
    """, "h1", "198.51.100.2", "198.51.100.1", id="lowest-metric"),
    pytest.param("""
        addr add 198.51.100.2/24 dev h1
        route add default dev h0 metric 5
        route add default via 198.51.100.1 metric 50
    """, "h0", "198.51.100.2", None, id="first-has-no-address-but-the-kernel-takes-one"),
    pytest.param("""
        addr add 127.0.0.9/8 dev h0
        addr add 198.51.100.2/24 dev h1
    """, "h1", "198.51.100.2", None, id="first-with-an-address-without-a-default"),
    pytest.param("""
        addr add 192.0.2.2/24 dev h0
        addr add 198.51.100.2/24 dev h1
        route add default nexthop via 192.0.2.1 weight 5 nexthop via 198.51.100.1 weight 9
    """, "h1", "198.51.100.2", "198.51.100.1", id="highest-weight"),
    pytest.param("""
        addr add 192.0.2.2/24 dev h0
        addr add 198.51.100.2/24 dev h1
        route add default nexthop via 192.0.2.1 weight 5 nexthop via 198.51.100.1 weight 9
        link set p1 down
        link set h1 down
    """, "h0", "192.0.2.2", "192.0.2.1", id="dead-hop"),
    pytest.param("""
        addr add 192.0.2.2/24 dev h0
        addr add 192.0.2.3/32 dev h0
        addr add 192.0.2.4/30 dev h0
        route add unreachable default
        route add default dev h0 table 5
    """, "h0", "192.0.2.3", None, id="longest-prefix-and-no-unicast-default"),
])
def test_probe_chooses_template_and_address(
        commands: str, ifname: str, address: str, gateway: str | None) -> None:
    facts = probed(HOST + SECOND_LINK + commands).ip4
    assert facts is not None
    assert (facts.ifname, facts.address, facts.gateway) == (
        ifname, IPv4Address(address), gateway and IPv4Address(gateway))


def test_probe_of_an_unnumbered_link_takes_the_source_that_the_kernel_takes() -> None:
    def run() -> HostFacts:
        ip_batch(HOST + """
            link set lo up
            addr add 192.0.2.2/32 dev lo
            addr add 2001:db8::2/128 dev lo
            route add 0.0.0.0/0 via inet6 fe80::1 dev h0
            route add default via fe80::1 dev h0
        """)
        wait_for_source("2001:db8::2", "2001:db8::1", "h0")
        return read_host()

    facts = isolated_as_root(run)
    for family, address, prefix_len, gateway in ((facts.ip4, "192.0.2.2", 32, "fe80::1"),
                                                 (facts.ip6, "2001:db8::2", 128, "fe80::1")):
        assert family is not None
        assert (family.ifname, str(family.address), family.prefix_len, str(family.gateway)) == (
            "h0", address, prefix_len, gateway)


@pytest.mark.parametrize("disabled", ["all", "default"])
def test_probe_where_ip6_is_disabled_by_sysctl_finds_ip4(disabled: str) -> None:
    def run() -> HostFacts:
        Path(f"/proc/sys/net/ipv6/conf/{disabled}/disable_ipv6").write_text("1", encoding="ascii")
        ip_batch(HOST + "addr add 192.0.2.2/24 dev h0\nroute add default via 192.0.2.1\n")
        return read_host()
    facts = isolated_as_root(run)
    assert facts.ip4 is not None
    assert facts.ip4.address == IPv4Address("192.0.2.2")
    assert (facts.ip6, facts.has_ip6) == (None, True)


def test_probe_reads_routes_only_if_they_are_wanted() -> None:
    for want_routes in (True, False):
        facts = probed(HOST + PLAIN, want_routes=want_routes)
        for family in (facts.ip4, facts.ip6):
            assert family is not None
            assert family.gateway is not None
            assert bool(family.routes) == want_routes


def test_probe_ignores_other_tables() -> None:
    assert probed(HOST + "route add default dev h0 table 77\n").ip4 is None


def test_probe_takes_one_interface_per_family() -> None:
    commands = HOST + PLAIN + """
        link add h1 type veth peer name p1
        link set p1 up
        link set h1 up
        addr add 198.51.100.2/24 dev h1
    """
    facts = probed(commands, outbound_if4="h1")
    assert facts.ip4 is not None
    assert facts.ip6 is not None
    assert (facts.ip4.ifname, facts.ip4.gateway) == ("h1", None)
    assert facts.ip4.address == IPv4Address("198.51.100.2")
    assert (facts.ip6.ifname, facts.ip6.gateway) == ("h0", IPv6Address("2001:db8::1"))
    facts = probed(commands, outbound_if4="h1", interface="h0", want6=False)
    assert facts.ip4 is not None
    assert facts.ip4.ifname == "h0"
    assert facts.ip6 is None


def test_probe_finds_an_interface_by_its_alternative_name() -> None:
    facts = probed(HOST + PLAIN + "link property add dev h0 altname thehost\n", interface="thehost").ip4
    assert facts is not None
    assert facts.ifname == "h0"


@pytest.mark.parametrize(("option", "ask"), [
    ("--interface", lambda name: read_host(interface=name)),
    ("--outbound-if4", lambda name: read_host(outbound_if4=name)),
    ("--outbound-if6", lambda name: read_host(outbound_if6=name)),
])
@pytest.mark.parametrize("name", ["nothere0", "much-too-long-for-a-name", "", "\udcff"])
def test_probe_of_a_missing_interface_names_option_and_value(
        option: str, ask: Callable[[str], HostFacts], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ask(name)
    assert str(caught.value) == f"{option} {name}: there is no such interface; `ip link` lists them"


def test_reader_reads_again_without_a_descriptor_or_a_path() -> None:
    """In the sandbox there are neither."""
    def run() -> tuple[HostFacts, HostFacts, frozenset[bytes], int]:
        ip_batch(HOST + PLAIN)
        with HostReader() as reader:
            before = reader.read(ResolverFacts())
            ip_batch("addr add 198.51.100.7/28 dev h0\n")
            leave_no_descriptor()
            return before, reader.read(ResolverFacts()), reader.addresses(), reader.index_of("h0")

    before, after, addresses, ifindex = isolated_as_root(run)
    assert before.ip4 is not None
    assert after.ip4 is not None
    assert (str(before.ip4.address), str(after.ip4.address)) == ("192.0.2.2", "198.51.100.7")
    assert {IPv4Address("192.0.2.2").packed, IPv4Address("198.51.100.7").packed,
            IPv6Address("2001:db8::2").packed} <= addresses
    assert ifindex == after.ip4.ifindex


def test_reader_of_an_interface_that_comes_and_goes() -> None:
    def run() -> list[bool]:
        found = []
        with HostReader(interface="h0", may_come=True) as reader:
            found.append(reader.read(ResolverFacts()).ip4 is None)
            ip_batch(HOST + PLAIN)
            found.append(reader.read(ResolverFacts()).ip4 is None)
            ip_batch("link del h0\n")
            found.append(reader.read(ResolverFacts()).ip4 is None)
        return found

    assert isolated_as_root(run) == [True, False, True]


@pytest.mark.parametrize("read", ["get_link_at", "get_addresses"])
@pytest.mark.parametrize("interface", [None, "h0"])
def test_interface_that_goes_while_it_is_read_about_is_not_there(read: str, interface: str | None) -> None:
    """Its routes have been read before; they have gone with it."""
    def run() -> tuple[str, bool]:
        ip_batch(HOST + PLAIN + "link add h1 type veth peer name p1\nlink set p1 up\nlink set h1 up\n"
                                "addr add 198.51.100.2/24 dev h1\n"
                                "route add default via 198.51.100.1 metric 9\n")
        with HostReader(interface=interface, may_come=True) as reader:
            rtnetlink = reader._rtnetlink
            usual = getattr(rtnetlink, read)

            def go_first(*asked: Any) -> Any:
                setattr(rtnetlink, read, usual)
                ip_batch("link del h0\n")
                return usual(*asked)

            setattr(rtnetlink, read, go_first)
            found = reader.read(ResolverFacts())
        return found.ip4.ifname if found.ip4 is not None else "", found.ip6 is None

    assert isolated_as_root(run) == ("h1" if interface is None else "", True)


def test_interface_that_is_never_there_is_told() -> None:
    def run() -> str:
        ip_batch(HOST + PLAIN)
        with HostReader() as reader:
            usual = reader._rtnetlink.get_link_at
            vars(reader._rtnetlink)["get_link_at"] = lambda _ifindex: usual(99)
            try:
                reader.read(ResolverFacts())
            except HostError as error:
                return str(error)
        return ""

    assert "to which a route leads, went away" in isolated_as_root(run)

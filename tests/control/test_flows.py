"""Which rule or mapping applied to a flow, and names of flows."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, cast

import pytest

from passt.control.flows import FlowTexts, address_text, name_of, parse_name
from passt.control.http import RefusalError
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.port_rule import PortRule
from passt.light.values import replace
from tests.support.control import Tables, make_flow

if TYPE_CHECKING:
    from passt.facts.contracts import PortTables

GUEST = GuestNet(
    ip4=GuestFamily(
        address=IPv4Address("192.0.2.2"), prefix_len=24, gateway=IPv4Address("192.0.2.1"), our_address=None,
        map_guest=IPv4Address("192.0.2.9"), dns_match=IPv4Address("192.0.2.53")),
    ip6=GuestFamily(
        address=None, prefix_len=64, gateway=None, our_address=None,
        map_host_loopback=IPv6Address("2001:db8::1")),
    ifname="tap0")  # fmt: skip


def texts(host: tuple[PortRule, ...] = (), namespace: tuple[PortRule, ...] = ()) -> FlowTexts:
    made = FlowTexts(GUEST)
    made.tables = cast("PortTables", Tables(host, namespace))
    return made


@pytest.mark.parametrize(
    ("remote", "peer", "applied"),
    [("192.0.2.9", "203.0.113.1", "--map-guest-addr 192.0.2.9"),
     ("192.0.2.53", "127.0.0.53", "--dns-forward 192.0.2.53"), ("192.0.2.9", "192.0.2.9", None),
     ("198.51.100.7", "198.51.100.7", None), ("198.51.100.7", "127.0.0.1", None)],
)  # fmt: skip
def test_mapping_of_an_outbound_flow(remote: str, peer: str, applied: str | None) -> None:
    flow = make_flow(remote_address=IPv4Address(remote).packed, peer_address=IPv4Address(peer).packed)
    assert texts().applied(flow) == applied


def test_mapping_of_the_other_family() -> None:
    flow = make_flow(remote_address=IPv6Address("2001:db8::1").packed, peer_address=IPv6Address("::1").packed)
    assert texts().applied(flow) == "--map-host-loopback 2001:db8::1"


def test_mappings_are_those_of_the_renewed_guest() -> None:
    assert GUEST.ip4 is not None
    made = texts()
    made.renew(replace(GUEST, ip4=replace(GUEST.ip4, map_guest=IPv4Address("192.0.2.10"))))
    old, new = [make_flow(remote_address=bytes((192, 0, 2, last)), peer_address=bytes((203, 0, 113, 1)))
                for last in (9, 10)]  # fmt: skip
    assert (made.applied(old), made.applied(new)) == (None, "--map-guest-addr 192.0.2.10")


def test_rule_of_an_inbound_flow_is_that_of_the_listener() -> None:
    here, there = IPv4Address("203.0.113.1"), IPv4Address("203.0.113.2")
    rules = [PortRule(proto=6, first=80, last=80, target=8080, address=address, spec=f"-t {address}/80:8080")
             for address in (here, there)]  # fmt: skip
    inside = PortRule(proto=6, first=80, last=80, target=80, spec="-T 80")
    made = texts(tuple(rules), (inside,))
    flow = make_flow(inbound=True, local_address=there.packed, local_port=80)
    assert made.applied(flow) == "-t 203.0.113.2/80:8080"
    assert made.applied(flow._replace(proto=17)) is None
    assert made.applied(flow._replace(local_port=81)) is None
    assert made.applied(make_flow(bypassed=True, remote_port=80)) == "-T 80"


def test_rule_by_default_has_a_text() -> None:
    rule = PortRule(proto=17, first=1, last=9, target=1, auto=True)
    made = texts((rule,))
    assert made.applied(make_flow(proto=17, inbound=True, local_port=5)) == "udp 1-9 (auto)"


def test_names_are_read_as_they_are_written() -> None:
    assert parse_name(name_of(65535, 12)) == (65535, 12)
    for text in ("", ".", "1.", ".1", "1.2.3", "a.b", "1.-2", "\u0661.1", "9999999999.1"):
        with pytest.raises(RefusalError):
            parse_name(text)


def test_addresses() -> None:
    assert (address_text(bytes(4)), address_text(bytes(16)), address_text(b"")) == ("0.0.0.0", "::", None)


def test_rule_of_all_addresses_of_one_family() -> None:
    made = texts((PortRule(6, 80, 80, 80, address=IPv4Address("0.0.0.0"), spec="-t 0.0.0.0/80"),
                  PortRule(6, 80, 80, 80, address=IPv6Address("::"), spec="-t [::]/80")))  # fmt: skip
    flow = make_flow(inbound=True, local_port=80)
    assert made.applied(flow._replace(local_address=IPv4Address("203.0.113.1").packed)) == "-t 0.0.0.0/80"
    assert made.applied(flow._replace(local_address=IPv6Address("2001:db8::7").packed)) == "-t [::]/80"


def test_rule_that_follows_leaves_the_ports_of_others() -> None:
    follows = PortRule(6, 1, 65535, 1, auto=True, spec="-t auto")
    made = texts((follows, PortRule(6, 80, 80, 8080, spec="-t 80:8080")))
    flow = make_flow(inbound=True, local_port=80)
    assert (made.applied(flow), made.applied(flow._replace(local_port=81))) == ("-t 80:8080", "-t auto")


def test_tables_that_are_not_there_have_no_rule() -> None:
    made = FlowTexts(GUEST)
    assert made.applied(make_flow(inbound=True)) is None      # the program is still starting
    made.tables = cast("PortTables", Tables(namespace=None))
    assert made.applied(make_flow(bypassed=True)) is None

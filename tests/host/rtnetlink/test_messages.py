"""The rtnetlink codec against bytes written by hand and against pyroute2's."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from passt.errors import HostError
from passt.host.rtnetlink import messages, routes
from passt.host.rtnetlink.messages import (
    AF_INET,
    AF_INET6,
    AddressFlag,
    Message,
    MessageFlag,
    MessageType,
    Outcome,
)
from passt.host.rtnetlink.routes import NextHop, NextHopObject
from passt.light.values import replace

if struct.pack("=H", 1) != b"\1\0":
    pytest.skip("the vectors are those of a little-endian machine", allow_module_level=True)

# RTM_NEWLINK of interface 4, eth0, up, MTU 1400.
LINK = bytes.fromhex(
    "00 00 0100 04000000 43100100 00000000"  # family, pad, ARPHRD_ETHER, index, flags, change
    "0900 0300 6574683000 000000"            # IFLA_IFNAME "eth0"
    "0800 0400 78050000"                     # IFLA_MTU 1400
    "0800 0d00 e8030000"                     # IFLA_TXQLEN 1000
    "0a00 0100 02fc00000001 0000"            # IFLA_ADDRESS
    "8c00 1a80"                              # IFLA_AF_SPEC, nested
    "8800 0a80"                              # AF_INET6, nested
    "0500 0800 00 000000"                    # IFLA_INET6_ADDR_GEN_MODE EUI64
    "7c00 0200" + 26 * "00000000" + "01000000" + 3 * "00000000")  # IFLA_INET6_CONF, 26 is disable_ipv6
# RTM_NEWADDR 192.0.2.2/24 of interface 4, with broadcast, label, flags and lifetimes.
ADDRESS = bytes.fromhex(
    "02 18 80 00 04000000"                   # AF_INET, prefix, IFA_F_PERMANENT, scope, index
    "0800 0100 c0000202"                     # IFA_ADDRESS
    "0800 0200 c0000202"                     # IFA_LOCAL
    "0800 0400 c00002ff"                     # IFA_BROADCAST
    "0900 0300 6574683000 000000"            # IFA_LABEL "eth0"
    "0800 0800 80000000"                     # IFA_FLAGS
    "1400 0600 ffffffffffffffff 12000000 12000000")  # IFA_CACHEINFO
RETARGETED_ADDRESS = bytes.fromhex(
    "02 18 82 00 09000000"                   # ... IFA_F_NODAD, index 9
    "0800 0100 c0000202"
    "0800 0200 c0000202"
    "0800 0400 c00002ff"
    "0800 0800 82000000")
# RTM_NEWROUTE default via 192.0.2.1 dev 4 src 192.0.2.2 metric 100, next-hop id 7, marked linkdown.
ROUTE = bytes.fromhex(
    "02 00 00 00 fe 10 00 01 10000000"       # AF_INET, dst_len, src_len, tos, main, dhcp, universe, unicast
    "0800 0f00 fe000000"                     # RTA_TABLE
    "0800 0600 64000000"                     # RTA_PRIORITY
    "0800 1e00 07000000"                     # RTA_NH_ID
    "0800 0700 c0000202"                     # RTA_PREFSRC
    "0800 0500 c0000201"                     # RTA_GATEWAY
    "0800 0400 04000000")                    # RTA_OIF
RETARGETED_ROUTE = bytes.fromhex(
    "02 00 00 00 fe 10 00 01 00000000"
    "0800 0f00 fe000000"
    "0800 0600 64000000"
    "0800 0700 c0000202"
    "0800 0500 c0000201"
    "0800 0400 09000000")
# RTM_NEWROUTE 2001:db8::/32, via fe80::1 dev 4 weight 1, dead and onlink, or fe80::2 dev 5 weight 3.
MULTIPATH_ROUTE = bytes.fromhex(
    "0a 20 00 00 fe 03 00 01 00000000"
    "1400 0100 20010db8000000000000000000000000"
    "3c00 0900"                              # RTA_MULTIPATH
    "1c00 05 00 04000000 1400 0500 fe800000000000000000000000000001"
    "1c00 10 02 05000000 1400 0500 fe800000000000000000000000000002")
# RTM_NEWROUTE default via inet6 fe80::1 dev 4.
VIA_ROUTE = bytes.fromhex(
    "02 00 00 00 fe 03 00 01 00000000"
    "1600 1200 0a00 fe800000000000000000000000000001 0000"  # RTA_VIA
    "0800 0400 04000000")
# NLMSG_ERROR: EEXIST with the text "no", request header only.
REFUSAL = Message(MessageType.ERROR, MessageFlag.CAPPED | MessageFlag.ACK_TLVS, 5, bytes.fromhex(
    "efffffff 24000000 1800 0506 05000000 00000000 0700 0100 6e6f00 00"))


def test_link_golden() -> None:
    assert messages.LinkMessage.parse(LINK) == messages.LinkMessage(
        ifindex=4, flags=0x11043, name="eth0", mtu=1400, mac=bytes.fromhex("02fc00000001"), txqueuelen=1000,
        ip6_mode=0, ip6_disabled=True)


def test_link_without_ip6_has_no_ip6_settings() -> None:
    found = messages.LinkMessage.parse(LINK[: LINK.index(bytes.fromhex("8c001a80"))])
    assert (found.ip6_mode, found.ip6_disabled) == (None, None)


def test_address_golden() -> None:
    own = bytes([192, 0, 2, 2])
    expected = messages.AddressMessage(AF_INET, 24, 0x80, 0, 4, own, own, 0)
    assert messages.AddressMessage.parse(ADDRESS) == expected


def test_address_of_point_to_point_is_the_local_one() -> None:
    payload = ADDRESS.replace(bytes.fromhex("08000100c0000202"), bytes.fromhex("08000100c0000263"))
    found = messages.AddressMessage.parse(payload)
    assert (found.address[3], found.network[3]) == (2, 99)


# Next-hop object 7: via fe80::1 dev 4, onlink; 8: a group of 7 and 9 with weights 1 and 3; a route over 8.
OBJECT = bytes.fromhex("0a000300 04000000 08000100 07000000 08000500 04000000"
                       "14000600 fe800000000000000000000000000001")
GROUP = bytes.fromhex("00000000 00000000 08000100 08000000 14000200 07000000 00 000000 09000000 02 000000")
NAMED_ROUTE = bytes.fromhex("0218 0000fe030001 00000000 08000100 cb007100 08001e00 08000000")
OBJECTS = {
    7: NextHopObject(7, 4, 4, IPv6Address("fe80::1").packed, ()),
    8: NextHopObject(8, 0, 0, None, ((7, 1), (9, 3))),
    9: NextHopObject(9, 1, 5, bytes([192, 0, 2, 9]), ()),
}


def test_object_golden() -> None:
    assert routes.NextHopObject.parse(OBJECT) == OBJECTS[7]
    assert routes.NextHopObject.parse(GROUP) == OBJECTS[8]


def test_object_that_leads_nowhere_has_no_interface() -> None:
    blackhole = bytes.fromhex("02000300 00000000 08000100 07000000 04000400")
    assert routes.NextHopObject.parse(blackhole) == NextHopObject(7, 0, 0, None, ())


def test_route_over_an_object_gets_its_hop() -> None:
    named = NAMED_ROUTE.replace(bytes.fromhex("08001e00 08000000"), bytes.fromhex("08001e00 07000000"))
    found = routes.RouteMessage.parse(routes.expand_objects(named, OBJECTS))
    assert found.hops == (NextHop(4, 1, IPv6Address("fe80::1").packed),)
    assert found.flags == 4


def test_route_over_a_group_gets_its_hops() -> None:
    found = routes.RouteMessage.parse(routes.expand_objects(NAMED_ROUTE, OBJECTS))
    assert found.hops == (NextHop(4, 1, IPv6Address("fe80::1").packed),
                          NextHop(5, 3, bytes([192, 0, 2, 9]), is_dead=True))


@pytest.mark.parametrize("objects", [{}, {8: OBJECTS[8]}])
def test_route_over_unknown_objects_leads_nowhere(objects: dict[int, NextHopObject]) -> None:
    assert routes.RouteMessage.parse(routes.expand_objects(NAMED_ROUTE, objects)).hops == ()


def test_route_that_tells_its_hops_is_not_expanded() -> None:
    for route in (ROUTE, MULTIPATH_ROUTE, VIA_ROUTE, ROUTE + bytes.fromhex("08001e00 08000000")):
        assert routes.expand_objects(route, OBJECTS) == route


def test_route_is_told_as_people_write_it() -> None:
    assert routes.RouteMessage.parse(ROUTE).text == "0.0.0.0/0 via 192.0.2.1"
    assert routes.RouteMessage.parse(MULTIPATH_ROUTE).text == "2001:db8::/32 via fe80::1"
    assert routes.RouteMessage.parse(routes.build_route(4, family=AF_INET, destination=bytes([10, 0, 0, 1]))
                              ).text == "10.0.0.1/32"


def test_route_golden() -> None:
    assert routes.RouteMessage.parse(ROUTE) == routes.RouteMessage(
        family=AF_INET, prefix_len=0, tos=0, table=254, protocol=16, scope=0, type=1, flags=0x10,
        destination=bytes(4), priority=100, source=bytes([192, 0, 2, 2]),
        hops=(NextHop(4, 1, bytes([192, 0, 2, 1])),))


def test_multipath_route_golden() -> None:
    found = routes.RouteMessage.parse(MULTIPATH_ROUTE)
    assert IPv6Address(found.destination) == IPv6Address("2001:db8::")
    assert found.hops == (NextHop(4, 1, IPv6Address("fe80::1").packed, is_dead=True),
                          NextHop(5, 3, IPv6Address("fe80::2").packed))


def test_gateway_of_other_family_golden() -> None:
    assert routes.RouteMessage.parse(VIA_ROUTE).hops == (NextHop(4, 1, IPv6Address("fe80::1").packed),)


def test_address_retargeted_golden() -> None:
    assert messages.retarget_address(ADDRESS, 9, no_prefix_route=False) == RETARGETED_ADDRESS


TIMES = "1400 0600 {preferred} {valid} 12000000 34000000"  # IFA_CACHEINFO: seconds, created, updated


@pytest.mark.parametrize(("flags", "times", "kept"), [
    ("20000000", ("00000000", "e8030000"), ("00000000", "e8030000")),
    ("20000000", ("00000000", "ffffffff"), ("00000000", "ffffffff")),
    ("20000000", ("05000000", "e8030000"), ("00000000", "e8030000")),
    ("01000000", ("64000000", "e8030000"), ("64000000", "e8030000")),
    ("01000000", ("64000000", "00000000"), ("01000000", "01000000")),
    ("80000000", ("64000000", "e8030000"), None),
    ("00000000", ("64000000", "e8030000"), None),
], ids=["deprecated", "for-ever", "deprecated-meanwhile", "temporary", "over", "permanent", "dynamic"])
def test_lifetimes_of_deprecated_and_temporary_addresses_are_kept_if_asked_for(
        flags: str, times: tuple[str, str], kept: tuple[str, str] | None) -> None:
    head = "0a 40 00 00 04000000 1400 0100 20010db8000000000000000000000002"
    payload = bytes.fromhex(f"{head} 0800 0800 {flags}" + TIMES.format(preferred=times[0], valid=times[1]))
    made = messages.retarget_address(payload, 9, no_prefix_route=False, lifetimes=True)
    found = messages.parse_attributes(made, 8).get(6)
    assert found == (bytes.fromhex(f"{kept[0]} {kept[1]} 12000000 34000000") if kept else None)
    assert 6 not in messages.parse_attributes(messages.retarget_address(payload, 9, no_prefix_route=False), 8)
    for length in range(8, len(payload)):
        with contextlib.suppress(HostError):
            messages.retarget_address(payload[:length], 9, no_prefix_route=False, lifetimes=True)


def test_second_ip4_address_of_a_subnet_is_not_a_temporary_one() -> None:
    secondary = ADDRESS.replace(bytes.fromhex("0800 0800 80000000"), bytes.fromhex("0800 0800 01000000"))
    made = messages.retarget_address(secondary, 9, no_prefix_route=False, lifetimes=True)
    assert 6 not in messages.parse_attributes(made, 8)


@pytest.mark.parametrize(("before", "after", "expected"), [
    (("64000000", "e8030000", "34"), ("64000000", "e8030000", "34"), False),
    (("64000000", "e8030000", "34"), ("63000000", "e7030000", "34"), False),
    (("64000000", "e8030000", "34"), ("64000000", "e8030000", "35"), True),
    (("64000000", "e8030000", "34"), ("64000000", "e9030000", "34"), True),
    (("64000000", "e8030000", "34"), ("65000000", "e8030000", "34"), True),
    (("01000000", "e8030000", "34"), ("00000000", "e7030000", "34"), True),
    (("00000000", "ffffffff", "34"), ("00000000", "e8030000", "34"), True),
    (("64000000", "e8030000", "34"), None, True),
    (None, ("64000000", "e8030000", "34"), True),
    (None, None, False),
], ids=["same", "time-passed", "updated", "longer-at-once", "preferred-longer-at-once", "deprecated",
        "not-for-ever", "made-permanent", "made-fleeting", "permanent"])
def test_lifetimes_are_new_unless_time_has_passed(
        before: tuple[str, str, str] | None, after: tuple[str, str, str] | None, expected: bool) -> None:
    def payload(times: tuple[str, str, str] | None) -> bytes:
        head = "0a 40 00 00 04000000 1400 0100 20010db8000000000000000000000002"
        told = f"1400 0600 {times[0]} {times[1]} 12000000 {times[2]}000000" if times else ""
        return bytes.fromhex(head + told)

    assert messages.has_new_lifetimes(payload(before), payload(after)) is expected


def test_address_retargeted_sets_and_clears_noprefixroute() -> None:
    marked = messages.retarget_address(ADDRESS, 9, no_prefix_route=True)
    assert messages.AddressMessage.parse(marked).flags == 0x80 | AddressFlag.NODAD | AddressFlag.NOPREFIXROUTE
    assert messages.retarget_address(marked, 9, no_prefix_route=False) == RETARGETED_ADDRESS


def test_address_retargeted_without_long_flags_gets_them() -> None:
    short = messages.build_address(4, bytes([192, 0, 2, 2]), 24)
    assert messages.AddressMessage.parse(messages.retarget_address(short, 9, no_prefix_route=True)).flags == (
        AddressFlag.NODAD | AddressFlag.NOPREFIXROUTE)


def test_route_retargeted_golden() -> None:
    assert routes.retarget_route(ROUTE, 4, 9, {bytes([192, 0, 2, 2])}) == (RETARGETED_ROUTE, True)


def test_route_retargeted_drops_a_source_that_is_not_ours() -> None:
    assert routes.retarget_route(ROUTE, 4, 9, ()) == (RETARGETED_ROUTE.replace(
        bytes.fromhex("08000700c0000202"), b""), True)


def test_route_of_another_interface_is_not_retargeted() -> None:
    assert routes.retarget_route(ROUTE, 5, 9, ()) is None
    assert routes.retarget_route(MULTIPATH_ROUTE, 6, 9, ()) is None
    assert routes.retarget_route(ROUTE[:12], 4, 9, ()) is None


def test_multipath_route_retargeted_keeps_own_hops_without_state() -> None:
    found = routes.retarget_route(MULTIPATH_ROUTE, 4, 9, ())
    assert found == (MULTIPATH_ROUTE[:32] + bytes.fromhex(
        "2000 0900 1c00 04 00 09000000 1400 0500 fe800000000000000000000000000001"), True)


def test_flags_of_nested_attributes_survive_retargeting() -> None:
    metrics = messages.build_attribute(0x8008, messages.build_attribute(2, bytes(4)))
    found = routes.retarget_route(ROUTE + metrics, 4, 9, {bytes([192, 0, 2, 2])})
    assert found == (RETARGETED_ROUTE + metrics, True)


def test_outcome_golden() -> None:
    assert messages.Outcome.parse(REFUSAL) == Outcome(17, "no")


def test_outcome_with_the_whole_request_quoted() -> None:
    request = messages.build_message(MessageType.NEWADDR, 5, 5, ADDRESS)
    payload = bytes.fromhex("efffffff") + request + messages.build_attribute(1, b"no\0")
    found = messages.Outcome.parse(Message(MessageType.ERROR, MessageFlag.ACK_TLVS, 5, payload))
    assert found == Outcome(17, "no")


@pytest.mark.parametrize(("payload", "expected"), [
    (b"", 0), (bytes(4), 0), (bytes.fromhex("feffffff"), 2), (bytes.fromhex("14000000"), 0)])
def test_end_of_dump(payload: bytes, expected: int) -> None:
    assert messages.Outcome.parse(Message(MessageType.DONE, 2, 5, payload)).errno == expected


def test_messages_of_a_datagram_are_split() -> None:
    datagram = messages.build_message(16, 2, 7, b"abc") + messages.build_message(3, 2, 7, b"")
    assert len(datagram) == 36
    assert messages.parse_messages(datagram) == [Message(16, 2, 7, b"abc"), Message(3, 2, 7, b"")]
    assert messages.parse_messages(b"") == []


Reader = Callable[[bytes], Any]
# A message, the length of its fixed header, and what reads it.
READERS: list[tuple[bytes, int, Reader]] = [
    (LINK, 16, messages.LinkMessage.parse),
    (ADDRESS, 8, messages.AddressMessage.parse),
    (ROUTE, 12, routes.RouteMessage.parse),
    (MULTIPATH_ROUTE, 12, routes.RouteMessage.parse),
    (VIA_ROUTE, 12, routes.RouteMessage.parse),
    (ADDRESS, 8, lambda data: messages.retarget_address(data, 9, no_prefix_route=True)),
    (MULTIPATH_ROUTE, 12, lambda data: routes.retarget_route(data, 4, 9, ())),
    (REFUSAL.payload, 20, lambda data: messages.Outcome.parse(replace(REFUSAL, payload=data))),
    (OBJECT, 8, routes.NextHopObject.parse),
    (GROUP, 8, routes.NextHopObject.parse),
]


READER_NAMES = ["link", "address", "route", "multipath", "via", "address-to", "route-to", "error", "object",
                "group"]


def is_read(read: Reader, data: bytes) -> bool:
    """Tell whether *data* is read; the only exception allowed says that it cannot be."""
    try:
        read(data)
    except HostError as error:
        return not str(error).startswith("rtnetlink: ")
    return True


@pytest.mark.parametrize(("golden", "header_len", "read"), READERS, ids=READER_NAMES)
def test_every_truncation_but_between_attributes_is_an_error(
        golden: bytes, header_len: int, read: Reader) -> None:
    between = {header_len}
    offset = header_len
    while offset < len(golden):
        length = int.from_bytes(golden[offset : offset + 2], "little")
        aligned = offset + (length + 3) // 4 * 4
        between |= set(range(offset + length, aligned + 1))
        offset = aligned
    assert offset == len(golden)
    assert is_read(read, golden)
    assert [length for length in set(range(len(golden))) - between if is_read(read, golden[:length])] == []


def test_replies_of_a_dump_are_those_with_its_number() -> None:
    found: list[bytes] = []
    entry, other = messages.build_message(20, 2, 1, ADDRESS), messages.build_message(20, 2 | 0x10, 2, ADDRESS)
    assert messages.parse_replies(entry + other + entry, 1, found) == (None, False)
    assert found == [ADDRESS, ADDRESS]
    end = messages.build_message(MessageType.DONE, 2, 1, bytes(4))
    assert messages.parse_replies(entry + end, 1, found) == (Message(MessageType.DONE, 2, 1, bytes(4)), False)
    interrupted = messages.build_message(20, 2 | MessageFlag.DUMP_INTERRUPTED, 1, ADDRESS)
    assert messages.parse_replies(interrupted, 1, found) == (None, True)
    nothing = messages.build_message(MessageType.NOOP, 0, 1, b"")
    assert messages.parse_replies(nothing, 1, found) == (None, False)
    assert found == [ADDRESS] * 4


def test_every_truncation_of_a_dump_is_an_error() -> None:
    datagram = messages.build_message(20, 0, 1, ADDRESS)
    for cut in range(1, len(datagram)):
        assert not is_read(lambda data: messages.parse_replies(data, 1, []), datagram[:cut])


def test_every_truncation_of_a_datagram_is_an_error() -> None:
    datagram = messages.build_message(20, 0, 1, ADDRESS)
    assert is_read(messages.parse_messages, datagram)
    assert [cut for cut in range(len(datagram)) if is_read(messages.parse_messages, datagram[:cut])] == [0]


@pytest.mark.parametrize(("golden", "header_len", "read"), READERS, ids=READER_NAMES)
@pytest.mark.parametrize("value", [0, 1, 3, 0x7F, 0xFF])
def test_every_spoiled_length_is_an_error(golden: bytes, header_len: int, read: Reader, value: int) -> None:
    spoiled = golden[:header_len] + bytes([value, 0x80 if value else 0]) + golden[header_len + 2 :]
    assert not is_read(read, spoiled)
    for index in range(len(golden)):
        is_read(read, golden[:index] + bytes([value]) + golden[index + 1 :])


@pytest.mark.parametrize(("payload", "read"), [
    (ADDRESS[:8], messages.AddressMessage.parse),
    (b"\x11" + ADDRESS[1:], messages.AddressMessage.parse),
    (ADDRESS[:1] + b"\x21" + ADDRESS[2:], messages.AddressMessage.parse),
    (ADDRESS[:8] + bytes.fromhex("0700 0100 c00002 00"), messages.AddressMessage.parse),
    (ROUTE[:1] + b"\x21" + ROUTE[2:], routes.RouteMessage.parse),
    (ROUTE[:12] + bytes.fromhex("0700 0400 040000 00"), routes.RouteMessage.parse),
    (ROUTE[:12] + bytes.fromhex("0800 0100 0a000000 0700 0700 c00002 00"), routes.RouteMessage.parse),
    (VIA_ROUTE[:12] + bytes.fromhex("0500 1200 0a 000000 0800 0400 04000000"), routes.RouteMessage.parse),
    (VIA_ROUTE[:12] + bytes.fromhex("0a00 1200 0a00 fe800000 0000 0800 0400 04000000"),
     routes.RouteMessage.parse),
    (OBJECT[:8] + bytes.fromhex("0800 0100 07000000 0a00 0200 010000000000 0000"),
     routes.NextHopObject.parse),
    (OBJECT[:8] + bytes.fromhex("0800 0600 c0000201"), routes.NextHopObject.parse),
])
def test_wrong_field_is_an_error(payload: bytes, read: Reader) -> None:
    with pytest.raises(HostError, match=r"^rtnetlink: "):
        read(payload)


@given(st.binary(max_size=120), st.sampled_from([
        messages.parse_messages, lambda data: messages.parse_replies(data, 0, []),
        *(read for _, _, read in READERS)]))
def test_any_bytes_are_read_or_an_error(data: bytes, read: Reader) -> None:
    is_read(read, data)


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40))))
def test_attributes_built_are_read(written: list[tuple[int, bytes]]) -> None:
    data = b"".join(messages.build_attribute(kind, value) for kind, value in written)
    assert messages.parse_attribute_list(data) == written


@given(st.ip_addresses(), st.data())
def test_address_built_is_read(address: IPv4Address | IPv6Address, data: st.DataObject) -> None:
    prefix_len = data.draw(st.integers(0, address.max_prefixlen))
    flags, scope = data.draw(st.integers(0, 255)), data.draw(st.integers(0, 255))
    ifindex = data.draw(st.integers(1, 2**31 - 1))
    payload = messages.build_address(ifindex, address.packed, prefix_len, flags, scope)
    family = AF_INET if address.version == 4 else AF_INET6
    assert messages.AddressMessage.parse(payload) == messages.AddressMessage(
        family, prefix_len, flags, scope, ifindex, address.packed, address.packed, 0)


@given(st.ip_addresses(), st.none() | st.ip_addresses(), st.booleans(), st.integers(1, 2**31 - 1))
def test_route_built_is_read(destination: IPv4Address | IPv6Address,
                             gateway: IPv4Address | IPv6Address | None,
                             is_default: bool, ifindex: int) -> None:
    family = AF_INET if destination.version == 4 else AF_INET6
    packed = None if gateway is None else gateway.packed
    found = routes.RouteMessage.parse(routes.build_route(ifindex, family=family, gateway=packed, scope=253,
                                            destination=b"" if is_default else destination.packed))
    assert found.hops == (NextHop(ifindex, 1, packed),)
    assert (found.family, found.scope, found.table, found.protocol) == (family, 253, 254, 3)
    assert found.prefix_len == (0 if is_default else destination.max_prefixlen)
    assert found.destination == (bytes(len(destination.packed)) if is_default else destination.packed)


def read_by_pyroute2(kind: type, payload: bytes) -> dict[str, Any]:
    """Decode a payload; the attributes' names become keys."""
    message = kind(messages.build_message(0, 0, 1, payload))
    message.decode()
    found = {name: message[name] for name in message if name not in {"header", "attrs", "event"}}
    return found | {name: value for name, value, *_ in (tuple(item) for item in message["attrs"])}


def written_by_pyroute2(kind: type, fields: dict[str, Any], attributes: list[tuple[str, Any]]) -> bytes:
    message = kind()
    message |= fields
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[16:])


def test_pyroute2_reads_our_link() -> None:
    found = read_by_pyroute2(ifinfmsg, messages.build_link_change(
        9, flags=1, change=1, mtu=65520, mac=bytes.fromhex("02a0a1a2a3a4"), txqueuelen=4096, ip6_mode=1))
    assert (found["index"], found["flags"], found["change"]) == (9, 1, 1)
    assert found["IFLA_ADDRESS"] == "02:a0:a1:a2:a3:a4"
    assert (found["IFLA_MTU"], found["IFLA_TXQLEN"]) == (65520, 4096)
    assert found["IFLA_AF_SPEC"].get_attr("AF_INET6").get_attr("IFLA_INET6_ADDR_GEN_MODE") == 1


def test_setting_of_ip4_lies_where_the_kernel_looks_for_it() -> None:
    payload = messages.build_link_change(9, promotes_secondaries=True)
    # IFLA_AF_SPEC, AF_INET, IFLA_INET_CONF, IPV4_DEVCONF_PROMOTE_SECONDARIES: lengths and types, then 1.
    assert payload[16:].hex(" ", 4) == "14001a80 10000280 0c000180 08001400 01000000"


@pytest.mark.parametrize("text", ["192.0.2.2", "2001:db8::2"])
def test_pyroute2_reads_our_address(text: str) -> None:
    found = read_by_pyroute2(ifaddrmsg, messages.build_address(9, ip_address(text).packed, 24, 2, 253))
    assert (found["index"], found["prefixlen"], found["flags"], found["scope"]) == (9, 24, 2, 253)
    assert found["IFA_ADDRESS"] == found["IFA_LOCAL"] == text


@pytest.mark.parametrize(("family", "text"), [(AF_INET, "192.0.2.1"), (AF_INET6, "fe80::1")])
def test_pyroute2_reads_our_route(family: int, text: str) -> None:
    found = read_by_pyroute2(rtmsg, routes.build_route(9, family=family, gateway=ip_address(text).packed))
    assert (found["family"], found["dst_len"], found["table"], found["type"]) == (family, 0, 254, 1)
    assert (found["RTA_OIF"], found["RTA_GATEWAY"]) == (9, text)


def test_pyroute2_reads_our_routes_with_expanded_objects() -> None:
    found = read_by_pyroute2(rtmsg, routes.expand_objects(NAMED_ROUTE, OBJECTS))
    assert [(hop["oif"], hop["hops"]) for hop in found["RTA_MULTIPATH"]] == [(4, 0), (5, 2)]
    assert found["RTA_MULTIPATH"][1].get_attr("RTA_GATEWAY") == "192.0.2.9"


def test_we_read_pyroute2s_address() -> None:
    payload = written_by_pyroute2(
        ifaddrmsg, {"family": AF_INET6, "prefixlen": 64, "flags": 0, "scope": 0, "index": 3},
        [("IFA_LOCAL", "2001:db8::1"), ("IFA_ADDRESS", "2001:db8::9"), ("IFA_FLAGS", 0x220),
         ("IFA_RT_PRIORITY", 77)])
    assert messages.AddressMessage.parse(payload) == messages.AddressMessage(
        AF_INET6, 64, 0x220, 0, 3, IPv6Address("2001:db8::1").packed, IPv6Address("2001:db8::9").packed, 77)


def test_we_read_pyroute2s_multipath_route() -> None:
    hops = [{"oif": 4, "hops": 0, "flags": 0, "attrs": [("RTA_GATEWAY", "192.0.2.1")]},
            {"oif": 5, "hops": 8, "flags": 4, "attrs": [("RTA_GATEWAY", "192.0.2.9")]}]
    payload = written_by_pyroute2(
        rtmsg, {"family": AF_INET, "dst_len": 24, "table": 254, "proto": 3, "scope": 0, "type": 1},
        [("RTA_DST", "203.0.113.0"), ("RTA_PRIORITY", 5), ("RTA_MULTIPATH", hops)])
    found = routes.RouteMessage.parse(payload)
    assert (str(IPv4Address(found.destination)), found.prefix_len, found.priority) == ("203.0.113.0", 24, 5)
    assert found.hops == (NextHop(4, 1, bytes([192, 0, 2, 1])), NextHop(5, 9, bytes([192, 0, 2, 9])))

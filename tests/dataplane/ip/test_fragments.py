"""Fragments: put together in any order, given up when they overlap or do not come, and made for the guest."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.inet6 import ICMPv6TimeExceeded, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.dataplane.probes.world import World
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import GUEST_MAC, OUR_MAC, ethernet

GUEST = {4: "192.0.2.2", 6: "2001:db8::2"}
REMOTE = {4: "198.51.100.7", 6: "2001:db8:1::7"}
SECOND = 10**9
LIFETIME_S = {4: 30, 6: 60}
MAX_ASSEMBLIES = 64
EPOLLIN = 1
IP_PMTUDISC_DONT = 0

both_families = pytest.mark.parametrize("family", [4, 6])


class Bench(World):
    """A world with a scripted host; what leaves for it is in `sent_data`."""

    def __init__(self, *, mtu: int = 65520) -> None:
        self.responder = Responder()
        super().__init__(
            Policy(), self.responder, Events(), our_mac=OUR_MAC, guest_mac=GUEST_MAC, mtu=mtu, scripted=True
        )
        self.now = 1000 * SECOND

    def give(self, *packets: bytes) -> None:
        for packet in packets:
            self.inject(ethernet(packet))

    def sent_data(self) -> list[bytes]:
        found = [entry[2] for entry in self.sockets.log if entry[0] == "send_message"]
        self.sockets.log.clear()
        assert all(isinstance(data, bytes) for data in found)
        return [data for data in found if isinstance(data, bytes)]

    def frames(self) -> list[bytes]:
        return [sent.frame for sent in self.take_sent()]

    def drops(self) -> dict[str, int]:
        return {name: n for name, n in self.counters().items() if name.startswith("drop_") and n}


def payload_of(length: int) -> bytes:
    return bytes((n * 7 + n // 256) & 0xFF for n in range(length))


def pieces(family: int, payload: bytes, size: int = 800, ident: int = 77) -> list[bytes]:
    """Give a datagram of the guest's as scapy cuts it."""
    udp = UDP(sport=1000, dport=53) / Raw(payload)
    if family == 4:
        whole = IP(src=GUEST[4], dst=REMOTE[4], id=ident) / udp
        return [bytes(part) for part in fragment(whole, fragsize=size)]  # type: ignore[no-untyped-call]
    packet = IPv6(src=GUEST[6], dst=REMOTE[6]) / IPv6ExtHdrFragment(id=ident) / udp
    return [bytes(part) for part in fragment6(packet, size + 48)]  # type: ignore[no-untyped-call]


def raw(
    family: int, start: int, data: bytes, *, more: bool, ident: int = 77, tos: int = 0, ttl: int = 64,
    to: str | None = None, whole_only: bool = False,
) -> bytes:
    """Give one fragment made by hand."""
    to = to or REMOTE[family]
    if family == 4:
        flags = (0x4000 if whole_only else 0) | (0x2000 if more else 0) | start // 8
        packet = IP(src=GUEST[4], dst=to, id=ident, proto=17, tos=tos, ttl=ttl) / Raw(data)
        whole = bytearray(bytes(packet))
        whole[6:8] = flags.to_bytes(2, "big")
        return bytes(whole)
    header = struct.pack("!BBHI", 17, 0, start | more, ident)
    return bytes(IPv6(src=GUEST[6], dst=to, nh=44, tc=tos, hlim=ttl) / Raw(header + data))


def message(family: int, payload: bytes) -> bytes:
    """Give the UDP header and payload with the checksum of the guest's datagram."""
    layer = IP(src=GUEST[4], dst=REMOTE[4]) if family == 4 else IPv6(src=GUEST[6], dst=REMOTE[6])
    return bytes(layer / UDP(sport=1000, dport=53) / Raw(payload))[20 if family == 4 else 40 :]


# From the guest


@both_families
def test_fragments_in_every_order(family: int) -> None:
    payload = payload_of(2600)
    parts = pieces(family, payload)
    assert len(parts) == 4
    for order in itertools.permutations(parts):
        bench = Bench()
        bench.give(*order[:-1])
        assert bench.sent_data() == []
        bench.give(order[-1])
        assert bench.sent_data() == [payload]
        assert bench.drops() == {}
        assert bench.counters()["reassembled"] == 1


@pytest.mark.parametrize("last", [False, True])
def test_what_came_in_pieces_may_leave_in_pieces(last: bool) -> None:
    """A sender that marks its fragments DF (RFC 6864 4.1 has such) has cut the datagram all the same."""
    bench = Bench()
    whole = message(4, payload_of(1600))
    bench.give(
        raw(4, 0, whole[:800], more=True, whole_only=not last),
        raw(4, 800, whole[800:], more=False, whole_only=last),
    )
    assert bench.sent_data() == [payload_of(1600)]
    discovery = [value for _, level, name, value in bench.sockets.options if (level, name) == (0, 10)]
    assert discovery in ([], [IP_PMTUDISC_DONT])


@both_families
def test_largest_datagram(family: int) -> None:
    payload = payload_of(65507)
    bench = Bench()
    bench.give(*pieces(family, payload, 1480))
    assert bench.sent_data() == [payload]
    assert bench.drops() == {}


@both_families
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_cuts_and_order_with_repeats(family: int, data: st.DataObject) -> None:
    payload = payload_of(data.draw(st.integers(9, 3000)))
    whole = message(family, payload)
    cuts = sorted(data.draw(st.sets(st.integers(1, (len(whole) - 1) // 8), min_size=1, max_size=8)))
    edges = [0, *(cut * 8 for cut in cuts), len(whole)]
    parts = [
        raw(family, start, whole[start:end], more=end < len(whole))
        for start, end in itertools.pairwise(edges)
    ]
    last = data.draw(st.integers(0, len(parts) - 1))
    again = data.draw(
        st.lists(st.sampled_from([part for n, part in enumerate(parts) if n != last]), max_size=4)
    )
    order = data.draw(st.permutations([*(part for n, part in enumerate(parts) if n != last), *again]))
    bench = Bench()
    bench.give(*order)
    assert bench.sent_data() == []
    bench.give(parts[last])
    assert bench.sent_data() == [payload]
    assert bench.drops() == {}


@both_families
def test_packets_of_several_identifications_at_once(family: int) -> None:
    bench = Bench()
    sets = [pieces(family, payload_of(2000 + n), ident=n) for n in range(MAX_ASSEMBLIES)]
    for row in zip(*sets, strict=True):
        bench.give(*row)
    assert sorted(map(len, bench.sent_data())) == list(range(2000, 2000 + MAX_ASSEMBLIES))
    assert bench.drops() == {}


@both_families
def test_overlap_spoils_the_packet_until_its_time_is_over(family: int) -> None:
    payload = payload_of(1000)
    whole = message(family, payload)
    good = [raw(family, 0, whole[:504], more=True), raw(family, 504, whole[504:], more=False)]
    overlapping = {
        "in": raw(family, 8, whole[8:16][::-1], more=True),
        "over the edge": raw(family, 496, whole[496:520], more=True),
        "around": raw(family, 0, whole[:512], more=True),
        "beyond the end": raw(family, 504, whole[504:] + b"x", more=False),
    }
    for name, part in overlapping.items():
        bench = Bench()
        if name == "beyond the end":
            bench.give(good[1], part, good[0])
        else:
            bench.give(good[0], part, good[1])
        assert bench.sent_data() == [], name
        assert bench.drops() == {"drop_fragment_overlap": 2}, name
        bench.give(*good)  # still the same identification
        assert bench.sent_data() == []
        bench.now += LIFETIME_S[family] * SECOND
        bench.turn()
        assert bench.frames() == []  # nobody is told of what was an attack
        bench.give(*good)
        assert bench.sent_data() == [payload]


@both_families
def test_last_fragment_that_ends_before_another_is_an_overlap(family: int) -> None:
    bench = Bench()
    bench.give(raw(family, 800, bytes(8), more=True), raw(family, 8, bytes(16), more=False))
    assert bench.drops() == {"drop_fragment_overlap": 1}
    bench = Bench()
    bench.give(raw(family, 8, bytes(8), more=False), raw(family, 16, bytes(8), more=False))
    assert bench.drops() == {"drop_fragment_overlap": 1}
    bench = Bench()
    bench.give(raw(family, 8, bytes(16), more=False), raw(family, 8, bytes(8), more=False))
    assert bench.drops() == {"drop_fragment_overlap": 1}


@both_families
def test_fragments_that_make_no_sense(family: int) -> None:
    bench = Bench()
    bench.give(raw(family, 0, bytes(12), more=True))  # RFC 8200 4.5: a multiple of 8
    bench.give(raw(family, 8, b"", more=True), raw(family, 8, b"", more=False))
    bench.give(raw(family, 65528, bytes(100), more=False))  # beyond what a packet can be
    assert bench.drops() == {"drop_fragment": 4}
    assert bench.counters()["reassembled"] == 0


@both_families
def test_missing_fragment_is_given_up_in_time(family: int) -> None:
    bench = Bench()
    parts = pieces(family, payload_of(2600))
    bench.give(parts[0], parts[2], parts[3])
    bench.now += (LIFETIME_S[family] - 1) * SECOND
    bench.turn()
    assert (bench.frames(), bench.drops()) == ([], {})
    bench.now += SECOND
    bench.turn()
    assert bench.drops() == {"drop_fragment_time": 1}
    (frame,) = bench.frames()
    packet = Ether(frame)
    if family == 4:
        assert (packet[IP].src, packet[IP].dst) == (REMOTE[4], GUEST[4])
        assert (packet[ICMP].type, packet[ICMP].code) == (11, 1)
    else:
        assert (packet[IPv6].src, packet[IPv6].dst) == (REMOTE[6], GUEST[6])
        assert packet[ICMPv6TimeExceeded].code == 1
    bench.give(parts[1])
    assert bench.sent_data() == []
    bench.now += LIFETIME_S[family] * SECOND
    bench.turn()
    assert bench.drops() == {"drop_fragment_time": 2}
    assert bench.frames() == []  # RFC 792: only if the first one was there


@both_families
@pytest.mark.parametrize("to", [{4: "239.1.2.3", 6: "ff05::1"}, {4: "255.255.255.255", 6: "ff02::1"}])
def test_nobody_is_told_of_what_went_to_a_group(family: int, to: dict[int, str]) -> None:
    bench = Bench()
    bench.give(raw(family, 0, bytes(64), more=True, to=to[family]))
    bench.now += LIFETIME_S[family] * SECOND
    bench.turn()
    assert bench.drops() == {"drop_fragment_time": 1}
    assert bench.frames() == []  # RFC 1122 3.2.2, RFC 4443 2.4


@both_families
@pytest.mark.parametrize("marked", [0, 1])
def test_congestion_of_one_fragment_is_that_of_the_packet(family: int, marked: int) -> None:
    # RFC 3168 5.3
    whole = message(family, payload_of(100))
    tos = [0xBA, 0xBA]
    tos[marked] |= 1
    bench = Bench()
    bench.give(
        raw(family, 0, whole[:56], more=True, tos=tos[0]), raw(family, 56, whole[56:], more=False, tos=tos[1])
    )
    level, name = (0, 1) if family == 4 else (41, 67)
    (control,) = [entry[4] for entry in bench.sockets.log if entry[0] == "send_message"]
    assert control == struct.pack("Qiii4x", 20, level, name, 0xBB)


def test_each_packet_has_its_own_time() -> None:
    bench = Bench()
    bench.give(pieces(4, payload_of(2000), ident=1)[0])
    bench.now += 20 * SECOND
    bench.give(pieces(4, payload_of(2000), ident=2)[0])
    bench.now += 10 * SECOND
    bench.turn()
    assert bench.drops() == {"drop_fragment_time": 1}
    bench.give(*pieces(4, payload_of(2000), ident=2)[1:])
    assert bench.sent_data() == [payload_of(2000)]
    bench.now += 20 * SECOND
    bench.turn()
    assert bench.drops() == {"drop_fragment_time": 1}


@both_families
def test_oldest_goes_when_there_are_too_many(family: int) -> None:
    bench = Bench()
    for ident in range(MAX_ASSEMBLIES + 3):
        bench.now += 1000
        bench.give(pieces(family, payload_of(1000), ident=ident)[0])
    assert bench.drops() == {"drop_fragment_memory": 3}
    bench.give(pieces(family, payload_of(1000), ident=3)[1])
    assert bench.sent_data() == [payload_of(1000)]
    bench.give(pieces(family, payload_of(1000), ident=2)[1])
    assert bench.sent_data() == []


@both_families
def test_fragments_of_two_packets_do_not_pass_for_one(family: int) -> None:
    bench = Bench()
    one, two = pieces(family, payload_of(1400)), pieces(family, payload_of(1400)[::-1])
    bench.give(one[0], two[1])
    assert bench.sent_data() == []
    assert bench.drops() == {"drop_bad_checksum": 1}


def test_datagram_without_checksum_is_taken() -> None:
    whole = bytearray(message(4, payload_of(100)))
    whole[6:8] = b"\0\0"
    bench = Bench()
    bench.give(raw(4, 0, bytes(whole[:56]), more=True), raw(4, 56, bytes(whole[56:]), more=False))
    assert bench.sent_data() == [payload_of(100)]


def test_protocol_is_part_of_what_tells_ip4_packets_apart() -> None:
    bench = Bench()
    parts = pieces(4, payload_of(1000))
    other = bytearray(parts[1])
    other[9] = 6
    bench.give(parts[0], bytes(other))
    assert bench.sent_data() == []
    bench.give(parts[1])
    assert bench.sent_data() == [payload_of(1000)]


def test_atomic_fragment_is_a_packet() -> None:
    bench = Bench()
    whole = message(6, b"payload")
    bench.give(raw(6, 0, whole, more=False))
    assert bench.sent_data() == [b"payload"]
    assert bench.counters()["reassembled"] == 0


def test_extension_headers_on_both_sides_of_the_fragment_header() -> None:
    packet = (
        IPv6(src=GUEST[6], dst=REMOTE[6])
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrFragment(id=5)
        / IPv6ExtHdrDestOpt()
        / UDP(sport=1000, dport=53)
        / Raw(payload_of(2000))
    )
    # scapy wants to know the sum before the headers are apart.
    plain = IPv6(bytes(IPv6(src=GUEST[6], dst=REMOTE[6]) / UDP(sport=1000, dport=53) / Raw(payload_of(2000))))
    packet[UDP].chksum = plain[UDP].chksum
    bench = Bench()
    parts = fragment6(packet, 1000)  # type: ignore[no-untyped-call]
    bench.give(*map(bytes, parts))
    assert bench.drops() == {}
    assert bench.sent_data() == [payload_of(2000)]


@both_families
def test_control_messages_do_not_come_in_fragments(family: int) -> None:
    # RFC 6980 for neighbour discovery; DHCP fits any link.
    bench = Bench()
    to = "255.255.255.255" if family == 4 else "ff02::1:2"
    whole = UDP(sport=68, dport=67 if family == 4 else 547) / Raw(bytes(100))
    layer: Packet = IP(src=GUEST[4], dst=to) if family == 4 else IPv6(src=GUEST[6], dst=to)
    data = bytes(layer / whole)[20 if family == 4 else 40 :]
    bench.give(raw(family, 0, data[:56], more=True, to=to), raw(family, 56, data[56:], more=False, to=to))
    assert bench.responder.frames == []
    assert bench.flows() == []
    assert bench.drops() == {"drop_fragment": 1}


# To the guest


def answer_with(bench: Bench, family: int, payload: bytes) -> list[bytes]:
    """Have the remote answer the guest; gives the frames."""
    layer = IP(src=GUEST[4], dst=REMOTE[4]) if family == 4 else IPv6(src=GUEST[6], dst=REMOTE[6])
    echo = bytes(layer / Raw(b""))
    del echo
    kind = 8 if family == 4 else 128
    request = struct.pack("!BBHHH", kind, 0, 0, 7, 1)
    proto = 1 if family == 4 else 58
    packet = (
        IP(src=GUEST[4], dst=REMOTE[4], proto=proto)
        if family == 4
        else IPv6(src=GUEST[6], dst=REMOTE[6], nh=proto)
    )
    bench.inject(ethernet(bytes(packet / Raw(request))))
    (flow,) = bench.flows()
    reply = struct.pack("!BBHHH", 0 if family == 4 else 129, 0, 0, 99, 1) + payload
    bench.deliver(flow.fd, (reply, b"", b"", 0))
    bench.event(flow.number, EPOLLIN)
    return bench.frames()


@both_families
@pytest.mark.parametrize("mtu", [576, 1280, 1500, 9000])
@pytest.mark.parametrize("over", [-1, 0, 1, 2, 3000, 50000])
def test_packet_larger_than_the_mtu_leaves_in_fragments(family: int, mtu: int, over: int) -> None:
    bench = Bench(mtu=mtu)
    payload = payload_of(mtu - (28 if family == 4 else 48) + over)
    frames = answer_with(bench, family, payload)
    assert (len(frames) > 1) == (over > 0)
    data: dict[int, bytes] = {}
    for n, frame in enumerate(frames):
        packet = Ether(frame)
        last = n == len(frames) - 1
        if family == 4:
            ip = packet[IP]
            assert ip.len <= mtu
            assert bytes(ip)[10:12] == bytes(IP(bytes(ip.copy())))[10:12]
            fresh = ip.copy()
            del fresh.chksum
            assert IP(bytes(fresh)).chksum == ip.chksum
            assert bool(ip.flags.MF) == (not last)
            assert not ip.flags.DF
            assert ip.id == Ether(frames[0])[IP].id != 0
            data[ip.frag * 8] = bytes(ip)[20 : ip.len]
        else:
            ip = packet[IPv6]
            assert ip.plen + 40 <= mtu
            body = bytes(ip)[40 : 40 + ip.plen]
            if len(frames) == 1:
                data[0] = body
            else:
                header = IPv6ExtHdrFragment(body)
                assert (ip.nh, header.nh, header.m) == (44, 58, int(not last))
                data[header.offset * 8] = body[8:]
    whole = b"".join(data[start] for start in sorted(data))
    assert list(itertools.accumulate((len(data[start]) for start in sorted(data)), initial=0))[:-1] == sorted(
        data
    )
    assert whole[8:] == payload
    assert struct.unpack_from("!H", whole, 4) == (7,)
    assert bench.drops() == {}
    assert bench.counters()["fragments_to_guest"] == (len(frames) if len(frames) > 1 else 0)


@both_families
def test_identifications_differ(family: int) -> None:
    bench = Bench(mtu=1500)
    found = []
    for _ in range(3):
        packet = Ether(answer_with(bench, family, bytes(2000))[0])
        found.append(packet[IP].id if family == 4 else packet[IPv6ExtHdrFragment].id)
    assert found == list(range(found[0], found[0] + 3))


def test_link_that_refuses_a_fragment_gets_no_more() -> None:
    bench = Bench(mtu=1500)
    bench.room = 1
    frames = answer_with(bench, 4, bytes(5000))
    assert len(frames) == 1
    assert bench.drops() == {"drop_link_full": 1}


def test_who_looks_on_sees_the_fragments() -> None:
    bench = Bench(mtu=1500)
    seen: list[tuple[bytes, int]] = []
    bench.set_trace(None, lambda head, n, to_guest, *_: seen.append((head, n)) if to_guest else None)
    assert [(frame[:256], len(frame)) for frame in answer_with(bench, 6, bytes(5000))] == seen


@pytest.mark.parametrize("family", [4, 6])
def test_no_mtu_means_the_usual_one(family: int) -> None:
    bench = Bench(mtu=0)
    most = 65520 - (28 if family == 4 else 48)
    assert len(answer_with(bench, family, bytes(most))) == 1
    assert len(answer_with(bench, family, bytes(most + 1))) == 2

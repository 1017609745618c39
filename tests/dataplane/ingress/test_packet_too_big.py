"""Routers of the guest's side that cannot pass a packet on: fragments and segments become smaller."""

from __future__ import annotations

import struct

import pytest

from passt.facts.contracts import InboundTarget
from tests.dataplane.ip.test_fragments import EPOLLIN, GUEST, REMOTE, SECOND, Bench, both_families
from tests.dataplane.probes.world import socket_address
from tests.dataplane.tcp.script import CASES, GUESTS, REMOTES, Case, Script
from tests.dataplane.udp.bench import Bench as UdpBench
from tests.dataplane.udp.bench import from_client, query
from tests.support.frames import echo, ethernet, identification, ip, packed, rfc1071, with_checksum

ROUTER = {4: "192.0.2.254", 6: "2001:db8::fe"}
EXPIRES_S = 600
PORT = 7
HEADERS = {4: 28, 6: 48}
LINK_CSUM, LINK_USO = 1, 8 | 16

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def too_big(family: int, quoted: bytes, mtu: int, *, source: str | None = None, to: str | None = None,
            kind: int | None = None, code: int | None = None) -> bytes:
    """Give the frame with the message about the packet *quoted*, by hand."""
    source, to = source or ROUTER[family], to or REMOTE[family]
    if kind is None:
        kind = 3 if family == 4 else 2
    if code is None:
        code = 4 if family == 4 else 0
    if family == 4:
        message = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + quoted
        message = message[:2] + rfc1071(message).to_bytes(2, "big") + message[4:]
        return ethernet(ip(source, to, 1, message))
    message = struct.pack("!BBHI", kind, code, 0, mtu) + quoted
    return ethernet(ip(source, to, 58, with_checksum(source, to, 58, message, 2)))


def quote(family: int, frame: bytes) -> bytes:
    """Give of a frame to the guest what a router quotes: as much as an error may hold."""
    return frame[14:][: 548 if family == 4 else 1232]


class Asked(UdpBench):
    """A world in which the guest has asked the remote by UDP; the last frame to it is `last`."""

    def __init__(self, family: int, *, mtu: int = 65520, features: int = 0) -> None:
        super().__init__(mtu=mtu, features=features)
        self.family = family
        self.ask()

    def ask(self, sport: int = 1000) -> None:
        self.inject(query(self.family, sport=sport))

    def answer(self, *payloads: bytes) -> list[bytes]:
        """Have the remote answer; gives the frames."""
        (flow,) = self.flows()
        sender = socket_address(packed(REMOTE[self.family]), PORT)
        self.deliver(flow.fd, *[(payload, sender, b"", 0) for payload in payloads])
        self.event(flow.number, EPOLLIN)
        return [sent.frame for sent in self.take_sent()]

    def lengths(self, *payloads: bytes) -> list[int]:
        """Give the lengths of the IP packets with the answers."""
        return [packet_length(frame) for frame in self.answer(*payloads)]


def packet_length(frame: bytes) -> int:
    if frame[14] >> 4 == 4:
        return int.from_bytes(frame[16:18], "big")
    return 40 + int.from_bytes(frame[18:20], "big")


def is_fragment(frame: bytes) -> bool:
    return bool(int.from_bytes(frame[20:22], "big") & 0x3FFF) if frame[14] >> 4 == 4 else frame[20] == 44


# Datagrams


@both_families
def test_larger_datagrams_leave_in_fragments_of_the_size_that_was_told(family: int) -> None:
    bench = Asked(family)
    (frame,) = bench.answer(bytes(4000))
    assert not is_fragment(frame)
    bench.inject(too_big(family, quote(family, frame), 1400))
    assert bench.drops() == {}
    assert bench.counters()["paths_narrowed"] == 1
    frames = bench.answer(bytes(4000))
    assert all(is_fragment(one) and packet_length(one) <= 1400 for one in frames)
    assert len(frames) == 3
    # What fits goes as ever.
    assert bench.lengths(bytes(1400 - HEADERS[family])) == [1400]
    assert len(bench.answer(bytes(1400 - HEADERS[family] + 1))) == 2


@both_families
def test_joined_datagrams_keep_to_it(family: int) -> None:
    bench = Asked(family, features=LINK_CSUM | LINK_USO)
    size = 1472 if family == 4 else 1452
    (frame,) = bench.answer(bytes(size), bytes(size))  # one frame, to be cut by the guest's kernel
    bench.inject(too_big(family, quote(family, frame), 1400))
    frames = bench.answer(bytes(size), bytes(size))
    assert [is_fragment(one) for one in frames] == [True] * 4
    fits = 1400 - HEADERS[family]
    assert len(bench.answer(bytes(fits), bytes(fits))) == 1


@both_families
def test_fragment_that_is_too_big_makes_them_smaller(family: int) -> None:
    bench = Asked(family, mtu=1500)
    first, second, third = bench.answer(bytes(4000))
    for later in (second, third):  # the ports are not in there
        bench.inject(too_big(family, quote(family, later), 1300))
    assert bench.drops() == {"drop_too_big": 2}
    bench.inject(too_big(family, quote(family, first), 1300))
    assert bench.counters()["paths_narrowed"] == 1
    assert max(bench.lengths(bytes(4000))) <= 1300


@both_families
def test_identification_of_what_is_cut(family: int) -> None:
    bench = Asked(family)
    bench.inject(too_big(family, quote(family, bench.answer(bytes(4000))[0]), 1400))
    one, two = bench.answer(bytes(4000)), bench.answer(bytes(4000))
    if family == 4:
        found = [{identification(frame) for frame in frames} for frames in (one, two)]
    else:
        found = [{int.from_bytes(frame[58:62], "big") for frame in frames} for frames in (one, two)]
    assert [len(item) for item in found] == [1, 1]
    assert max(found[1]) == max(found[0]) + 1


@both_families
def test_inbound_flow(family: int) -> None:
    bench = UdpBench()
    bench.policy.seen = InboundTarget(packed(REMOTE[family]), 7000, packed(GUEST[family]), 53)
    bench.add_listener(500, 17, "rule", 5353)
    bench.deliver(500, from_client(4000, bytes(4000)))
    bench.listener_event(0)
    (sent,) = bench.take_sent()
    bench.inject(too_big(family, quote(family, sent.frame), 1400))
    bench.deliver(500, from_client(4000, bytes(4000)))
    bench.listener_event(0)
    assert len(bench.take_sent()) == 3
    assert bench.drops() == {}


@both_families
def test_echo_replies(family: int) -> None:
    bench = Bench()
    bench.inject(echo(GUEST[family], REMOTE[family], 7, 1, b"x"))
    (flow,) = bench.flows()
    reply = struct.pack("!BBHHH", 0 if family == 4 else 129, 0, 0, 99, 1) + bytes(4000)

    def answer() -> list[bytes]:
        bench.deliver(flow.fd, (reply, b"", b"", 0))
        bench.event(flow.number, EPOLLIN)
        return bench.frames()

    (frame,) = answer()
    request = bytearray(quote(family, frame))
    request[20 if family == 4 else 40] = 8 if family == 4 else 128
    bench.inject(too_big(family, bytes(request), 1400))
    assert bench.drops() == {"drop_too_big": 1}
    bench.inject(too_big(family, quote(family, frame), 1400))
    assert len(answer()) == 3


# What is believed


@both_families
@pytest.mark.parametrize("mtu", [0, 1, 67, 1279, 4028, 4029, 4047, 4048, 4049, 65535])
def test_mtu_that_cannot_be(family: int, mtu: int) -> None:
    bench = Asked(family)
    (frame,) = bench.answer(bytes(4000))
    bench.inject(too_big(family, quote(family, frame), mtu))
    length = 4000 + HEADERS[family]
    if family == 4 and not mtu:
        assert max(bench.lengths(bytes(4000))) <= 2002  # the next plateau of RFC 1191 7.1
    elif mtu >= length or mtu < (68 if family == 4 else 1280):
        assert bench.drops() == {"drop_too_big": 1}
        assert bench.lengths(bytes(4000)) == [length]
        assert bench.counters()["paths_narrowed"] == 0
    else:
        assert len(bench.lengths(bytes(4000))) > 1


def test_router_that_tells_no_mtu() -> None:
    bench = Asked(4)
    limits = []
    for _ in range(20):
        frames = bench.answer(bytes(60000))
        limits.append(max(packet_length(frame) for frame in frames))
        bench.inject(too_big(4, quote(4, frames[0]), 0))
    assert limits[:7] == [60028, 31996, 17908, 8164, 4348, 1996, 1492]
    assert min(limits) == 572  # fragments of any smaller size are the routers' business


@pytest.mark.parametrize("mtu", [68, 296, 575, 576])
def test_fragments_do_not_get_ever_smaller(mtu: int) -> None:
    bench = Asked(4)
    bench.inject(too_big(4, quote(4, bench.answer(bytes(4000))[0]), mtu))
    assert max(bench.lengths(bytes(4000))) == 572


@both_families
def test_it_never_makes_them_larger(family: int) -> None:
    bench = Asked(family, mtu=1500)
    first = bench.answer(bytes(4000))[0]
    bench.inject(too_big(family, quote(family, first), 1300))
    bench.inject(too_big(family, quote(family, first), 1480))
    assert max(bench.lengths(bytes(4000))) <= 1300
    assert bench.counters()["paths_narrowed"] == 1


@both_families
def test_every_truncation(family: int) -> None:
    bench = Asked(family)
    (frame,) = bench.answer(bytes(4000))
    need = (20 if family == 4 else 40) + 8
    for n in range(need):
        bench.inject(too_big(family, quote(family, frame)[:n], 1400))
        assert bench.drops() == {"drop_short": n + 1}
    bench.inject(too_big(family, quote(family, frame)[:need], 1400))
    assert bench.drops() == {"drop_short": need}
    assert bench.counters()["paths_narrowed"] == 1


@both_families
def test_every_truncation_of_a_quoted_fragment(family: int) -> None:
    bench = Asked(family, mtu=1500)
    frame = bench.answer(bytes(4000))[0]
    need = (20 if family == 4 else 48) + 8
    for n in range(need):
        bench.inject(too_big(family, quote(family, frame)[:n], 1400))
    assert bench.drops() == {"drop_short": need}
    bench.inject(too_big(family, quote(family, frame)[:need], 1400))
    assert bench.counters()["paths_narrowed"] == 1


@both_families
def test_every_truncation_of_the_frame(family: int) -> None:
    bench = Asked(family)
    (frame,) = bench.answer(bytes(4000))
    whole = too_big(family, quote(family, frame), 1400)
    for n in range(14, len(whole)):
        bench.inject(whole[:n])
    assert bench.counters()["paths_narrowed"] == 0
    assert sum(bench.drops().values()) == len(whole) - 14


def spoilt(family: int, quoted: bytes) -> dict[str, bytes]:
    """Give the quotation with one field at a time that is not as we sent it."""
    fields = (
        {"version": 0, "source": 12, "destination": 16, "protocol": 9, "offset": 7, "sport": 21, "dport": 23}
        if family == 4
        else {"version": 0, "next header": 6, "source": 8, "destination": 24, "sport": 41, "dport": 43}
    )
    found = {}
    for name, at in fields.items():
        changed = bytearray(quoted)
        changed[at] ^= 0x11
        found[name] = bytes(changed)
    return found


@both_families
def test_spoilt_fields_of_the_quotation(family: int) -> None:
    bench = Asked(family)
    (frame,) = bench.answer(bytes(4000))
    for n, (name, quoted) in enumerate(spoilt(family, quote(family, frame)).items(), 1):
        bench.inject(too_big(family, quoted, 1400))
        drops = bench.drops()
        assert set(drops) <= {"drop_too_big", "drop_unknown_flow"}, name
        assert sum(drops.values()) == n, name
    assert bench.counters()["paths_narrowed"] == 0


@both_families
def test_spoilt_fields_of_the_message(family: int) -> None:
    bench = Asked(family)
    quoted = quote(family, bench.answer(bytes(4000))[0])
    other = "198.51.100.8" if family == 4 else "2001:db8:1::8"
    bench.inject(too_big(family, quoted, 1400, to=other))  # who is told is not who sent it
    assert bench.drops() == {"drop_too_big": 1}
    damaged = bytearray(too_big(family, quoted, 1400))
    damaged[-1] ^= 1
    bench.inject(bytes(damaged))
    assert bench.drops() == {"drop_too_big": 1, "drop_bad_checksum": 1}
    for kind, code in [(3, 3), (3, 5), (11, 0), (4, 4)] if family == 4 else [(1, 0), (3, 0), (4, 0)]:
        bench.inject(too_big(family, quoted, 1400, kind=kind, code=code))
    assert bench.drops()["drop_protocol"] == (4 if family == 4 else 3)
    assert bench.counters()["paths_narrowed"] == 0


@both_families
def test_flow_that_has_ended(family: int) -> None:
    bench = Asked(family)
    quoted = quote(family, bench.answer(bytes(4000))[0])
    bench.end_all()
    bench.inject(too_big(family, quoted, 1400))
    assert bench.drops() == {"drop_unknown_flow": 1}


# What is remembered


@both_families
def test_later_flows_to_that_address_begin_with_it(family: int) -> None:
    bench = Asked(family)
    bench.inject(too_big(family, quote(family, bench.answer(bytes(4000))[0]), 1400))
    bench.end_all()
    bench.ask(1001)
    assert max(bench.lengths(bytes(4000))) <= 1400
    bench.end_all()
    bench.inject(echo(GUEST[family], REMOTE[family], 7, 1, b"x"))
    (flow,) = bench.flows()
    reply = struct.pack("!BBHHH", 0 if family == 4 else 129, 0, 0, 9, 1) + bytes(2000)
    bench.deliver(flow.fd, (reply, b"", b"", 0))
    bench.event(flow.number, EPOLLIN)
    assert len(bench.take_sent()) == 2
    bench.end_all()
    bench.now += EXPIRES_S * SECOND
    bench.ask(1002)
    assert len(bench.answer(bytes(4000))) == 1


@both_families
def test_other_addresses_are_other_paths(family: int) -> None:
    bench = Asked(family)
    bench.inject(too_big(family, quote(family, bench.answer(bytes(4000))[0]), 1400))
    bench.end_all()
    for n in range(1, 130):  # all places of the table
        host = f"192.0.2.{n}" if family == 4 else f"2001:db8::{n:x}"
        if host == GUEST[family]:
            continue
        bench.inject(ethernet(query(family)[14:].replace(packed(GUEST[family]), packed(host))))
        assert len(bench.answer(bytes(4000))) == 1, host
        bench.end_all()


# Segments


def about(script: Script, seq: int, length: int, mtu: int) -> bytes:
    """Give the message about a segment of *length* bytes with the number *seq* of the stream."""
    family = script.family
    assert script.peer.host_isn is not None
    number = (script.peer.host_isn + seq) & 0xFFFFFFFF
    l4 = struct.pack("!HHI", 80, 40000, number)
    source, to = script.peer.remote_address, script.peer.guest_address
    if family == 4:
        start = struct.pack("!BBHHHBBH", 0x45, 0, 40 + length, 0, 0x4000, 255, 6, 0)
    else:
        start = struct.pack("!IHBB", 0x60000000, 20 + length, 6, 255)
    names = {REMOTES[4]: "192.0.2.7", REMOTES[6]: "2001:db8:7::7"}
    router = {4: "10.0.2.254", 6: "2001:db8::fe"}[family]
    assert (source, to) == (REMOTES[family], GUESTS[family])
    return too_big(family, start + source + to + l4, mtu, source=router, to=names[source])


def mss_of(family: int, mtu: int) -> int:
    return mtu - (40 if family == 4 else 60)


def acknowledge(s: Script, acked: int, end: int) -> int:
    """Have the guest acknowledge all that comes until it has *end* bytes; tell how many rounds it takes."""
    rounds = 0
    while acked < end:
        segments = s.take_all()
        assert segments, "nothing comes"
        assert all(segment.gso_size in (0, mss_of(s.family, 1400)) for segment in segments)
        acked = max(acked, *(segment.seq - 1 + len(segment.payload) for segment in segments))
        s.guest(f"A seq=1 ack={1 + acked}")
        rounds += 1
    return rounds


@every_case
def test_segments_become_smaller_and_are_sent_again_without_a_time_out(case: Case) -> None:
    with Script(**case) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(20_000))
        lost = s.take_all()
        assert lost[0].gso_size == 1460
        for n in range(13):  # of each that the link's other end cut the frame to
            s.run(("frames", [about(s, lost[0].seq + 1460 * n, 1460, 1400)]))
        # RFC 1191 6.5: slowly.
        assert s.peer.inbox[0].seq == 1
        assert sum(len(segment.payload) for segment in s.peer.inbox) == 2 * mss_of(s.family, 1400)
        assert acknowledge(s, 0, 20_000) <= 4
        assert s.sock.consumed == 20_000
        s.sock.deliver(s.bytes_from_host(10_000, 20_000))
        assert {segment.gso_size for segment in s.take_all()} == {mss_of(s.family, 1400)}
        s.guest("A seq=1 ack=30001")
        assert s.count("tcp_timeouts") == 0
        assert s.count("paths_narrowed") == 1
        assert s.count("drop_too_big") == 0


@every_case
def test_what_was_sent_before_is_not_sent_again(case: Case) -> None:
    with Script(**case) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(20_000))
        s.take_all()
        s.run(("frames", [about(s, 1 + 5 * 1460, 1460, 1400)]))
        again = s.take_all()
        assert again[0].seq == 1 + 5 * 1460
        assert sum(len(segment.payload) for segment in again) == 2 * mss_of(s.family, 1400)
        s.guest(f"A seq=1 ack={again[-1].seq + len(again[-1].payload)}")
        acknowledge(s, 0, 20_000)
        assert s.count("tcp_timeouts") == 0


@every_case
def test_ever_smaller_paths_repeat_two_segments_each(case: Case) -> None:
    with Script(**case) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(50_000))
        s.take_all()
        for mtu in range(1480, 1400, -1):
            s.run(("frames", [about(s, 1, 1460, mtu)]))
            assert s.received() == 2 * mss_of(s.family, mtu)
        s.run(("frames", [about(s, 1, 1460, mtu) for mtu in range(1400, 1300, -1)]))
        assert s.received() <= 2 * mss_of(s.family, 1301) + 50
        s.guest("A seq=1 ack=50001")                         # it had all of it
        assert s.sock.consumed == 50_000


@every_case
def test_message_about_what_will_be_repeated_anyway_repeats_nothing(case: Case) -> None:
    with Script(**case) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(50_000))
        s.take_all()
        s.run(("frames", [about(s, 1, 1460, 1400)]))
        s.take_all()
        s.run(("frames", [about(s, 1 + 20 * 1460, 1460, 1300)]))
        s.nothing()
        assert s.count("drop_too_big") == 0
        s.guest(f"A seq=1 ack={1 + 2 * mss_of(s.family, 1400)}")
        assert {segment.gso_size for segment in s.take_all()} == {mss_of(s.family, 1300)}
        s.guest("A seq=1 ack=50001")


@every_case
def test_what_the_guest_has_is_not_sent_again(case: Case) -> None:
    with Script(**case) as s:
        s.connect(mss=1460, sack=True)
        s.sock.deliver(s.bytes_from_host(2000))
        s.take_all()
        s.sock.deliver(s.bytes_from_host(100, 2000))
        s.host("PA seq=2001 len=100")
        s.guest("A seq=1 ack=1 sack=2001,2101")
        s.take_all()  # it is the first hole, and nothing more can tell: sent again as large as it was
        s.run(("frames", [about(s, 1, 1460, 1400)]))
        again = s.take_all()
        assert sum(len(segment.payload) for segment in again) == 2000
        assert all(segment.gso_size in (0, mss_of(s.family, 1400)) for segment in again)
        s.guest("A seq=1 ack=2101")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("seq", [-2000, -1, 0, 20_001, 30_000, 1 << 31])
def test_segment_that_is_not_on_its_way(family: int, seq: int) -> None:
    with Script(family=family) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(20_000))
        s.take_all()
        s.run(("frames", [about(s, seq, 1460, 1400)]))
        s.nothing()
        assert s.count("drop_too_big") == 1
        s.guest("A seq=1 ack=20001")
        s.run(("frames", [about(s, 1, 1460, 1400)]))
        s.nothing()
        assert s.count("drop_too_big") == 2


@pytest.mark.parametrize("family", [4, 6])
def test_before_there_is_data(family: int) -> None:
    with Script(family=family) as s:
        s.guest("S seq=0 win=65535 mss=1460")
        s.sock.connected()
        s.host("SA seq=0 ack=1")
        s.run(("frames", [about(s, 0, 1460, 1400)]))
        s.nothing()
        assert s.count("drop_too_big") == 1


@pytest.mark.parametrize("family", [4, 6])
def test_new_connections_begin_with_the_path_that_is_known(family: int) -> None:
    with Script(family=family) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(5_000))
        s.take_all()
        s.run(("frames", [about(s, 1, 5_000, 1400)]))
        s.take_all()
        s.guest("A seq=1 ack=5001")
        other = s.add_peer(40001, 80)
        other.connect(mss=1460).deliver(s.bytes_from_host(5_000))
        assert {segment.gso_size for segment in other.take_all()} == {mss_of(family, 1400)}


def test_least_segment() -> None:
    with Script(family=4) as s:
        s.connect(mss=1460)
        s.sock.deliver(s.bytes_from_host(3000))
        s.take_all()
        s.run(("frames", [about(s, 1, 1460, 68)]))
        assert s.take_all()[0].gso_size == 48
        s.guest("A seq=1 ack=3001")

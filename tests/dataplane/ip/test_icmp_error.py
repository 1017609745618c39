"""Errors for the guest: golden frames by scapy, the cut of the quotation, what is never sent."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.dataplane.probes.world import World
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import GUEST_MAC, OUR_MAC, packed, unnumbered

GUEST = {4: "192.0.2.2", 6: "2001:db8::2"}
REMOTE = {4: "198.51.100.7", 6: "2001:db8:1::7"}
ROUTER = {4: "203.0.113.254", 6: "2001:db8:ffff::1"}
UDP_PROTOCOL = 17

ERRORS4 = [
    (3, 0, 0, 0),  # net, host, protocol, port unreachable, administratively prohibited
    (3, 1, 0, 0),
    (3, 2, 0, 0),
    (3, 3, 99, 0),  # an MTU where none belongs is left out
    (3, 13, 0, 0),
    (3, 4, 1400, 1400),  # fragmentation needed
    (3, 4, 70000, 65535),
    (11, 0, 0, 0),
    (11, 1, 0, 0),
    (12, 0, 20, 20 << 24),
]
ERRORS6: list[tuple[Packet, int, int, int]] = [
    (ICMPv6DestUnreach(code=0), 1, 0, 0),
    (ICMPv6DestUnreach(code=1), 1, 1, 0),
    (ICMPv6DestUnreach(code=3), 1, 3, 0),
    (ICMPv6DestUnreach(code=4), 1, 4, 99),
    (ICMPv6PacketTooBig(mtu=1280), 2, 0, 1280),
    (ICMPv6PacketTooBig(mtu=0x12345678), 2, 0, 0x12345678),
    (ICMPv6TimeExceeded(code=0), 3, 0, 0),
    (ICMPv6ParamProblem(code=1, ptr=40), 4, 1, 40),
]

both_families = pytest.mark.parametrize("family", [4, 6])


class Bench(World):
    """A world that is told of errors."""

    def __init__(self) -> None:
        super().__init__(Policy(), Responder(), Events(), our_mac=OUR_MAC, guest_mac=GUEST_MAC, scripted=True)

    def tell(
        self,
        family: int,
        quoted: bytes,
        *,
        kind: int = 3,
        code: int = 1,
        info: int = 0,
        offender: str | None = None,
        remote: str | None = None,
    ) -> bytes | None:
        """Have the guest told; gives the frame if there is one."""
        self.push_icmp_error(
            packed(GUEST[family]),
            packed(remote or REMOTE[family]),
            UDP_PROTOCOL,
            quoted,
            kind=kind,
            code=code,
            info=info,
            offender=packed(offender) if offender else None,
        )
        sent = self.take_sent()
        return unnumbered(sent[0].frame) if sent else None

    def drops(self) -> dict[str, int]:
        return {name: n for name, n in self.counters().items() if name.startswith("drop_") and n}


def datagram(family: int, payload: bytes) -> Packet:
    """Give the guest's packet as it is quoted; its bytes from the UDP header on are what it sent."""
    layer = (
        IP(src=GUEST[4], dst=REMOTE[4], id=0, flags="DF", ttl=1)
        if family == 4
        else IPv6(src=GUEST[6], dst=REMOTE[6], hlim=1)
    )
    return layer / UDP(sport=1000, dport=33434) / Raw(payload)


def transport(family: int, payload: bytes) -> bytes:
    return bytes(datagram(family, payload))[20 if family == 4 else 40 :]


def golden4(kind: int, code: int, word: int, quoted: bytes, source: str) -> bytes:
    """Build the frame of an error with scapy; *word* is the message's second."""
    header = ICMP(type=kind, code=code)
    message = bytes(header)[:4] + word.to_bytes(4, "big") + quoted
    # scapy knows the fields of each type by other names; it only completes the sum here.
    message = bytes(ICMP(message[:2] + b"\0\0" + message[4:]))
    parsed = ICMP(message)
    del parsed.chksum
    frame = (
        Ether(src=OUR_MAC, dst=GUEST_MAC)
        / IP(src=source, dst=GUEST[4], id=0, ttl=255, proto=1)
        / Raw(bytes(parsed))
    )
    return bytes(frame).ljust(60, b"\0")


def golden6(header: Packet, quoted: bytes, source: str) -> bytes:
    frame = Ether(src=OUR_MAC, dst=GUEST_MAC) / IPv6(src=source, dst=GUEST[6], hlim=255) / header.copy()
    return bytes(frame / Raw(quoted))


@pytest.mark.parametrize(("kind", "code", "info", "word"), ERRORS4)
def test_golden_icmp(kind: int, code: int, info: int, word: int) -> None:
    bench = Bench()
    quoted = bytes(datagram(4, b"payload"))
    for offender in (None, ROUTER[4]):
        frame = bench.tell(4, transport(4, b"payload"), kind=kind, code=code, info=info, offender=offender)
        assert frame == golden4(kind, code, word, quoted, offender or REMOTE[4])
    assert bench.counters()["icmp_errors_to_guest"] == 2


@pytest.mark.parametrize(("header", "kind", "code", "info"), ERRORS6)
def test_golden_icmp6(header: Packet, kind: int, code: int, info: int) -> None:
    bench = Bench()
    quoted = bytes(datagram(6, b"payload"))
    for offender in (None, ROUTER[6]):
        frame = bench.tell(6, transport(6, b"payload"), kind=kind, code=code, info=info, offender=offender)
        assert frame == golden6(header, quoted, offender or REMOTE[6])


@both_families
@pytest.mark.parametrize("length", [0, 1, 519, 520, 521, 1184, 1185, 1192, 1193, 1400, 65500])
def test_quotation_is_cut_to_what_an_error_may_hold(family: int, length: int) -> None:
    bench = Bench()
    payload = bytes(n & 0xFF for n in range(length))
    whole = bytes(datagram(family, payload))
    frame = bench.tell(family, transport(family, payload))
    assert frame is not None
    room = 576 - 28 if family == 4 else 1280 - 48
    start = 14 + (28 if family == 4 else 48)
    packet = Ether(frame)
    shown = bytes(packet[IP if family == 4 else IPv6])[: len(frame)]
    length = packet[IP].len if family == 4 else packet[IPv6].plen + 40
    assert len(shown[:length]) <= (576 if family == 4 else 1280)
    # The quoted header tells the whole length all the same.
    assert frame[start : 14 + length] == whole[:room]


@both_families
def test_quotation_of_nothing_is_a_header(family: int) -> None:
    frame = Bench().tell(family, b"")
    assert frame is not None
    packet = Ether(frame)
    assert (packet[IP].len if family == 4 else packet[IPv6].plen) == 48


@pytest.mark.parametrize(
    ("family", "source"),
    [(4, "0.0.0.0"), (4, "224.0.0.251"), (4, "255.255.255.255"), (6, "::"), (6, "ff02::fb")],
)
def test_error_comes_from_no_group(family: int, source: str) -> None:
    bench = Bench()
    assert bench.tell(family, transport(family, b"x"), offender=source) is None
    assert bench.tell(family, transport(family, b"x"), remote=source) is None  # RFC 4443 2.4
    assert bench.drops() == {"drop_bad_address": 1}
    assert bench.tell(family, transport(family, b"x"), remote=source, offender=ROUTER[family]) is not None


def test_full_link_is_a_counted_drop() -> None:
    bench = Bench()
    bench.blocked = True
    assert bench.tell(4, transport(4, b"x")) is None
    bench.turn()
    bench.open_link()
    bench.room = 0
    assert bench.tell(4, transport(4, b"x")) is None
    assert bench.drops() == {"drop_link_full": 2}
    assert bench.counters()["icmp_errors_to_guest"] == 0

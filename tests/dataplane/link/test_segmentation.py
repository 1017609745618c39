"""Segmentation and checksums in software: what is cut must be what scapy reads as valid."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.dataplane.probes import probe
from tests.support.frames import pseudo_header, rfc1071

GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4 = 1, 4, 5
FIN, PSH, ACK = 1, 8, 16

IP_LAYERS = {
    4: IP(src="192.0.2.1", dst="192.0.2.2", id=0, flags="DF", ttl=255),
    6: IPv6(src="2001:db8::1", dst="2001:db8::2", hlim=255),
}
ETHER = Ether(src="9a:55:9a:55:9a:55", dst="02:00:00:00:00:01")


class Request(NamedTuple):
    """A frame with a segmentation request, as protocol code leaves it: the pseudo-header sum in its field."""

    frame: bytes
    hdr_len: int
    csum_start: int
    csum_offset: int
    gso_type: int

    def cut(self, offset: int, gso_size: int) -> bytes:
        return probe.cut(
            self.frame,
            offset,
            gso_size=gso_size,
            hdr_len=self.hdr_len,
            csum_start=self.csum_start,
            csum_offset=self.csum_offset,
            gso_type=self.gso_type,
        )


def with_pseudo_sum(frame: bytes, family: int, protocol: int, csum_at: int, l4_at: int) -> bytes:
    layer = IP_LAYERS[family]
    value = ~rfc1071(pseudo_header(layer.src, layer.dst, protocol, (len(frame) - l4_at) & 0xFFFF)) & 0xFFFF
    return frame[:csum_at] + value.to_bytes(2, "big") + frame[csum_at + 2 :]


def tcp_request(
    family: int, payload: bytes, *, flags: int = PSH | ACK, seq: int = 1000, options: bytes = b""
) -> Request:
    segment = TCP(
        sport=80, dport=4000, seq=seq, ack=77, flags=flags, window=512, options=[("NOP", None)] * len(options)
    )
    frame = bytes(ETHER / IP_LAYERS[family] / segment / Raw(payload))
    start = 34 if family == 4 else 54
    frame = with_pseudo_sum(frame, family, 6, start + 16, start)
    return Request(frame, start + 20 + len(options), start, 16, GSO_TCPV4 if family == 4 else GSO_TCPV6)


def udp_request(family: int, payload: bytes) -> Request:
    frame = bytes(ETHER / IP_LAYERS[family] / UDP(sport=53, dport=4000) / Raw(payload))
    start = 34 if family == 4 else 54
    frame = with_pseudo_sum(frame, family, 17, start + 6, start)
    return Request(frame, start + 8, start, 6, GSO_UDP_L4)


def check(data: bytes, layer: type[Packet]) -> Packet:
    """Read a frame and see that every length and checksum in it is right."""
    frame = Ether(data)
    inner = frame[IP] if IP in frame else frame[IPv6]
    assert inner.len == len(data) - 14 if IP in frame else inner.plen == len(data) - 54
    if IP in frame:
        assert rfc1071(data[14:34]) == 0
    l4 = data[34 if IP in frame else 54 :]
    assert rfc1071(pseudo_header(inner.src, inner.dst, 17 if layer is UDP else 6, len(l4)) + l4) == 0
    found: Packet = frame[layer]
    return found


def payload_of(layer: Packet) -> bytes:
    return bytes(layer.payload)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("n", [1, 99, 100, 101, 250, 300, 65000])
@pytest.mark.parametrize("flags", [ACK, PSH | ACK, FIN | PSH | ACK, FIN | ACK])
def test_tcp_segments_say_what_the_large_one_said(family: int, n: int, flags: int) -> None:
    payload = bytes(i * 7 & 0xFF for i in range(n))
    request = tcp_request(family, payload, flags=flags)
    gso_size = 100 if n < 1000 else 1448
    seen = b""
    for offset in range(0, n, gso_size):
        frame = request.cut(offset, gso_size)
        tcp = check(frame, TCP)
        last = offset + gso_size >= n
        assert tcp.seq == 1000 + offset
        assert tcp.ack == 77
        assert tcp.window == 512
        assert int(tcp.flags) == (flags if last else flags & ~(FIN | PSH))
        assert len(payload_of(tcp)) == (n - offset if last else gso_size)
        seen += payload_of(tcp)
    assert seen == payload


def test_sequence_numbers_wrap() -> None:
    request = tcp_request(4, bytes(300), seq=2**32 - 100)
    assert [check(request.cut(at, 100), TCP).seq for at in (0, 100, 200)] == [2**32 - 100, 0, 100]


@pytest.mark.parametrize("family", [4, 6])
def test_options_are_in_every_segment(family: int) -> None:
    request = tcp_request(family, bytes(range(200)), options=b"\1" * 12)
    for offset in (0, 100):
        tcp = check(request.cut(offset, 100), TCP)
        assert tcp.dataofs == 8
        assert payload_of(tcp) == bytes(range(offset, offset + 100))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("n", [1, 100, 101, 299, 300, 50000])
def test_udp_segments_are_datagrams_of_their_own(family: int, n: int) -> None:
    payload = bytes(i * 5 & 0xFF for i in range(n))
    request = udp_request(family, payload)
    gso_size = 100 if n < 1000 else 1472
    seen = b""
    for offset in range(0, n, gso_size):
        udp = check(request.cut(offset, gso_size), UDP)
        assert udp.len == 8 + min(gso_size, n - offset)
        assert udp.chksum
        seen += payload_of(udp)
    assert seen == payload


@given(st.sampled_from([4, 6]), st.booleans(), st.binary(min_size=1, max_size=500), st.integers(1, 600))
def test_any_cut_is_valid_and_loses_nothing(family: int, is_udp: bool, payload: bytes, gso_size: int) -> None:
    request = udp_request(family, payload) if is_udp else tcp_request(family, payload)
    layer = UDP if is_udp else TCP
    seen = [payload_of(check(request.cut(at, gso_size), layer)) for at in range(0, len(payload), gso_size)]
    assert b"".join(seen) == payload
    assert all(len(part) == gso_size for part in seen[:-1])


@given(st.sampled_from([4, 6]), st.booleans(), st.binary(max_size=300))
def test_completed_checksum_is_that_of_scapy(family: int, is_udp: bool, payload: bytes) -> None:
    request = udp_request(family, payload) if is_udp else tcp_request(family, payload)
    done = probe.complete(request.frame, request.csum_start, request.csum_offset)
    layer = UDP if is_udp else TCP
    ours = check(done, layer)
    scapys = Ether(
        bytes(
            ETHER
            / IP_LAYERS[family]
            / layer(
                sport=ours.sport,
                dport=ours.dport,
                **(
                    {}
                    if is_udp
                    else {"seq": ours.seq, "ack": ours.ack, "flags": int(ours.flags), "window": ours.window}
                ),
            )
            / Raw(payload)
        )
    )[layer]
    assert ours.chksum % 0xFFFF == scapys.chksum % 0xFFFF  # 0 and ffff are the same number


def test_frame_without_a_request_stays_as_it_is() -> None:
    frame = udp_request(4, b"abc").frame
    assert probe.complete(frame, 0, 6) == frame


@pytest.mark.parametrize("family", [4, 6])
def test_udp_checksum_is_never_sent_as_zero(family: int) -> None:
    # Choose the last two octets so that the sum comes out as zero.
    request = udp_request(family, b"\0\0")
    frame = probe.complete(request.frame, request.csum_start, 6)
    value = frame[request.csum_start + 6 : request.csum_start + 8]
    done = probe.complete(request.frame[:-2] + value, request.csum_start, 6)
    assert done[request.csum_start + 6 : request.csum_start + 8] == b"\xff\xff"
    check(done, UDP)

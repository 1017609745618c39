"""Splitting frames: golden packets, every truncation, each field spoiled, scapy as the second opinion."""

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from tests.dataplane.probes import probe
from tests.dataplane.probes.probe import IpFields, Options, TcpFields, UdpFields, Verdict
from tests.support.frames import packed

DATAGRAM4 = bytes.fromhex(
    "45b8 0020 1234 4000 3f 11 ffff c0000202 c6336401"  # checksum wrong: nobody looks at it
    "d431 0035 000c 0000 01020304"
)
DATAGRAM6 = bytes.fromhex(
    "6b812345 000c 11 40 20010db8000000000000000000000002 20010db8000000000000000000000001"
    "d431 0035 000c 0000 01020304"
)
SEGMENT = bytes.fromhex("c350 01bb 01020304 0a0b0c0d 60 18 7210 0000 0000 020405b4 646174610a")

HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NONE, DESTINATION = 0, 43, 44, 51, 59, 60
MOBILITY, HIP, SHIM6 = 135, 139, 140
NOT_EXTENSIONS = [
    n
    for n in range(256)
    if n not in {HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, NONE, DESTINATION, MOBILITY, HIP, SHIM6}
]


def spoil(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


# IPv4


def test_golden_ip4() -> None:
    assert probe.ip4(DATAGRAM4) == IpFields(
        packed("192.0.2.2"), packed("198.51.100.1"), 17, 63, 0xB8, DATAGRAM4[20:]
    )


def test_ip4_options_are_skipped() -> None:
    packet = spoil(DATAGRAM4[:20], 0, b"\x46\xb8\x00\x24") + b"\x01\x01\x01\x00" + DATAGRAM4[20:]
    fields = probe.ip4(packet)
    assert isinstance(fields, IpFields)
    assert fields.l4 == DATAGRAM4[20:]


def test_ip4_padding_of_the_frame_is_trimmed() -> None:
    assert probe.ip4(DATAGRAM4 + bytes(18)) == probe.ip4(DATAGRAM4)


@pytest.mark.parametrize("length", range(len(DATAGRAM4)))
def test_ip4_truncated(length: int) -> None:
    expected = Verdict.DROP_SHORT if length < 20 else Verdict.DROP_BAD_LENGTH
    assert probe.ip4(DATAGRAM4[:length]) is expected


@pytest.mark.parametrize(
    ("at", "new", "expected"),
    [
        (0, "05", Verdict.DROP_BAD_VERSION),
        (0, "35", Verdict.DROP_BAD_VERSION),
        (0, "55", Verdict.DROP_BAD_VERSION),
        (0, "65", Verdict.DROP_BAD_VERSION),
        (0, "f5", Verdict.DROP_BAD_VERSION),
        (0, "40", Verdict.DROP_BAD_LENGTH),
        (0, "44", Verdict.DROP_BAD_LENGTH),
        (0, "49", Verdict.DROP_BAD_LENGTH),  # header of 36 octets in a packet of 32
        (0, "4f", Verdict.DROP_BAD_LENGTH),
        (2, "0000", Verdict.DROP_BAD_LENGTH),
        (2, "0013", Verdict.DROP_BAD_LENGTH),
        (2, "0021", Verdict.DROP_BAD_LENGTH),
        (2, "ffff", Verdict.DROP_BAD_LENGTH),
        (6, "2000", Verdict.DROP_FRAGMENT),  # first fragment
        (6, "6000", Verdict.DROP_FRAGMENT),
        (6, "0001", Verdict.DROP_FRAGMENT),  # last fragments
        (6, "1fff", Verdict.DROP_FRAGMENT),
    ],
)
def test_ip4_with_one_field_spoiled(at: int, new: str, expected: Verdict) -> None:
    assert probe.ip4(spoil(DATAGRAM4, at, bytes.fromhex(new))) is expected


@pytest.mark.parametrize("bits", [0, 0x4000, 0x8000, 0xC000])
def test_ip4_flags_that_make_no_fragment(bits: int) -> None:
    assert probe.ip4(spoil(DATAGRAM4, 6, bits.to_bytes(2, "big"))) == probe.ip4(DATAGRAM4)


def test_ip4_may_have_no_payload_and_the_largest_header() -> None:
    header = spoil(DATAGRAM4[:20], 2, struct.pack("!H", 20))
    fields = probe.ip4(header + b"padding")
    assert isinstance(fields, IpFields)
    assert fields.l4 == b""
    header = spoil(spoil(DATAGRAM4[:20], 0, b"\x4f"), 2, struct.pack("!H", 60)) + bytes(40)
    fields = probe.ip4(header)
    assert isinstance(fields, IpFields)
    assert fields.l4 == b""


def test_ip4_of_the_largest_length() -> None:
    fields = probe.ip4(spoil(DATAGRAM4[:20], 2, b"\xff\xff") + bytes(65515))
    assert isinstance(fields, IpFields)
    assert len(fields.l4) == 65515


# IPv6


def test_golden_ip6() -> None:
    assert probe.ip6(DATAGRAM6) == IpFields(
        packed("2001:db8::2"), packed("2001:db8::1"), 17, 64, 0xB8, DATAGRAM6[40:]
    )


def test_ip6_padding_of_the_frame_is_trimmed() -> None:
    assert probe.ip6(DATAGRAM6 + bytes(18)) == probe.ip6(DATAGRAM6)


@pytest.mark.parametrize("length", range(len(DATAGRAM6)))
def test_ip6_truncated(length: int) -> None:
    expected = Verdict.DROP_SHORT if length < 40 else Verdict.DROP_BAD_LENGTH
    assert probe.ip6(DATAGRAM6[:length]) is expected


@pytest.mark.parametrize(
    ("at", "new", "expected"),
    [
        (0, "0b", Verdict.DROP_BAD_VERSION),
        (0, "4b", Verdict.DROP_BAD_VERSION),
        (0, "7b", Verdict.DROP_BAD_VERSION),
        (4, "000d", Verdict.DROP_BAD_LENGTH),
        (4, "ffff", Verdict.DROP_BAD_LENGTH),
        (6, "2c", Verdict.DROP_FRAGMENT),  # 0035 in place of offset and M
        (6, "3b", Verdict.DROP_EXTENSION_HEADER),
        (6, "00", Verdict.DROP_BAD_LENGTH),  # d431: an option header of 0x31 + 1 words
    ],
)
def test_ip6_with_one_field_spoiled(at: int, new: str, expected: Verdict) -> None:
    assert probe.ip6(spoil(DATAGRAM6, at, bytes.fromhex(new))) is expected


def test_ip6_shorter_payload_length_trims() -> None:
    fields = probe.ip6(spoil(DATAGRAM6, 4, b"\0\0"))
    assert isinstance(fields, IpFields)
    assert fields.l4 == b""


def extension(kind: int, next_header: int, words: int = 0) -> bytes:
    """Give an extension header with *words* units of length beyond the least; a fragment's is the first's."""
    if kind == FRAGMENT:
        return bytes([next_header, 0, 0, 1]) + bytes(4)
    if kind == AUTHENTICATION:  # in 4-octet units less 2 (RFC 4302 2.2); never less than 12 octets
        return bytes([next_header, 2 * words + 1]) + bytes(10 + 8 * words)
    return bytes([next_header, words]) + bytes(6 + 8 * words)


def chain(kinds: list[int], last: int, payload: bytes, words: int = 0) -> bytes:
    """Give an IPv6 packet with extension headers of *kinds* before *payload* of protocol *last*."""
    following = [*kinds, last][1:]
    body = (
        b"".join(extension(kind, after, words) for kind, after in zip(kinds, following, strict=True))
        + payload
    )
    first = kinds[0] if kinds else last
    return DATAGRAM6[:4] + struct.pack("!HBB", len(body), first, 64) + DATAGRAM6[8:40] + body


@pytest.mark.parametrize("kind", [HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION, MOBILITY, HIP, SHIM6])
@pytest.mark.parametrize("words", [0, 1, 4])
def test_each_extension_header_is_passed_over(kind: int, words: int) -> None:
    fields = probe.ip6(chain([kind], 6, SEGMENT, words))
    assert isinstance(fields, IpFields)
    assert (fields.protocol, fields.l4) == (6, SEGMENT)


@given(
    st.lists(
        st.sampled_from([HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION, MOBILITY, HIP, SHIM6]), max_size=15
    ),
    st.sampled_from(NOT_EXTENSIONS),
    st.binary(max_size=30),
    st.integers(0, 3),
)
def test_any_chain_of_extension_headers(kinds: list[int], last: int, payload: bytes, words: int) -> None:
    kinds = [kind for n, kind in enumerate(kinds) if not n or kind != HOP_BY_HOP]
    fields = probe.ip6(chain(kinds, last, payload, words))
    assert isinstance(fields, IpFields)
    assert (fields.protocol, fields.l4) == (last, payload)


def test_chain_is_bounded() -> None:
    assert isinstance(probe.ip6(chain([DESTINATION] * 15, 6, SEGMENT)), IpFields)
    assert probe.ip6(chain([DESTINATION] * 16, 6, SEGMENT)) is Verdict.DROP_EXTENSION_HEADER
    assert probe.ip6(chain([DESTINATION] * 8000, 6, SEGMENT)) is Verdict.DROP_EXTENSION_HEADER


@pytest.mark.parametrize("kinds", [[], [DESTINATION], [HOP_BY_HOP, ROUTING, DESTINATION, AUTHENTICATION]])
def test_chain_that_ends_in_a_fragment_or_nothing(kinds: list[int]) -> None:
    assert probe.ip6(chain([*kinds, FRAGMENT], 17, bytes(8))) is Verdict.DROP_FRAGMENT
    assert probe.ip6(chain(kinds, NONE, b"ignored")) is Verdict.DROP_EXTENSION_HEADER


def test_atomic_fragment_header_is_passed_over() -> None:
    # RFC 6946. The lowest three bits of the offset's field but M are reserved (RFC 8200 4.5).
    for offset in (0, 2, 4, 6):
        body = bytes([17, 0, 0, offset]) + bytes(4) + DATAGRAM6[40:]
        fields = probe.ip6(
            DATAGRAM6[:4] + struct.pack("!HBB", len(body), FRAGMENT, 64) + DATAGRAM6[8:40] + body
        )
        assert isinstance(fields, IpFields)
        assert (fields.protocol, fields.l4) == (17, DATAGRAM6[40:])
    for length in range(8):
        assert probe.ip6(chain([], FRAGMENT, bytes(length))) is Verdict.DROP_SHORT


def test_hop_by_hop_options_come_first_or_not_at_all() -> None:
    for before in (DESTINATION, ROUTING, HOP_BY_HOP):
        assert probe.ip6(chain([before, HOP_BY_HOP], 17, DATAGRAM6[40:])) is Verdict.DROP_EXTENSION_HEADER


def test_packet_that_is_to_visit_other_nodes_is_dropped() -> None:
    # RFC 8200 4.4, RFC 5095 3: no type of routing header with segments left.
    for kind in range(256):
        header = bytes([17, 0, kind, 1]) + bytes(4)
        packet = chain([], ROUTING, header + DATAGRAM6[40:])
        assert probe.ip6(packet) is Verdict.DROP_EXTENSION_HEADER
        assert isinstance(probe.ip6(spoil(packet, 43, b"\0")), IpFields)


@pytest.mark.parametrize("kind", [HOP_BY_HOP, DESTINATION])
def test_unknown_options_say_themselves_what_becomes_of_the_packet(kind: int) -> None:
    # RFC 8200 4.2; 194 is the jumbo payload, 5 the router alert.
    for option in range(1, 256):
        header = bytes([17, 0, 0, option, 3]) + bytes(3)
        outcome = probe.ip6(chain([], kind, header + DATAGRAM6[40:]))
        if option < 64:
            assert isinstance(outcome, IpFields)
        else:
            assert outcome is Verdict.DROP_EXTENSION_HEADER
    for options in (b"\1", b"\0\0\0\0\0\1", b"\1\5", b"\1\xff", b"\1\3\0\0\0\1"):
        header = bytes([17, 0]) + options.rjust(6, b"\0")
        assert probe.ip6(chain([], kind, header + DATAGRAM6[40:])) is Verdict.DROP_BAD_LENGTH


def test_chain_cut_at_every_place() -> None:
    whole = chain([HOP_BY_HOP, AUTHENTICATION, ROUTING], 17, DATAGRAM6[40:], 1)
    ends = {40 + 16, 40 + 16 + 20, 40 + 16 + 20 + 16}
    for length in range(40, len(whole)):
        packet = spoil(whole[:length], 4, struct.pack("!H", length - 40))
        outcome = probe.ip6(packet)
        if length >= max(ends):
            assert isinstance(outcome, IpFields)
            assert outcome.l4 == whole[max(ends) : length]
        elif length in (40, 41) or any(length - end in (0, 1) for end in ends):
            assert outcome is Verdict.DROP_SHORT
        else:
            assert outcome is Verdict.DROP_BAD_LENGTH


# TCP


def test_golden_tcp() -> None:
    assert probe.tcp(SEGMENT) == TcpFields(
        50000, 443, 0x01020304, 0x0A0B0C0D, 0x18, 0x7210, bytes.fromhex("020405b4"), b"data\n"
    )


@pytest.mark.parametrize("length", range(len(SEGMENT)))
def test_tcp_truncated(length: int) -> None:
    outcome = probe.tcp(SEGMENT[:length])
    if length < 20:
        assert outcome is Verdict.DROP_SHORT
    elif length < 24:
        assert outcome is Verdict.DROP_BAD_LENGTH
    else:
        assert isinstance(outcome, TcpFields)
        assert outcome.payload == SEGMENT[24:length]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        (0x00, Verdict.DROP_BAD_LENGTH),
        (0x10, Verdict.DROP_BAD_LENGTH),
        (0x40, Verdict.DROP_BAD_LENGTH),
        (0x4F, Verdict.DROP_BAD_LENGTH),
        (0x80, Verdict.DROP_BAD_LENGTH),
        (0xF0, Verdict.DROP_BAD_LENGTH),
    ],
)
def test_tcp_data_offset_spoiled(offset: int, expected: Verdict) -> None:
    assert probe.tcp(spoil(SEGMENT, 12, bytes([offset]))) is expected


def test_tcp_reserved_bits_do_not_count_into_the_offset() -> None:
    assert probe.tcp(spoil(SEGMENT, 12, b"\x6f")) == probe.tcp(SEGMENT)


# UDP


def test_golden_udp() -> None:
    assert probe.udp(DATAGRAM4[20:]) == UdpFields(54321, 53, b"\1\2\3\4")


@pytest.mark.parametrize("length", range(12))
def test_udp_truncated(length: int) -> None:
    expected = Verdict.DROP_SHORT if length < 8 else Verdict.DROP_BAD_LENGTH
    assert probe.udp(DATAGRAM4[20 : 20 + length]) is expected


@pytest.mark.parametrize("length", [0, 1, 7, 13, 0xFFFF])
def test_udp_length_spoiled(length: int) -> None:
    spoiled = spoil(DATAGRAM4[20:], 4, length.to_bytes(2, "big"))
    assert probe.udp(spoiled) is Verdict.DROP_BAD_LENGTH


def test_udp_octets_behind_its_length_are_no_part_of_it() -> None:
    outcome = probe.udp(spoil(DATAGRAM4[20:], 4, b"\0\x0a"))
    assert isinstance(outcome, UdpFields)
    assert outcome.payload == b"\1\2"


# TCP options


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", Options(536, -1, False)),
        ("020405b4", Options(1460, -1, False)),
        ("020405b4 01 030307", Options(1460, 7, False)),
        ("0402 080a0000000000000000 01 03030e 0204ffd7", Options(65495, 14, True, 0)),
        ("0101 080a 89abcdef 01234567", Options(536, -1, False, 0x89ABCDEF)),
        ("0809 89abcdef 012345 0402", Options(536, -1, True)),
        ("080a 89abcdef 012345", Options(536, -1, False)),
        ("0303ff", Options(536, 14, False)),  # RFC 7323 2.3: use 14
        ("030300", Options(536, 0, False)),
        ("02040000", Options(536, -1, False)),  # no MSS at all
        ("0204 05b4 0204 0218", Options(536, -1, False)),  # the last one counts
        ("00 020405b4", Options(536, -1, False)),  # behind the end of the list
        ("01010101 0402", Options(536, -1, True)),
        ("02", Options(536, -1, False)),  # no length
        ("0200", Options(536, -1, False)),
        ("0201 05b4", Options(536, -1, False)),
        ("020505b4", Options(536, -1, False)),  # longer than what is there
        ("020305 0402", Options(536, -1, True)),  # wrong length: not an MSS, but passed over
        ("0305070707 0402", Options(536, -1, True)),
        ("0403 07 030307", Options(536, 7, False)),
        ("fd05112233 0402", Options(536, -1, True)),  # unknown kinds
        ("0204ffff ff", Options(65535, -1, False)),
    ],
)
def test_tcp_options(options: str, expected: Options) -> None:
    assert probe.tcp_options(bytes.fromhex(options)) == expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", None),
        ("0101 080a 89abcdef 01234567", (0x89ABCDEF, 0x01234567)),
        ("080a 89abcdef 01234567", (0x89ABCDEF, 0x01234567)),
        ("0101 050a 0000000100000002 0101 080a 00000003 00000004", (3, 4)),
        ("080a 00000001 00000002 080a 00000003 00000004", (1, 2)),  # the first one counts
        ("0101 080a 89abcdef 012345", None),  # longer than what is there
        ("0809 89abcdef 012345", None),
        ("080b 89abcdef 01234567 00", None),
        ("0802", None),
        ("08", None),
        ("0800", None),
        ("0501 080a 89abcdef 01234567", None),  # what comes before it is malformed
        ("00 080a 89abcdef 01234567", None),  # behind the end of the list
    ],
)
def test_timestamps(options: str, expected: tuple[int, int] | None) -> None:
    assert probe.timestamps(bytes.fromhex(options)) == expected


@given(st.binary(max_size=40))
def test_any_octets_as_options_stay_in_range(options: bytes) -> None:
    found = probe.tcp_options(options)
    stamps = probe.timestamps(options)
    assert stamps is None or 0 <= max(stamps) < 1 << 32
    assert 1 <= found.mss <= 65535
    assert -1 <= found.window_scale <= 14


# Against scapy

ADDRESSES4 = st.ip_addresses(v=4).map(str)
ADDRESSES6 = st.ip_addresses(v=6).map(str)
PORTS = st.integers(0, 65535)
WORDS = st.integers(0, 2**32 - 1)


@given(
    src=ADDRESSES4,
    dst=ADDRESSES4,
    tos=st.integers(0, 255),
    ttl=st.integers(0, 255),
    payload=st.binary(max_size=100),
    padding=st.binary(max_size=20),
)
def test_ip4_as_scapy_builds_it(
    *, src: str, dst: str, tos: int, ttl: int, payload: bytes, padding: bytes
) -> None:
    packet = bytes(IP(src=src, dst=dst, tos=tos, ttl=ttl, proto=17) / Raw(payload))
    assert probe.ip4(packet + padding) == IpFields(packed(src), packed(dst), 17, ttl, tos, payload)


@given(
    src=ADDRESSES6,
    dst=ADDRESSES6,
    tos=st.integers(0, 255),
    ttl=st.integers(0, 255),
    label=st.integers(0, 2**20 - 1),
    payload=st.binary(max_size=100),
    padding=st.binary(max_size=20),
)
def test_ip6_as_scapy_builds_it(
    *, src: str, dst: str, tos: int, ttl: int, label: int, payload: bytes, padding: bytes
) -> None:
    packet = bytes(IPv6(src=src, dst=dst, tc=tos, hlim=ttl, fl=label, nh=17) / Raw(payload))
    assert probe.ip6(packet + padding) == IpFields(packed(src), packed(dst), 17, ttl, tos, payload)


@given(
    sport=PORTS,
    dport=PORTS,
    seq=WORDS,
    ack=WORDS,
    flags=st.integers(0, 255),
    window=PORTS,
    mss=PORTS,
    payload=st.binary(max_size=60),
)
def test_tcp_as_scapy_builds_it(
    *, sport: int, dport: int, seq: int, ack: int, flags: int, window: int, mss: int, payload: bytes
) -> None:
    options = [("MSS", mss), ("NOP", None), ("WScale", 9), ("SAckOK", b""), ("Timestamp", (ack, seq))]
    header = TCP(sport=sport, dport=dport, seq=seq, ack=ack, flags=flags, window=window, options=options)
    fields = probe.tcp(bytes(header / Raw(payload)))
    assert isinstance(fields, TcpFields)
    assert fields == TcpFields(sport, dport, seq, ack, flags, window, fields.options, payload)
    assert probe.tcp_options(fields.options) == Options(mss or 536, 9, True, ack)
    assert probe.timestamps(fields.options) == (ack, seq)


@given(PORTS, PORTS, st.binary(max_size=60))
def test_udp_as_scapy_builds_it(sport: int, dport: int, payload: bytes) -> None:
    assert probe.udp(bytes(UDP(sport=sport, dport=dport) / Raw(payload))) == UdpFields(sport, dport, payload)


@given(st.binary(max_size=120), st.sampled_from([probe.ip4, probe.ip6, probe.tcp, probe.udp]))
def test_any_octets_give_a_verdict_or_fields(data: bytes, split: Callable[[bytes], object]) -> None:
    outcome = split(data)
    assert isinstance(outcome, (Verdict, IpFields, TcpFields, UdpFields))
    assert outcome is not Verdict.VERDICT_OK

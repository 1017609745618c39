"""The Internet checksum."""

from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from passt.wire.checksum import internet_checksum, pseudo_header


def test_example_of_rfc_1071() -> None:
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


def test_no_data_sums_to_zero() -> None:
    assert internet_checksum() == internet_checksum(b"") == 0xFFFF


def test_odd_length_is_padded_behind() -> None:
    assert internet_checksum(b"\x01") == internet_checksum(b"\x01\x00") == 0xFEFF


@given(st.binary(max_size=3000))
def test_agrees_with_scapy(data: bytes) -> None:
    assert internet_checksum(data) == scapy_checksum(data)


@given(st.binary(max_size=100).map(lambda data: data + bytes(len(data) % 2)), st.binary(max_size=100))
def test_parts_sum_like_the_whole(even: bytes, rest: bytes) -> None:
    assert internet_checksum(even, rest) == internet_checksum(even + rest)


@given(st.binary(max_size=100).map(lambda data: data + bytes(len(data) % 2)))
def test_data_with_their_checksum_sum_to_zero(data: bytes) -> None:
    assert internet_checksum(data + internet_checksum(data).to_bytes(2, "big")) == 0


def test_pseudo_headers() -> None:
    assert pseudo_header(IPv4Address("192.0.2.1"), IPv4Address("192.0.2.5"), 17, 0x0102).hex() == (
        "c0000201c000020500110102"
    )
    assert pseudo_header(IPv6Address("2001:db8::1"), IPv6Address("fe80::2"), 58, 0x010203).hex() == (
        "20010db8000000000000000000000001fe800000000000000000000000000002000102030000003a"
    )

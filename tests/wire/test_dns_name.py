"""Domain names in label form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNSQR

from passt.errors import WireError
from passt.wire.cursor import Reader
from passt.wire.dns_name import build_name, encoded_len, is_name, normalise_name, pull_name

LABELS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="."), min_size=1, max_size=63
)
NAMES = st.lists(LABELS, min_size=1, max_size=8).map(".".join).filter(lambda name: len(name) <= 253)


def test_example_both_ways() -> None:
    data = b"\x07example\x03com\x00"
    assert build_name("example.com") == data
    assert pull_name(Reader(data, "test")) == "example.com"


@pytest.mark.parametrize(
    "text", ["a", "a.b", "x" * 63, "_srv._udp.example", ".".join(["x" * 49] * 5) + ".abc"]
)
def test_good_names(text: str) -> None:
    assert is_name(text)
    assert normalise_name(text) == normalise_name(text + ".") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "a..",
        "a..b",
        ".a",
        "x" * 64,
        "caf\u00e9",
        "a b",
        "a\tb",
        "a\x7f",
        ".".join(["x" * 49] * 5) + ".abcd",
    ],
)
def test_bad_names(text: str) -> None:
    assert not is_name(text)
    assert normalise_name(text) is None


@given(NAMES)
def test_round_trip_and_scapy(name: str) -> None:
    data = build_name(name)
    assert len(data) == encoded_len(name)
    reader = Reader(data + b"rest", "test")
    assert pull_name(reader) == name
    assert reader.pull_rest() == b"rest"
    assert bytes(DNSQR(qname=name.encode() + b"."))[:-4] == data


@pytest.mark.parametrize("length", range(13))
def test_truncation_rejected(length: int) -> None:
    with pytest.raises(WireError):
        pull_name(Reader(b"\x07example\x03com\x00"[:length], "test"))


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\x00",  # compression pointer
        b"\x40" + b"a" * 64 + b"\0",  # reserved label type, or a label too long
        b"\x03a.b\0",
        b"\x01 \0",
        b"\x01\xff\0",
        b"\x01\0\0",
        (b"\x3f" + b"a" * 63) * 4 + b"\0",  # 257 bytes
        (b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0",  # 256 bytes
    ],
)
def test_bad_encoding_rejected(data: bytes) -> None:
    with pytest.raises(WireError, match="DNS name"):
        pull_name(Reader(data, "test"))


def test_longest_name_is_read() -> None:
    data = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(data) == 255
    assert encoded_len(pull_name(Reader(data, "test"))) == 255

"""Domain names in label form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNSQR

from passt.errors import WireError
from passt.facts.domain_name import encoded_len, is_name, normalise_name
from passt.wire.cursor import Reader
from passt.wire.dns_name import (
    build_compressed,
    build_name,
    build_names,
    fit_names,
    parse_compressed,
    pull_name,
)

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


# Lists


def test_list_without_compression() -> None:
    assert build_names(["a.b", "b"]) == b"\x01a\x01b\0\x01b\0"
    assert build_names([]) == b""


@pytest.mark.parametrize(
    ("names", "data"),
    [
        # The example of RFC 3397 2, with our order of names.
        (
            ("eng.apple.com", "marketing.apple.com"),
            b"\x03eng\x05apple\x03com\0\x09marketing\xc0\x04",
        ),
        (("example.com", "example.com"), b"\x07example\x03com\0\xc0\0"),
        (("a.Example.com", "eXample.com"), b"\x01a\x07Example\x03com\0\xc0\x02"),
        (("com", "a.com", "b.a.com"), b"\x03com\0\x01a\xc0\0\x01b\xc0\x05"),
        ((), b""),
    ],
)
def test_compressed_list(names: tuple[str, ...], data: bytes) -> None:
    assert build_compressed(names) == data
    assert tuple(map(str.lower, parse_compressed(data))) == tuple(map(str.lower, names))


@given(st.lists(NAMES | st.sampled_from(["a.b.c", "b.c", "c", "d.b.c", "x.c"]), max_size=12))
def test_compressed_list_round_trip(names: list[str]) -> None:
    data = build_compressed(names)
    assert [name.lower() for name in parse_compressed(data)] == [name.lower() for name in names]
    assert len(data) <= len(build_names(names))


def test_ending_beyond_the_reach_of_pointers_is_written_out() -> None:
    long = [f"{index:03}{'x' * 60}.example" for index in range(250)]
    names = [*long, "far.away", "near.away"]
    assert len(build_compressed(long)) > 0x3FFF
    assert parse_compressed(build_compressed(names)) == tuple(names)


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\x00",  # at itself
        b"\x01a\xc0\x00",  # at its own name
        b"\x01a\xc0\x02",  # at the pointer itself
        b"\x01a\xc0\x04\x01b\0",  # ahead
        b"\x01a\xc0\xff",  # past the end
        b"\x01a\0\x01b\xc0\x05\x01c\xc0\x03",  # a loop of two
        b"\x01a\0\x01b\xc0",  # half a pointer
        b"\x01a\0\0",  # the root
        b"\x80\x01a\0",
        b"\x40\x01a\0",
        b"\x01a",  # no end
        (b"\x3f" + b"a" * 63) * 4 + b"\0",  # 257 bytes
        (b"\x3f" + b"a" * 63) * 3 + b"\0" + b"\x3f" + b"b" * 63 + b"\xc0\x00",  # 257 by a pointer
    ],
)
def test_bad_compression_rejected(data: bytes) -> None:
    with pytest.raises(WireError, match="DNS name"):
        parse_compressed(data)


@given(st.binary(max_size=60) | st.lists(st.sampled_from([b"\x01a", b"\xc0", b"\0", b"\x02"])).map(b"".join))
def test_any_bytes_are_a_list_or_rejected(data: bytes) -> None:
    try:
        names = parse_compressed(data)
    except WireError:
        return
    assert all(map(is_name, names))


def test_names_that_fit() -> None:
    names = ("a.example", "b" * 40 + ".example", "c.example")
    assert fit_names(names, 100, build_names) == (names, ())
    assert fit_names(names, 22, build_names) == (("a.example", "c.example"), (names[1],))
    assert fit_names(names, 15, build_compressed) == (("a.example", "c.example"), (names[1],))
    assert fit_names(names, 14, build_compressed) == (("a.example",), names[1:])
    assert fit_names(names, 0, build_names) == ((), names)

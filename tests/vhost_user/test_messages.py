"""Messages of a front end: golden bytes both ways, every truncation, one field spoiled at a time.

The bytes are those of a little-endian machine, which all that we run on are.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from passt.errors import WireError
from passt.facts.contracts import MemoryRegion
from passt.vhost_user import messages
from passt.vhost_user.messages import (
    ConfigPart,
    Header,
    InflightArea,
    LogArea,
    Request,
    RingAddresses,
    RingFile,
    RingState,
)

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes are little-endian")

REGION = MemoryRegion(0x1_0000_0000, 0x4000_0000, 0x7f12_3456_7000, 0xc0000, -1)
REGION_HEX = "0000000001000000 0000004000000000 0070563412 7f0000 00000c0000000000"
OTHER = MemoryRegion(0, 0xa0000, 0x7f12_0000_0000, 0, -1)
OTHER_HEX = "0000000000000000 00000a0000000000 00000000127f0000 0000000000000000"

# Name, parse, build, value, bytes.
GOLDEN: list[tuple[str, Callable[[bytes], object], Callable[[], bytes], object, str]] = [
    ("header", Header.parse, Header(5, 9, 40).build, Header(5, 9, 40), "05000000 09000000 28000000"),
    ("u64", messages.parse_u64, lambda: messages.build_u64(1 << 32 | 3), 1 << 32 | 3, "0300000001000000"),
    ("state", RingState.parse, RingState(1, 256).build, RingState(1, 256), "01000000 00010000"),
    ("file", RingFile.parse, RingFile(3, has_fd=True).build, RingFile(3, has_fd=True), "0300000000000000"),
    ("no file", RingFile.parse, RingFile(3, has_fd=False).build, RingFile(3, has_fd=False),
     "0301000000000000"),
    ("addresses", RingAddresses.parse, RingAddresses(1, 1, 0x1000, 0x3000, 0x2000, 0x9000).build,
     RingAddresses(1, 1, 0x1000, 0x3000, 0x2000, 0x9000),
     "01000000 01000000 0010000000000000 0030000000000000 0020000000000000 0090000000000000"),
    ("region", messages.parse_region, lambda: messages.build_region(REGION), REGION,
     f"0000000000000000 {REGION_HEX}"),
    ("table", messages.parse_table, lambda: messages.build_table([REGION, OTHER]), [REGION, OTHER],
     f"02000000 00000000 {REGION_HEX} {OTHER_HEX}"),
    ("empty table", messages.parse_table, lambda: messages.build_table([]), [], "00000000 00000000"),
    ("log", LogArea.parse, LogArea(0x8000, 0x1000).build, LogArea(0x8000, 0x1000),
     "0080000000000000 0010000000000000"),
    ("in use", InflightArea.parse, InflightArea(0x3000, 0x1000, 2, 256).build,
     InflightArea(0x3000, 0x1000, 2, 256), "0030000000000000 0010000000000000 0200 0001"),
    ("config", ConfigPart.parse, ConfigPart(10, 1, b"\xf0\xff").build, ConfigPart(10, 1, b"\xf0\xff"),
     "0a000000 02000000 01000000 f0ff"),
]
EACH = pytest.mark.parametrize(("parse", "data"), [pytest.param(row[1], row[4], id=row[0]) for row in GOLDEN])


@pytest.mark.parametrize(("parse", "build", "value", "data"),
                         [pytest.param(*row[1:], id=row[0]) for row in GOLDEN])
def test_golden_bytes_both_ways(parse: Callable[[bytes], object], build: Callable[[], bytes], value: object,
                                data: str) -> None:
    assert parse(bytes.fromhex(data)) == value
    assert build() == bytes.fromhex(data)


@EACH
def test_every_truncation_is_refused(parse: Callable[[bytes], object], data: str) -> None:
    whole = bytes.fromhex(data)
    for length in range(len(whole)):
        with pytest.raises(WireError, match=f"{length} bytes"):
            parse(whole[:length])


@EACH
def test_a_byte_too_many_is_refused(parse: Callable[[bytes], object], data: str) -> None:
    whole = bytes.fromhex(data)
    with pytest.raises(WireError, match=f"{len(whole) + 1} bytes"):
        parse(whole + b"\0")


@pytest.mark.parametrize(("header", "text"), [
    (Header(1, 0, 0), "version 0 of the protocol; 1 would be right"),
    (Header(1, 2, 0), "version 2"), (Header(1, 3, 0), "version 3"),
    (Header(90 << 24, 2, 0), "served without the option --vhost-user"),
    (Header(1, 5, 0), "marked as a reply"),
    (Header(1, 1, 513), "a payload of 513 bytes; no request has more than 512"),
    (Header(1, 1, 0xffffffff), "4294967295 bytes"),
])
def test_header_that_no_request_has_is_refused(header: Header, text: str) -> None:
    with pytest.raises(WireError, match=text):
        Header.parse(header.build())


def test_bits_without_a_meaning_are_borne() -> None:
    assert Header.parse(Header(1, 0xfffffff1 & ~4, 0).build()).needs_reply is False
    assert RingFile.parse(messages.build_u64(0xffff_ffff_ffff_fe02)) == RingFile(2, has_fd=True)
    assert not RingAddresses(0, 0xfffffffe, 0, 0, 0, 0).is_logged


def test_reply_is_marked_as_such() -> None:
    assert messages.build_reply(Request.GET_FEATURES, b"\x07" + bytes(7)) == bytes.fromhex(
        "01000000 05000000 08000000 0700000000000000")


def test_need_of_a_reply_is_seen() -> None:
    assert Header(1, 9, 0).needs_reply
    assert not Header(1, 1, 0).needs_reply


def test_table_may_have_room_for_eight() -> None:
    """As in the document; QEMU sends only those that there are."""
    whole = messages.build_table([REGION]).ljust(8 + 8 * 32, b"\xaa")
    assert messages.parse_table(whole) == [REGION]
    for length in (8 + 7 * 32, 8 + 2 * 32, 8 + 8 * 32 - 1):
        with pytest.raises(WireError, match="for 1 regions"):
            messages.parse_table(whole[:length])


def test_table_has_eight_regions_at_most() -> None:
    assert messages.parse_table(messages.build_table([REGION] * 8)) == [REGION] * 8
    for n_regions in (9, 0xffffffff):
        data = n_regions.to_bytes(4, "little") + messages.build_table([REGION] * 9)[4:]
        with pytest.raises(WireError, match=f"{n_regions} regions of memory; one message has 8"):
            messages.parse_table(data)


def test_record_of_use_is_rounded_up_as_a_compiler_does() -> None:
    area = InflightArea(0x3000, 0, 2, 256)
    assert area.build(24) == area.build() + bytes(4)
    assert InflightArea.parse(area.build(24)) == area


@pytest.mark.parametrize("size", [1, 3, 257, 0xffffffff])
def test_size_in_a_config_request_is_that_of_its_data(size: int) -> None:
    data = ConfigPart(0, 0, b"ab").build()
    with pytest.raises(WireError, match=f"for {size} bytes of the configuration"):
        ConfigPart.parse(data[:4] + size.to_bytes(4, "little") + data[8:])


def test_payload_where_there_must_be_none() -> None:
    messages.parse_nothing(b"")
    with pytest.raises(WireError, match="1 bytes; there must be none"):
        messages.parse_nothing(b"\0")


def test_requests_are_named() -> None:
    assert messages.request_name(5) == "SET_MEM_TABLE"
    assert messages.request_name(44) == "request 44"
    assert messages.request_name(0xffffffff) == "request 4294967295"

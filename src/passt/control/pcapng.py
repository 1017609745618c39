"""Blocks around the packets of a capture: draft-ietf-opsawg-pcapng, in the byte order of the machine.

Packets themselves are written by `dataplane.observe.recorder`. There are two interfaces, the link and what
bypasses it; both are Ethernet with the same snapshot length, as libpcap reads no other mixture.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

MEDIA_TYPE = "application/x-pcapng"
SNAP_LEN = 262144     # longer than any frame, and what readers expect at most
_SECTION, _INTERFACE, _STATISTICS = 0x0A0D0D0A, 1, 5
_MAGIC = 0x1A2B3C4D
_LINKTYPE_ETHERNET = 1
_NANOSECONDS = b"\x09"
_LIBPCAP_FILTER = b"\x00"  # the kind of a filter's text
# Options of each block.
_END = 0
_USER_APPLICATION = 4
_IF_NAME, _IF_DESCRIPTION, _IF_RESOLUTION, _IF_FILTER = 2, 3, 9, 11
_START_TIME, _END_TIME, _RECEIVED, _DROPPED = 2, 3, 4, 5
BYPASS = "bypass"


def header(application: str, link: str, filter_text: str, snap_len: int) -> bytes:
    """Return what stands before the first packet; *link* is the guest's name of its interface."""
    described = ((link, "the guest's link"),
                 (BYPASS, "made of connections and datagrams that bypass the link"))
    section = struct.pack("=IHHq", _MAGIC, 1, 0, -1) + _options([(_USER_APPLICATION, application.encode())])
    return _block(_SECTION, section) + b"".join(
        _interface(name, text, filter_text, snap_len) for name, text in described)


def statistics(counts: Iterable[tuple[int, int, int]], started_ns: int, now_ns: int) -> bytes:
    """Return what stands behind the last packet: for each interface packets taken, lost, and forgotten."""
    blocks = []
    for number, (taken, lost, forgotten) in enumerate(counts):
        options = [(_START_TIME, _time(started_ns)), (_END_TIME, _time(now_ns)),
                   (_RECEIVED, struct.pack("=Q", taken + lost)),
                   (_DROPPED, struct.pack("=Q", lost + forgotten))]
        blocks.append(_block(_STATISTICS, struct.pack("=I", number) + _time(now_ns) + _options(options)))
    return b"".join(blocks)


def _interface(name: str, text: str, filter_text: str, snap_len: int) -> bytes:
    options = [(_IF_NAME, name.encode(errors="replace")), (_IF_DESCRIPTION, text.encode()),
               (_IF_RESOLUTION, _NANOSECONDS)]
    if filter_text:
        options.append((_IF_FILTER, _LIBPCAP_FILTER + filter_text.encode()))
    return _block(_INTERFACE, struct.pack("=HHI", _LINKTYPE_ETHERNET, 0, snap_len) + _options(options))


def _time(time_ns: int) -> bytes:
    return struct.pack("=II", time_ns >> 32, time_ns & 0xFFFF_FFFF)


def _options(options: Iterable[tuple[int, bytes]]) -> bytes:
    return b"".join(struct.pack("=HH", code, len(value)) + _padded(value)
                    for code, value in (*options, (_END, b"")))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _block(kind: int, content: bytes) -> bytes:
    length = struct.pack("=I", len(content) + 12)
    return struct.pack("=I", kind) + length + content + length

"""DHCP and BOOTP messages (RFC 2131 2; RFC 951).

::

    0    1       2      3      4     8      10      12       16       20       24       28
    | op | htype | hlen | hops | xid | secs | flags | ciaddr | yiaddr | siaddr | giaddr | chaddr ...
    44      108    236            240
    | sname | file | magic cookie | options ...

Without the magic cookie there are no options: this is an old BOOTP message. Option 52 (overload) can say that
the options continue in `file`, then in `sname` (RFC 2131 4.1), which hold no names in that case. An option 52
inside these two fields is ignored, so no field is read twice. Fields have the names of RFC 2131.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address

from passt.errors import WireError
from passt.light.values import IntEnum, Value
from passt.wire.cursor import Reader, require_bits, require_len
from passt.wire.dhcp_options import (
    DhcpOption,
    MessageTypeOption,
    OptionCode,
    build_options,
    join_options,
    require_sorted,
    split_area,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self, TypeVar

    _Option = TypeVar("_Option")

_LAYOUT = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_COOKIE = bytes((99, 130, 83, 99))
_BROADCAST = 0x8000
_CHADDR_LEN, _SNAME_LEN, _FILE_LEN = 16, 64, 128
_VEND_LEN = 64
"""Minimum length after the fixed part (RFC 1542 2.1): old clients drop a shorter message."""
HEADER_LEN = _LAYOUT.size + len(_COOKIE)
"""Bytes before the options."""
HARDWARE_ETHERNET = 1
IP4_ZERO = IPv4Address(0)

SERVER_PORT = 67
CLIENT_PORT = 68


class BootpOp(IntEnum):
    """Operations (RFC 951 3)."""

    REQUEST = 1
    REPLY = 2


class DhcpMessage(Value):
    """One DHCP or BOOTP message. *chaddr* has the length that `hlen` says, 0 to 16 bytes.

    *options* are sorted by code; None means no magic cookie. *sname* and *file* end before their first zero
    byte.
    """

    op: BootpOp
    xid: int
    chaddr: bytes
    htype: int = HARDWARE_ETHERNET
    hops: int = 0
    secs: int = 0
    broadcast: bool = False
    ciaddr: IPv4Address = IP4_ZERO
    yiaddr: IPv4Address = IP4_ZERO
    siaddr: IPv4Address = IP4_ZERO
    giaddr: IPv4Address = IP4_ZERO
    sname: bytes = b""
    file: bytes = b""
    options: tuple[DhcpOption, ...] | None = None

    def __post_init__(self) -> None:
        require_bits("DHCP xid", self.xid, 32)
        require_bits("DHCP htype", self.htype, 8)
        require_bits("DHCP hops", self.hops, 8)
        require_bits("DHCP secs", self.secs, 16)
        require_len("DHCP chaddr", self.chaddr, 0, _CHADDR_LEN)
        require_len("DHCP sname", self.sname, 0, _SNAME_LEN)
        require_len("DHCP file", self.file, 0, _FILE_LEN)
        require_sorted(self.options or ())

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Self:
        """Read one message.

        Raises `WireError` if it is short, has an operation outside `BootpOp`, a hardware address longer
        than its field, a bad option 52, or options that `dhcp_options.parse_options` rejects.
        """
        reader = Reader(data, "DHCP")
        (op, htype, hlen, hops, xid, secs, flags, ciaddr, yiaddr, siaddr, giaddr, chaddr, sname,
         file) = reader.pull(_LAYOUT)
        if op not in BootpOp.__members__.values():
            raise WireError(f"DHCP: unknown operation {op}")
        if hlen > _CHADDR_LEN:
            raise WireError(f"DHCP: hardware address of {hlen} bytes")
        options = None
        if reader.remaining >= len(_COOKIE) and reader.pull_bytes(len(_COOKIE)) == _COOKIE:
            found = split_area(reader.pull_rest())
            in_file, in_sname = _overloaded(found)
            found += split_area(file) if in_file else []
            found += split_area(sname) if in_sname else []
            options = join_options(found)
            file, sname = b"" if in_file else file, b"" if in_sname else sname
        return cls(BootpOp(op), xid, chaddr[:hlen], htype, hops, secs, bool(flags & _BROADCAST),
                   IPv4Address(ciaddr), IPv4Address(yiaddr), IPv4Address(siaddr), IPv4Address(giaddr),
                   sname.partition(b"\0")[0], file.partition(b"\0")[0], options)

    def build(self, order: Iterable[int] = ()) -> bytes:
        """Write the message, padded to the minimum length of BOOTP; *order* as for `build_options`."""
        vend = b"" if self.options is None else _COOKIE + build_options(self.options, order)
        return _LAYOUT.pack(
            self.op, self.htype, len(self.chaddr), self.hops, self.xid, self.secs,
            _BROADCAST if self.broadcast else 0, self.ciaddr.packed, self.yiaddr.packed,
            self.siaddr.packed, self.giaddr.packed, self.chaddr, self.sname, self.file,
        ) + vend.ljust(_VEND_LEN, b"\0")

    def find(self, kind: type[_Option]) -> _Option | None:
        """Return the option of class *kind*; None if there is none."""
        return next((option for option in self.options or () if isinstance(option, kind)), None)

    @property
    def message_type(self) -> int:
        """A `MessageType` or any other 8-bit number; 0 for a message of BOOTP."""
        option = self.find(MessageTypeOption)
        return option.value if option else 0


def _overloaded(options: Iterable[tuple[int, bytes]]) -> tuple[bool, bool]:
    """Return whether option 52 says that `file` holds options, and that `sname` does (RFC 2132 9.3)."""
    values = [data for code, data in options if code == OptionCode.OVERLOAD]
    if not values:
        return False, False
    if values[1:] or values[0] not in {b"\1", b"\2", b"\3"}:
        raise WireError("DHCP OVERLOAD: must be 1, 2 or 3, once")
    return bool(values[0][0] & 1), bool(values[0][0] & 2)

"""Requests of a front end: bytes to values and back (QEMU, "Vhost-user Protocol", "Message Specification").

::

    0         4       8      12
    | request | flags | size | payload, size bytes |

Numbers are in the machine's own byte order, without padding. flags: version in bits 0 and 1, 2 "reply", 3
"need reply". Values are as in `wire/`: parsing what build wrote gives an equal value, and malformed data
raises `WireError`.
"""

from __future__ import annotations

import struct

from passt.errors import WireError
from passt.facts.contracts import MemoryRegion
from passt.light.values import IntEnum, Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from typing import Any, Self

VERSION = 1
_VERSION_MASK = 3
FLAG_REPLY, FLAG_NEED_REPLY = 4, 8
MAX_FDS = 8                        # with one message
MAX_TABLE = 8                      # regions in one SET_MEM_TABLE
MAX_CONFIG_LEN = 256               # of a device's configuration space

_HEADER = struct.Struct("=III")
_U64 = struct.Struct("=Q")
_STATE = struct.Struct("=II")
_ADDRESSES = struct.Struct("=IIQQQQ")
_TABLE = struct.Struct("=II")
_REGION = struct.Struct("=QQQQ")
_ONE_REGION = struct.Struct("=QQQQQ")
_LOG = struct.Struct("=QQ")
_INFLIGHT = struct.Struct("=QQHH")
_CONFIG = struct.Struct("=III")
HEADER_LEN = _HEADER.size
# Larger than every payload that is known.
MAX_PAYLOAD_LEN = 512
# C compilers round this structure up to 8 bytes, and QEMU sends and wants it so.
_PADDED_INFLIGHT_LEN = 24
# "Inflight I/O tracking": QueueRegionSplit without its array of DescStateSplit, and one of these.
_QUEUE_REGION_LEN, _DESCRIPTOR_STATE_LEN = 16, 16
_RING_MASK, _NO_FD = 0xff, 0x100
_LOG_USED_RING = 1


class Request(IntEnum):
    """What a front end asks for; "Front-end message types"."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


def request_name(number: int) -> str:
    """Name a request for the user."""
    return Request(number).name if number in Request.__members__.values() else f"request {number}"


class ProtocolFeature(IntEnum):
    """Bits of GET_PROTOCOL_FEATURES that are of use here; "Protocol features"."""

    MQ = 0
    LOG_SHMFD = 1
    RARP = 2
    REPLY_ACK = 3
    NET_MTU = 4
    CONFIG = 9
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    CONFIGURE_MEM_SLOTS = 15


def _unpack(layout: struct.Struct, data: bytes, what: str) -> tuple[Any, ...]:
    """Take *data*, which must have the length of *layout*, apart; WireError calls it *what*."""
    if len(data) != layout.size:
        raise WireError(f"{what} of {len(data)} bytes; {layout.size} would be right")
    return layout.unpack(data)


class Header(Value):
    """The beginning of each message; *size* is that of the payload."""

    request: int
    flags: int
    size: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one; WireError if no request begins so."""
        request, flags, size = _unpack(_HEADER, data, "a header")
        if flags & _VERSION_MASK != VERSION and request not in Request.__members__.values():
            raise WireError("that is no request of vhost-user; a client that sends frames (QEMU's -netdev"
                            " stream) is served without the option --vhost-user")
        if flags & _VERSION_MASK != VERSION:
            raise WireError(f"version {flags & _VERSION_MASK} of the protocol; {VERSION} would be right")
        if flags & FLAG_REPLY:
            raise WireError("it is marked as a reply, which nobody asked for")
        if size > MAX_PAYLOAD_LEN:
            raise WireError(f"a payload of {size} bytes; no request has more than {MAX_PAYLOAD_LEN}")
        return cls(request, flags, size)

    @property
    def needs_reply(self) -> bool:
        """Whether the front end waits for the outcome, if that was agreed upon (REPLY_ACK)."""
        return bool(self.flags & FLAG_NEED_REPLY)

    def build(self) -> bytes:
        """Write it: 12 bytes."""
        return _HEADER.pack(self.request, self.flags, self.size)


def build_reply(request: int, payload: bytes) -> bytes:
    """Write the reply to a *request*."""
    return Header(request, VERSION | FLAG_REPLY, len(payload)).build() + payload


def parse_u64(data: bytes) -> int:
    """Read "A single 64-bit integer"."""
    number: int = _unpack(_U64, data, "a payload")[0]
    return number


def build_u64(number: int) -> bytes:
    """Write "A single 64-bit integer"."""
    return _U64.pack(number)


def parse_nothing(data: bytes) -> None:
    """Take the payload of a request that has none."""
    if data:
        raise WireError(f"a payload of {len(data)} bytes; there must be none")


class RingState(Value):
    """A number for a ring: "A vring state description"."""

    ring: int
    number: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one."""
        return cls(*_unpack(_STATE, data, "a payload"))

    def build(self) -> bytes:
        """Write it: 8 bytes."""
        return _STATE.pack(self.ring, self.number)


class RingFile(Value):
    """The ring that a descriptor is for, or that there is none: payload of SET_VRING_KICK, CALL and ERR."""

    ring: int
    has_fd: bool

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one; bits above 8 have no meaning."""
        number = parse_u64(data)
        return cls(number & _RING_MASK, not number & _NO_FD)

    def build(self) -> bytes:
        """Write it: 8 bytes."""
        return build_u64(self.ring | (0 if self.has_fd else _NO_FD))


class RingAddresses(Value):
    """Where the parts of a ring are, as the front end sees them: "A vring address description".

    *log* is the guest's address of the used ring, if *flags* say that writes to it are to be logged.
    """

    ring: int
    flags: int
    descriptors: int
    used: int
    available: int
    log: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one."""
        return cls(*_unpack(_ADDRESSES, data, "a payload"))

    @property
    def is_logged(self) -> bool:
        """Whether writes to the used ring are to be logged (VHOST_VRING_F_LOG)."""
        return bool(self.flags & _LOG_USED_RING)

    def build(self) -> bytes:
        """Write it: 40 bytes."""
        return _ADDRESSES.pack(self.ring, self.flags, self.descriptors, self.used, self.available, self.log)


def _region(guest_address: int, size: int, user_address: int, mmap_offset: int) -> MemoryRegion:
    return MemoryRegion(guest_address, size, user_address, mmap_offset, fd=-1)


def parse_table(data: bytes) -> list[MemoryRegion]:
    """Read "Multiple Memory regions description": regions without their descriptors.

    Behind the regions there may be room for others, which has no meaning.
    """
    if len(data) < _TABLE.size:
        raise WireError(f"a payload of {len(data)} bytes; {_TABLE.size} would be the least")
    n_regions, _ = _TABLE.unpack_from(data)
    if n_regions > MAX_TABLE:
        raise WireError(f"{n_regions} regions of memory; one message has {MAX_TABLE} at most")
    if len(data) not in {_TABLE.size + n * _REGION.size for n in (n_regions, MAX_TABLE)}:
        raise WireError(f"a payload of {len(data)} bytes for {n_regions} regions of memory;"
                        f" {_TABLE.size + n_regions * _REGION.size} would be right")
    places = range(_TABLE.size, _TABLE.size + n_regions * _REGION.size, _REGION.size)
    return [_region(*_REGION.unpack_from(data, place)) for place in places]


def build_table(regions: list[MemoryRegion]) -> bytes:
    """Write "Multiple Memory regions description", as long as it has to be."""
    return _TABLE.pack(len(regions), 0) + b"".join(_REGION.pack(*region[:4]) for region in regions)


def parse_region(data: bytes) -> MemoryRegion:
    """Read "Single memory region description"; the descriptor is not in there."""
    _, *fields = _unpack(_ONE_REGION, data, "a payload")
    return _region(*fields)


def build_region(region: MemoryRegion) -> bytes:
    """Write "Single memory region description": 40 bytes."""
    return _ONE_REGION.pack(0, *region[:4])


class LogArea(Value):
    """Where in a file the log of dirty pages is: "Log description"."""

    size: int
    offset: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one."""
        return cls(*_unpack(_LOG, data, "a payload"))

    def build(self) -> bytes:
        """Write it: 16 bytes."""
        return _LOG.pack(self.size, self.offset)


class InflightArea(Value):
    """Where in a file the descriptors in use are recorded, and of which rings: "Inflight description"."""

    size: int
    offset: int
    n_rings: int
    ring_size: int

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one, rounded up to 24 bytes or not."""
        if len(data) == _PADDED_INFLIGHT_LEN:
            data = data[:_INFLIGHT.size]
        return cls(*_unpack(_INFLIGHT, data, "a payload"))

    def needed_size(self) -> int:
        """Tell the bytes that the record takes ("Inflight I/O tracking", QueueRegionSplit)."""
        return self.n_rings * (_QUEUE_REGION_LEN + self.ring_size * _DESCRIPTOR_STATE_LEN)

    def build(self, length: int = _INFLIGHT.size) -> bytes:
        """Write it, rounded up to *length*."""
        data = _INFLIGHT.pack(self.size, self.offset, self.n_rings, self.ring_size)
        return data.ljust(length, b"\0")


class ConfigPart(Value):
    """A part of the device's configuration space: "Virtio device config space"."""

    offset: int
    flags: int
    data: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one."""
        if len(data) < _CONFIG.size:
            raise WireError(f"a payload of {len(data)} bytes; {_CONFIG.size} would be the least")
        offset, size, flags = _CONFIG.unpack_from(data)
        if size > MAX_CONFIG_LEN or len(data) != _CONFIG.size + size:
            raise WireError(f"a payload of {len(data)} bytes for {size} bytes of the configuration")
        return cls(offset, flags, data[_CONFIG.size:])

    def build(self) -> bytes:
        """Write it: 12 bytes, and the data."""
        return _CONFIG.pack(self.offset, len(self.data), self.flags) + self.data

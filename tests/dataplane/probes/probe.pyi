# Typing of the probe; what each name does is said in probe.pyx.
from enum import IntEnum
from typing import NamedTuple

class Verdict(IntEnum):
    VERDICT_OK = 0
    DROP_SHORT = 1
    DROP_BAD_LENGTH = 2
    DROP_BAD_VERSION = 3
    DROP_OVERSIZE = 4
    DROP_FRAGMENT = 5
    DROP_BAD_ADDRESS = 6
    DROP_BAD_PORT = 7
    DROP_ETHERTYPE = 8
    DROP_PROTOCOL = 9
    DROP_EXTENSION_HEADER = 10
    DROP_DISABLED = 11
    DROP_REFUSED = 12
    DROP_FLOWS_FULL = 13
    DROP_NO_FD = 14
    DROP_CROWD = 15
    DROP_SOCKET = 16
    DROP_LINK_FULL = 17
    DROP_LINK_DOWN = 18
    DROP_TRUNCATED = 19
    DROP_TCP_SEQUENCE = 20
    DROP_TCP_ACK = 21
    DROP_TCP_FLAGS = 22
    DROP_TCP_TIMESTAMP = 23
    DROP_TCP_MEMORY = 24
    DROP_UNKNOWN_FLOW = 25
    DROP_CONTROL_RATE = 26
    DROP_GSO = 27
    DROP_FRAGMENT_OVERLAP = 28
    DROP_FRAGMENT_TIME = 29
    DROP_FRAGMENT_MEMORY = 30
    DROP_BAD_CHECKSUM = 31
    DROP_TOO_BIG = 32
    DROP_OWN_ECHO = 33

class IpFields(NamedTuple):
    source: bytes
    destination: bytes
    protocol: int
    ttl: int
    tos: int
    l4: bytes

class TcpFields(NamedTuple):
    src_port: int
    dst_port: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    payload: bytes

class UdpFields(NamedTuple):
    src_port: int
    dst_port: int
    payload: bytes

class Options(NamedTuple):
    mss: int
    window_scale: int
    sack_permitted: bool
    ts_val: int | None = None

class Key(NamedTuple):
    guest: bytes
    remote: bytes
    guest_port: int
    remote_port: int
    proto: int
    scope: int

class Guarded:
    def place(self, data: bytes) -> int: ...

def ip4(packet: bytes) -> IpFields | int: ...
def ip6(packet: bytes) -> IpFields | int: ...
def tcp(segment: bytes) -> TcpFields | int: ...
def udp(datagram: bytes) -> UdpFields | int: ...
def tcp_options(options: bytes) -> Options: ...
def timestamps(options: bytes) -> tuple[int, int] | None: ...
def checksum(data: bytes, total: int = 0) -> int: ...
def checksum_of_pieces(pieces: list[bytes], offset: int, n: int) -> int: ...
def partial(data: bytes, total: int = 0) -> int: ...
def pseudo(source: bytes, destination: bytes, protocol: int, n: int) -> int: ...
def hash_words(key: bytes, data: bytes) -> int: ...
def complete(frame: bytes, csum_start: int, csum_offset: int) -> bytes: ...
def cut(
    frame: bytes,
    offset: int,
    *,
    hdr_len: int,
    gso_size: int,
    csum_start: int,
    csum_offset: int,
    gso_type: int,
) -> bytes: ...

class Heap:
    def __init__(self, n_ids: int) -> None: ...
    def __len__(self) -> int: ...
    def arm(self, timer: int, deadline: int) -> None: ...
    def cancel(self, timer: int) -> None: ...
    def next_deadline(self) -> int: ...
    def pop_due(self, now: int) -> int | None: ...

class Table:
    def __init__(self, max_flows: int, secret: bytes = ...) -> None: ...
    @property
    def n_active(self) -> int: ...
    def alloc(self, kind: int) -> int | None: ...
    def is_blank(self, index: int) -> bool: ...
    def soil(self, index: int) -> None: ...
    def release(self, index: int) -> None: ...
    def insert(self, index: int, side: int, key: Key) -> bool: ...
    def find(self, key: Key, side: int) -> int | None: ...
    def hash(self, key: Key) -> int: ...
    def kind(self, index: int) -> int: ...
    def generation(self, index: int) -> int: ...
    def at_tag(self, tag: int) -> int | None: ...
    def add_work(self, index: int) -> None: ...
    def add_waiting(self, index: int) -> None: ...
    def wake_waiting(self) -> None: ...
    def take_work(self) -> list[int]: ...

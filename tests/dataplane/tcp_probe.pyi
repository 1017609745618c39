# Typing of the bench; what each name does is said in tcp_probe.pyx.
from collections.abc import Collection
from typing import NamedTuple

class Sent(NamedTuple):
    frame: bytes
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int

class Conn(NamedTuple):
    flow: int
    state: str
    fd: int
    guest_port: int
    remote_port: int
    iss: int
    snd_una: int
    snd_nxt: int
    snd_max: int
    snd_wnd: int
    rcv_nxt: int
    rcv_adv: int
    cwnd: int
    srtt: int
    rto: int
    backoff: int
    retries: int
    overflow: int
    memory: int
    armed: int

class RecordingLink:
    room: int | None
    keep_most: int
    refuse_next: int
    def open_up(self, room: int | None) -> None: ...

class Bench:
    now: int
    pool_left: int
    has_no_memory: bool
    pool_refusals: int
    window_scale: int
    link: RecordingLink
    def __init__(
        self,
        policy: object,
        kernel: object,
        events: object,
        *,
        offloads: bool = True,
        mtu: int = 65520,
        max_flows: int = 64,
        peek_off: bool = True,
    ) -> None: ...
    @property
    def next_deadline(self) -> int | None: ...
    @property
    def is_busy(self) -> bool: ...
    @property
    def is_blocked(self) -> bool: ...
    @property
    def n_active(self) -> int: ...
    def isn(self, guest: bytes, guest_port: int, remote: bytes, remote_port: int) -> int: ...
    def add_listener(self, fd: int, rule: object, port: int) -> int: ...
    def turn(self, events: list[tuple[object, ...]]) -> list[Sent]: ...
    def counters(self) -> dict[str, int]: ...
    def conns(self) -> list[Conn]: ...
    def close(self) -> list[Sent]: ...

def window_scale_for(window: int) -> int: ...

class RealSockets:
    has_peek_off: bool
    has_meminfo: bool
    @property
    def window_scale(self) -> int: ...
    def keep_alive(self, fd: int, idle_s: int) -> int: ...
    def probe(self, without: Collection[str] = ...) -> frozenset[str]: ...
    def prepare(self, fd: int) -> int: ...
    def send(self, fd: int, pieces: list[bytes]) -> int: ...
    def peek(self, fd: int, skip: int, n: int) -> bytes | int: ...
    def rewind(self, fd: int, offset: int) -> int: ...
    def consume(self, fd: int, n: int) -> int: ...
    def free_space(self, fd: int) -> tuple[int, int]: ...
    def take_error(self, fd: int) -> int: ...
    def shut_write(self, fd: int) -> int: ...
    def abort(self, fd: int) -> int: ...
    def accept(self, fd: int) -> int | tuple[int, tuple[bytes, int], tuple[bytes, int]]: ...
    def refuse(self, fd: int, spare: int) -> int: ...

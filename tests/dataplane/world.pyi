# Typing of the world; what each name does is said in world.pyx.
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from passt.contracts import FlowPolicy, FrameResponder, GuestEvents

class Sent(NamedTuple):
    frame: bytes
    gso_type: int
    gso_size: int
    csum_start: int
    csum_offset: int
    hdr_len: int

class FlowState(NamedTuple):
    number: int
    kind: int
    fd: int
    armed: int

Received: TypeAlias = tuple[bytes, bytes, bytes, int] | int

class ScriptedSockets:
    log: list[tuple[object, ...]]
    open_fds: set[int]
    results: dict[str, deque[int]]
    inbox: dict[int, deque[Received]]
    errors: dict[int, deque[tuple[bytes, bytes, bytes]]]
    options: list[tuple[int, int, int, int]]
    refuse_segments: int

def socket_address(address: bytes, port: int) -> bytes: ...

class World:
    now: int
    room: int
    blocked: bool
    mtu: int

    def __init__(
        self,
        policy: FlowPolicy,
        responder: FrameResponder,
        events: GuestEvents,
        *,
        our_mac: bytes,
        guest_mac: bytes | None = None,
        mtu: int = 65520,
        max_flows: int = 64,
        features: int = 0,
        scripted: bool = False,
        our_ip4: bytes = ...,
    ) -> None: ...
    @property
    def sockets(self) -> ScriptedSockets: ...
    @property
    def pool_left(self) -> int: ...
    @property
    def max_datagram(self) -> int: ...
    @property
    def n_records(self) -> int: ...
    identification: int
    @property
    def guest_mac(self) -> bytes: ...
    def inject(
        self, frame: bytes, *, gso_type: int = 0, gso_size: int = 0, unverified: bool = False
    ) -> None: ...
    def end_turn(self) -> None: ...
    def flush(self) -> None: ...
    def wake_waiting(self) -> None: ...
    def dispatch(self) -> int: ...
    def event(self, index: int, events: int) -> None: ...
    def tagged_event(self, tag: int, events: int) -> None: ...
    def listener_event(self, index: int) -> None: ...
    def fire_timers(self) -> None: ...
    def switch(self, **switches: bool) -> None: ...
    def next_deadline(self) -> int: ...
    def add_listener(
        self, fd: int, proto: int, rule: object, port: int, families: tuple[int, ...] = (),
        address: bytes = b"", device: bytes = b"",
    ) -> int: ...
    def ask_inbound(self) -> bool: ...
    def check(self) -> None: ...
    def end_all(self) -> None: ...
    def take_sent(self) -> list[Sent]: ...
    def script(self, operation: str, *results: int) -> None: ...
    def deliver(self, fd: int, *items: Received) -> None: ...
    def flows(self) -> list[FlowState]: ...
    def counters(self) -> dict[str, int]: ...
    def send_frame(self, frame: bytes) -> bool: ...
    def push_icmp_error(
        self,
        guest: bytes,
        remote: bytes,
        protocol: int,
        quoted: bytes,
        *,
        kind: int,
        code: int,
        info: int = 0,
        offender: bytes | None = None,
    ) -> None: ...
    def set_frames(self, frames: Callable[[bytes, int, bool, int, int, int], None] | None) -> None: ...
    def set_trace(self, trace: Callable[[str], None] | None) -> None: ...

# Typing of the world; what each name does is said in world.pyx.
from collections.abc import Iterable
from typing import NamedTuple

from passt.facts.contracts import FlowPolicy, FrameResponder, GuestEvents
from tests.dataplane.probes.scripted import Rig as Rig
from tests.dataplane.probes.scripted import Sent as Sent
from tests.dataplane.probes.scripted import socket_address as socket_address
from tests.support.answers import Answers, Received

class FlowState(NamedTuple):
    number: int
    kind: int
    fd: int
    armed: int

class World(Rig):
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
    def sockets(self) -> Answers: ...
    @property
    def max_datagram(self) -> int: ...
    identification: int
    @property
    def guest_mac(self) -> bytes: ...
    def inject(
        self, *frames: bytes, gso_type: int = 0, gso_size: int = 0, unverified: bool = False
    ) -> None: ...
    def inject_batch(self, batch: Iterable[tuple[bytes, int, int, bool]]) -> None: ...
    def turn(self) -> None: ...
    def open_link(self) -> None: ...
    def dispatch(self) -> int: ...
    def event(self, index: int, events: int) -> None: ...
    def tagged_event(self, tag: int, events: int) -> None: ...
    def tagged_events(self, found: Iterable[tuple[int, int]]) -> None: ...
    def listener_event(self, index: int) -> None: ...
    def switch(self, **switches: bool) -> None: ...
    def add_listener(
        self, fd: int, proto: int, rule: object, port: int, families: tuple[int, ...] = (),
        address: bytes = b"", device: bytes = b"",
    ) -> int: ...
    def ask_inbound(self) -> bool: ...
    def keep_busy(self, index: int) -> None: ...
    def end_all(self) -> None: ...
    def script(self, operation: str, *results: int) -> None: ...
    def deliver(self, fd: int, *items: Received) -> None: ...
    def flows(self) -> list[FlowState]: ...
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

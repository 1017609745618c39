# Typing of the bench; what each name does is said in tcp_probe.pyx.
from typing import NamedTuple

from tests.dataplane.probes.scripted import Rig as Rig
from tests.dataplane.probes.scripted import Sent as Sent

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
    follows: bool
    reported: tuple[tuple[int, int], ...]
    stored: tuple[tuple[int, int], ...]

class Bench(Rig):
    has_no_memory: bool
    pool_refusals: int
    window_scale: int
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
        bytes_acked: bool = True,
    ) -> None: ...
    def isn(self, guest: bytes, guest_port: int, remote: bytes, remote_port: int) -> int: ...
    def add_listener(self, fd: int, rule: object, port: int) -> int: ...
    def turn(self, events: list[tuple[object, ...]]) -> list[Sent]: ...
    def conns(self) -> list[Conn]: ...

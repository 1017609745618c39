# Typing of the rig; what each name does is said in scripted.pyx.
from collections.abc import Callable
from typing import NamedTuple

class Sent(NamedTuple):
    frame: bytes
    gso_type: int
    gso_size: int
    csum_start: int
    csum_offset: int
    hdr_len: int

def socket_address(address: bytes, port: int) -> bytes: ...

class ScriptedLink:
    room: int | None
    takes: int
    keep_most: int
    refuse_next: int

class Rig:
    now: int
    pool_left: int
    @property
    def link(self) -> ScriptedLink: ...
    @property
    def next_deadline(self) -> int | None: ...
    @property
    def is_busy(self) -> bool: ...
    @property
    def is_blocked(self) -> bool: ...
    @property
    def n_active(self) -> int: ...
    def take_sent(self) -> list[Sent]: ...
    def counters(self) -> dict[str, int]: ...
    def set_trace(
        self,
        trace: Callable[[str], object] | None,
        frames: Callable[[bytes, int, bool, int, int, int], None] | None = None,
    ) -> None: ...
    def close(self) -> list[Sent]: ...

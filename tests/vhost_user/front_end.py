"""The other end of a session's control socket, a device that notes what it is told, and a loop that turns."""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from passt.facts.contracts import MemoryRegion
from passt.vhost_user.backend import Backend
from passt.vhost_user.messages import FLAG_NEED_REPLY, VERSION, Header, Request, build_u64
from passt.vhost_user.session import Session
from tests.support import fakes
from tests.support.processes import is_readable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FEATURES = 1 << 32 | 1 << 30 | 1 << 26 | 1 << 15 | 1
BACKEND = Backend(features=FEATURES, max_pairs=2, max_regions=64, mtu=1500)
REGION = MemoryRegion(0x1000, 0x2000, 0x7f00_0000_1000, 0x3000, -1)


class Device:
    """Notes what it is told, of a descriptor its inode; `error` is raised then, if there is one."""

    def __init__(self, on_end: Callable[[str], None]) -> None:
        self.on_end = on_end
        self.told: list[tuple[object, ...]] = []
        self.owned: list[int] = []
        self.error: Exception | None = None
        self.base = 7
        self.ended: str | None = None

    def _note(self, *what: object) -> None:
        assert self.ended is None
        self.told.append(what)
        if self.error is not None:
            raise self.error

    def _own(self, fd: int, *what: object) -> None:
        if fd >= 0:
            self.owned.append(fd)
            assert not os.get_blocking(fd)
        self._note(*what, fd if fd < 0 else os.fstat(fd).st_ino)

    def set_features(self, features: int) -> None:
        self._note("features", features)

    def set_memory(self, regions: Sequence[MemoryRegion]) -> None:
        self._note("memory", [region._replace(fd=os.fstat(region.fd).st_ino) for region in regions])

    def add_region(self, region: MemoryRegion) -> None:
        self._note("add", region._replace(fd=os.fstat(region.fd).st_ino))

    def remove_region(self, region: MemoryRegion) -> None:
        self._note("remove", region)

    def set_ring_size(self, ring: int, size: int) -> None:
        self._note("size", ring, size)

    def set_ring_base(self, ring: int, base: int) -> None:
        self._note("base", ring, base)

    def set_ring_addresses(self, ring: int, descriptors: int, used: int, available: int,
                           log: int | None) -> None:
        self._note("addresses", ring, descriptors, used, available, log)

    def set_kick(self, ring: int, fd: int) -> None:
        self._own(fd, "kick", ring)

    def set_call(self, ring: int, fd: int) -> None:
        self._own(fd, "call", ring)

    def enable_ring(self, ring: int, enabled: bool) -> None:
        self._note("enable", ring, enabled)

    def stop_ring(self, ring: int) -> int:
        self._note("stop", ring)
        return self.base

    def set_log(self, fd: int, size: int, offset: int) -> None:
        self._note("log", os.fstat(fd).st_ino, size, offset)

    def set_log_call(self, fd: int) -> None:
        self._own(fd, "log call")

    def reset(self) -> None:
        self._note("reset")

    def end(self, reason: str) -> None:
        assert self.ended is None
        self.ended = reason

    def detach(self, reason: str) -> None:
        """Do what the engine does at the end of the turn in which the session ended."""
        while self.owned:
            os.close(self.owned.pop())
        self.on_end(reason)


class Loop(fakes.Loop):
    """An engine that has one device at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.device: Device | None = None
        self.refusal: Exception | None = None

    def attach_vhost(self, on_end: Callable[[str], None]) -> Device:
        assert self.device is None
        if self.refusal is not None:
            raise self.refusal
        self.device = Device(on_end)
        return self.device

    def turn(self) -> None:
        super().turn()
        device = self.device
        if device is not None and device.ended is not None:
            self.device = None
            device.detach(device.ended)


class FrontEnd:
    """A session and its other end: the test speaks raw messages, and *why* is the reason of the end."""

    def __init__(self, backend: Backend = BACKEND) -> None:
        self.loop = Loop()
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(60)
        self.why: str | None = None
        self.session = Session(self.loop, theirs.detach(), backend, self._on_end)

    def _on_end(self, reason: str) -> None:
        assert self.why is None
        self.why = reason

    @property
    def device(self) -> Device:
        assert self.loop.device is not None
        return self.loop.device

    @property
    def told(self) -> list[tuple[object, ...]]:
        return self.device.told

    def send_bytes(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """Send bytes with descriptors, and take a turn."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(fds)}i", *fds))] if fds else []
        assert self.sock.sendmsg([data], rights) == len(data)
        self.loop.turn()

    def send(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *,
             flags: int = VERSION) -> None:
        """Send a request, and take a turn."""
        self.send_bytes(Header(request, flags, len(payload)).build() + payload, fds)

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), *,
            flags: int = VERSION) -> bytes:
        """Send a request and return the payload of its reply."""
        self.send(request, payload, fds, flags=flags)
        answer, answered = self.reply(request)
        assert answered == []
        return answer

    def reply(self, request: int) -> tuple[bytes, list[int]]:
        """Take the reply to *request*: payload and descriptors."""
        data, fds, _, _ = socket.recv_fds(self.sock, 4096, 8, socket.MSG_DONTWAIT)
        number, flags, size = struct.unpack("=III", data[:12])
        assert (number, flags, size) == (request, VERSION | 4, len(data) - 12)
        return data[12:], [*fds]

    def has_reply(self) -> bool:
        """Tell whether there is a reply."""
        try:
            return is_readable(self.sock) and bool(self.sock.recv(1, socket.MSG_PEEK))
        except ConnectionResetError:
            return False

    def agree(self, *features: int) -> None:
        """Agree upon protocol features."""
        self.send(Request.SET_PROTOCOL_FEATURES, build_u64(sum(1 << feature for feature in features)))
        assert self.why is None

    def close(self) -> None:
        """Close the connection, and let the session see it."""
        self.sock.close()
        if self.loop.device is not None:
            self.loop.turn()
        assert self.loop.readers == {}
        assert self.loop.device is None


NEED_REPLY = VERSION | FLAG_NEED_REPLY

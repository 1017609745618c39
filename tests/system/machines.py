"""Machines for the tests of passt: one whose frames a test makes itself, and one with a kernel of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.support.front_end import USUAL, FrontEnd
from tests.support.lab import OUTSIDE4, Lab, Place, Running
from tests.support.processes import is_readable, wait_until
from tests.support.vhost_client import Client

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LENGTH = struct.Struct("!I")
LIMIT_S = 60.0                     # bounds a failure only, on a machine that is busy
MAC = "52:54:00:12:34:56"


class Peer:
    """An emulator's end of the socket; the test is the guest."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(LIMIT_S)
        self._buffer = b""

    @classmethod
    def connect(cls, path: str) -> Peer:
        """Connect to passt, which may be about to start."""
        wait_until(lambda: os.path.exists(path), f"{path} is there")
        sock = socket.socket(socket.AF_UNIX)
        # The file is there between bind(2) and listen(2) already.
        wait_until(lambda: sock.connect_ex(path) == 0, f"{path} listens")
        return cls(sock)

    def send(self, *frames: bytes) -> None:
        """Send frames, in one write."""
        self.sock.sendall(b"".join(LENGTH.pack(len(frame)) + frame for frame in frames))

    def receive(self, is_wanted: Callable[[bytes], object], limit_s: float = LIMIT_S) -> bytes:
        """Return the next frame of which *is_wanted* is true; others are thrown away."""
        end = time.monotonic() + limit_s
        while True:
            while (frame := self._next()) is not None:
                if is_wanted(frame):
                    return frame
            if not is_readable(self.sock, end - time.monotonic()):
                raise AssertionError(f"no such frame within {limit_s} s")
            data = self.sock.recv(1 << 20)
            assert data, "passt has closed the connection"
            self._buffer += data

    def _next(self) -> bytes | None:
        if len(self._buffer) < LENGTH.size:
            return None
        end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
        if end > len(self._buffer):
            return None
        frame, self._buffer = self._buffer[LENGTH.size:end], self._buffer[end:]
        return frame

    def wait_for_end(self) -> None:
        """Wait until passt closes the connection."""
        try:
            while self.sock.recv(1 << 20):
                continue
        except ConnectionResetError:
            return

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


class SharingPeer:
    """A front end of vhost-user; the test is the guest, whose memory passt shares."""

    N_BUFFERS, BUFFER_LEN = 200, 2048

    def __init__(self, sock: socket.socket, features: int = USUAL) -> None:
        self.sock = sock
        self.client = Client(sock)
        self.front_end = FrontEnd(features=features)
        try:
            offered = self.client.negotiate()
            assert not features & ~offered, hex(offered)
            self.front_end.start(self.client)
        except BaseException:
            self.close()
            raise
        self.front_end.offer(self.BUFFER_LEN, self.N_BUFFERS)

    @classmethod
    def connect(cls, path: str, features: int = USUAL) -> SharingPeer:
        """Connect to passt, which may be about to start, and share memory and rings."""
        return cls(Peer.connect(path).sock, features)

    def send(self, *frames: bytes) -> None:
        """Send frames by the transmit ring."""
        for frame in frames:
            self.front_end.sent()
            self.front_end.send(frame)

    def receive(self, is_wanted: Callable[[bytes], object], limit_s: float = LIMIT_S) -> bytes:
        """Return the next frame of which *is_wanted* is true; others are thrown away."""
        end = time.monotonic() + limit_s
        while True:
            received = self.front_end.received()
            for one in received:
                self.front_end.offer(self.BUFFER_LEN, len(one.chains))
            for one in received:
                if is_wanted(one.frame):
                    return one.frame
            if not received:
                self.front_end.receive_ring().await_call(max(end - time.monotonic(), 0))

    def wait_for_end(self) -> None:
        """Wait until passt closes the connection."""
        self.client.await_end()

    def close(self) -> None:
        """Close the connection, as a machine that goes without a word."""
        self.sock.close()
        self.front_end.close()


Machine = Peer | SharingPeer


class Form(NamedTuple):
    """A way to connect a machine: options of passt, and what stands in for the machine."""

    options: tuple[str, ...]
    peer: type[Peer | SharingPeer]

    def connect(self, path: str) -> Machine:
        """Connect to passt, which may be about to start."""
        return self.peer.connect(path)


FORMS = {"stream": Form((), Peer), "vhost-user": Form(("--vhost-user",), SharingPeer)}


def socket_path(lab: Lab, name: str) -> str:
    """Give the path of a socket where everybody may make one."""
    directory = lab.directory / "sockets"
    directory.mkdir(exist_ok=True)
    directory.chmod(0o1777)
    return str(directory / f"{name}.socket")


@contextlib.contextmanager
def passt(lab: Lab, *options: str, user: bool, name: str = "machine", place: Place | None = None
          ) -> Iterator[tuple[Running, str]]:
    """Run passt in the foreground, on the host or in *place*, from when it is ready.

    It must end well, by SIGTERM if it still runs then, unless the caller has collected it.
    """
    path = socket_path(lab, name)
    pid_file = Path(f"{path}.pid")
    pid_file.unlink(missing_ok=True)  # of one that the test killed
    argv = [lab.passt, "-f", "-s", path, "-P", str(pid_file), *options]
    running = (place or lab.host).spawn(argv, user=user)

    def is_ready() -> bool:
        assert running.popen.poll() is None, running.popen.communicate()
        return pid_file.exists() and pid_file.stat().st_size > 0

    try:
        wait_until(is_ready, "passt is ready")
        yield running, path
        if running.popen.returncode is None:
            running.send(signal.SIGTERM)
            result = running.finish()
            assert result.returncode == 0, result.stderr.decode()
            assert b"Traceback" not in result.stderr, result.stderr.decode()
    finally:
        if running.popen.returncode is None:
            running.kill()
        Path(path).unlink(missing_ok=True)
        pid_file.unlink(missing_ok=True)


class Guest:
    """A machine whose kernel is that of a namespace: its own place, with a tap that the emulator relays."""

    def __init__(self, lab: Lab, path: str, *, mac: str = MAC, silent: bool = False) -> None:
        self._lab = lab
        self.place = lab.bare_place()
        if silent:
            # IPv6 announces itself as soon as an interface is up.
            self.place.run(["sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6"])
        self.emulator = self.place.spawn(
            ["/usr/bin/python3", "-I", str(lab.directory / "emulator.py"), path, "eth0", mac])
        self.wait_until_connected()

    def wait_until_connected(self) -> None:
        """Wait until the emulator says so."""
        stdout = self.emulator.popen.stdout
        assert stdout is not None
        line = stdout.readline()
        assert line == b"connected\n", self.emulator.popen.communicate()

    def reconnect(self) -> None:
        """Have the emulator drop its connection and make a new one."""
        self.emulator.send(signal.SIGUSR1)
        self.wait_until_connected()

    def configure(self, address4: str | None = None) -> None:
        """Set up IPv4 by DHCP, or with *address4* by hand; IPv6 is set up by the kernel (SLAAC)."""
        if address4 is None:
            self.place.run(["sh", "-c", "mount -t tmpfs run /run && mkdir -p /run/dhcp"])
            hook = str(self._lab.directory / "dhcp_hook.sh")
            self.place.run(["busybox", "udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "30", "-T", "1",
                            "-O", "search", "-O", "mtu", "-s", hook])
        else:
            self.place.run(["ip", "address", "add", f"{address4}/24", "dev", "eth0"])
        self.place.run(["ip", "route", "add", "default", "via", OUTSIDE4])
        self.wait_for_ip6()

    def wait_for_ip6(self) -> None:
        """Wait until router advertisements gave an address and a route."""

        def is_set_up() -> bool:
            addresses = self.place.run(["ip", "-6", "address", "show", "dev", "eth0", "-tentative"]).stdout
            routes = self.place.run(["ip", "-6", "route", "show", "default"]).stdout
            return b"inet6 2001:" in addresses and b"default via" in routes

        wait_until(is_set_up, "IPv6 is set up by advertisements", LIMIT_S)

    def lease(self) -> list[str]:
        """Tell what the last DHCP event brought: fields of dhcp_hook.sh."""
        return self.place.run(["cat", "/run/dhcp/log"]).stdout.decode().splitlines()[-1].split("|")

    def close(self) -> None:
        """Pull the plug: nothing is said to anybody."""
        self.emulator.kill()
        self.place.close()
        self._lab.extra.remove(self.place)

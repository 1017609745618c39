"""Descriptors that a client of passt sends to keep it waiting: in a write, or when they are closed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import process_state, wait_until
from tests.support.vhost_client import Request, build
from tests.system.machines import Peer, SharingPeer, passt
from tests.system.test_machine import QUESTION, is_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Lab, Running

pytestmark = pytest.mark.needs_root

FULL = (1 << 64) - 2               # eventfd(2)
LIMIT_S = 60.0                     # much less than the time that it would linger


class Lingering:
    """A TCP connection whose other end reads nothing; who closes it last waits for that (SO_LINGER)."""

    def __init__(self) -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            self.sock = socket.create_connection(listener.getsockname())
            self.reader, _ = listener.accept()
        self.sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.sock.send(bytes(1 << 16))
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1000))

    def hand_over(self, client: socket.socket, data: bytes) -> None:
        """Send it with *data* while passt is `stopped`, so that passt is the one who closes it last."""
        socket.send_fds(client, [data], [self.sock.fileno()])
        self.sock.close()


@contextlib.contextmanager
def stopped(running: Running) -> Iterator[None]:
    """Have passt do nothing for a while; nsenter(1), which waits for it, stops and goes on as it does."""
    running.send(signal.SIGSTOP)
    wait_until(lambda: process_state(running.popen.pid) == "T", "nsenter has noticed")
    yield
    os.kill(running.popen.pid, signal.SIGCONT)
    wait_until(lambda: process_state(running.popen.pid) != "T", "nsenter goes on")


@pytest.fixture
def lingering() -> Iterator[Lingering]:
    one = Lingering()
    yield one
    one.reader.close()


def is_alive(running: Running, peer: Peer | SharingPeer) -> None:
    """Check that it serves its client, turns another one away and can be ended."""
    peer.send(QUESTION)
    peer.receive(is_answer, LIMIT_S)
    other = Peer.connect(peer.sock.getpeername())
    other.sock.settimeout(LIMIT_S)
    other.wait_for_end()
    other.close()
    peer.close()
    running.send(signal.SIGTERM)
    result = running.finish(LIMIT_S)
    assert result.returncode == 0
    assert b"sandbox does not know" not in result.stderr


@pytest.fixture(params=["stream", "vhost-user"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def connect(form: str, path: str) -> Peer | SharingPeer:
    return (SharingPeer if form == "vhost-user" else Peer).connect(path)


def test_socket_that_lingers_is_sent_by_the_client(lab: Lab, plain: bool, form: str,
                                                   lingering: Lingering) -> None:
    with passt(lab, *(["--vhost-user"] if form == "vhost-user" else []), user=plain) as (running, path):
        peer = connect(form, path)
        with stopped(running):
            lingering.hand_over(peer.sock, struct.pack("!I", 60)[:1])
        if form == "vhost-user":   # half a header; it is closed with the session
            peer.close()
            peer = connect(form, path)
        else:
            peer.sock.send(struct.pack("!I", 60)[1:] + bytes(60))
        is_alive(running, peer)


def test_socket_that_lingers_is_sent_by_a_client_that_is_refused(lab: Lab, plain: bool, form: str,
                                                                 lingering: Lingering) -> None:
    with passt(lab, *(["--vhost-user"] if form == "vhost-user" else []), user=plain) as (running, path):
        peer = connect(form, path)
        peer.send(QUESTION)
        peer.receive(is_answer)
        with stopped(running):
            other = Peer.connect(path)
            lingering.hand_over(other.sock, b"x")
            other.close()
        is_alive(running, peer)


def test_request_with_a_socket_that_lingers_ends_the_session(lab: Lab, plain: bool,
                                                             lingering: Lingering) -> None:
    with passt(lab, "--vhost-user", user=plain) as (running, path):
        peer = SharingPeer.connect(path)
        with stopped(running):
            lingering.hand_over(peer.sock, build(Request.SET_OWNER))
        peer.wait_for_end()
        peer.close()
        is_alive(running, SharingPeer.connect(path))


def fill(event: int) -> None:
    """Have a write to an eventfd wait, whatever its other holders said."""
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(event)
    os.eventfd_write(event, FULL)
    fcntl.fcntl(event, fcntl.F_SETFL, fcntl.fcntl(event, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def test_full_call_descriptor_ends_the_session(lab: Lab, plain: bool) -> None:
    with passt(lab, "--vhost-user", user=plain) as (running, path):
        peer = SharingPeer.connect(path)
        event = os.eventfd(0)
        peer.client.set_call(0, os.dup(event))
        fill(event)
        peer.send(QUESTION)
        peer.wait_for_end()
        os.close(event)
        peer.close()
        is_alive(running, SharingPeer.connect(path))


def test_full_call_and_error_descriptors_are_refused(lab: Lab, plain: bool) -> None:
    """A new call descriptor is called at once; one for errors at the end."""
    with passt(lab, "--vhost-user", user=plain) as (running, path):
        peer = SharingPeer.connect(path)
        event = os.eventfd(0)
        peer.client.tell(Request.SET_VRING_ERR, struct.pack("=Q", 0), [event])
        fill(event)
        ring = peer.front_end.transmit_ring()
        ring.set_available_index(ring.available_index() + 1000)
        ring.kick()
        peer.wait_for_end()
        os.close(event)
        peer.close()
        is_alive(running, SharingPeer.connect(path))


@pytest.mark.parametrize("request_text", [b"", b"GET /v1/info HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_socket_that_lingers_is_sent_to_the_control_socket(
    lab: Lab, plain: bool, lingering: Lingering, request_text: bytes
) -> None:
    """It is closed when what it came with is read, or with the connection."""
    control = lab.directory / "control"
    control.mkdir(exist_ok=True)
    control.chmod(0o1777)
    with passt(lab, "--control", str(control / "socket"), user=plain) as (running, path):
        peer = connect("stream", path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(control / "socket"))
            with stopped(running):
                lingering.hand_over(client, request_text or b"G")
        is_alive(running, peer)

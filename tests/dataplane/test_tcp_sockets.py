"""The socket operations of the TCP translator on the kernel's own sockets, over loopback."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import os
import select
import socket
import termios
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.tcp_probe import RealSockets

if TYPE_CHECKING:
    from collections.abc import Iterator

FAMILIES: dict[str, socket.AddressFamily] = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
Pair = tuple[socket.socket, socket.socket]
DATA = bytes(range(256)) * 400
WAIT_MS = 5000


@pytest.fixture(params=list(FAMILIES.values()), ids=list(FAMILIES))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give a connected socket of ours, non-blocking, and the remote's."""
    family: socket.AddressFamily = request.param
    with socket.socket(family) as listener, socket.socket(family) as ours:
        listener.bind((LOOPBACK[family], 0))
        listener.listen()
        ours.connect(listener.getsockname())
        remote, _ = listener.accept()
        ours.setblocking(False)
        with remote:
            yield ours, remote


@pytest.fixture(params=[True, False], ids=["peek offset", "fallback"])
def sockets(request: pytest.FixtureRequest) -> RealSockets:
    """Give the operations, with the kernel's peek offset and without."""
    found = RealSockets()
    if not found.probe() and request.param:
        pytest.skip("this kernel keeps no peek offset for TCP (Linux 6.9 and later do)")
    found.has_peek_off = request.param
    return found


def wait_readable(sock: socket.socket, events: int = select.POLLIN) -> None:
    """Wait until the kernel has brought what the other end sent."""
    poll = select.poll()
    poll.register(sock, events)
    assert poll.poll(WAIT_MS), "nothing came"


def give(ours: socket.socket, remote: socket.socket, data: bytes) -> None:
    """Let the remote send *data* and wait for it."""
    before = queued(ours)
    remote.sendall(data)
    while queued(ours) < before + len(data):
        wait_readable(ours)


def queued(sock: socket.socket) -> int:
    """Tell the bytes in the receive queue, whatever was peeked."""
    number = array.array("i", [0])
    fcntl.ioctl(sock.fileno(), termios.FIONREAD, number)
    return number[0]


def test_peek_goes_on_where_it_stopped(sockets: RealSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    assert sockets.prepare(fd) == 0
    assert sockets.peek(fd, 0, 100) == -errno.EAGAIN
    give(ours, remote, DATA[:1000])
    assert sockets.peek(fd, 0, 400) == DATA[:400]
    assert sockets.peek(fd, 400, 4000) == DATA[400:1000]
    assert sockets.peek(fd, 1000, 10) == -errno.EAGAIN
    give(ours, remote, DATA[1000:1200])
    assert sockets.peek(fd, 1000, 10) == DATA[1000:1010]
    assert queued(ours) == 1200


def test_consume_moves_place_with_head(sockets: RealSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    sockets.prepare(fd)
    give(ours, remote, DATA[:1000])
    assert sockets.peek(fd, 0, 600) == DATA[:600]
    assert sockets.consume(fd, 250) == 250
    assert sockets.peek(fd, 350, 100) == DATA[600:700]
    assert sockets.consume(fd, 450) == 450
    assert sockets.peek(fd, 0, 1000) == DATA[700:1000]
    assert queued(ours) == 300


def test_rewind_repeats(sockets: RealSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    sockets.prepare(fd)
    give(ours, remote, DATA[:1000])
    sockets.peek(fd, 0, 1000)
    assert sockets.rewind(fd, 0) == 0
    assert sockets.peek(fd, 0, 10) == DATA[:10]
    assert sockets.rewind(fd, 500) == 0
    assert sockets.peek(fd, 500, 1000) == DATA[500:1000]


def test_end_seen_behind_data_that_is_still_queued(sockets: RealSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    sockets.prepare(fd)
    give(ours, remote, DATA[:100])
    assert sockets.peek(fd, 0, 1000) == DATA[:100]
    assert sockets.peek(fd, 100, 1000) == -errno.EAGAIN
    remote.shutdown(socket.SHUT_WR)
    wait_readable(ours, select.POLLRDHUP)
    assert sockets.peek(fd, 100, 1000) == b""
    assert sockets.rewind(fd, 40) == 0
    assert sockets.peek(fd, 40, 1000) == DATA[40:100]
    assert sockets.peek(fd, 100, 1000) == b""
    assert sockets.consume(fd, 100) == 100
    assert sockets.peek(fd, 0, 1000) == b""


def test_consume_of_nothing(sockets: RealSockets, pair: Pair) -> None:
    ours, _ = pair
    assert sockets.consume(ours.fileno(), 10) == -errno.EAGAIN


def test_skip_beyond_what_one_call_passes_over(pair: Pair) -> None:
    ours, remote = pair
    sockets = RealSockets()
    give(ours, remote, DATA[:1000])
    assert sockets.peek(ours.fileno(), 17 << 20, 5) == -errno.EAGAIN


def test_skip_larger_than_one_discarded_piece(pair: Pair) -> None:
    ours, remote = pair
    sockets = RealSockets()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    remote.settimeout(0.05)
    with contextlib.suppress(TimeoutError):
        for _ in range(100):
            remote.sendall(DATA)
    arrived = queued(ours)
    if arrived <= 1 << 20:
        pytest.skip("net.core.rmem_max lets no more than a MiB be queued")
    for skip in (1, 1 << 20, (1 << 20) + 1, arrived - 10):
        assert sockets.peek(ours.fileno(), skip, 5) == bytes((skip + i) % 256 for i in range(5))


@pytest.mark.parametrize("size", [1000, 60_000, 1 << 30], ids=["small", "large", "all at once"])
def test_free_space_is_taken_whole(pair: Pair, size: int) -> None:
    # The promise that the guest's window is: what is free now is taken, written in whatever portions.
    ours, _ = pair
    sockets = RealSockets()
    fd = ours.fileno()
    sockets.prepare(fd)
    promised = 1
    while promised:
        promised, total = sockets.free_space(fd)
        assert promised < total
        left = promised
        while left:
            n = min(left, size)
            assert sockets.send(fd, [bytes(n)]) == n
            left -= n
        if promised < total // 64:
            break


def test_free_space_grows_again_when_remote_reads(pair: Pair) -> None:
    ours, remote = pair
    sockets = RealSockets()
    fd = ours.fileno()
    while (n := sockets.send(fd, [bytes(65536)])) == 65536:
        pass
    assert n < 65536
    low = sockets.free_space(fd)[0]
    remote.setblocking(False)
    poll = select.poll()
    poll.register(ours, select.POLLOUT)
    for _ in range(1000):
        with contextlib.suppress(BlockingIOError):
            while remote.recv(1 << 20):
                pass
        if poll.poll(20):
            break
    room, total = sockets.free_space(fd)
    assert room > low
    assert room >= total // 4, "writable, and less than a quarter free: update_window would ask again at once"


def test_gathered_pieces_arrive_in_order(pair: Pair) -> None:
    ours, remote = pair
    assert RealSockets().send(ours.fileno(), [DATA[:10], DATA[10:11], DATA[11:100]]) == 100
    assert remote.recv(1000) == DATA[:100]


def test_abort_resets_remote(pair: Pair) -> None:
    ours, remote = pair
    fd = ours.detach()
    assert RealSockets().abort(fd) == 0
    wait_readable(remote)
    with pytest.raises(ConnectionResetError):
        remote.recv(1)


def test_reset_by_remote_reported(pair: Pair) -> None:
    ours, remote = pair
    sockets = RealSockets()
    sockets.abort(remote.detach())
    wait_readable(ours, select.POLLERR)
    assert sockets.take_error(ours.fileno()) == errno.ECONNRESET
    assert sockets.take_error(ours.fileno()) == 0
    assert sockets.send(ours.fileno(), [b"x"]) == -errno.EPIPE


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_accept_tells_both_ends(family: socket.AddressFamily) -> None:
    sockets = RealSockets()
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind((LOOPBACK[family], 0))
        listener.listen()
        listener.setblocking(False)
        assert sockets.accept(listener.fileno()) == -errno.EAGAIN
        client.connect(listener.getsockname())
        wait_readable(listener)
        answer = sockets.accept(listener.fileno())
        assert isinstance(answer, tuple)
        fd, peer, local = answer
        os.close(fd)
        address = socket.inet_pton(family, LOOPBACK[family])
        assert peer == (address, client.getsockname()[1])
        assert local == (address, listener.getsockname()[1])


def test_client_of_dual_stack_listener_is_ip4() -> None:
    sockets = RealSockets()
    with socket.socket(socket.AF_INET6) as listener, socket.socket(socket.AF_INET) as client:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        client.connect(("127.0.0.1", listener.getsockname()[1]))
        answer = sockets.accept(listener.fileno())
        assert isinstance(answer, tuple)
        os.close(answer[0])
        assert answer[1][0] == socket.inet_aton("127.0.0.1")
        assert answer[2][0] == socket.inet_aton("127.0.0.1")


def test_refuse_resets_client_and_gives_spare_back() -> None:
    sockets = RealSockets()
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        wait_readable(listener)
        spare = sockets.refuse(listener.fileno(), os.open("/", os.O_RDONLY))
        assert os.fstat(spare)
        os.close(spare)
        wait_readable(client)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        assert not poll.poll(0)

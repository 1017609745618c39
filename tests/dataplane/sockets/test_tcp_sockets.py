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
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.dataplane.probes.hostside import HostSockets, window_scale_for

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
def sockets(request: pytest.FixtureRequest) -> HostSockets:
    """Give the operations, with the kernel's peek offset and without."""
    found = HostSockets()
    found.probe()
    if not found.has_peek_off and request.param:
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


def test_peek_goes_on_where_it_stopped(sockets: HostSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    assert sockets.prepare_stream(fd) == 0
    assert sockets.peek(fd, 0, 100) == -errno.EAGAIN
    give(ours, remote, DATA[:1000])
    assert sockets.peek(fd, 0, 400) == DATA[:400]
    assert sockets.peek(fd, 400, 4000) == DATA[400:1000]
    assert sockets.peek(fd, 1000, 10) == -errno.EAGAIN
    give(ours, remote, DATA[1000:1200])
    assert sockets.peek(fd, 1000, 10) == DATA[1000:1010]
    assert queued(ours) == 1200


def test_consume_moves_place_with_head(sockets: HostSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    sockets.prepare_stream(fd)
    give(ours, remote, DATA[:1000])
    assert sockets.peek(fd, 0, 600) == DATA[:600]
    assert sockets.consume(fd, 250) == 250
    assert sockets.peek(fd, 350, 100) == DATA[600:700]
    assert sockets.consume(fd, 450) == 450
    assert sockets.peek(fd, 0, 1000) == DATA[700:1000]
    assert queued(ours) == 300


def test_rewind_repeats(sockets: HostSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    sockets.prepare_stream(fd)
    give(ours, remote, DATA[:1000])
    sockets.peek(fd, 0, 1000)
    assert sockets.rewind(fd, 0) == 0
    assert sockets.peek(fd, 0, 10) == DATA[:10]
    assert sockets.rewind(fd, 500) == 0
    assert sockets.peek(fd, 500, 1000) == DATA[500:1000]


def test_end_seen_behind_data_that_is_still_queued(
    sockets: HostSockets, pair: Pair
) -> None:
    ours, remote = pair
    fd = ours.fileno()
    sockets.prepare_stream(fd)
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


def test_consume_of_nothing(sockets: HostSockets, pair: Pair) -> None:
    ours, _ = pair
    assert sockets.consume(ours.fileno(), 10) == -errno.EAGAIN


def test_skip_beyond_what_one_call_passes_over(pair: Pair) -> None:
    ours, remote = pair
    sockets = HostSockets()
    give(ours, remote, DATA[:1000])
    assert sockets.peek(ours.fileno(), 17 << 20, 5) == -errno.EAGAIN


def test_skip_larger_than_one_discarded_piece(pair: Pair) -> None:
    ours, remote = pair
    sockets = HostSockets()
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
    sockets = HostSockets()
    fd = ours.fileno()
    sockets.prepare_stream(fd)
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


PEEKS = {"peek_off4", "peek_off6"}


@pytest.mark.parametrize("missing", sorted(PEEKS))
def test_peek_offset_of_one_family_missing_used_for_none(missing: str) -> None:
    sockets = HostSockets()
    has_all = sockets.probe() >= PEEKS
    found = sockets.probe({missing})
    assert missing not in found
    assert not sockets.has_peek_off
    sockets.probe()
    assert sockets.has_peek_off == has_all


def test_probe_finds_buffer_information_unless_masked() -> None:
    sockets = HostSockets()
    assert "meminfo" in sockets.probe()
    assert sockets.has_meminfo
    assert "meminfo" not in sockets.probe({"meminfo"})
    assert not sockets.has_meminfo


@pytest.mark.parametrize("size", [100, 1460, 60_000])
def test_free_space_without_meminfo_never_nothing_in_writable_socket(pair: Pair, size: int) -> None:
    # A window that stays closed while no event comes, or an event that comes at once, again and again.
    ours, remote = pair
    sockets = HostSockets()
    sockets.has_meminfo = False
    fd = ours.fileno()
    sockets.prepare_stream(fd)
    poll = select.poll()
    poll.register(ours, select.POLLOUT)
    remote.setblocking(False)
    seen = set()
    for i in range(100_000):
        is_writable = bool(poll.poll(0))  # first: room may come at any time, but nobody else takes it
        room, total = sockets.free_space(fd)
        seen.add(is_writable)
        if is_writable:
            assert room >= total // 4, "update_window would ask again at once"
        assert room <= total
        if i % 3000 == 2999 and False in seen:
            with contextlib.suppress(BlockingIOError):
                while remote.recv(1 << 20):
                    pass
        sockets.send(fd, [bytes(size)])
        if i > 10_000 and len(seen) == 2:
            break
    assert seen == {True, False}


def test_free_space_of_closed_descriptor_is_nothing() -> None:
    sockets = HostSockets()
    sockets.has_meminfo = False
    assert sockets.free_space(-1) == (0, 0)


@pytest.mark.parametrize("has_meminfo", [True, False])
def test_free_space_grows_again_when_remote_reads(pair: Pair, has_meminfo: bool) -> None:
    ours, remote = pair
    sockets = HostSockets()
    sockets.has_meminfo = has_meminfo
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
    assert HostSockets().send(ours.fileno(), [DATA[:10], DATA[10:11], DATA[11:100]]) == 100
    assert remote.recv(1000) == DATA[:100]


def test_abort_resets_remote(pair: Pair) -> None:
    ours, remote = pair
    fd = ours.detach()
    assert HostSockets().abort(fd) == 0
    wait_readable(remote)
    with pytest.raises(ConnectionResetError):
        remote.recv(1)


def test_reset_by_remote_reported(pair: Pair) -> None:
    ours, remote = pair
    sockets = HostSockets()
    sockets.abort(remote.detach())
    wait_readable(ours, select.POLLERR)
    assert sockets.take_error(ours.fileno()) == errno.ECONNRESET
    assert sockets.take_error(ours.fileno()) == 0
    assert sockets.send(ours.fileno(), [b"x"]) == -errno.EPIPE


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_accept_tells_both_ends(family: socket.AddressFamily) -> None:
    sockets = HostSockets()
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
    sockets = HostSockets()
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
    sockets = HostSockets()
    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        client.connect(listener.getsockname())
        wait_readable(listener)
        spare = sockets.refuse(listener.fileno(), os.dup(0))
        assert "socket" in str(Path(f"/proc/self/fd/{spare}").readlink())    # it leads to no file system
        assert not os.get_inheritable(spare)
        os.close(spare)
        wait_readable(client)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        assert not poll.poll(0)


@pytest.mark.parametrize(
    ("window", "scale"),
    [(0, 1), (131_070, 1), (131_071, 2), (4 << 20, 7), (65535 << 8, 8), ((65535 << 8) + 1, 9),
     (64 << 20, 11), (1 << 30, 14), (1 << 40, 14)],
)
def test_scale_is_the_smallest_that_tells_the_window(window: int, scale: int) -> None:
    assert window_scale_for(window) == scale


def test_scale_follows_the_largest_send_buffer() -> None:
    sockets = HostSockets()
    assert sockets.window_scale == 8
    sockets.probe()
    largest = int(Path("/proc/sys/net/ipv4/tcp_wmem").read_text(encoding="ascii").split()[2])
    assert sockets.window_scale == window_scale_for(largest)


def test_path_info_and_error_queue_tell_of_acknowledgements() -> None:
    # For who connected the SYN counts, for who accepted it does not (see tcp_acked).
    sockets = HostSockets()
    assert "bytes_acked" in sockets.probe()
    assert "bytes_acked" not in sockets.probe(without={"bytes_acked"})
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(
        server.getsockname()
    ) as near, server.accept()[0] as far:
        for sock, other, base in ((near, far, 1), (far, near, 0)):
            assert sockets.drain_errors(sock.fileno()) == 0
            assert sockets.follow_acks(sock.fileno(), True) == 0
            for size in (5, 7, 9):
                sock.send(bytes(size))
                other.recv(100)
            poller = select.poll()
            poller.register(sock, 0)
            found = 0
            while found < 3:
                assert poller.poll(5000)
                found += sockets.drain_errors(sock.fileno())
            assert found == 3
            path = sockets.path_info(sock.fileno())
            assert isinstance(path, dict)
            assert path["bytes_acked"] == base + 21
            assert 0 < path["min_rtt_us"] < 1_000_000
            assert 0 < path["rtt_us"] < 1_000_000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            assert sockets.follow_acks(sock.fileno(), False) == 0
            sock.send(b"x")
            other.recv(1)
            assert not poller.poll(100)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wrong:
        assert sockets.path_info(wrong.fileno()) == -errno.EOPNOTSUPP

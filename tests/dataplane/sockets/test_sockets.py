"""The host's sockets on the real kernel: peeking with and without SO_PEEK_OFF, ends, resets, limits."""

import errno
import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dataplane.probes.hostside import Buffer, HostSockets, sockaddr_of_other_family, sockaddr_round_trip
from tests.support.frames import packed
from tests.support.isolated import in_own_namespace
from tests.support.processes import LIMIT_S, is_readable

MIB = 1 << 20
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; needs CAP_NET_ADMIN
FAMILIES = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


@contextmanager
def connection(family: int, *, receive_buffer: int = 0) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection over loopback: ours, non-blocking, and the remote's."""
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind((FAMILIES[socket.AddressFamily(family)], 0))
        listener.listen()
        ours = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            ours.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, receive_buffer)
        ours.connect(listener.getsockname())
        ours.setblocking(False)
        remote, _ = listener.accept()
    with ours, remote:
        yield ours, remote


@pytest.fixture(params=[True, False], ids=["peek_off", "plain"])
def host(request: pytest.FixtureRequest) -> HostSockets:
    made = HostSockets()
    if request.param:
        made.probe()
        assert made.has_peek_off, "this kernel keeps no peek offset: Linux 6.9 and later do"
    else:
        made.has_peek_off = False
    return made


@pytest.fixture(params=FAMILIES, ids=["ip4", "ip6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    with connection(request.param) as ends:
        yield ends


Pair = tuple[socket.socket, socket.socket]


def readable(ours: socket.socket) -> None:
    """Wait until the kernel has moved what the remote sent or did."""
    poll = select.poll()
    poll.register(ours, select.POLLIN | select.POLLRDHUP)
    assert poll.poll(LIMIT_S * 1000)


def closed(ours: socket.socket) -> None:
    """Wait until the remote's end-of-file is here."""
    poll = select.poll()
    poll.register(ours, select.POLLRDHUP)
    assert poll.poll(LIMIT_S * 1000)


def test_peeked_data_stays_until_it_is_consumed(host: HostSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    assert host.prepare_stream(fd) == 0
    assert host.peek(fd, 0, 10) == -errno.EAGAIN
    remote.sendall(b"0123456789")
    readable(ours)
    assert host.peek(fd, 0, 4) == b"0123"
    assert host.peek(fd, 4, 4) == b"4567"
    assert host.peek(fd, 8, 4) == b"89"
    assert host.peek(fd, 10, 4) == -errno.EAGAIN
    assert host.consume(fd, 6) == 6
    # The place moved with what was consumed: it still is behind the last octet.
    assert host.peek(fd, 4, 4) == -errno.EAGAIN
    assert host.rewind(fd, 0) == 0
    assert host.peek(fd, 0, 100) == b"6789"
    assert host.consume(fd, 4) == 4
    remote.sendall(b"ab")
    assert is_readable(ours, LIMIT_S)
    assert host.rewind(fd, 0) == 0
    assert host.peek(fd, 0, 100) == b"ab"


def test_rewind_goes_to_any_place(host: HostSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    assert host.prepare_stream(fd) == 0
    remote.sendall(bytes(range(100)))
    readable(ours)
    for place in (50, 99, 0, 100, 7):
        assert host.rewind(fd, place) == 0
        expected = bytes(range(place, min(place + 5, 100))) or -errno.EAGAIN
        assert host.peek(fd, place, 5) == expected


@pytest.mark.parametrize("seen", [0, 3])
def test_end_of_file_is_told_from_nothing_yet(host: HostSockets, pair: Pair, seen: int) -> None:
    ours, remote = pair
    fd = ours.fileno()
    assert host.prepare_stream(fd) == 0
    if seen:
        remote.sendall(bytes(seen))
        readable(ours)
        assert host.peek(fd, 0, 10) == bytes(seen)
    assert host.peek(fd, seen, 10) == -errno.EAGAIN
    assert not host.at_end(fd)
    remote.shutdown(socket.SHUT_WR)
    closed(ours)
    assert host.at_end(fd)
    assert host.peek(fd, seen, 10) == b""
    assert host.consume(fd, seen) == seen
    assert host.peek(fd, 0, 10) == b""


def test_data_before_the_end_of_file_is_not_lost(host: HostSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    assert host.prepare_stream(fd) == 0
    remote.sendall(b"seen")
    readable(ours)
    assert host.peek(fd, 0, 10) == b"seen"
    remote.sendall(b"last")
    remote.shutdown(socket.SHUT_WR)
    closed(ours)
    assert host.peek(fd, 4, 10) == b"last"
    assert host.peek(fd, 8, 10) == b""


def test_reset_by_the_remote_is_an_error(host: HostSockets, pair: Pair) -> None:
    ours, remote = pair
    fd = ours.fileno()
    assert host.prepare_stream(fd) == 0
    HostSockets().abort(remote.detach())
    readable(ours)
    assert host.peek(fd, 0, 10) == -errno.ECONNRESET


def test_error_is_taken_once(pair: Pair) -> None:
    ours, remote = pair
    host = HostSockets()
    assert host.take_error(ours.fileno()) == 0
    host.abort(remote.detach())
    readable(ours)
    assert host.take_error(ours.fileno()) == errno.ECONNRESET
    assert host.take_error(ours.fileno()) == 0
    assert host.take_error(-1) == errno.EBADF


@pytest.mark.parametrize("peek_off", [True, False])
@in_own_namespace
def test_many_megabytes_can_be_passed_over(peek_off: bool) -> None:
    host = HostSockets()
    host.has_peek_off = peek_off
    with connection(socket.AF_INET, receive_buffer=8 * MIB) as (ours, remote):
        fd = ours.fileno()
        assert host.prepare_stream(fd) == 0
        remote.sendall(bytes(2 * MIB) + b"here")
        place = 2 * MIB
        deadline = time.monotonic() + LIMIT_S
        assert host.rewind(fd, place) == 0
        while (found := host.peek(fd, place, 100)) != b"here":
            assert found in (-errno.EAGAIN, b"h", b"he", b"her")
            assert time.monotonic() < deadline
            assert host.rewind(fd, place) == 0


def test_more_than_can_be_passed_over_waits() -> None:
    host = HostSockets()
    with connection(socket.AF_INET) as (ours, remote):
        remote.sendall(b"x")
        readable(ours)
        assert host.peek(ours.fileno(), 16 * MIB + 1, 10) == -errno.EAGAIN
        assert host.peek(ours.fileno(), 16 * MIB, 10) == -errno.EAGAIN


def test_pieces_are_sent_in_order(pair: Pair) -> None:
    ours, remote = pair
    host = HostSockets()
    assert host.send(ours.fileno(), [b"one", b"", b"two", b"three"]) == 11
    assert remote.recv(100) == b"onetwothree"


def test_full_buffer_is_told_and_closed_remote_too(pair: Pair) -> None:
    ours, remote = pair
    host = HostSockets()
    fd = ours.fileno()
    block = bytes(MIB)
    for _ in range(100):
        result = host.send(fd, [block])
        if result < 0:
            break
    assert result == -errno.EAGAIN
    host.abort(remote.detach())
    readable(ours)
    assert host.take_error(fd) == errno.ECONNRESET
    assert host.send(fd, [b"x"]) == -errno.EPIPE


def test_half_close_reaches_the_remote(pair: Pair) -> None:
    ours, remote = pair
    host = HostSockets()
    host.send(ours.fileno(), [b"bye"])
    assert host.shut_write(ours.fileno()) == 0
    assert (remote.recv(100), remote.recv(100)) == (b"bye", b"")
    remote.sendall(b"still")
    readable(ours)
    assert host.peek(ours.fileno(), 0, 10) == b"still"
    assert host.send(ours.fileno(), [b"x"]) == -errno.EPIPE


def test_abort_sends_a_reset_and_close_does_not(pair: Pair) -> None:
    ours, remote = pair
    host = HostSockets()
    assert host.abort(ours.detach()) == 0
    with pytest.raises(ConnectionResetError):
        remote.recv(1)
    with connection(socket.AF_INET) as (second, other):
        assert host.close(second.detach()) == 0
        assert other.recv(1) == b""
    assert host.close(-1) == -errno.EBADF


def test_free_space_is_what_fits(pair: Pair) -> None:
    ours, remote = pair
    host = HostSockets()
    fd = ours.fileno()
    space = host.free_space(fd)
    assert 0 < space.room < space.total == ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    # Nobody reads: at every fill what is promised is really taken by one call.
    rounds = 0
    while space.room > 0:
        assert host.send(fd, [bytes(space.room)]) == space.room
        space = host.free_space(fd)
        rounds += 1
        assert rounds < 10000
    remote.close()


def test_free_space_of_no_socket_is_nothing() -> None:
    assert HostSockets().free_space(-1) == Buffer(0, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_accept_tells_both_ends(family: int) -> None:
    host = HostSockets()
    address = FAMILIES[socket.AddressFamily(family)]
    with socket.socket(family, socket.SOCK_STREAM) as listener, socket.socket(family) as client:
        listener.bind((address, 0))
        listener.listen()
        listener.setblocking(False)
        assert host.accept(listener.fileno()) == -errno.EAGAIN
        client.connect(listener.getsockname())
        assert is_readable(listener, LIMIT_S)
        result = host.accept(listener.fileno())
        assert isinstance(result, tuple)
        new, peer, local = result
        try:
            assert peer == (packed(address), client.getsockname()[1])
            assert local == (packed(address), listener.getsockname()[1])
            assert not os.get_inheritable(new)
            assert not os.get_blocking(new)
        finally:
            os.close(new)


def test_ip4_client_of_a_listener_for_both_families_is_ip4() -> None:
    host = HostSockets()
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            result = host.accept(listener.fileno())
            assert isinstance(result, tuple)
            new, peer, local = result
            os.close(new)
            assert peer == (packed("127.0.0.1"), client.getsockname()[1])
            assert local == (packed("127.0.0.1"), port)


@in_own_namespace
def test_out_of_descriptors_the_waiting_connection_is_refused() -> None:
    host = HostSockets()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        listener.setblocking(False)
        client.connect(listener.getsockname())
        assert is_readable(listener, LIMIT_S)
        spare = os.open("/", os.O_RDONLY)
        highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, highest + 1))
        hogs = []
        while True:
            try:
                hogs.append(os.dup(0))
            except OSError as error:
                assert error.errno == errno.EMFILE  # noqa: PT017 - the loop ends by it
                break
        assert host.accept(listener.fileno()) == -errno.EMFILE
        again = host.refuse(listener.fileno(), spare)
        assert again >= 0
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert host.accept(listener.fileno()) == -errno.EAGAIN  # no descriptor either, but nothing waits
        for hog in hogs:
            os.close(hog)
        assert host.accept(listener.fileno()) == -errno.EAGAIN


def test_refuse_without_a_spare_gets_one() -> None:
    host = HostSockets()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        spare = host.refuse(listener.fileno(), -1)
        assert spare >= 0
        os.close(spare)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_opened_socket_does_not_block_and_is_not_inherited(family: int, kind: int) -> None:
    host = HostSockets()
    fd = host.open(family, kind, 0)
    with socket.socket(fileno=fd) as view:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        assert not view.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST)  # it tells broadcasts apart
    assert host.open(family, 99, 0) < 0


@pytest.mark.parametrize("address", FAMILIES.values())
def test_datagram_socket_is_bound_and_connected(address: str) -> None:
    host = HostSockets()
    fd = host.open(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM, 0)
    with socket.socket(fileno=fd) as view, socket.socket(view.family, socket.SOCK_DGRAM) as remote:
        remote.bind((address, 0))
        assert host.bind_source(fd, packed(address), 0) == 0
        assert host.connect(fd, packed(address), remote.getsockname()[1]) == 0
        assert view.getsockname()[0] == address
        assert view.getpeername()[:2] == remote.getsockname()[:2]
        assert host.bind_source(fd, packed("192.0.2.1" if "." in address else "2001:db8::1"), 0) < 0


@in_own_namespace
def test_socket_is_bound_to_its_device() -> None:
    host = HostSockets()
    fd = host.open(socket.AF_INET, socket.SOCK_DGRAM, 0)
    assert host.bind_device(fd, b"lo") == 0
    assert host.bind_device(fd, b"none") == -errno.ENODEV
    with socket.socket(fileno=fd) as view:
        assert view.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16) == b"lo\0"


@in_own_namespace
def test_index_of_an_interface_takes_no_descriptor() -> None:
    host = HostSockets()
    fd = host.open(socket.AF_INET, socket.SOCK_DGRAM, 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (fd + 1, fd + 1))
    assert host.open(socket.AF_INET, socket.SOCK_DGRAM, 0) == -errno.EMFILE
    assert host.index_of(fd, b"lo") == 1
    assert host.index_of(fd, b"none") == 0
    assert host.index_of(-1, b"lo") == 0


@pytest.mark.parametrize(("address", "scope"), [("192.0.2.1", 0), ("2001:db8::1", 0), ("fe80::1", 7)])
def test_socket_address_both_ways(address: str, scope: int) -> None:
    octets = packed(address)
    found, behind, port, size = sockaddr_round_trip(octets, 0xABCD, scope)
    assert (found, behind, port) == (octets, bytes(16 - len(octets)), 0xABCD)
    assert size == (16 if len(octets) == 4 else 28)


def test_mapped_address_is_read_as_ip4() -> None:
    found, behind, port, _ = sockaddr_round_trip(packed("::ffff:192.0.2.9"), 53, 0)
    assert (found, behind, port) == (packed("192.0.2.9"), bytes(12), 53)


def test_address_of_another_family_is_none() -> None:
    assert sockaddr_of_other_family() == 0

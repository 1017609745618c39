"""Bound ports by sock_diag and by /proc: both say the same."""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING, cast

import pytest

from passt.host import bound_ports, syscalls
from passt.host.bound_ports import DiagSocket, PortScanner, open_sources, parse_table, take_ports
from tests.support.isolated import isolated, set_up

if TYPE_CHECKING:
    from pathlib import Path

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
BOTH_SOURCES = pytest.mark.parametrize("use_diag", [True, False])


def bind(family: int, kind: int, address: str, port: int) -> socket.socket:
    sock = socket.socket(family, kind)
    sock.bind((address, port))
    return sock


def make_sockets() -> list[socket.socket]:
    """Bind TCP 1001 to 1003 and UDP 2001 to 2003, and sockets that do not count."""
    set_up("lo")
    four, six, stream, datagram = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM
    listening = [bind(four, stream, "127.0.0.1", 1001), bind(six, stream, "::1", 1002),
                 bind(six, stream, "::", 1003)]
    for sock in listening:
        sock.listen()
    bound = [bind(four, datagram, "0.0.0.0", 2001), bind(six, datagram, "::1", 2002),
             bind(six, datagram, "::", 2003)]
    not_listening = bind(four, stream, "127.0.0.1", 1004)
    connected = bind(four, datagram, "127.0.0.1", 2004)
    connected.connect(("127.0.0.1", 9))
    client = socket.create_connection(("127.0.0.1", 1001), source_address=("127.0.0.1", 1005))
    return [*listening, *bound, not_listening, connected, client, listening[0].accept()[0]]


@pytest.mark.needs_root
@BOTH_SOURCES
def test_listening_and_unconnected_sockets_of_both_families_count(use_diag: bool) -> None:
    def run() -> tuple[int, list[dict[int, set[int]]]]:
        sources = open_sources(use_diag=use_diag)
        scanner = PortScanner(sources)
        found = [scanner.scan((TCP, UDP))]
        sockets = make_sockets()
        found.append(scanner.scan((TCP, UDP)))
        sockets[0].close()
        sockets[3].close()
        found += [scanner.scan((TCP,)), scanner.scan((UDP,))]
        scanner.close()
        return len(sources), found

    n_sources, found = isolated(run)
    assert n_sources == (1 if use_diag else 4)
    assert found == [{TCP: set(), UDP: set()}, {TCP: {1001, 1002, 1003}, UDP: {2001, 2002, 2003}},
                     {TCP: {1002, 1003}}, {UDP: {2002, 2003}}]


@pytest.mark.needs_root
@BOTH_SOURCES
def test_sockets_of_our_own_do_not_count_but_others_on_their_port_do(use_diag: bool) -> None:
    def run() -> list[set[int]]:
        sockets = make_sockets()
        own: list[int] = []
        scanner = PortScanner(open_sources(use_diag=use_diag), lambda: own)
        found = [scanner.scan((UDP,))[UDP]]
        own[:] = [sockets[3].fileno(), sockets[4].fileno()]
        found.append(scanner.scan((UDP,))[UDP])
        sockets.append(bind(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", 2002))
        found.append(scanner.scan((UDP,))[UDP])
        return found

    assert isolated(run) == [{2001, 2002, 2003}, {2003}, {2002, 2003}]


@pytest.mark.needs_root
@BOTH_SOURCES
def test_doors_of_our_own_do_not_count_by_either_protocol(use_diag: bool) -> None:
    def run() -> dict[int, set[int]]:
        sockets = make_sockets()
        own = [sockets[0].fileno(), sockets[3].fileno()]
        return PortScanner(open_sources(use_diag=use_diag), list, own).scan((TCP, UDP))

    assert isolated(run) == {TCP: {1002, 1003}, UDP: {2002, 2003}}


@pytest.mark.needs_root
@BOTH_SOURCES
def test_sources_stay_with_their_namespace_and_need_no_privilege(use_diag: bool) -> None:
    def run() -> dict[int, set[int]]:
        sockets = make_sockets()
        scanner = PortScanner(open_sources(use_diag=use_diag))
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.capset(0, 0, 0)
        found = scanner.scan((TCP, UDP))
        assert sockets
        return found

    assert isolated(run) == {TCP: {1001, 1002, 1003}, UDP: {2001, 2002, 2003}}


@pytest.mark.needs_root
def test_dump_of_many_datagrams_is_whole() -> None:
    def run() -> set[int]:
        set_up("lo")
        sockets = [bind(socket.AF_INET, socket.SOCK_DGRAM, "127.0.0.1", port) for port in range(3001, 4001)]
        found = PortScanner(open_sources()).scan((UDP,))[UDP]
        assert sockets
        return found

    assert isolated(run) == set(range(3001, 4001))


def test_kernel_without_sock_diag_is_met_by_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse() -> int:
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(bound_ports, "_open_diag", refuse)
    (tmp_path / "tcp").write_bytes(b"title\n 0: 0100007F:0016 00000000:0000 0A rest\n")
    (tmp_path / "udp").write_bytes(b"title\n 0: 00000000:0035 00000000:0000 07 rest\n")
    scanner = PortScanner(open_sources(root=str(tmp_path)))  # no tables of IPv6
    assert scanner.scan((TCP, UDP)) == {TCP: {22}, UDP: {53}}
    (tmp_path / "tcp").write_bytes(b"title\n")
    assert scanner.scan((TCP,)) == {TCP: set()}
    scanner.close()


@pytest.mark.parametrize("line", [
    b"", b" 0: 0100007F:0016", b" 0: 0100007F:zz 00000000:0000 0A x", b" 0: : 00000000:0000 0A x",
    b" 0: 0100007F:0016 00000000:0000 01 established",
])
def test_line_without_a_bound_port_gives_none(line: bytes) -> None:
    assert parse_table(b"title\n" + line + b"\n", 10) == set()


def test_line_without_an_inode_number_gives_none_where_own_sockets_are_left_out() -> None:
    line = b" 0: 0100007F:0016 00000000:0000 0A 0:0 00:0 0 0 0 inode\n"
    assert parse_table(b"title\n" + line, 10, {1}) == set()


def test_refusal_of_the_kernel_is_an_error() -> None:
    ports: set[int] = set()
    refusal = struct.pack("=IHHIIi", 36, 2, 0, 0, 0, -2) + bytes(16)
    with pytest.raises(OSError, match="sock_diag: No such file") as caught:
        take_ports(refusal, 0, ports, frozenset())
    assert caught.value.errno == 2
    assert not take_ports(struct.pack("=IHHIIi", 20, 3, 0, 0, 0, 0), 0, ports, frozenset())
    assert ports == set()


def entry(port: int, sequence: int = 7, length: int = 88) -> bytes:
    """Make a message of one socket (linux/inet_diag.h) that is bound to *port*."""
    header = struct.pack("=IHHII", length, 20, 2, sequence, 0)
    return (header + bytes(4) + struct.pack("!H", port)).ljust(88, b"\0")


DONE = struct.pack("=IHHIIi", 20, 3, 2, 7, 0, 0)
SOCKETS = entry(80) + entry(443)


@pytest.mark.parametrize("cut", [n for n in range(1, len(SOCKETS)) if n != len(entry(80))])
def test_truncated_datagram_is_an_error(cut: int) -> None:
    with pytest.raises(OSError, match="sock_diag: ") as caught:
        take_ports(SOCKETS[:cut], 7, set(), frozenset())
    assert caught.value.errno == errno.EBADMSG


@pytest.mark.parametrize("data", [
    b"abc", bytes(15), bytes(16), entry(80, length=0), entry(80, length=1), entry(80, length=15),
    entry(80, length=16), entry(80, length=87), entry(80, length=89), entry(80, length=0xFFFF_FFFF),
    entry(80, length=0xFFFF_FFFD), SOCKETS + b"abc", struct.pack("=IHHIIi", 16, 3, 2, 7, 0, 0),
    struct.pack("=IHHIIi", 19, 2, 2, 7, 0, 0), struct.pack("=IHHII", 16, 2, 2, 7, 0),
])
def test_message_with_a_wrong_length_is_an_error(data: bytes) -> None:
    with pytest.raises(OSError, match="sock_diag: ") as caught:
        take_ports(data, 7, set(), frozenset())
    assert caught.value.errno == errno.EBADMSG


def test_answer_to_another_request_does_not_count() -> None:
    ports: set[int] = set()
    old_end = struct.pack("=IHHIIi", 20, 3, 2, 6, 0, -2)
    assert take_ports(entry(22, 6) + old_end + entry(80) + entry(23, 8), 7, ports, frozenset())
    assert not take_ports(DONE + entry(24), 7, ports, frozenset())
    assert ports == {80}


class Scripted:
    """Stands for the socket: *answers* has for each request datagrams with their senders, or errnos."""

    def __init__(self) -> None:
        self.answers: list[list[tuple[bytes, int] | int]] = []
        self.queue: list[tuple[bytes, int] | int] = []

    def setblocking(self, flag: bool) -> None:
        assert not flag

    def send(self, request: bytes) -> int:
        sequence = struct.unpack_from("=I", request, 8)[0]
        for one in self.answers.pop(0):
            if not isinstance(one, int):
                data = one[0].replace(struct.pack("=I", 7), struct.pack("=I", sequence))
                self.queue.append((data, one[1]))
            else:
                self.queue.append(one)
        return len(request)

    def recvfrom(self, _length: int) -> tuple[bytes, tuple[int, int]]:
        if not self.queue:
            raise BlockingIOError(errno.EAGAIN, "nothing there")
        one = self.queue.pop(0)
        if isinstance(one, int):
            raise OSError(one, os.strerror(one))
        return one[0], (one[1], 0)


def test_overrun_is_an_error_and_what_it_leaves_is_dropped() -> None:
    sock = Scripted()
    diag = DiagSocket(cast("socket.socket", sock))
    sock.answers = [[(entry(80), 0), errno.ENOBUFS, (entry(81), 0), (DONE, 0)]]
    with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
        diag.dump(TCP, families=(socket.AF_INET,))
    sock.answers = [[(entry(90), 0), (DONE, 0)]]
    assert diag.dump(TCP, families=(socket.AF_INET,)) == {90}


def test_message_of_another_sender_does_not_count() -> None:
    sock = Scripted()
    diag = DiagSocket(cast("socket.socket", sock))
    sock.answers = [[(entry(1), 4711), (b"abc", 4711), (entry(80), 0), (DONE, 4711), (entry(81), 0),
                     (DONE, 0)]]
    assert diag.dump(TCP, families=(socket.AF_INET,)) == {80, 81}


def test_missing_answer_is_an_error_and_not_waited_for() -> None:
    sock = Scripted()
    sock.answers = [[(entry(80), 0)]]
    with pytest.raises(BlockingIOError):
        DiagSocket(cast("socket.socket", sock)).dump(TCP, families=(socket.AF_INET,))


@pytest.mark.needs_root
def test_source_takes_nothing_from_others_in_the_namespace() -> None:
    def attack() -> tuple[set[int], dict[int, set[int]]]:
        sockets = make_sockets()
        sources = open_sources()
        with socket.socket(fileno=os.dup(sources[0])) as source:
            port = source.getsockname()[0]
        numbers = set()
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, bound_ports._NETLINK_SOCK_DIAG) as attacker:
            for data in (b"abc", entry(80, length=0), entry(80), DONE):
                try:
                    attacker.sendto(data, (port, 0))
                    numbers.add(0)
                except OSError as error:
                    numbers.add(error.errno or 0)
        found = PortScanner(sources).scan((TCP, UDP))
        assert sockets
        return numbers, found

    assert isolated(attack) == ({errno.ECONNREFUSED},
                                {TCP: {1001, 1002, 1003}, UDP: {2001, 2002, 2003}})


@pytest.mark.needs_root
def test_sources_are_close_on_exec() -> None:
    for use_diag in (True, False):
        for fd in open_sources(use_diag=use_diag):
            assert not os.get_inheritable(fd)
            os.close(fd)

"""The process of the forwarder: its doors, its rights, its end."""

from __future__ import annotations

import os
import socket
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from passt import log
from passt.facts.guest import GuestFamily, GuestNet, NameService
from passt.facts.settings import NameSettings
from passt.host import descriptors
from passt.host.syscalls import CLONE_NEWNET
from passt.light.values import replace
from passt.names import service
from passt.names.orders import build_service, parse_service
from passt.names.process import NameForwarder
from passt.namespace.interface import bring_lo_up
from passt.process.identity import Identity
from passt.wire.dns.message import PORT_DNS
from tests.support.control import PollLoop
from tests.support.isolated import isolated
from tests.support.name_server import AXFR, ScriptedServer, address, query, reply
from tests.support.processes import children, is_readable, status_field

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
A4, A6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
FAMILY4 = GuestFamily(A4, 24, A4, A4, dns_match=A4, is_forwarded=True)
FAMILY6 = GuestFamily(A6, 64, A6, A6, dns_match=A6, is_forwarded=True)
NET = GuestNet(FAMILY4, FAMILY6, "eth0", names=NameService((IPv4Address("127.0.53.1"),)))
OWN = NameSettings(dns_hosts=(("own.lan", A4),))
ASKED = query("own.lan")
ANSWER = reply(ASKED, address("192.0.2.1", 60))


class Bench:
    """The main process's side."""

    def __init__(self, net: GuestNet = NET, user: Identity | None = None) -> None:
        bring_lo_up()
        before = set(children(os.getpid()))
        self.forwarder = NameForwarder(OWN, net, user)
        (self.pid,) = set(children(os.getpid())) - before
        self.loop = PollLoop()
        self.ends: list[bool] = []
        self.forwarder.start(self.loop, lambda: self.ends.append(True))

    def ask(self, key: tuple[int, int], message: bytes) -> bytes:
        """Ask by a door, as a flow does."""
        target = self.forwarder.doors[key]
        place = (str(ip_address(target.address)), target.port)
        if key[0] == UDP:
            family = socket.AF_INET if key[1] == 4 else socket.AF_INET6
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.connect(place)
                client.send(message)
                assert is_readable(client.fileno(), 60)
                return client.recv(4096)
        with socket.create_connection(place, 60) as client:
            client.sendall(len(message).to_bytes(2, "big") + message)
            length = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
            return client.recv(length, socket.MSG_WAITALL)


def test_every_door_answers() -> None:
    def ask_all() -> dict[tuple[int, int], bytes]:
        bench = Bench()
        return {key: bench.ask(key, ASKED) for key in bench.forwarder.doors}

    assert isolated(ask_all) == dict.fromkeys(((UDP, 4), (TCP, 4), (UDP, 16), (TCP, 16)), ANSWER)


def test_doors_are_for_families_that_are_forwarded() -> None:
    def look() -> list[list[tuple[int, int]]]:
        nets = [replace(NET, ip6=None), replace(NET, ip4=replace(FAMILY4, is_forwarded=False))]
        return [list(Bench(net).forwarder.doors) for net in nets]

    assert isolated(look) == [[(UDP, 4), (TCP, 4)], [(UDP, 16), (TCP, 16)]]


def test_doors_are_on_the_loopback_at_no_port_of_others() -> None:
    def look() -> list[bytes]:
        return [target.address for target in Bench().forwarder.doors.values()]

    v4, again, *v6 = isolated(look)
    assert (v4[0], v4 == again, v4 != bytes((127, 0, 0, 1))) == (127, True, True)
    assert v6 == [bytes(15) + b"\1"] * 2


def test_no_doors_where_the_loopback_is_down() -> None:
    assert isolated(lambda: NameForwarder(OWN, NET, None).doors) == {}


def test_host_s_servers_are_asked_and_others_after_a_change() -> None:
    def follow() -> list[bytes]:
        answers = []
        bring_lo_up()
        servers = [ScriptedServer(f"127.0.53.{i}", PORT_DNS) for i in (1, 2)]
        bench = Bench()
        target = bench.forwarder.doors[UDP, 4]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((str(ip_address(target.address)), target.port))
            for i, server in enumerate(servers):
                client.send(query("www.example", number=i))
                asked, tell = server.take()
                tell(reply(asked, address(f"192.0.2.{i}")))
                assert is_readable(client.fileno(), 60)
                answers.append(client.recv(4096))
                bench.forwarder.renew(NameService((servers[1].address,)))
        return answers

    assert isolated(follow) == [
        reply(query("www.example", number=i), address(f"192.0.2.{i}")) for i in (0, 1)]


@pytest.mark.needs_root
def test_it_has_no_right_but_to_talk() -> None:
    def look() -> dict[str, str]:
        bench = Bench(user=Identity(65534, 65534))
        bench.ask((UDP, 4), ASKED)     # it answers under its filter only
        found = {name: status_field(bench.pid, name)
                 for name in ("Uid", "CapEff", "CapPrm", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")}
        found["fds"] = str(len(os.listdir(f"/proc/{bench.pid}/fd")))
        return found

    found = isolated(look, flags=CLONE_NEWNET)
    assert set(found.pop("Uid").split()) == {"65534"}
    # The standard ones, the channel, the pipe, four doors, epoll's, the filter's eventfd, the log's place.
    assert int(found.pop("fds")) <= 12
    assert found == {"CapEff": "0" * 16, "CapPrm": "0" * 16, "CapBnd": "0" * 16, "CapAmb": "0" * 16,
                     "NoNewPrivs": "1", "Seccomp": "2"}


def test_it_ends_with_the_main_process() -> None:
    def leave() -> bool:
        bench = Bench()
        bench.ask((UDP, 4), ASKED)
        bench.forwarder._channel.close()
        _, status = os.waitpid(bench.pid, 0)
        return status == 0

    assert isolated(leave)


def test_its_end_closes_the_doors_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr(log, "warning", lines.append)

    def lose() -> tuple[list[str], list[bool], dict[tuple[int, int], object]]:
        bench = Bench()
        sockets = bench.forwarder.descriptors()
        os.kill(bench.pid, 9)
        fd = next(iter(bench.loop.watched))
        assert is_readable(fd, 60)
        bench.loop.watched[fd][0]()
        assert bench.loop.watched == {}
        for closed in sockets:
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(closed)
        bench.forwarder.renew(NameService((A4,)))
        return lines, bench.ends, dict(bench.forwarder.doors)

    (line,), ends, doors = isolated(lose)
    assert "has ended" in line
    assert (ends, doors) == ([True], {})


def test_what_it_counts_is_read_here_and_stays_after_its_end() -> None:
    def look() -> list[dict[str, int]]:
        bench = Bench()
        found = [bench.forwarder.counters()]
        for key in bench.forwarder.doors:
            bench.ask(key, query("own.lan", AXFR))
        found.append(bench.forwarder.counters())
        os.kill(bench.pid, 9)
        os.waitpid(bench.pid, 0)
        found.append(bench.forwarder.counters())
        return found

    begin, then, end = isolated(look)
    assert set(begin.values()) == {0}
    assert {name: n for name, n in then.items() if n} == {"names_queries": 4, "drop_names_refused": 4}
    assert end == then


def test_order_is_read_as_it_was_written() -> None:
    for servers in ((), (A4, IPv6Address("fe80::1%3"), A6)):
        made = NameService(servers, 7, 3, rotate=bool(servers), ifindex=9)
        assert parse_service(build_service(made)) == made


def test_limit_of_open_files_bounds_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, most in ((64, 4), (1024, 224), (1 << 20, service.MAX_EXCHANGES)):
        monkeypatch.setattr(descriptors, "file_limit", lambda limit=limit: limit)
        assert service.max_exchanges() == most


"""DNS messages written by hand, and name servers that do what a test says, message by message."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from struct import pack
from typing import TYPE_CHECKING

from passt.facts.guest import NameService
from passt.names.counts import Counts
from passt.names.forwarder import Client, Forwarder
from passt.names.judge import Judge
from passt.names.loop import Loop
from passt.names.outlet import Outlet
from passt.names.upstreams import Upstreams
from tests.support.processes import is_readable, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from passt.facts.address import IPAddress
    from passt.names.answer_cache import AnswerCache
    from passt.names.pinboard import Pinboard

A, CNAME, SOA, TXT, AAAA, OPT, AXFR = 1, 5, 6, 16, 28, 41, 252
QUERY, RESPONSE = 0x0100, 0x8180
TRUNCATED = 0x0200
SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5
AT_QUESTION = b"\xc0\x0c"


def name(text: str) -> bytes:
    """Write a name."""
    labels = [label.encode() for label in text.split(".") if label]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def header(number: int, flags: int, counts: Iterable[int]) -> bytes:
    """Write a header; *counts* of the four sections."""
    return pack("!HH4H", number, flags, *counts)


def record(owner: bytes, kind: int, ttl: int, data: bytes, klass: int = 1) -> bytes:
    """Write a record."""
    return owner + pack("!HHIH", kind, klass, ttl, len(data)) + data


def opt(size: int, flags: int = 0, options: bytes = b"") -> bytes:
    """Write an OPT record."""
    return record(b"\0", OPT, flags, options, size)


def query(text: str, kind: int = A, number: int = 0x1234, *, edns: bytes = b"", flags: int = QUERY) -> bytes:
    """Write a query."""
    return header(number, flags, (1, 0, 0, int(bool(edns)))) + name(text) + pack("!HH", kind, 1) + edns


def question_of(message: bytes) -> bytes:
    """Cut the question out of a query of `query`."""
    return message[12:message.index(b"\0", 12) + 5]


def reply(asked: bytes, *records: bytes, flags: int = RESPONSE, authority: Iterable[bytes] = (),
          extra: bytes = b"") -> bytes:
    """Write the answer to *asked* with *records*; of the code and bits in *flags*."""
    authority = list(authority)
    counts = (1, len(records), len(authority), int(bool(extra)))
    return (header(int.from_bytes(asked[:2], "big"), flags, counts) + question_of(asked)
            + b"".join(records) + b"".join(authority) + extra)


def address(text: str, ttl: int = 300) -> bytes:
    """Write a record of the name asked for."""
    return record(AT_QUESTION, A, ttl, IPv4Address(text).packed)


class ScriptedServer:
    """A name server on the loopback address *literal*, which answers nothing by itself."""

    def __init__(self, literal: str, port: int) -> None:
        self.address = IPv4Address(literal)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.udp.bind((literal, port))
            self.port: int = self.udp.getsockname()[1]
            self.tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.tcp.bind((literal, self.port))
        except OSError:
            self.close()
            raise
        self.tcp.listen()

    def take(self) -> tuple[bytes, Callable[[bytes], None]]:
        """Return the next query by UDP, and what answers it."""
        wait_until(lambda: is_readable(self.udp.fileno()), "a query comes")
        data, client = self.udp.recvfrom(65535)

        def tell(answer: bytes) -> None:
            self.udp.sendto(answer, client)

        return data, tell

    def is_asked(self) -> bool:
        """Tell whether a query waits to be taken."""
        return is_readable(self.udp.fileno())

    def take_connection(self) -> socket.socket:
        """Return the next connection."""
        wait_until(lambda: is_readable(self.tcp.fileno()), "a connection comes")
        return self.tcp.accept()[0]

    def close(self) -> None:
        """Be gone: what is sent here is refused."""
        self.udp.close()
        self.tcp.close()


def start_servers(count: int) -> list[ScriptedServer]:
    """Start servers at as many addresses, with the same port."""
    for _ in range(100):
        servers: list[ScriptedServer] = []
        try:
            for i in range(count):
                servers.append(ScriptedServer(f"127.0.53.{1 + i}", servers[0].port if servers else 0))
        except OSError:
            for server in servers:
                server.close()     # the port is taken at one of them, or for TCP: another one
        else:
            return servers
    raise AssertionError("no port is free")


class KeptOutlet(Outlet):
    """Knows what it has opened, so that a test may end in the middle of an exchange."""

    def __init__(self, port: int) -> None:
        super().__init__({}, port)
        self.opened: list[socket.socket] = []

    def open(self, server: IPAddress, kind: int) -> socket.socket:
        """Open a socket, and keep it."""
        self.opened.append(super().open(server, kind))
        return self.opened[-1]


class NamesBench:
    """A `Forwarder` in virtual time, with scripted servers, and a client that keeps its answers."""

    def __init__(self, n_servers: int = 1, *, judge: Judge | None = None, service: NameService | None = None,
                 cache: Callable[[Callable[[], float]], AnswerCache] | None = None,
                 max_exchanges: int = 8, pinboard: Pinboard | None = None) -> None:
        self.now = 1000.0
        self.loop = Loop(lambda: self.now)
        self.servers = start_servers(n_servers)
        found = tuple(server.address for server in self.servers)
        self.upstreams = Upstreams(service or NameService(found))
        self.outlet = KeptOutlet(self.servers[0].port)
        self.counts = Counts()
        self.forwarder = Forwarder(
            self.loop, judge or Judge((), (), has_ip6=True), self.upstreams, self.outlet,
            cache(lambda: self.now) if cache else None, max_exchanges, pinboard, counts=self.counts)
        self.answers: list[bytes] = []

    def ask(self, message: bytes, *, who: object = "client", is_stream: bool = False) -> bool:
        """Have a client ask."""
        return self.forwarder.ask(message, Client(who, self.answers.append, is_stream))

    def turn_until(self, is_so: Callable[[], bool], what: str) -> None:
        """Run the loop until *is_so*."""
        def look() -> bool:
            self.loop.turn(0)
            return is_so()

        wait_until(look, what)

    def next_answer(self) -> bytes:
        """Run the loop until the client has an answer; return it."""
        self.turn_until(lambda: bool(self.answers), "an answer comes")
        return self.answers.pop(0)

    def counted(self) -> dict[str, int]:
        """Return the counters that are not 0, without what they all begin with."""
        return {name.replace("names_", ""): n for name, n in self.counts.read().items() if n}

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.loop.turn(0)

    def addresses(self) -> tuple[IPAddress, ...]:
        """Return where the servers are."""
        return tuple(server.address for server in self.servers)

    def close(self) -> None:
        """Close all."""
        for server in self.servers:
            server.close()
        for sock in self.outlet.opened:
            sock.close()
        self.loop.close()

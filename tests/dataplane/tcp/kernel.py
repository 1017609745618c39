"""Scripted TCP sockets with those parts of Linux' behaviour that the translator relies on.

A `Sock` has a send buffer of `capacity` bytes, which the remote empties (`drain`), and a receive queue,
which the remote fills (`deliver`). epoll is modelled as it is edge-triggered in the kernel
(fs/eventpoll.c, net/ipv4/tcp.c): adding or modifying an entry polls the socket; what arrives wakes the
entry; EPOLLOUT comes when a third of the buffer is free, and only after a send or a poll had found
too little. The peek place (SO_PEEK_OFF) is kept here too, so each peek proves that the translator's idea
of it is right.
"""

from __future__ import annotations

import errno
import os
import select
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

Address = tuple[bytes, int]

IN, OUT, PRI = select.EPOLLIN, select.EPOLLOUT, select.EPOLLPRI
ERR, HUP, RDHUP = select.EPOLLERR, select.EPOLLHUP, select.EPOLLRDHUP
EPOLL_CTL_ADD, EPOLL_CTL_MOD = 1, 3


def name(result: int) -> str:
    """Write a result as strace does."""
    return errno.errorcode[-result] if result < 0 else str(result)


class Sock:
    """One socket; the methods are what the far side and the test do to it."""

    def __init__(self, kernel: Kernel, fd: int) -> None:
        self.kernel = kernel
        self.fd = fd
        self.status = "new"
        self.peer: Address | None = None
        self.source: Address | None = None
        self.device: bytes | None = None
        self.calls: Counter[str] = Counter()
        # Towards the remote.
        self.taken = bytearray()
        self.capacity = kernel.capacity
        self.queued = 0
        self.lie = 0                              # free_space claims so much more
        self.limits: list[int] = []               # most bytes that the next calls of send take
        self.send_errors: list[int] = []          # errno numbers of the next calls of send
        self.no_memory = False                    # send fails though the socket polls writable
        self.shut = False
        # From the remote.
        self.queue = bytearray()
        self.consumed = 0
        self.ended = False
        self.peek_off = 0
        self.peek_limits: list[int] = []          # most bytes that the next peeks give
        self.consume_limits: list[int] = []
        self.error = 0
        self.soft_error = 0                       # left behind by an ICMP message; ends nothing
        # epoll
        self.interest = 0
        self.tag = 0
        self.woken = False
        self.no_space = False
        # Of the path, which is this host's own unless the test says otherwise; times in us, bytes per second.
        self.min_rtt, self.rtt, self.rttvar, self.rate = kernel.path
        self.was_connected = False                # by us: the SYN counts as acknowledged
        self.is_stamped = False
        self.marks: list[int] = []                # ends of writes whose acknowledgement is to be told
        self.is_deaf = False                      # the error queue has no room
        self.told = 0                             # entries of the error queue
        self.keep_idle: int | None = None         # seconds after which the kernel probes the remote

    def log(self, text: str) -> None:
        """Add a line to the dialogue."""
        self.kernel.log(f"fd {self.fd}: {text}")

    @property
    def is_open(self) -> bool:
        """Neither closed nor aborted by the translator."""
        return self.status not in {"closed", "aborted"}

    @property
    def drained(self) -> int:
        """Bytes that the remote has read."""
        return len(self.taken) - self.queued

    def poll(self) -> int:
        """Tell what epoll would report now; note that someone looks for room if there is too little."""
        if self.status == "connecting":
            return ERR if self.error else 0
        mask = 0
        if self.queue or self.ended:
            mask |= IN
        if self.peek_limits:
            mask |= PRI           # only urgent data makes a peek come short of what is there
        if self.ended:
            mask |= RDHUP
        if self.shut or self.capacity - self.queued >= self.queued // 2:
            mask |= OUT
        else:
            self.no_space = True
        if self.told:
            mask |= ERR
        if self.error or self.status == "reset":
            mask |= (ERR if self.error else 0) | HUP | IN | RDHUP | OUT
        elif self.shut and self.ended:
            mask |= HUP
        return mask

    def wake(self, key: int) -> None:
        """Wake the entry of epoll if it waits for *key*."""
        if key & (self.interest | ERR | HUP) and self.tag:
            self.woken = True

    def connected(self) -> None:
        """Finish the connect."""
        assert self.status == "connecting", self.status
        self.log("is connected")
        self.status = "connected"
        self.wake(OUT)

    def fail(self, number: int) -> None:
        """Let the connect fail, or the remote reset."""
        self.log(f"gets {name(-number)}")
        self.error = number
        self.status = "reset"
        self.wake(ERR | HUP)

    def deliver(self, data: bytes) -> None:
        """Let the remote send *data*."""
        assert not self.ended
        self.log(f"receives {len(data)} bytes")
        self.queue += data
        self.wake(IN)

    def end(self) -> None:
        """Let the remote send no more."""
        self.log("receives end-of-file")
        self.ended = True
        self.wake(IN | RDHUP)

    def drain(self, n: int | None = None) -> None:
        """Let the remote acknowledge *n* bytes, or all."""
        n = self.queued if n is None else min(n, self.queued)
        if n:
            self.log(f"sends {n} bytes")
        self.queued -= n
        while self.marks and self.marks[0] <= self.drained:
            self.marks.pop(0)
            self.told += not self.is_deaf
            self.wake(ERR)
        if self.no_space and self.capacity - self.queued >= self.queued // 2:
            self.no_space = False
            self.wake(OUT)


class Kernel:
    """The socket calls as `Sockets` has them."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.log = log
        self.capacity = 1 << 20
        self.has_peek_off = True
        self.path = (20, 30, 10, 1_000_000_000)   # of new sockets: min_rtt, rtt, rttvar, rate
        self.socks: dict[int, Sock] = {}
        self.listeners: dict[int, list[tuple[Sock, Address, Address]]] = {}
        self.indices: dict[int, int] = {}
        self.connect_results: list[int] = []      # results of the next connects; else EINPROGRESS
        self.open_errors: list[int] = []
        self.accept_errors: list[int] = []
        self.bind_errors: list[int] = []
        self.watch_errors: list[int] = []
        self.prepare_errors: list[int] = []

    def add(self) -> Sock:
        """Make a new socket."""
        fd = 100 + len(self.socks)
        self.socks[fd] = Sock(self, fd)
        return self.socks[fd]

    def knock(self, listener: int, peer: Address, local: Address) -> Sock:
        """Let a client connect to *listener*."""
        sock = self.add()
        sock.status = "connected"
        self.log(f"fd {sock.fd}: comes to listener {listener}")
        self.listeners[listener].append((sock, peer, local))
        return sock

    def events(self) -> list[tuple[object, ...]]:
        """Tell what epoll_wait reports."""
        found: list[tuple[object, ...]] = []
        for sock in self.socks.values():
            if sock.woken and sock.is_open:
                sock.woken = False
                mask = sock.poll() & (sock.interest | ERR | HUP)
                if mask:
                    found.append(("socket", sock.tag, mask))
        found += [("listener", self.indices[fd]) for fd, queue in self.listeners.items() if queue]
        return found

    def at(self, fd: int, call: str) -> Sock:
        """Find the socket of a call, which must be open."""
        sock = self.socks[fd]
        assert sock.is_open, f"{call} on fd {fd}, which is {sock.status}"
        sock.calls[call] += 1
        return sock

    def result(self, sock: Sock, call: str, result: int) -> int:
        """Log a call and give its result."""
        sock.log(f"{call} = {name(result)}")
        return result

    # The calls, as `Sockets` has them; results are its results.

    def open(self, _family: int, _kind: int, _protocol: int) -> int:
        """Open a socket."""
        if self.open_errors:
            return -self.open_errors.pop(0)
        return self.add().fd

    def bind_source(self, fd: int, address: Address) -> int:
        """Bind the source address."""
        sock = self.at(fd, "bind_source")
        sock.source = address
        return self.result(sock, "bind", -self.bind_errors.pop(0) if self.bind_errors else 0)

    def bind_device(self, fd: int, device: bytes) -> int:
        """Bind the device."""
        sock = self.at(fd, "bind_device")
        sock.device = device
        return self.result(sock, "bind_device", -self.bind_errors.pop(0) if self.bind_errors else 0)

    def connect(self, fd: int, peer: Address) -> int:
        """Start to connect; in progress unless the test says otherwise."""
        sock = self.at(fd, "connect")
        sock.peer = peer
        sock.was_connected = True
        outcome = self.connect_results.pop(0) if self.connect_results else -errno.EINPROGRESS
        if outcome == -errno.EINPROGRESS:
            sock.status = "connecting"
        elif outcome == 0:
            sock.status = "connected"
        return self.result(sock, f"connect(port {peer[1]})", outcome)

    def accept(self, listener: int) -> tuple[int, Address, Address]:
        """Take the next client of a listener."""
        nowhere = (bytes(4), 0)
        if not self.listeners[listener]:
            return -errno.EAGAIN, nowhere, nowhere
        if self.accept_errors:
            return -self.accept_errors.pop(0), nowhere, nowhere
        sock, peer, local = self.listeners[listener].pop(0)
        return sock.fd, peer, local

    def refuse(self, listener: int, spare: int) -> int:
        """Accept and reset one client."""
        sock = self.listeners[listener].pop(0)[0]
        sock.status = "aborted"
        self.log(f"fd {sock.fd}: refused with the spare descriptor")
        # The real one gives back a new descriptor; the caller owns it.
        os.fstat(spare)
        return spare

    def prepare_stream(self, fd: int) -> int:
        """Ready a connected socket."""
        sock = self.at(fd, "prepare_stream")
        return -self.prepare_errors.pop(0) if self.prepare_errors else self.result(sock, "prepare", 0)

    def send(self, fd: int, data: bytes) -> int:
        """Queue what the buffer takes, or what the test lets it take."""
        sock = self.at(fd, "send")
        call = f"send({len(data)})"
        assert data, "send of nothing"
        assert not sock.shut, "send after shutdown"
        if sock.error or sock.status == "reset":
            sock.error = 0
            return self.result(sock, call, -errno.EPIPE)
        if sock.send_errors:
            return self.result(sock, call, -sock.send_errors.pop(0))
        n = min(len(data), sock.capacity - sock.queued)
        if sock.limits:
            n = min(n, sock.limits.pop(0))
        if sock.no_memory:
            n = 0
        if n < len(data):
            sock.no_space = True
        if n <= 0:
            return self.result(sock, call, -errno.EAGAIN)
        sock.taken += data[:n]
        sock.queued += n
        if sock.is_stamped:
            sock.marks.append(len(sock.taken))
        return self.result(sock, call, n)

    def peek(self, fd: int, skip: int, n: int) -> bytes | int:
        """Read *n* bytes *skip* bytes into the queue."""
        sock = self.at(fd, "peek")
        call = f"peek({skip}, {n})"
        assert n > 0, call
        if self.has_peek_off:
            assert skip == sock.peek_off, f"{call}, but the kernel's place is {sock.peek_off}"
        if sock.error:
            number, sock.error = sock.error, 0
            return self.result(sock, call, -number)
        if sock.peek_limits:
            n = min(n, sock.peek_limits.pop(0))
        data = bytes(sock.queue[skip : skip + n])
        if not data and not (sock.ended and skip == len(sock.queue)):
            return self.result(sock, call, -errno.EAGAIN)
        sock.peek_off += len(data)
        self.result(sock, call, len(data))
        return data

    def rewind(self, fd: int, offset: int) -> int:
        """Set the peek place."""
        sock = self.at(fd, "rewind")
        assert offset <= len(sock.queue), f"rewind to {offset} of {len(sock.queue)}"
        sock.peek_off = offset
        return self.result(sock, f"rewind({offset})", 0)

    def consume(self, fd: int, n: int) -> int:
        """Drop *n* bytes from the head of the queue."""
        sock = self.at(fd, "consume")
        assert n > 0
        got = min(n, len(sock.queue))
        if sock.consume_limits:
            got = min(got, sock.consume_limits.pop(0))
        if not got:
            return self.result(sock, f"consume({n})", -errno.EAGAIN)
        del sock.queue[:got]
        sock.consumed += got
        sock.peek_off = max(sock.peek_off - got, 0)
        return self.result(sock, f"consume({n})", got)

    def free_space(self, fd: int) -> tuple[int, int]:
        """Tell room and size of the send buffer."""
        sock = self.at(fd, "free_space")
        room = max(sock.capacity - sock.queued, 0)
        return room - room // 16 + sock.lie, sock.capacity

    def shut_write(self, fd: int) -> int:
        """Send a FIN to the remote."""
        sock = self.at(fd, "shut_write")
        assert not sock.shut, "shutdown twice"
        sock.shut = True
        sock.wake(OUT | (HUP if sock.ended else 0))
        return self.result(sock, "shutdown", 0)

    def take_error(self, fd: int) -> int:
        """Give the pending error."""
        sock = self.at(fd, "take_error")
        number, sock.error = sock.error or sock.soft_error, 0
        sock.soft_error = 0
        return number

    def keep_alive(self, fd: int, idle_s: int) -> int:
        """Have the kernel probe the remote."""
        sock = self.at(fd, "keep_alive")
        sock.keep_idle = idle_s
        return self.result(sock, f"keep_alive({idle_s})", 0)

    def path_info(self, fd: int) -> tuple[int, int, int, int, int]:
        """Tell bytes acknowledged by the remote, rate, round trip, its deviation, the least round trip."""
        sock = self.at(fd, "path_info")
        self.result(sock, "path_info", sock.drained)
        return sock.drained + sock.was_connected, sock.rate, sock.rtt, sock.rttvar, sock.min_rtt

    def follow_acks(self, fd: int, on: bool) -> int:
        """Mark writes from now on, or no more."""
        sock = self.at(fd, "follow_acks")
        sock.is_stamped = on
        return self.result(sock, f"follow_acks({on})", 0)

    def drain_errors(self, fd: int) -> int:
        """Empty the error queue."""
        sock = self.at(fd, "drain_errors")
        found, sock.told = sock.told, 0
        return self.result(sock, "drain_errors", found)

    def move_down(self, fd: int) -> int:
        """Give the lowest number that is free: its own, as numbers are not used twice here."""
        self.at(fd, "move_down")
        return fd

    def close(self, fd: int) -> int:
        """Close, with a FIN if none was sent; what was not read makes it a reset (tcp_close)."""
        if fd in self.listeners:
            self.listeners.pop(fd)
            return 0
        sock = self.at(fd, "close")
        sock.status = "aborted" if sock.queue else "closed"
        sock.shut = True
        return self.result(sock, "close", 0)

    def abort(self, fd: int) -> int:
        """Close with a reset."""
        sock = self.at(fd, "abort")
        sock.status = "aborted"
        return self.result(sock, "abort", 0)

    def watch(self, fd: int, op: int, events: int, tag: int) -> int:
        """Add or change the entry of epoll, which polls the socket at once."""
        sock = self.at(fd, "watch")
        if self.watch_errors:
            return self.result(sock, "watch", -self.watch_errors.pop(0))
        assert (op == EPOLL_CTL_ADD) == (not sock.tag), "added twice, or modified and never added"
        sock.interest = events & ~select.EPOLLET
        sock.tag = tag
        if sock.poll() & (sock.interest | ERR | HUP):
            sock.woken = True
        return self.result(sock, f"watch{' OUT' if events & OUT else ''}", 0)

"""Echo translation: golden frames over the kernel's ping sockets, odd replies from scripted ones."""

import errno
import os
import socket
import struct
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from passt.facts.contracts import Target
from tests.dataplane.probes.world import World
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import GUEST_MAC, OUR_MAC, echo, packed, unnumbered
from tests.support.isolated import in_own_namespace

GUEST = {4: "192.0.2.2", 6: "2001:db8::2"}
REMOTE = {4: "198.51.100.7", 6: "2001:db8:1::7"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
PROTOCOL = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
REPLY = {4: 0, 6: 129}
SECOND = 10**9
EPOLLIN = 1
RECEIVE_BUDGET = 16

both_families = pytest.mark.parametrize("family", [4, 6])


class Bench(World):
    """A world whose remotes all are this host."""

    def __init__(self, *, scripted: bool = True) -> None:
        self.policy = Policy()
        super().__init__(
            self.policy,
            Responder(),
            Events(),
            our_mac=OUR_MAC,
            guest_mac=GUEST_MAC,
            mtu=65535,
            scripted=scripted,
        )
        self.now = 1000 * SECOND

    def frames(self) -> list[bytes]:
        return [unnumbered(sent.frame) for sent in self.take_sent()]

    def drops(self) -> dict[str, int]:
        return {name: n for name, n in self.counters().items() if name.startswith("drop_") and n}

    def ask(self, family: int, payload: bytes = b"payload", ident: int = 7, seq: int = 1) -> int:
        """Send a request; returns the descriptor that served it."""
        self.inject(echo(GUEST[family], REMOTE[family], ident, seq, payload))
        return self.flows()[-1].fd

    def receive(self, fd: int, *items: bytes | int) -> None:
        self.deliver(fd, *[item if isinstance(item, int) else (item, b"", b"", 0) for item in items])
        self.event(0, EPOLLIN)


def reply(family: int, payload: bytes = b"payload", ident: int = 7, seq: int = 1, ttl: int = 255) -> bytes:
    """Give the frame with which the remote answers the guest, as scapy builds it."""
    ether = Ether(src=OUR_MAC, dst=GUEST_MAC)
    if family == 4:
        frame = (
            ether
            / IP(src=REMOTE[4], dst=GUEST[4], id=0, ttl=ttl)
            / ICMP(type=0, id=ident, seq=seq)
            / Raw(payload)
        )
    else:
        frame = (
            ether
            / IPv6(src=REMOTE[6], dst=GUEST[6], hlim=ttl)
            / ICMPv6EchoReply(id=ident, seq=seq, data=payload)
        )
    return bytes(frame).ljust(60, b"\0")


def from_kernel(
    family: int, payload: bytes = b"payload", *, kind: int | None = None, ident: int = 0x4444, seq: int = 1
) -> bytes:
    """Give what a ping socket reads: the identifier is the kernel's choice, the checksum is as it came."""
    return struct.pack("!BBHHH", REPLY[family] if kind is None else kind, 0, 0xBEEF, ident, seq) + payload


# Over real ping sockets


@both_families
@in_own_namespace
def test_request_and_reply(family: int) -> None:
    bench = Bench(scripted=False)
    bench.policy.target = Target(packed(LOOPBACK[family]), 7)
    for seq, payload in enumerate((b"payload", b"", bytes(range(256)) * 4, b"odd")):
        bench.ask(family, payload, seq=seq)
        assert bench.dispatch() == 1
        assert bench.frames() == [reply(family, payload, seq=seq, ttl=64)]
    assert bench.drops() == {}
    assert bench.counters()["flows_opened"] == bench.counters()["flows_ping"] == 1


@both_families
@in_own_namespace
def test_identifier_is_kept_if_it_is_free_and_given_back_anyway(family: int) -> None:
    bench = Bench(scripted=False)
    bench.policy.target = Target(packed(LOOPBACK[family]), 7)
    with socket.socket(fileno=os.dup(bench.ask(family, ident=0x1111))) as view:
        assert view.getsockname()[1] == 0x1111
    bench.dispatch()
    assert bench.frames() == [reply(family, ident=0x1111, ttl=64)]
    with socket.socket(
        socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM, PROTOCOL[family]
    ) as holder:
        holder.bind((LOOPBACK[family], 0x2222))
        with socket.socket(fileno=os.dup(bench.ask(family, ident=0x2222))) as view:
            assert view.getsockname()[1] not in (0, 0x2222)
        bench.dispatch()
        assert bench.frames() == [reply(family, ident=0x2222, ttl=64)]


@in_own_namespace
def test_one_identifier_towards_many_remotes() -> None:
    # The kernel finds a ping socket by its identifier alone, not by whom it is connected to.
    bench = Bench(scripted=False)
    for seq in (1, 2):
        for n in range(1, 6):
            bench.policy.target = Target(packed(f"127.0.0.{n}"), 7)
            bench.inject(echo(GUEST[4], f"198.51.100.{n}", 7, seq))
        bench.dispatch()
        found = {
            (Ether(frame)[IP].src, Ether(frame)[ICMP].id, Ether(frame)[ICMP].seq) for frame in bench.frames()
        }
        assert found == {(f"198.51.100.{n}", 7, seq) for n in range(1, 6)}


@both_families
@in_own_namespace
def test_largest_request(family: int) -> None:
    bench = Bench(scripted=False)
    bench.policy.target = Target(packed(LOOPBACK[family]), 7)
    payload = bytes(65507 if family == 4 else 65487)
    bench.ask(family, payload)
    assert bench.dispatch() == 1
    assert bench.frames() == [reply(family, payload, ttl=64)]


@both_families
@in_own_namespace
def test_ping_sockets_that_are_forbidden_are_a_counted_drop(family: int) -> None:
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("1 0", encoding="ascii")
    bench = Bench(scripted=False)
    bench.inject(echo(GUEST[family], REMOTE[family], 7, 1))
    assert bench.flows() == []
    assert bench.drops() == {"drop_socket": 1}


# With scripted sockets


@both_families
def test_request_goes_out_as_it_came(family: int) -> None:
    bench = Bench()
    fd = bench.ask(family)
    assert bench.sockets.log[0] == (
        "open",
        socket.AF_INET if family == 4 else socket.AF_INET6,
        socket.SOCK_DGRAM,
        PROTOCOL[family],
    )
    (sent,) = [entry for entry in bench.sockets.log if entry[0] == "send_message"]
    message = echo(GUEST[family], REMOTE[family], 7, 1, b"payload")[34 if family == 4 else 54 :]
    assert sent == ("send_message", fd, message, None, b"")


def test_flows_are_apart_by_identifier_remote_and_family() -> None:
    bench = Bench()
    fds = {bench.ask(4), bench.ask(4, ident=8), bench.ask(6)}
    bench.inject(echo(GUEST[4], "198.51.100.8", 7, 1))
    assert len(bench.flows()) == 4
    assert len(fds) == 3
    bench.ask(4, seq=2)
    assert len(bench.flows()) == 4


@both_families
def test_reply_gets_identifier_and_checksum(family: int) -> None:
    bench = Bench()
    bench.receive(bench.ask(family), from_kernel(family))
    assert bench.frames() == [reply(family)]


@both_families
def test_messages_that_are_no_reply_are_counted_drops(family: int) -> None:
    bench = Bench()
    fd = bench.ask(family)
    bench.receive(
        fd,
        from_kernel(family, kind=3),
        from_kernel(family)[:7],
        b"",
        -errno.EHOSTUNREACH,
        from_kernel(family),
    )
    assert bench.frames() == [reply(family)]
    assert bench.drops() == {"drop_protocol": 1, "drop_short": 2, "drop_socket": 1}


@both_families
def test_reply_beyond_the_links_frames_is_a_counted_drop(family: int) -> None:
    bench = Bench()
    most = 65507 if family == 4 else 65527
    bench.receive(bench.ask(family), from_kernel(family, bytes(most + 1)), from_kernel(family))
    assert bench.frames() == [reply(family)]
    assert bench.drops() == {"drop_truncated": 1}


def test_blocked_link_and_share_of_a_turn() -> None:
    bench = Bench()
    fd = bench.ask(4)
    bench.blocked = True
    bench.receive(fd, *[from_kernel(4, seq=n) for n in range(RECEIVE_BUDGET + 2)])
    bench.turn()
    assert bench.frames() == []
    bench.open_link()
    assert bench.frames() == [reply(4, seq=n) for n in range(RECEIVE_BUDGET)]
    bench.turn()
    assert len(bench.frames()) == 2


def test_flow_ends_30_seconds_after_its_last_message() -> None:
    bench = Bench()
    fd = bench.ask(4)
    bench.now += 20 * SECOND
    bench.ask(4, seq=2)
    bench.now += 20 * SECOND
    bench.turn()
    bench.receive(fd, from_kernel(4))
    bench.now += 29 * SECOND
    bench.turn()
    assert len(bench.flows()) == 1
    bench.now += SECOND
    bench.turn()
    assert bench.flows() == []
    assert bench.sockets.open_fds == set()
    assert bench.counters()["flows_ping"] == 0

"""Errors of datagram sockets: by real kernels over loopback, odd entries from scripted ones."""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque

import pytest
from scapy.layers.inet import ICMP, IP, UDPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import Ether

from passt.facts.contracts import InboundTarget, Target
from tests.dataplane.probes.world import socket_address
from tests.dataplane.udp.bench import (
    GUEST,
    LOOPBACK,
    PORT,
    REMOTE,
    Bench,
    both_families,
    listener_socket,
    query,
)
from tests.support.frames import echo, packed, udp
from tests.support.isolated import in_own_namespace

EPOLLIN = 1
LOCAL, ICMP4, ICMP6 = 1, 2, 3
ROUTER = {4: "203.0.113.254", 6: "2001:db8:ffff::1"}
US = {4: "192.0.2.1", 6: "2001:db8::1"}
IP_MTU_DISCOVER, DONT, PROBE = 10, 0, 3
BUDGET = 32
SECOND = 10**9
EXPIRES = 600 * SECOND


def entry(
    family: int,
    kind: int,
    code: int,
    *,
    info: int = 0,
    number: int = errno.EHOSTUNREACH,
    origin: int | None = None,
    offender: str | None = None,
    payload: bytes = b"query",
    remote: str | None = None,
    port: int = PORT,
) -> tuple[bytes, bytes, bytes]:
    """Give an entry of an error queue as recvmsg(2) would."""
    body = struct.pack(
        "IBBBBII",
        number,
        (ICMP4 if family == 4 else ICMP6) if origin is None else origin,
        kind,
        code,
        0,
        info,
        0,
    )
    if origin != LOCAL:
        body += socket_address(packed(offender or ROUTER[family]), 0)
    level, name = (0, 11) if family == 4 else (41, 25)
    control = struct.pack("Qii", 16 + len(body), level, name) + body
    control += bytes(-len(control) % 8)
    return payload, socket_address(packed(remote or REMOTE[family]), port), control


def fail(bench: Bench, *entries: tuple[bytes, bytes, bytes]) -> None:
    """Have the only socket fail with errors that its queue tells of."""
    fd = bench.only_fd()
    bench.sockets.errors[fd] = deque(entries)
    bench.deliver(fd, -errno.EHOSTUNREACH)
    for flow in bench.flows():
        bench.event(flow.number, EPOLLIN)


def ask(bench: Bench, family: int, *, by_listener: bool, ttl: int = 64) -> int:
    """Have the guest open a flow from port 1000, maybe one that a listener has; give the descriptor."""
    if by_listener:
        bench.policy.seen = InboundTarget(packed(REMOTE[family]), PORT, packed(GUEST[family]), 1000)
        bench.add_listener(500, socket.IPPROTO_UDP, "rule", 1000, (socket.AF_INET6, socket.AF_INET))
    bench.inject(query(family, ttl=ttl))
    return 500 if by_listener else bench.only_fd()


by_both = pytest.mark.parametrize("by_listener", [False, True], ids=["own", "listener"])


def port_event(bench: Bench) -> None:
    for number in range(bench.n_active):
        bench.event(number, EPOLLIN)


@both_families
@in_own_namespace
def test_closed_port_is_told_with_the_guests_own_addresses(family: int) -> None:
    bench = Bench(scripted=False)
    with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as holder:
        holder.bind((LOOPBACK[family], 0))
        port = holder.getsockname()[1]
    bench.policy.target = Target(packed(LOOPBACK[family]), port)
    bench.inject(query(family, b"anybody there?"))
    bench.dispatch()
    bench.dispatch()
    (frame,) = bench.frames()
    packet = Ether(frame)
    inner = packet[UDPerror]
    assert (inner.sport, inner.dport) == (1000, PORT)
    assert bytes(inner.payload)[:14] == b"anybody there?"
    if family == 4:
        assert (packet[IP].src, packet[IP].dst) == (REMOTE[4], GUEST[4])
        assert (packet[ICMP].type, packet[ICMP].code) == (3, 3)
    else:
        assert (packet[IPv6].src, packet[IPv6].dst) == (REMOTE[6], GUEST[6])
        assert packet[ICMPv6DestUnreach].code == 4
    assert bench.drops() == {}


@pytest.mark.parametrize(("listener_family", "client"), [(4, "127.0.0.9"), (6, "::1"), (6, "127.0.0.9")])
@in_own_namespace
def test_client_of_a_listener_that_is_gone(listener_family: int, client: str) -> None:
    bench = Bench(scripted=False)
    family = 6 if ":" in client else 4
    bench.policy.seen = InboundTarget(packed(REMOTE[family]), 7000, packed(GUEST[family]), 53)
    with listener_socket(listener_family, "0.0.0.0" if listener_family == 4 else "::") as listener:
        listener.setsockopt(socket.IPPROTO_IP, 11, 1)
        if listener_family == 6:
            listener.setsockopt(socket.IPPROTO_IPV6, 25, 1)
        bench.add_listener(listener.fileno(), socket.IPPROTO_UDP, "rule", 5353)
        with socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind((client, 0))
            sock.sendto(b"question", ("127.0.0.4" if family == 4 else "::1", 5353))
            bench.dispatch()
            bench.frames()
        bench.inject(udp(GUEST[family], 53, REMOTE[family], 7000, b"too late"))
        bench.dispatch()
        (frame,) = bench.frames()
        inner = Ether(frame)[UDPerror]
        assert (inner.sport, inner.dport) == (53, 7000)
        assert bench.dispatch() == 0  # nothing spins
    assert bench.drops() == {}


@both_families
@pytest.mark.parametrize("offender", ["router", "remote"])
def test_reporter_is_shown_as_the_guest_knows_it(family: int, offender: str) -> None:
    bench = Bench()
    bench.policy.target = Target(packed(ROUTER[family]), PORT)  # as a DNS server that is mapped
    bench.policy.sources[packed("203.0.113.9" if family == 4 else "2001:db8:ffff::9")] = packed(US[family])
    bench.inject(query(family))
    far = ROUTER[family] if offender == "remote" else "203.0.113.9" if family == 4 else "2001:db8:ffff::9"
    fd = bench.only_fd()
    bench.sockets.errors[fd] = deque(
        [entry(family, 3 if family == 4 else 1, 1, offender=far, remote=ROUTER[family])]
    )
    bench.deliver(fd, -errno.EHOSTUNREACH)
    port_event(bench)
    (frame,) = bench.frames()
    source = Ether(frame)[IP if family == 4 else IPv6].src
    assert source == (REMOTE[family] if offender == "remote" else US[family])


@both_families
def test_entries_that_are_no_errors_for_the_guest(family: int) -> None:
    kind = 3 if family == 4 else 1
    other = 10 - family
    cases = {
        "drop_protocol": [entry(family, 5 if family == 4 else 137, 1), entry(family, kind, 1, origin=9)],
        "drop_bad_address": [entry(family, kind, 1, offender=ROUTER[other])],
        "drop_unknown_flow": [entry(family, kind, 1, port=54)],
    }
    for name, entries in cases.items():
        bench = Bench()
        bench.inject(query(family))
        fd = bench.only_fd()
        bench.sockets.errors[fd] = deque(entries)
        bench.deliver(fd, -errno.EHOSTUNREACH)
        port_event(bench)
        assert bench.frames() == []
        assert bench.drops() == {name: len(entries)}, name
    bench = Bench()
    bench.inject(query(family))
    bench.policy.sources[packed(ROUTER[family])] = None  # has no name for the guest
    bench.sockets.errors[bench.only_fd()] = deque([entry(family, kind, 1)])
    bench.deliver(bench.only_fd(), -errno.EHOSTUNREACH)
    port_event(bench)
    assert bench.drops() == {"drop_bad_address": 1}


def test_queue_is_drained_in_portions_and_data_follows() -> None:
    bench = Bench()
    bench.inject(query(4))
    fd = bench.only_fd()
    answered = (b"answer", socket_address(packed(REMOTE[4]), PORT), b"", 0)
    bench.sockets.errors[fd] = deque(entry(4, 3, 3) for _ in range(BUDGET + 3))
    bench.deliver(fd, -errno.ECONNREFUSED)
    port_event(bench)
    assert len(bench.frames()) == BUDGET
    bench.deliver(fd, -errno.ECONNREFUSED, answered)
    port_event(bench)
    assert len(bench.frames()) == 4
    # What is left of a portion is looked at without another event.
    bench.sockets.errors[fd] = deque(entry(4, 3, 3) for _ in range(BUDGET + 3))
    bench.deliver(fd, -errno.ECONNREFUSED, -errno.EAGAIN, -errno.ECONNREFUSED, answered)
    port_event(bench)
    assert len(bench.frames()) == BUDGET + 4
    assert bench.drops() == {}


@both_families
@by_both
def test_first_large_datagrams_are_cut_and_the_kernel_is_told(family: int, by_listener: bool) -> None:
    bench = Bench()
    bench.policy.sources[bytes(4 if family == 4 else 16)] = packed(US[family])
    fd = ask(bench, family, by_listener=by_listener)
    mtu = entry(family, 0, 0, origin=LOCAL, info=1500, number=errno.EMSGSIZE)
    bench.sockets.log.clear()
    bench.sockets.options.clear()
    for _ in range(2):
        bench.sockets.errors[fd] = deque([mtu])
        bench.script("send_message", -errno.EMSGSIZE)
        bench.inject(query(family, b"x" * 3000))
    level, option = (0, 10) if family == 4 else (41, 23)
    allowed = 0 if family == 4 else 1
    assert [value for *_, value in bench.sockets.options] == [allowed, PROBE, allowed]
    assert {entry[1:3] for entry in bench.sockets.options} == {(level, option)}
    assert bench.drops() == {}
    (frame,) = bench.frames()  # told once
    packet = Ether(frame)
    if family == 4:
        assert (packet[IP].src, packet[ICMP].type, packet[ICMP].code, packet[ICMP].nexthopmtu) == (
            US[4],
            3,
            4,
            1500,
        )
        assert (frame[51], frame[62]) == (1, 0)  # about an echo reply: no socket hears of it
    else:
        assert (packet[IPv6].src, packet[ICMPv6PacketTooBig].mtu) == (US[6], 1500)
        assert (frame[68], frame[102]) == (58, 129)
    bench.now += SECOND
    bench.sockets.errors[fd] = deque([mtu])
    bench.script("send_message", -errno.EMSGSIZE)
    bench.inject(query(family, b"x" * 3000))
    (frame,) = bench.frames()  # who goes on means it
    assert (Ether(frame)[UDPerror].sport, Ether(frame)[UDPerror].dport) == (1000, PORT)
    assert bench.drops() == {"drop_socket": 1}


def send_too_large(bench: Bench, family: int, fd: int = -1) -> list[bytes]:
    """Have the host's interface refuse a datagram; give what the guest hears."""
    mtu = entry(family, 0, 0, origin=LOCAL, info=1500, number=errno.EMSGSIZE)
    bench.sockets.errors[bench.only_fd() if fd < 0 else fd] = deque([mtu])
    bench.script("send_message", -errno.EMSGSIZE)
    bench.inject(query(family, b"x" * 3000))
    return bench.frames()


@both_families
def test_kernel_that_has_forgotten_is_told_again(family: int) -> None:
    bench = Bench()
    bench.policy.sources[bytes(4 if family == 4 else 16)] = packed(US[family])
    bench.inject(query(family))
    first = send_too_large(bench, family)
    assert len(first) == 1
    bench.now += EXPIRES - 1
    assert send_too_large(bench, family) != first  # it knows still: who sends that means it
    assert bench.drops() == {"drop_socket": 1}
    bench.now += 1
    assert send_too_large(bench, family) == first
    bench.now += SECOND - 1
    assert send_too_large(bench, family) == []
    assert bench.drops() == {"drop_socket": 1}


@both_families
def test_kernel_that_could_not_be_told_is_told_later(family: int) -> None:
    bench = Bench()
    bench.policy.sources[bytes(4 if family == 4 else 16)] = packed(US[family])
    bench.inject(query(family))
    bench.blocked = True
    assert send_too_large(bench, family) == []
    bench.open_link()
    bench.now += SECOND
    assert len(send_too_large(bench, family)) == 1
    assert bench.drops() == {}


@both_families
def test_error_about_a_flow_that_leaves_by_a_listener(family: int) -> None:
    bench = Bench()
    ask(bench, family, by_listener=True)
    payload, remote, control = entry(family, 3 if family == 4 else 1, 3)
    # The kernel knows by which of the host's addresses the datagram left, we do not before an answer.
    local = packed("192.0.2.77" if family == 4 else "2001:db8::77")
    info = struct.pack("=I4s4s", 1, local, local) if family == 4 else struct.pack("=16sI", local, 1)
    item = struct.pack("Qii", 16 + len(info), 0 if family == 4 else 41, 8 if family == 4 else 50) + info
    control += item + bytes(-len(item) % 8)
    bench.sockets.errors[500] = deque([(payload, remote, control)])
    bench.deliver(500, -errno.ECONNREFUSED)
    bench.listener_event(0)
    (frame,) = bench.frames()
    inner = Ether(frame)[UDPerror]
    assert (inner.sport, inner.dport) == (1000, PORT)
    assert bench.drops() == {}


@both_families
@by_both
def test_tracer_is_told_at_once(family: int, by_listener: bool) -> None:
    bench = Bench()
    bench.policy.sources[bytes(4 if family == 4 else 16)] = packed(US[family])
    fd = ask(bench, family, by_listener=by_listener, ttl=1)
    ttl_asked = (0, 12) if family == 4 else (41, 51)
    assert [(*entry[1:3],) for entry in bench.sockets.options].count(ttl_asked) == 1
    (frame,) = send_too_large(bench, family, fd)
    assert Ether(frame)[UDPerror].dport == PORT
    assert bench.drops() == {"drop_socket": 1}


@both_families
@pytest.mark.parametrize(
    ("number", "code4", "code6"),
    [(errno.ENETUNREACH, 0, 0), (errno.EHOSTUNREACH, 1, 3), (errno.EPERM, 13, 1)],
)
def test_refusal_of_the_host_is_told(family: int, number: int, code4: int, code6: int) -> None:
    bench = Bench()
    bench.policy.sources[bytes(4 if family == 4 else 16)] = packed(US[family])
    bench.script("send_message", -number, -number)
    bench.inject(query(family))
    (frame,) = bench.frames()
    packet = Ether(frame)
    assert packet[IP if family == 4 else IPv6].src == US[family]
    assert (packet[ICMP].code if family == 4 else packet[ICMPv6DestUnreach].code) == (
        code4 if family == 4 else code6
    )
    assert bytes(packet[UDPerror].payload)[:5] == b"query"
    assert bench.drops() == {"drop_socket": 1}


@pytest.mark.parametrize(
    ("family", "group"), [(4, "224.0.0.251"), (4, "255.255.255.255"), (6, "ff02::fb")]
)
@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM])
def test_refusal_of_what_went_to_a_group_is_told_to_nobody(family: int, group: str, number: int) -> None:
    bench = Bench()
    bench.policy.sources[bytes(4 if family == 4 else 16)] = packed(US[family])
    bench.script("send_message", -number, -number)
    bench.inject(udp(GUEST[family], 1000, group, 5353, b"query"))
    assert len(bench.sent_messages()) == 1
    assert bench.frames() == []
    assert bench.drops() == {"drop_socket": 1}


@both_families
def test_error_about_a_request_has_the_guests_identifier(family: int) -> None:
    bench = Bench()
    bench.inject(echo(GUEST[family], REMOTE[family], 7, 3, b"payload!"))
    (flow,) = bench.flows()
    kind = 8 if family == 4 else 128
    quoted = struct.pack("!BBHHH", kind, 0, 0xBEEF, 0x4444, 3) + b"payload!"
    bench.sockets.errors[flow.fd] = deque(
        [entry(family, 11 if family == 4 else 3, 0, payload=quoted, port=0)]
    )
    bench.deliver(flow.fd, -errno.EHOSTUNREACH)
    bench.event(flow.number, EPOLLIN)
    (frame,) = bench.frames()
    start = 14 + (48 if family == 4 else 88)
    request = echo(GUEST[family], REMOTE[family], 7, 3, b"payload!")
    assert frame[start : start + 16] == request[34 if family == 4 else 54 :]
    assert Ether(frame)[IP if family == 4 else IPv6].src == ROUTER[family]

"""Port rules carried out: fixed listeners in the namespace, and both sides as the watch uses them."""

from __future__ import annotations

import os
from ipaddress import IPv6Address
from socket import IPPROTO_TCP, IPPROTO_UDP
from typing import TYPE_CHECKING, ClassVar, cast

import pytest

from passt.errors import ConfigError
from passt.facts.port_rule import PortRule
from passt.host.listeners import NOT_YET, HostBinder, Listener, open_unnamed
from passt.light.values import replace
from passt.run.port_forwarding import INTERVAL_S, HostSide, NamespaceSide, PortForwarding, open_fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from passt.dataplane.engine import Engine
    from passt.facts.contracts import NamespaceSockets
    from passt.host.listeners import HostPorts


class FakeEngine:
    """Notes listeners; refuses the one that `refused` names."""

    def __init__(self) -> None:
        self.listeners: dict[int, tuple[int, object, bool]] = {}
        self.removed: list[int] = []
        self.refused = -1
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def add_listener(self, fd: int, proto: int, rule: object, *, namespace: bool = False) -> None:
        if fd == self.refused:
            raise OSError(24, "too many listeners")
        self.listeners[fd] = (proto, rule, namespace)

    def remove_listener(self, fd: int) -> None:
        self.removed.append(fd)
        del self.listeners[fd]

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.timers.append((delay_s, callback))

    def udp_sockets(self) -> list[int]:
        return []


class FakeSockets:
    """Opens as many descriptors as it is told to for each listener."""

    def __init__(self, n_each: int = 1, taken: tuple[int, ...] = ()) -> None:
        self.n_each = n_each
        self.taken = taken
        self.asked: list[tuple[int, int, bool, bool]] = []

    def open_listener(self, proto: int, port: int, *, ip4: bool, ip6: bool) -> list[int]:
        self.asked.append((proto, port, ip4, ip6))
        if port in self.taken:
            raise OSError(98, "Address already in use")
        return [os.open(os.devnull, os.O_RDONLY) for _ in range(self.n_each)]


class FakeBinder:
    def __init__(self, fd: int = 77) -> None:
        self.fd = fd

    def open(self, rule: PortRule, port: int) -> int:
        assert (rule.proto, port) == (IPPROTO_TCP, 80)
        return self.fd


def make_side(engine: FakeEngine, sockets: FakeSockets, *, ip4: bool = True,
              ip6: bool = True) -> NamespaceSide:
    return NamespaceSide(cast("Engine", engine), cast("NamespaceSockets", sockets), ip4=ip4, ip6=ip6)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def rule(first: int, last: int, *, proto: int = IPPROTO_TCP, optional: bool = False,
         auto: bool = False) -> PortRule:
    return PortRule(proto, first, last, first, optional=optional, auto=auto, spec=f"-T {first}-{last}")


@pytest.mark.parametrize(("ip4", "ip6"), [(True, True), (True, False), (False, True)])
def test_listener_of_the_namespace_has_all_its_descriptors_served(ip4: bool, ip6: bool) -> None:
    engine, sockets = FakeEngine(), FakeSockets(2)
    side = make_side(engine, sockets, ip4=ip4, ip6=ip6)
    made = rule(80, 80, proto=IPPROTO_UDP)
    handle = side.open_listener(made, 80)
    assert sockets.asked == [(IPPROTO_UDP, 80, ip4, ip6)]
    assert list(engine.listeners.values()) == [(IPPROTO_UDP, made, True)] * 2
    side.close_listener(handle)
    assert engine.listeners == {}


@pytest.mark.parametrize("refused", [0, 1])
def test_listener_that_the_engine_refuses_leaves_nothing_open(refused: int) -> None:
    engine, sockets = FakeEngine(), FakeSockets(2)
    before = sorted(os.listdir("/proc/self/fd"))
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(2)]
    for fd in fds:
        os.close(fd)
    engine.refused = fds[refused]
    with pytest.raises(OSError, match="too many"):
        make_side(engine, sockets).open_listener(rule(80, 80), 80)
    assert engine.listeners == {}
    assert engine.removed == fds[:refused]
    assert not is_open(fds[1])
    for fd in engine.removed:  # a real engine closes what it removes
        os.close(fd)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_listener_of_the_host_comes_from_the_binder() -> None:
    engine = FakeEngine()
    side = HostSide(cast("Engine", engine), cast("HostBinder", FakeBinder()))
    handle = side.open_listener(rule(80, 80), 80)
    assert engine.listeners == {77: (IPPROTO_TCP, rule(80, 80), False)}
    side.close_listener(handle)
    assert engine.removed == [77]


def test_listener_of_the_host_that_the_engine_refuses_is_closed() -> None:
    engine = FakeEngine()
    engine.refused = os.open(os.devnull, os.O_RDONLY)
    side = HostSide(cast("Engine", engine), cast("HostBinder", FakeBinder(engine.refused)))
    with pytest.raises(OSError, match="too many"):
        side.open_listener(rule(80, 80), 80)
    assert not is_open(engine.refused)


def on(ifname: str, port: int) -> PortRule:
    return PortRule(IPPROTO_TCP, port, port, port, ifname=ifname, spec=f"-t %{ifname}/{port}")


class CountingBinder:
    """Opens one descriptor after the other; *refused* ports cannot be had."""

    def __init__(self) -> None:
        self.fd = 100
        self.ifindex6 = 0
        self.ports: list[int] = []
        self.refused: set[int] = set()

    def open(self, _rule: PortRule, port: int) -> int:
        if port in self.refused:
            raise OSError(13, "Permission denied")
        self.fd += 1
        self.ports.append(port)
        return self.fd


def bind_to(monkeypatch: pytest.MonkeyPatch, bound: dict[int, int]) -> None:
    """Have descriptors bound to interfaces; those that *bound* lacks are bound to interface 7."""
    monkeypatch.setattr("passt.run.port_forwarding.bound_index", lambda fd: bound.get(fd, 7))


def test_listeners_of_an_interface_that_was_made_anew_are_opened_again(
        monkeypatch: pytest.MonkeyPatch) -> None:
    bind_to(monkeypatch, {101: 5, 102: 5, 103: 6})
    engine, binder = FakeEngine(), CountingBinder()
    side = HostSide(cast("Engine", engine), cast("HostBinder", binder))
    one, other = side.open_listener(on("eth0", 80), 80), side.open_listener(on("eth0", 81), 81)
    side.open_listener(on("eth1", 80), 80)
    side.open_listener(rule(80, 80), 80)
    assert side.interfaces() == {"eth0", "eth1"}
    side.listen_anew({"eth0": 5, "eth1": 6})
    side.listen_anew({"eth0": 0, "eth1": 6})
    assert engine.removed == [], "all are as they have to be, or have no interface to go to"
    side.listen_anew({"eth0": 7, "eth1": 6})
    assert sorted(engine.removed) == [101, 102]
    assert sorted(engine.listeners) == [103, 104, 105, 106]
    assert {engine.listeners[fd][1] for fd in (105, 106)} == {on("eth0", 80), on("eth0", 81)}
    assert side.n_open == 4
    side.close_listener(one)
    side.close_listener(other)
    assert sorted(engine.listeners) == [103, 104]
    assert side.interfaces() == {"eth1"}
    side.listen_anew({"eth0": 8, "eth1": 6})
    assert sorted(engine.listeners) == [103, 104]


def test_listener_of_a_link_local_address_goes_with_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    bind_to(monkeypatch, {101: 5})
    engine, binder = FakeEngine(), CountingBinder()
    binder.ifindex6 = 5
    side = HostSide(cast("Engine", engine), cast("HostBinder", binder))
    handle = side.open_listener(replace(rule(80, 80), address=IPv6Address("fe80::5")), 80)
    side.open_listener(replace(rule(81, 81), address=IPv6Address("2001:db8::5")), 81)
    side.listen_anew({})
    assert engine.removed == []
    binder.ifindex6 = 7
    side.listen_anew({})
    assert engine.removed == [101]
    side.close_listener(handle)
    assert sorted(engine.listeners) == [102]


def test_kernel_that_tells_no_interface_of_a_socket_has_nothing_closed(
        monkeypatch: pytest.MonkeyPatch) -> None:
    bind_to(monkeypatch, {101: 0})
    engine = FakeEngine()
    side = HostSide(cast("Engine", engine), cast("HostBinder", CountingBinder()))
    side.open_listener(on("eth0", 80), 80)
    side.listen_anew({"eth0": 9})
    assert engine.removed == []


def test_port_that_the_kernel_chose_is_opened_again_as_it_was_told() -> None:
    asked = replace(on("lo", 80), first=0, last=0)
    [listener] = open_unnamed(asked, HostBinder(ip4=True, ip6=False), {})
    engine, binder = FakeEngine(), CountingBinder()
    side = HostSide(cast("Engine", engine), cast("HostBinder", binder))
    side.take(listener)
    side.listen_anew({"lo": 1})
    assert engine.removed == [], "it is bound to lo, which has that number"
    side.listen_anew({"lo": 2})
    assert engine.removed == [listener.fd]
    [(_, settled, _)] = engine.listeners.values()
    assert settled == replace(asked, first=listener.port, last=listener.port)
    assert binder.ports == [listener.port]
    os.close(listener.fd)


def test_port_of_an_interface_that_cannot_be_had_again_keeps_its_socket_and_is_tried_again(
        monkeypatch: pytest.MonkeyPatch) -> None:
    bind_to(monkeypatch, {101: 5, 102: 5})
    engine, binder = FakeEngine(), CountingBinder()
    side = HostSide(cast("Engine", engine), cast("HostBinder", binder))
    handle = side.open_listener(on("eth0", 80), 80)
    side.open_listener(on("eth0", 81), 81)
    binder.refused.add(80)
    side.listen_anew({"eth0": 7})
    assert sorted(engine.listeners) == [101, 103], "one waits for its address, say"
    binder.refused.clear()
    side.listen_anew({"eth0": 7})
    assert sorted(engine.listeners) == [103, 104]
    side.close_listener(handle)
    assert sorted(engine.listeners) == [103]


def test_port_of_an_interface_that_is_not_there_is_opened_when_it_comes() -> None:
    engine, binder = FakeEngine(), CountingBinder()
    side = HostSide(cast("Engine", engine), cast("HostBinder", binder))
    handles = [side.take(Listener(NOT_YET, port, on("eth0", port))) for port in (80, 81)]
    assert side.interfaces() == {"eth0"}
    side.listen_anew({"eth0": 0})
    side.change_rule(handles[0], on("eth0", 80))
    assert engine.listeners == {}
    binder.refused.add(80)
    side.listen_anew({"eth0": 7})
    assert sorted(engine.listeners) == [101], "the other one waits for its address, say"
    binder.refused.clear()
    side.close_listener(handles[1])
    side.listen_anew({"eth0": 7})
    assert engine.removed == [101]
    assert sorted(engine.listeners) == [102]
    assert side.n_open == 1
    side.close_listener(handles[0])
    assert engine.removed == [101, 102]


def test_rule_that_waits_for_its_interface_may_be_left_out() -> None:
    engine = FakeEngine()
    side = HostSide(cast("Engine", engine), cast("HostBinder", CountingBinder()))
    side.close_listener(side.take(Listener(NOT_YET, 80, on("eth0", 80))))
    side.listen_anew({"eth0": 7})
    assert (engine.listeners, engine.removed, side.n_open) == ({}, [], 0)


def test_fixed_ports_are_opened_and_those_of_auto_are_not() -> None:
    sockets = FakeSockets()
    engine = FakeEngine()
    open_fixed([rule(80, 82), rule(90, 99, auto=True)], make_side(engine, sockets), 100)
    assert [port for _, port, _, _ in sockets.asked] == [80, 81, 82]
    for fd in engine.listeners:
        os.close(fd)


def test_named_port_that_cannot_be_had_is_an_error_with_option_and_reason() -> None:
    engine = FakeEngine()
    with pytest.raises(ConfigError, match=r"^-T 80-82: cannot listen on port 81 in the namespace: Addr"):
        open_fixed([rule(80, 82)], make_side(engine, FakeSockets(taken=(81,))), 100)
    for fd in engine.listeners:
        os.close(fd)


def test_optional_ports_may_be_missing_but_not_all() -> None:
    engine = FakeEngine()
    open_fixed([rule(80, 82, optional=True)], make_side(engine, FakeSockets(taken=(80, 82))), 100)
    assert len(engine.listeners) == 1
    for fd in engine.listeners:
        os.close(fd)
    with pytest.raises(ConfigError, match=r"^-T 80-81: none of its ports"):
        open_fixed([rule(80, 81, optional=True)], make_side(FakeEngine(), FakeSockets(taken=(80, 81))), 100)


class FakePorts:
    """Rules as HostPorts has them, with nothing bound."""

    def __init__(self, *outbound: PortRule) -> None:
        self.listeners: list[object] = []
        self.inbound: list[PortRule] = []
        self.outbound = list(outbound)
        self.binder = FakeBinder()


class FakeScanner:
    """Finds TCP port 80 bound, on either side."""

    made: ClassVar[list[FakeScanner]] = []

    def __init__(self, fds: Sequence[int], own_udp: Callable[[], list[int]] | None = None,
                 _own: object = ()) -> None:
        self.fds = list(fds)
        self.own_udp = own_udp
        self.made.append(self)

    def scan(self, protos: Iterable[int]) -> dict[int, set[int]]:
        return {proto: {80} for proto in protos}


@pytest.mark.parametrize("auto", [False, True])
def test_watch_begins_where_a_rule_is_auto_and_goes_on(monkeypatch: pytest.MonkeyPatch, auto: bool) -> None:
    monkeypatch.setattr("passt.run.port_forwarding.PortScanner", FakeScanner)
    monkeypatch.setattr("passt.run.port_forwarding.open_sources", lambda: [44])
    FakeScanner.made.clear()
    engine = FakeEngine()
    sockets = FakeSockets(0)
    ports = FakePorts(rule(1, 65535, auto=True)) if auto else FakePorts(rule(79, 79))
    forwarding = PortForwarding(cast("Engine", engine), cast("HostPorts", ports), follows=auto)
    forwarding.start([33] if auto else [], make_side(engine, sockets))
    assert len(engine.timers) == auto
    assert len(FakeScanner.made) == 2 * auto
    if auto:
        inside, host = FakeScanner.made
        assert (inside.fds, inside.own_udp) == ([33], None)
        # The sockets of the guest's flows are on the host.
        assert (host.fds, host.own_udp) == ([44], engine.udp_sockets)
        delay_s, tick = engine.timers[0]
        assert delay_s == 0
        tick()
        assert [port for _, port, _, _ in sockets.asked] == [80]
        assert engine.timers[1][0] == INTERVAL_S < 1


def test_optional_ports_of_the_namespace_stop_where_descriptors_do(capfd: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine()
    open_fixed([rule(1000, 1999, optional=True), rule(80, 81)], make_side(engine, FakeSockets()), 5)
    assert len(engine.listeners) == 7  # a port that is named is no optional one
    assert capfd.readouterr().err.startswith("-T 1000-1999: 995 ports of the namespace are not forwarded")
    for fd in engine.listeners:
        os.close(fd)

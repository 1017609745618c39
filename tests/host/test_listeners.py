"""Listening sockets of port rules."""

from __future__ import annotations

import errno
import gc
import os
import re
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError
from passt.facts.guest import GuestFamily, GuestNet
from passt.facts.port_rule import PortRule
from passt.host import listeners, syscalls
from passt.host.listeners import (
    MIN_RESERVE,
    NOT_YET,
    RESERVE_SHARE,
    HostBinder,
    HostPorts,
    explain_failure,
    leave_out_ephemeral,
)
from passt.host.port_owner import find_owner
from tests.support.isolated import isolated, set_up

if TYPE_CHECKING:
    from pathlib import Path

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
BOTH = (GuestFamily(None, 24, None, None), GuestFamily(None, 64, None, None))


def rule(proto: int = TCP, first: int = 5000, last: int | None = None, address: str | None = None, *,
         ifname: str | None = None, optional: bool = False, spec: str = "", auto: bool = False) -> PortRule:
    return PortRule(proto, first, last or first, first, ip_address(address) if address else None, ifname,
                    optional, auto=auto, spec=spec)


def open_listeners(rules: list[PortRule], *, ip4: bool = True, ip6: bool = True, freebind: bool = False,
                   ifindex6: int = 0, file_limit: int | None = None) -> list[listeners.Listener]:
    binder = HostBinder(ip4=ip4, ip6=ip6, freebind=freebind, ifindex6=ifindex6)
    return listeners.open_listeners(rules, binder, 1000, file_limit=file_limit)


def describe(rules: list[PortRule], *, ip4: bool = True, ip6: bool = True) -> list[tuple[object, ...]]:
    """Open, and tell (family, V6ONLY, bound address, port) of each socket."""
    set_up("lo")
    found: list[tuple[object, ...]] = []
    for listener in open_listeners(rules, ip4=ip4, ip6=ip6):
        sock = socket.socket(fileno=listener.fd)
        assert not sock.get_inheritable()
        assert not os.get_blocking(listener.fd)
        assert sock.proto == listener.proto
        assert listener.rule in rules
        only = bool(sock.getsockopt(41, socket.IPV6_V6ONLY)) if sock.family == socket.AF_INET6 else None
        name = sock.getsockname()
        assert name[1] == listener.port
        found.append((sock.family, only, *name[:2]))
        if listener.proto == TCP:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        else:
            assert sock.getsockopt(socket.IPPROTO_IP, listeners.IP_PKTINFO)
            assert sock.getsockopt(socket.IPPROTO_IP, listeners.IP_RECVERR)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            if sock.family == socket.AF_INET6:
                assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO)
                assert sock.getsockopt(socket.IPPROTO_IPV6, listeners.IPV6_RECVERR)
    return found


@pytest.mark.needs_root
@pytest.mark.parametrize("proto", [TCP, UDP])
@pytest.mark.parametrize(("ip4", "ip6", "expected"), [
    (True, True, (socket.AF_INET6, False, "::", 5000)),
    (True, False, (socket.AF_INET, None, "0.0.0.0", 5000)),
    (False, True, (socket.AF_INET6, True, "::", 5000)),
])
def test_rule_without_address_takes_the_families_wanted(proto: int, ip4: bool, ip6: bool,
                                                        expected: tuple[object, ...]) -> None:
    assert isolated(lambda: describe([rule(proto)], ip4=ip4, ip6=ip6)) == [expected]


@pytest.mark.needs_root
def test_range_opens_each_port() -> None:
    assert [one[3] for one in isolated(lambda: describe([rule(TCP, 5000, 5003), rule(UDP, 5000)]))] == [
        5000, 5001, 5002, 5003, 5000]


@pytest.mark.needs_root
@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_address_decides_the_family(address: str, family: int) -> None:
    [(found, _, name, _)] = isolated(lambda: describe([rule(address=address, ifname="lo")]))
    assert (found, name) == (family, address)


@pytest.mark.needs_root
@pytest.mark.parametrize("refused", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_without_ip6_in_the_kernel_ip4_is_left(monkeypatch: pytest.MonkeyPatch, refused: int) -> None:
    real = socket.socket

    def old_kernel(family: int, *rest: int, **named: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(refused, os.strerror(refused))
        return real(family, *rest, **named)

    def attempt() -> tuple[str, int]:
        monkeypatch.setattr("socket.socket", old_kernel)
        with pytest.raises(ConfigError):
            open_listeners([rule()], ip4=False, ip6=True)
        [listener] = open_listeners([rule()], ip4=True, ip6=True)
        address, port = real(fileno=listener.fd).getsockname()
        return address, port

    assert isolated(attempt) == ("0.0.0.0", 5000)


@pytest.mark.needs_root
def test_ip4_clients_reach_a_dual_stack_socket() -> None:
    def connect() -> tuple[str, str]:
        set_up("lo")
        [listener] = open_listeners([rule()], ip4=True, ip6=True)
        server = socket.socket(fileno=listener.fd)
        peers = []
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, 5000)):
                peers.append(str(server.accept()[1][0]))
        return peers[0], peers[1]

    assert isolated(connect) == ("::ffff:127.0.0.1", "::1")


def conflict(rules: list[PortRule]) -> tuple[str, int, int]:
    """Tell the error, and the numbers of descriptors before and after."""
    set_up("lo")
    before = len(os.listdir("/proc/self/fd"))
    try:
        found = open_listeners(rules, ip4=True, ip6=True)
    except ConfigError as error:
        return str(error), before, len(os.listdir("/proc/self/fd"))
    return "", before, before + len(found)


@pytest.mark.needs_root
@pytest.mark.parametrize(("proto", "option"), [(TCP, "-t"), (UDP, "-u")])
def test_port_in_use_ends_with_a_line_and_leaves_nothing_open(proto: int, option: str) -> None:
    text, before, after = isolated(lambda: conflict([rule(proto), rule(proto)]))
    assert text.startswith(f"{option} 5000: cannot bind {'TCP' if proto == TCP else 'UDP'} port 5000: ")
    assert re.search(r"; another program \(.+, PID \d+\) has it: choose another port$", text)
    assert "Address already in use" in text
    assert before == after


@pytest.mark.needs_root
def test_port_in_use_of_an_optional_rule_is_skipped() -> None:
    text, before, after = isolated(lambda: conflict([rule(), rule(optional=True), rule(first=5001)]))
    assert (text, after - before) == ("", 2)


@pytest.mark.needs_root
def test_missing_address_is_told() -> None:
    text, _, _ = isolated(lambda: conflict([rule(address="203.0.113.9")]))
    assert "TCP port 5000 of 203.0.113.9: Cannot assign requested address; this host does not have" in text


@pytest.mark.needs_root
def test_missing_interface_is_told() -> None:
    text, _, _ = isolated(lambda: conflict([rule(ifname="nothere")]))
    assert "on nothere: No such device" in text


def test_interface_may_be_waited_for(capfd: pytest.CaptureFixture[str]) -> None:
    asked = [rule(ifname="nothere", first=5000, last=5001, spec="-t %nothere/5000-5001"), rule(first=40000)]
    ports = HostPorts(asked, (), GuestNet(*BOTH, "tap0"), 100, waits=True)
    waiting, _, listener = ports.listeners
    assert (waiting.fd, waiting.port, waiting.rule) == (NOT_YET, 5000, asked[0])
    assert ports.named() == [(asked[1], 40000)]
    os.close(listener.fd)
    told = capfd.readouterr().err
    assert told.count("-t %nothere/5000-5001: there is no interface nothere yet") == 1
    taken = socket.create_server(("127.0.0.1", 0))
    with taken, pytest.raises(ConfigError, match="another program"):
        HostPorts([asked[0], rule(first=taken.getsockname()[1])], (), GuestNet(*BOTH, "tap0"), 100,
                  waits=True)


@pytest.mark.needs_root
def test_low_port_names_the_setting_and_its_value() -> None:
    def unprivileged() -> str:
        syscalls.capset(0, 0, 0)
        try:
            open_listeners([rule(first=80)], ip4=True, ip6=True)
        except ConfigError as error:
            return str(error)
        return ""

    text = isolated(unprivileged)
    assert text.startswith("-t 80: cannot bind TCP port 80: Permission denied; ports below 1024 ")
    assert "net.ipv4.ip_unprivileged_port_start = 1024" in text
    assert "CAP_NET_BIND_SERVICE" in text


@pytest.mark.parametrize("content", ["81\n", "junk", None])
def test_setting_is_named_only_if_it_is_the_cause(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "start"
    if content is not None:
        path.write_text(content)
    error = PermissionError(errno.EACCES, "Permission denied")
    assert ("sysctl" in explain_failure(rule(first=80), 80, error, str(path))) == (content == "81\n")
    assert "sysctl" not in explain_failure(rule(first=81), 81, error, str(path))


def test_address_of_a_family_switched_off_is_refused() -> None:
    with pytest.raises(ConfigError, match="family is off"):
        open_listeners([rule(address="::1")], ip4=True, ip6=False)


def test_descriptor_limit_is_told() -> None:
    text = explain_failure(rule(), 5000, OSError(errno.EMFILE, "Too many open files"))
    assert "ulimit" in text


@pytest.mark.needs_root
@pytest.mark.parametrize(("proto", "address"), [(TCP, "203.0.113.9"), (UDP, "2001:db8::9")])
def test_freebind_takes_an_address_that_is_missing(proto: int, address: str) -> None:
    def bind() -> str:
        set_up("lo")
        [listener] = open_listeners([rule(proto, address=address)], freebind=True)
        with socket.socket(fileno=listener.fd) as sock:
            return str(sock.getsockname()[0])

    assert isolated(bind) == address


def settled(asked: PortRule, handed_over: dict[int, str] | None = None, *, ip6: bool = True
            ) -> list[tuple[bool, str | None, str | None, int, int]]:
    """Tell whether socket and rule have one port; address and interface of the rule; two options."""
    set_up("lo")
    binder = HostBinder(ip4=True, ip6=ip6)
    found = []
    for listener in listeners.open_unnamed(asked, binder, handed_over or {}):
        made, sock = listener.rule, socket.socket(fileno=listener.fd)
        port = sock.getsockname()[1]
        assert (sock.get_inheritable(), os.get_blocking(listener.fd)) == (False, False)
        assert (made.inherited, made.service_port(port)) == ("", asked.target)
        found.append((listener.port == made.first == made.last == port > 0,
                      None if made.address is None else str(made.address), made.ifname,
                      sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
                      sock.getsockopt(socket.IPPROTO_IP, listeners.IP_PKTINFO)))
    return found


@pytest.mark.needs_root
@pytest.mark.parametrize(("proto", "address", "ip6", "flags"), [
    (TCP, None, True, (1, 0)), (TCP, None, False, (1, 0)), (TCP, "127.0.0.1", True, (1, 0)),
    (UDP, None, True, (0, 1)), (UDP, "::1", True, (0, 1)),
])
def test_port_that_the_kernel_chooses_is_in_the_rule(
        proto: int, address: str | None, ip6: bool, flags: tuple[int, int]) -> None:
    asked = PortRule(proto, 0, 0, 80, ip_address(address) if address else None)
    assert isolated(lambda: settled(asked, ip6=ip6)) == [(True, address, None, *flags)]


@pytest.mark.needs_root
@pytest.mark.parametrize(("proto", "host", "only6", "address"), [
    (TCP, "::", 0, None), (TCP, "::", 1, "::"), (TCP, "0.0.0.0", 0, "0.0.0.0"),
    (TCP, "127.0.0.1", 0, "127.0.0.1"),
    (UDP, "::", 0, None), (UDP, "::1", 1, "::1"), (UDP, "127.0.0.1", 0, "127.0.0.1"),
])
@pytest.mark.parametrize("device", ["", "lo"])
def test_socket_that_is_handed_over_is_made_ready_and_named_in_the_rule(
        proto: int, host: str, only6: int, address: str | None, device: str) -> None:
    def serve() -> list[tuple[bool, str | None, str | None, int, int]]:
        set_up("lo")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM if proto == TCP else socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
        if device:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        sock.bind((host, 0))
        if proto == TCP:
            sock.listen()
        return settled(PortRule(proto, 0, 0, 80, inherited="web"), {sock.fileno(): "web"})

    flags = (1, 0) if proto == TCP else (0, 1)
    assert isolated(serve) == [(True, address, device or None, *flags)]


@pytest.mark.needs_root
def test_chosen_ports_are_none_that_another_rule_names() -> None:
    """The range that the kernel chooses from has two ports, and a later rule names one of them."""
    def choose() -> list[int]:
        set_up("lo")
        with open("/proc/sys/net/ipv4/ip_local_port_range", "w", encoding="ascii") as file:
            file.write("40000 40001")
        ports = HostPorts([PortRule(TCP, 0, 0, 80), rule(first=40000)], (), GuestNet(*BOTH, "tap0"), 100)
        return [*(listener.port for listener in ports.listeners), *(made.first for made in ports.settled)]

    assert isolated(choose) == [40000, 40001, 40001]


@pytest.mark.needs_root
def test_nothing_stays_open_if_a_socket_is_missing() -> None:
    def fail() -> tuple[str, int]:
        set_up("lo")
        before = len(os.listdir("/proc/self/fd"))
        try:
            HostPorts([rule(first=5000), PortRule(TCP, 0, 0, 80, inherited="web", spec="-t fd:web:80")], (),
                      GuestNet(*BOTH, "tap0"), 100)
        except ConfigError as error:
            return str(error).partition(";")[0], len(os.listdir("/proc/self/fd")) - before
        return "", -1

    assert isolated(fail) == ("-t fd:web:80: no TCP socket of this name is handed over", 0)


@pytest.mark.needs_root
def test_auto_rule_binds_nothing_yet() -> None:
    assert isolated(lambda: describe([rule(auto=True)])) == []


@pytest.mark.needs_root
def test_guest_flow_may_share_the_port_of_a_udp_listener_and_another_program_may_not() -> None:
    def share() -> list[bool]:
        set_up("lo")
        open_listeners([rule(UDP)])
        outcomes = []
        for reuse in (True, False):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            try:
                sock.bind(("0.0.0.0", 5000))
                outcomes.append(True)
            except OSError:
                outcomes.append(False)
        return outcomes

    assert isolated(share) == [True, False]


def opened_and_said(rules: list[PortRule], file_limit: int | None = None) -> tuple[list[int], str]:
    """Give the ports opened and the lines logged, or the error."""
    set_up("lo")
    reader, writer = os.pipe()
    saved = os.dup(2)
    os.dup2(writer, 2)
    try:
        ports = [listener.port for listener in open_listeners(rules, file_limit=file_limit)]
        text = ""
    except ConfigError as error:
        ports, text = [], str(error)
    os.dup2(saved, 2)
    os.write(writer, b"\n")
    return ports, text or os.read(reader, 65536).decode().strip()


@pytest.mark.needs_root
def test_optional_specification_skips_what_is_taken_and_reports_a_count() -> None:
    def run() -> tuple[list[int], str]:
        return opened_and_said([rule(TCP, 5001, 5003), rule(TCP, 5000, 5005, optional=True, spec="-t all")])

    ports, text = isolated(run)
    assert ports == [5001, 5002, 5003, 5000, 5004, 5005]
    assert text == "-t all: 3 of 6 TCP ports are forwarded"


@pytest.mark.needs_root
def test_optional_specification_of_which_nothing_is_had_is_an_error() -> None:
    def run() -> tuple[list[int], str]:
        return opened_and_said([rule(), rule(optional=True, spec="-t ~1-4999,~5001-65535")])

    ports, text = isolated(run)
    assert ports == []
    assert text.startswith("-t ~1-4999,~5001-65535: none of 1 TCP ports could be bound; the last one: ")


@pytest.mark.needs_root
def test_descriptor_limit_cuts_optional_specifications_evenly_and_is_told() -> None:
    def run() -> tuple[list[int], str]:
        gc.collect()  # what earlier tests left open would be closed between counting and opening
        gc.collect()
        used = len(os.listdir("/proc/self/fd")) + 2  # the pipe and the copy above
        limit = next(n for n in range(used, 65536)
                     if n - max(n // RESERVE_SHARE, min(MIN_RESERVE, n // 2)) - used >= 20)
        return opened_and_said([rule(TCP, 5000, 5099, optional=True, spec="-t all"),
                                rule(UDP, 5000, 5099, optional=True, spec="-u all")], limit)

    ports, text = isolated(run)
    first, second = text.splitlines()
    assert ports[:9] == list(range(5000, 5009))
    assert 17 <= len(ports) <= 20
    assert first.startswith("-t all: only ")
    assert second.startswith("-u all: only ")
    assert "of 100 UDP ports are forwarded, as the limit of open files leaves no room for more" in second


def test_more_sockets_than_the_engine_takes_are_refused() -> None:
    with pytest.raises(ConfigError, match="-t 1-2000: that makes more than 1000 sockets"):
        open_listeners([rule(TCP, 1, 2000, spec="-t 1-2000")])


@pytest.mark.parametrize(("content", "expected"), [
    ("32768\t60999\n", [(1, 32767), (61000, 65535)]), ("junk", [(1, 49151)]), (None, [(1, 49151)]),
])
def test_ephemeral_ports_are_left_out_where_a_rule_says_so(
        tmp_path: Path, content: str | None, expected: list[tuple[int, int]]) -> None:
    path = tmp_path / "range"
    if content is not None:
        path.write_text(content)
    every = PortRule(TCP, 1, 65535, 1, skips_ephemeral=True)
    found = leave_out_ephemeral([every, rule(first=50000)], str(path))
    assert [(one.first, one.last) for one in found] == [*expected, (50000, 50000)]
    assert leave_out_ephemeral([rule(first=50000)], "/proc/none") == [rule(first=50000)]


@pytest.mark.needs_root
def test_port_owner_is_found_by_its_socket() -> None:
    def run() -> tuple[str | None, str | None, str | None, str]:
        set_up("lo")
        with socket.create_server(("127.0.0.1", 5000)), socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("127.0.0.1", 5001))
            found = find_owner(TCP, 5000), find_owner(UDP, 5001), find_owner(UDP, 5000)
            return *found, f"PID {os.getpid()}"

    tcp, udp, nobody, pid = isolated(run)
    assert tcp is not None
    assert udp is not None
    assert tcp.endswith(pid)
    assert udp.endswith(pid)
    assert nobody is None


def test_ports_without_families_of_the_guest_are_refused() -> None:
    guest = GuestNet(None, None, "tap0")
    with pytest.raises(ConfigError, match="TCP port 5000 of ::1: this address family is off"):
        HostPorts([rule(address="::1", spec="-t ::1/5000")], [], guest, 1000)


@pytest.mark.parametrize("limit", [16, 64, 100, 256, 1024, 1 << 20])
def test_reserve_of_descriptors_scales_with_their_limit(limit: int) -> None:
    used = len(os.listdir("/proc/self/fd"))
    reserve = max(limit // listeners.RESERVE_SHARE, min(listeners.MIN_RESERVE, limit // 2))
    possible = {max(limit - reserve - n, 0) for n in range(used - 1, used + 3)}
    assert listeners.count_spare_descriptors(limit) in possible
    assert listeners.count_spare_descriptors(limit) <= limit - reserve

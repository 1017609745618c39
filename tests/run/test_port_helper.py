"""The process that binds low ports: what it does, what it has, and that it ends."""

from __future__ import annotations

import errno
import os
import socket
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, cast

import pytest

from passt.errors import HostError
from passt.facts.port_rule import PortRule
from passt.host.interface_index import bound_index
from passt.host.listeners import HostBinder
from passt.host.rtnetlink.messages import AddressFlag, MessageFlag, MessageType, Scope, build_address
from passt.host.rtnetlink.socket import RtnlSocket
from passt.host.syscalls import CLONE_NEWNET, CLONE_NEWUSER
from passt.namespace.interface import bring_lo_up
from passt.process import privileges
from passt.process.identity import Identity
from passt.run import port_helper
from passt.run.port_forwarding import HostSide
from passt.run.port_helper import PortHelper, start_helper
from tests.support.isolated import isolated
from tests.support.processes import children, status_field, wait_until

if TYPE_CHECKING:
    from passt.dataplane.engine import Engine

ANY, LOOPBACK = PortRule(6, 1, 1023, 1), PortRule(17, 1, 1023, 1, IPv6Address("::1"), "lo")


@pytest.mark.needs_root
def test_low_ports_are_bound_without_any_other_right() -> None:
    isolated(bind_low_ports)


def bind_low_ports() -> None:
    """Run in namespaces of its own."""
    port_helper.TIMEOUT_S = 60.0         # for a busy machine
    bring_lo_up()
    with RtnlSocket() as rtnetlink:
        rtnetlink.request("cannot add", MessageType.NEWADDR, build_address(
            1, IPv6Address("fe80::77").packed, 64, AddressFlag.NODAD, Scope.LINK), MessageFlag.CREATE)
    helper = start_helper(HostBinder(ip4=True, ip6=True), Identity(65534, 65534))
    assert helper is not None
    (pid,) = children(os.getpid())
    # We give up what the helper keeps.
    privileges.drop_privileges()
    with pytest.raises(PermissionError):
        HostBinder(ip4=True, ip6=True).open(ANY, 81)
    for rule, port, kind, address in ((ANY, 81, socket.SOCK_STREAM, "::"),
                                      (LOOPBACK, 82, socket.SOCK_DGRAM, "::1")):
        fd = helper.open(rule, port)
        with socket.socket(fileno=fd) as sock:
            assert (sock.type, sock.getsockname()[:2]) == (kind, (address, port))
            assert not os.get_inheritable(fd)
            assert not os.get_blocking(fd)
    held = helper.open(ANY, 83)
    with pytest.raises(OSError, match="Address already in use"):
        helper.open(ANY, 83)
    os.close(held)
    with pytest.raises(OSError, match="Cannot assign requested address"):
        helper.open(PortRule(6, 1, 1023, 1, IPv4Address("192.0.2.99")), 83)
    with pytest.raises(OSError, match=os.strerror(errno.ENODEV)):
        helper.open(PortRule(6, 1, 1023, 1, ifname="none0"), 83)
    # The interface of link-local addresses is that of now, not that of the start.
    link_local = PortRule(6, 1, 1023, 1, IPv6Address("fe80::77"))
    for ifindex in (0, 99):
        with pytest.raises(OSError, match=r"Invalid argument|No such device"):
            helper.open(link_local, 83, ifindex)
        fd = helper.open(link_local, 83, 1)
        assert bound_index(fd) == 1
        os.close(fd)
    one, other = socket.socketpair()
    assert helper.user_of(one) == os.getuid()
    for sock in (one, other):
        sock.close()
    for name, value in (("CapPrm", 1 << 10), ("CapEff", 1 << 10), ("CapBnd", 1 << 10), ("CapInh", 0),
                        ("CapAmb", 0)):
        assert int(status_field(pid, name), 16) == value
    assert (status_field(pid, "NoNewPrivs"), status_field(pid, "Seccomp")) == ("1", "2")
    assert status_field(pid, "Uid").split() == ["65534"] * 4


@pytest.mark.needs_root
def test_helper_ends_with_its_channel_and_takes_no_nonsense() -> None:
    isolated(end_helper)


def end_helper() -> None:
    """Run in namespaces of its own."""
    port_helper.TIMEOUT_S = 60.0         # for a busy machine
    helper = start_helper(HostBinder(ip4=True, ip6=False), None)
    assert helper is not None
    channel = helper._channel
    for nonsense in (b"x", b"b", b"b" + bytes(58), b"u", b"b" + bytes(200)):
        channel.send(nonsense)
        data = channel.recv(100)
        assert int.from_bytes(data[:4], "big") == errno.EINVAL
    (pid,) = children(os.getpid())
    channel.close()
    wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, "the helper ends")


@pytest.mark.needs_root
def test_root_of_a_container_in_the_host_s_network_may_not_bind_low_ports() -> None:
    assert isolated(privileges.may_bind_low_ports)
    assert isolated(privileges.may_bind_low_ports, flags=CLONE_NEWNET)
    assert not isolated(privileges.may_bind_low_ports, flags=CLONE_NEWUSER)
    assert not isolated(may_still_bind_low_ports)


def may_still_bind_low_ports() -> bool:
    privileges.drop_privileges()
    return privileges.may_bind_low_ports()


def test_without_the_right_there_is_no_helper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passt.process.privileges.may_bind_low_ports", lambda: False)
    assert start_helper(HostBinder(ip4=True, ip6=True), None) is None


def test_helper_that_has_ended_is_an_error_and_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = PortHelper(ours)
    theirs.close()
    with pytest.raises(OSError, match="has ended"):
        helper.open(ANY, 81)
    one, other = socket.socketpair()
    with one, other:
        assert helper.user_of(one) is None
    assert "cannot tell whose client" in capfd.readouterr().err
    ours.close()


def test_late_reply_is_not_taken_for_that_to_another_request(
        monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor is anything asked before it has come; its socket is closed, and then all is as before."""
    monkeypatch.setattr(port_helper, "TIMEOUT_S", 0.02)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.settimeout(60)
    helper = PortHelper(ours)
    one, other = socket.socketpair()
    with ours, theirs, one, other:
        with pytest.raises(BlockingIOError, match="does not answer"):
            helper.open(ANY, 81)
        assert helper.user_of(one) is None
        assert "cannot tell whose client this is: the process that binds low ports does not answer" in (
            capfd.readouterr().err)
        assert theirs.recv(100)[:1] == b"b"
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(100)
        late, its_peer = socket.socketpair()
        its_peer.settimeout(60)
        with its_peer:
            with late:
                socket.send_fds(theirs, [bytes(8)], [late.fileno()])
            assert helper.user_of(one) is None       # asked, and not answered in time
            assert its_peer.recv(1) == b""
        assert theirs.recv(100) == b"u"
        theirs.send(bytes(4) + (7).to_bytes(4))
        theirs.send(bytes(4) + (8).to_bytes(4))
        assert helper.user_of(one) == 8


def test_helper_that_ends_before_a_late_reply_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_helper, "TIMEOUT_S", 0.02)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    helper = PortHelper(ours)
    with ours:
        with theirs, pytest.raises(BlockingIOError):
            helper.open(ANY, 81)
        for _ in range(2):
            with pytest.raises(BrokenPipeError, match="has ended"):
                helper.open(ANY, 81)


@pytest.mark.parametrize("reply", [bytes(7), bytes((0, 0, 0, 13)) + bytes(4)])
def test_descriptor_that_comes_with_a_failure_is_closed(reply: bytes) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    one, other = socket.socketpair()
    other.settimeout(60)
    with ours, theirs, other:
        with one:
            socket.send_fds(theirs, [reply], [one.fileno()])
        with pytest.raises(OSError, match=r"Permission denied|has ended"):
            PortHelper(ours).open(ANY, 81)
        assert other.recv(1) == b""


@pytest.mark.needs_root
def test_helper_that_cannot_begin_says_why() -> None:
    isolated(begin_in_vain)


def begin_in_vain() -> None:
    """Run in namespaces of its own."""
    def fail(capability: int) -> None:
        raise OSError(errno.EPERM, f"not {capability}")

    def end(capability: int) -> None:
        os._exit(capability)

    fds = os.listdir("/proc/self/fd")
    privileges.keep_one = fail
    with pytest.raises(HostError, match=r"^cannot start the process that binds low ports: .*not 10$"):
        start_helper(HostBinder(ip4=True, ip6=False), None)
    privileges.keep_one = end
    with pytest.raises(HostError, match=r"ports: it has ended$"):
        start_helper(HostBinder(ip4=True, ip6=False), None)
    os.fork = lambda: os.stat("/proc/self/none").st_uid
    with pytest.raises(HostError, match=r"ports: No such file or directory$"):
        start_helper(HostBinder(ip4=True, ip6=False), None)
    assert os.listdir("/proc/self/fd") == fds


def test_side_asks_the_helper_only_for_what_it_may_not_bind() -> None:
    class Binder:
        number, ifindex6 = 0, 7

        def open(self, _rule: PortRule, _port: int) -> int:
            if self.number:
                raise OSError(self.number, os.strerror(self.number))
            return 70

    class Helper:
        asked = 0

        def open(self, _rule: PortRule, _port: int, ifindex6: int) -> int:
            assert ifindex6 == Binder.ifindex6
            self.asked += 1
            return 71

    class Loop:
        def add_listener(self, fd: int, _proto: int, _rule: object) -> None:
            assert fd in {70, 71}

    binder, helper = Binder(), Helper()
    side = HostSide(cast("Engine", Loop()), cast("HostBinder", binder), cast("PortHelper", helper))
    assert (side.open_listener(ANY, 81), helper.asked) == (70, 0)
    binder.number = errno.EADDRINUSE
    with pytest.raises(OSError, match="already in use"):
        side.open_listener(ANY, 81)
    binder.number = errno.EACCES
    assert (side.open_listener(ANY, 81), helper.asked) == (71, 1)
    lone = HostSide(cast("Engine", Loop()), cast("HostBinder", binder))
    with pytest.raises(PermissionError):
        lone.open_listener(ANY, 81)

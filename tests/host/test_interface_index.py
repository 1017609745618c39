"""The index of an interface: found, not there, and hindered."""

from __future__ import annotations

import errno
import os
import resource
import socket
from ipaddress import IPv6Address

import pytest

from passt.errors import HostError
from passt.host import host_facts
from passt.host.interface_index import bound_index, interface_index
from passt.host.resolvconf import parse
from passt.host.rtnetlink.messages import AddressFlag, MessageFlag, MessageType, Scope, build_address
from passt.host.rtnetlink.socket import RtnlSocket
from passt.namespace.interface import bring_lo_up
from tests.support.isolated import in_own_namespace


def leave_no_descriptor() -> None:
    """Let the next descriptor fail; what is open stays."""
    free = os.open("/", os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))


@in_own_namespace
def test_first_interface_of_a_namespace_is_loopback() -> None:
    before = os.listdir("/proc/self/fd")
    assert interface_index("lo") == 1
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.needs_root
@in_own_namespace
def test_interface_of_a_socket_is_told_however_it_was_bound() -> None:
    bring_lo_up()
    with socket.socket() as plain, socket.socket() as named, socket.socket(socket.AF_INET6) as scoped:
        named.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
        with RtnlSocket() as rtnetlink:
            rtnetlink.request("cannot add", MessageType.NEWADDR, build_address(
                1, IPv6Address("fe80::77").packed, 64, AddressFlag.NODAD, Scope.LINK), MessageFlag.CREATE)
        scoped.bind(("fe80::77", 0, 0, 1))
        assert [bound_index(sock.fileno()) for sock in (plain, named, scoped)] == [0, 1, 1]
        assert all(os.get_blocking(sock.fileno()) for sock in (plain, named, scoped)), "they are as before"


@pytest.mark.parametrize("name", ["", "nothere0", "x" * 15, "x" * 16, "a/b", "lo\0", "\udcff"])
def test_interface_that_is_not_there(name: str) -> None:
    with pytest.raises(OSError, match="No such device") as caught:
        interface_index(name)
    assert caught.value.errno == errno.ENODEV


@in_own_namespace
def test_want_of_descriptors_is_not_told_as_want_of_an_interface() -> None:
    with RtnlSocket() as rtnetlink:
        leave_no_descriptor()
        with pytest.raises(OSError, match="Too many open files"):
            interface_index("lo")
        with pytest.raises(HostError, match=r"^cannot look for interface lo: Too many open files$"):
            rtnetlink.get_link("lo")
        with pytest.raises(HostError, match=r"^--interface lo: cannot look for the interface: Too many"):
            host_facts._need_interface("--interface", "lo")
        with pytest.raises(OSError, match="Too many open files"):
            host_facts.kernel_has_ip6()
        with pytest.raises(OSError, match="Too many open files"):
            parse(b"nameserver fe80::1%lo\n")

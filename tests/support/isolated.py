"""Pieces of tests in a process of their own, with namespaces of their own that come and go with it."""

from __future__ import annotations

import fcntl
import functools
import os
import pickle
import socket
import struct
import subprocess
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

import pytest

from passt.host.syscalls import CLONE_NEWNET, CLONE_NEWUSER, unshare
from tests.support.processes import read, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
P = ParamSpec("P")

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
IFA_F_TENTATIVE = 0x40
# Commands of ip(8): the "host" has a veth h0, whose other end is up.
HOST = """
    link add h0 type veth peer name p0
    link set p0 up
    link set h0 up
"""
# Its addresses and routes in the plain case.
PLAIN = """
    addr add 192.0.2.2/24 brd + dev h0
    addr add 2001:db8::2/64 dev h0 nodad
    route add default via 192.0.2.1
    route add default via 2001:db8::1
"""


def isolated(function: Callable[[], T], *, flags: int = CLONE_NEWUSER | CLONE_NEWNET) -> T:
    """Return what *function* returns in a child with new namespaces; an exception there fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if flags:
                unshare(flags)
            answer: tuple[bool, object] = (True, function())
        except BaseException:  # noqa: BLE001 - all of it is the parent's to judge
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as file:
            pickle.dump(answer, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with wait status {status}"
    good, value = pickle.loads(data)  # noqa: S301 - our own child's
    assert good, value
    result: T = value
    return result


def errno_of(function: Callable[..., object], *arguments: object) -> int:
    """Return the errno with which *function* fails; 0 if it does not."""
    try:
        function(*arguments)
    except OSError as error:
        return error.errno or 0
    return 0


def isolated_as_root(function: Callable[[], T]) -> T:
    """Return what *function* returns in a child with a new network namespace, but our user namespace."""
    return isolated(function, flags=CLONE_NEWNET)


def in_child(test: Callable[P, None]) -> Callable[P, None]:
    """Run *test* in a child process; what it raises fails the test, as text."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        isolated(functools.partial(test, *args, **kwargs), flags=0)

    return wrapper


def in_own_namespace(test: Callable[P, None]) -> Callable[P, None]:
    """Run *test* in a child with a new network namespace, loopback up, ping sockets permitted."""

    @pytest.mark.needs_root
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it makes a network namespace")
    @in_child
    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        unshare(CLONE_NEWNET)
        set_up("lo")
        Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 2147483647", encoding="ascii")
        test(*args, **kwargs)

    return wrapper


def set_up(ifname: str, *, up: bool = True) -> None:
    """Set the interface administratively up or down (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH22x", ifname.encode(), 0)
        flags = struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)[0]
        flags = flags | IFF_UP if up else flags & ~IFF_UP
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", ifname.encode(), flags))


def ip(*arguments: str) -> str:
    """Return what ip(8) prints, which has to succeed."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def ip_batch(lines: str) -> None:
    """Have ip(8) carry out *lines*."""
    subprocess.run(["ip", "-batch", "-"], input=lines, check=True, text=True, stdout=subprocess.DEVNULL)


def make_host(lines: str = "") -> None:
    """Make the interface of `HOST`, and carry out *lines* when it has its link-local address.

    The kernel gives it that in its own time, and nobody else can have it: no test for duplicates follows.
    """
    Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0", encoding="ascii")
    ip_batch(HOST)

    def is_ready() -> bool:
        entries = [line.split() for line in read("/proc/net/if_inet6").decode().splitlines()]
        return any((scope, name) == ("20", "h0") and not int(flags, 16) & IFA_F_TENTATIVE
                   for _, _, _, scope, flags, name in entries)

    wait_until(is_ready, "h0 has its link-local address")
    if lines:
        ip_batch(lines)


def wait_for_local_route(address: str) -> None:
    """Wait until the kernel uses its new IPv6 address: the work queue that adds the route is a bit later."""
    route = socket.inet_pton(socket.AF_INET6, address).hex() + " 80"
    wait_until(lambda: route in read("/proc/net/ipv6_route").decode(), f"{address} is usable")


def wait_for_source(address: str, destination: str, ifname: str) -> None:
    """Wait until the kernel takes its IPv6 *address* as the source of what leaves by *ifname*.

    Right after the interface has come up it may have no answer yet.
    """
    argv = ["ip", "-6", "route", "get", destination, "oif", ifname]

    def is_taken() -> bool:
        shown = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        return f" src {address} " in shown

    wait_until(is_taken, f"{address} is the source of what leaves by {ifname}")

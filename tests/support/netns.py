"""Tests in a child process, and in a network namespace that comes and goes with it."""

import fcntl
import functools
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import pytest

from passt.host.syscalls import CLONE_NEWNET, unshare
from tests.support.isolated import isolated

P = ParamSpec("P")

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


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

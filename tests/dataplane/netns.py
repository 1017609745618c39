"""Tests in a child process, and in a network namespace that comes and goes with it."""

import fcntl
import functools
import os
import socket
import struct
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

import pytest

from passt.host.syscalls import CLONE_NEWNET, unshare

P = ParamSpec("P")

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def in_child(test: Callable[P, None]) -> Callable[P, None]:
    """Run *test* in a child process; what it raises fails the test, as text."""

    @functools.wraps(test)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(reader)
            os._exit(run_child(writer, functools.partial(test, *args, **kwargs)))
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as report:
            text = report.read()
        _, status = os.waitpid(pid, 0)
        if status:
            pytest.fail(text or f"the child ended with wait status {status}", pytrace=False)

    return wrapper


def run_child(writer: int, work: Callable[[], None]) -> int:
    """Do the *work*; returns the exit status, the reason of a failure goes to *writer*."""
    try:
        work()
    except BaseException:  # noqa: BLE001 - whatever it is, the parent has to hear of it
        os.write(writer, traceback.format_exc().encode())
        return 1
    return 0


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

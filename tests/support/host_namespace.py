"""Namespaces for tests that need a host of their own: made in a child process, gone when it ends."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, TypeVar

from passt.host.syscalls import CLONE_NEWNET, unshare
from tests.support.isolated import isolated as in_child

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
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


def isolated(function: Callable[[], T]) -> T:
    """Call *function* in a child process in a new network namespace; hand back its result."""
    return in_child(function, flags=CLONE_NEWNET)


def new_namespace() -> None:
    unshare(CLONE_NEWNET)


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def ip_batch(lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=lines, check=True, text=True, stdout=subprocess.DEVNULL)

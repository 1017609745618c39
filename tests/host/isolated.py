"""Namespaces for tests that need a host of their own: made in a child process, gone when it ends."""

from __future__ import annotations

import ctypes
import os
import pickle
import subprocess
import traceback
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
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
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with open(writer, "wb") as pipe:
            try:
                new_namespace()
                pickle.dump((True, function()), pipe)
            except BaseException:  # noqa: BLE001
                pickle.dump((False, traceback.format_exc()), pipe)
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        content = pipe.read()
    os.waitpid(child, 0)
    worked, result = pickle.loads(content)  # noqa: S301
    if not worked:
        pytest.fail(result)
    outcome: T = result
    return outcome


def new_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


def ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def ip_batch(lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input=lines, check=True, text=True, stdout=subprocess.DEVNULL)

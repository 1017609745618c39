"""Run a piece of a test in a process of its own, with namespaces of its own."""

from __future__ import annotations

import os
import pickle
import traceback
from typing import TYPE_CHECKING, TypeVar

from passt.host import syscalls

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def isolated(function: Callable[[], T], *, flags: int = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET) -> T:
    """Return what *function* returns in a child with new namespaces; an exception there fails the test."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if flags:
                syscalls.unshare(flags)
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

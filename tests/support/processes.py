"""What other processes are at: states, children, namespaces, and waits for what nothing announces."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import FileDescriptorLike

LIMIT_S = 60.0
SMALL_PROGRAMS = ("passt-reader", "passt-configure")


def wait_until(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Poll *condition* until it holds; fail the test, naming *what*, after *limit_s* seconds."""
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, f"not within {limit_s} s: {what}"
        time.sleep(0.005)


def is_readable(descriptor: FileDescriptorLike, limit_s: float = 0) -> bool:
    """Wait up to *limit_s* seconds until there is something to read, an end or an error.

    poll(2): a long run of tests may have more descriptors than select(2) can name.
    """
    watch = select.poll()
    watch.register(descriptor, select.POLLIN)
    return bool(watch.poll(max(limit_s, 0) * 1000))


def read(path: str) -> bytes:
    """Return a file's content; nothing if it has gone."""
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def process_state(pid: int) -> str:
    """Letter of a process's state as in proc(5), "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def status_field(pid: int, name: str) -> str:
    """One field of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    raise KeyError(name)


def children(pid: int) -> list[int]:
    """Children of a process but the small programs by which a run follows the host."""
    return [child for child in all_children(pid) if process_name(child) not in SMALL_PROGRAMS]


def process_name(pid: int) -> str:
    """Name of a process in lists; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def all_children(pid: int) -> list[int]:
    """Children of a process, of all its threads."""
    found: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return found
    for task in tasks:
        try:
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text(encoding="ascii").split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(pid: int) -> list[int]:
    """All processes below *pid*."""
    found = children(pid)
    for child in tuple(found):
        found += descendants(child)
    return found


def child_of(pid: int) -> int:
    """PID of the one child of *pid*."""
    [child] = children(pid)
    return child


def namespace(pid: int, kind: str) -> int:
    """Inode number of a namespace of *pid*."""
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino

"""Join two network namespaces by a path that takes its time: what enters one end leaves the other later.

Arguments: the two namespaces' files, the delay each way in ms, the name of the tap device in both. Prints
"ready" when the devices are there; they go when it ends. Needs the library only.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from pathlib import Path

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 2, 0x1000  # linux/if_tun.h
CLONE_NEWNET = 0x40000000
FRAME_MAX = 65536
QUEUE_MAX = 10_000


def open_end(namespace: str, name: str) -> int:
    """Make a tap device in *namespace*, where this process then is."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(namespace).open("rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) < 0:
            raise OSError(ctypes.get_errno(), "setns")
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return fd


def take(fd: int, other: int, due: float, queue: deque[tuple[float, int, bytes]]) -> None:
    """Take what waits in one end; a full queue drops, as any router does."""
    while True:
        try:
            frame = os.read(fd, FRAME_MAX)
        except OSError:
            return
        if len(queue) < QUEUE_MAX:
            queue.append((due, other, frame))


def main() -> None:
    """Carry frames until killed."""
    near, far, delay_ms, name = sys.argv[1:]
    delay_s = float(delay_ms) / 1000
    ends = [open_end(near, name), open_end(far, name)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    poller = select.poll()
    for fd in ends:
        poller.register(fd, select.POLLIN)
    queue: deque[tuple[float, int, bytes]] = deque()
    while True:
        wait_ms = max(queue[0][0] - time.monotonic(), 0) * 1000 if queue else None
        for fd, _ in poller.poll(wait_ms):
            take(fd, ends[1] if fd == ends[0] else ends[0], time.monotonic() + delay_s, queue)
        while queue and queue[0][0] <= time.monotonic():
            _, fd, frame = queue.popleft()
            try:
                os.write(fd, frame)
            except OSError:  # the interface is not up yet
                continue


if __name__ == "__main__":
    main()

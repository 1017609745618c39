"""A long and untidy wire between two network namespaces: `relay.py NETNS NETNS`, prints "ready".

Each argument names a network namespace (a path below /proc); a tun interface "far0" is made in it. What is
sent into one comes out of the other after DELAY_S; a few packets are held back longer, so that others
overtake them, a few come twice and a few never. It needs the library only, and root.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import select
import struct
import sys
import time

DELAY_S = 0.010
LATE_S = 0.020
LATE, TWICE, LOST = 0.01, 0.005, 0.001
QUEUE_LEN = 5000
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
CLONE_NEWNET = 0x40000000


def open_tun(netns: str) -> int:
    """Make the interface in a namespace and return its descriptor, which works from anywhere."""
    descriptor = os.open(netns, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns: {netns}")
    os.close(descriptor)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"far0", IFF_TUN | IFF_NO_PI))
    return tun


def delays(chance: random.Random) -> list[float]:
    """When a packet comes out, in seconds from now: once as a rule, never, or twice."""
    roll = chance.random()
    if roll < LOST:
        return []
    if roll < LOST + TWICE:
        return [DELAY_S, DELAY_S]
    if roll < LOST + TWICE + LATE:
        return [DELAY_S + LATE_S * chance.random()]
    return [DELAY_S]


def relay(first: int, second: int) -> None:
    """Carry packets both ways for ever."""
    chance = random.Random(1)  # noqa: S311
    queue: list[tuple[float, int, int, bytes]] = []
    other = {first: second, second: first}
    poll = select.poll()
    poll.register(first, select.POLLIN)
    poll.register(second, select.POLLIN)
    number = 0
    while True:
        wait = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        for tun, _ in poll.poll(None if wait is None else 1000 * wait):
            now = time.monotonic()
            try:
                for _ in range(64):
                    packet = os.read(tun, 65536)
                    for delay in delays(chance) if len(queue) < QUEUE_LEN else ():
                        number += 1
                        heapq.heappush(queue, (now + delay, number, other[tun], packet))
            except BlockingIOError:
                pass
        now = time.monotonic()
        while queue and queue[0][0] <= now:
            _, _, tun, packet = heapq.heappop(queue)
            try:
                os.write(tun, packet)
            except OSError:
                continue


def main() -> None:
    """Make the interfaces, say so, carry."""
    first, second = map(open_tun, sys.argv[1:3])
    print("ready", flush=True)  # noqa: T201
    relay(first, second)


if __name__ == "__main__":
    main()

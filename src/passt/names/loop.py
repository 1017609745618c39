"""The loop of the forwarder's process: descriptors that are ready, and timers."""

from __future__ import annotations

import heapq
import select
import time

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT
_MAX_EVENTS = 64
_MIN_CANCELLED = 256               # timers of no use that are worth a look at all


class Timer:
    """Calls back once unless it is cancelled."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback


class Loop:
    """Waits for descriptors and timers by *clock*; all callbacks run in `turn`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._poll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._n_made = 0
        self._n_cancelled = 0
        self.is_running = True

    def watch(self, fd: int, callback: Callable[[], None], events: int = READABLE) -> None:
        """Call *callback* whenever one of *events* is there, or an error; again: other events.

        With no *events* errors do not count either: epoll_ctl(2) would tell them again and again.
        """
        if not events:
            self.unwatch(fd)
            return
        if fd in self._callbacks:
            self._poll.modify(fd, events)
        else:
            self._poll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Forget *fd*, which is still open."""
        if self._callbacks.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* in *delay_s* seconds."""
        timer = Timer(self.clock() + delay_s, callback)
        self._n_made += 1
        heapq.heappush(self._timers, (timer.due, self._n_made, timer))
        return timer

    def cancel(self, timer: Timer) -> None:
        """Do not call back."""
        if timer.callback is None:
            return
        timer.callback = None
        self._n_cancelled += 1
        if self._n_cancelled > max(_MIN_CANCELLED, len(self._timers) // 2):
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._n_cancelled = 0

    def run(self) -> None:
        """Turn until `is_running` is False."""
        while self.is_running:
            self.turn()

    def turn(self, limit_s: float = -1.0) -> None:
        """Wait for something, *limit_s* seconds at most (-1: for ever), and call back."""
        wait_s = limit_s
        if self._timers:
            due_s = max(self._timers[0][0] - self.clock(), 0.0)
            wait_s = due_s if limit_s < 0 else min(due_s, limit_s)
        for fd, _ in self._poll.poll(wait_s, _MAX_EVENTS):
            callback = self._callbacks.get(fd)   # one before may have closed it
            if callback is not None:
                callback()
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._n_cancelled = max(self._n_cancelled - 1, 0)
            else:
                callback()

    def close(self) -> None:
        """Close the descriptor of the loop itself."""
        self._poll.close()

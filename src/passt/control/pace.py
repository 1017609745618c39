"""Whose turn it is to have a long response made: one client in a turn of the loop, however many ask.

Theory of operation. A piece of a list takes most of a millisecond. When thirty clients ask for lists, the
loop would make thirty pieces in each of its turns, and traffic would wait for all of them. So whoever wants a
piece made stands in a queue, and after a piece that took some time nobody else's is made for as long. As one
turn of the loop hears each client once, traffic has its turn in between. A client alone never waits.
"""

from __future__ import annotations

import time
from collections import deque

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Pace:
    """One for all clients; *clock* gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._queue: deque[object] = deque()
        self._next_s = 0.0

    def share(self, pieces: Iterator[bytes | None]) -> Iterator[bytes | None]:
        """Give *pieces*, with an empty one whenever it is another's turn."""
        me = object()
        self._queue.append(me)
        try:
            while True:
                if self._queue[0] is not me or (len(self._queue) > 1 and self._clock() < self._next_s):
                    yield b""
                    continue
                start_s = self._clock()
                piece = next(pieces, None)
                now_s = self._clock()
                self._next_s = now_s + (now_s - start_s)
                self._queue.rotate(-1)
                if piece is None:
                    return
                yield piece
        finally:
            self._queue.remove(me)         # the client may be gone before its response is made

"""Pins that the main process is told before the guest gets an answer.

A guest connects as soon as it has an address, and must not be faster than the rule that lets it. So an answer
waits until the main process has said that its addresses are pinned, for a few microseconds as a rule. Without
that within PATIENCE_S, or with more than MAX_WAITING answers waiting, there is none: the guest has no address
that it could not use.
"""

from __future__ import annotations

from passt.names.orders import build_pins

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from passt.names.loop import Loop, Timer
    from passt.names.orders import Pin

PATIENCE_S = 5.0
MAX_WAITING = 1024
_NUMBERS = 1 << 32


class Pinboard:
    """Hands pins over by *send*, which raises OSError if it cannot, as *build* writes them."""

    def __init__(self, loop: Loop, send: Callable[[bytes], object],
                 build: Callable[[int, Sequence[Pin], int], bytes] = build_pins) -> None:
        self._build = build
        self._loop = loop
        self._send = send
        self._number = 0
        self.generation = 0        # of the rules by which pins are made
        self._waiting: dict[int, tuple[Callable[[bool], None], Timer]] = {}

    def pin(self, pins: Sequence[Pin], then: Callable[[bool], None]) -> None:
        """Call *then* once, with whether all *pins* are there."""
        number = self._number = (self._number + 1) % _NUMBERS
        if len(self._waiting) >= MAX_WAITING:
            then(False)
            return
        try:
            self._send(self._build(number, pins, self.generation))
        except OSError:
            then(False)
            return
        self._waiting[number] = (then, self._loop.call_later(PATIENCE_S, lambda: self.settle(number, False)))

    def settle(self, number: int, is_pinned: bool) -> None:
        """Take what the main process says of the pins with this *number*."""
        found = self._waiting.pop(number, None)
        if found is not None:
            then, timer = found
            self._loop.cancel(timer)
            then(is_pinned)

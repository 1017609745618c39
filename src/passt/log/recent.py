"""What was told of just now, and need not be told again. Pure, no I/O.

A guest or a stranger chooses what is told, so the memory is bounded: with more keys within the interval than
it has room for, the one that was told of longest ago is forgotten, and may be told of twice. How many lines
there are at most is for who writes them (`log.limited`).
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

MAX_KEYS = 256
INTERVAL_S = 1.0


class Recent:
    """Remembers MAX_KEYS keys for INTERVAL_S each, by *clock*, which gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._told: dict[Hashable, float] = {}                 # the oldest first

    def __len__(self) -> int:
        return len(self._told)

    def is_due(self, key: Hashable) -> bool:
        """Tell whether *key* was not told of within the interval, and remember that it is now."""
        now = self._clock()
        last = self._told.get(key)
        if last is not None and now - last < INTERVAL_S:
            return False
        self._told.pop(key, None)
        if len(self._told) >= MAX_KEYS:
            del self._told[next(iter(self._told))]
        self._told[key] = now
        return True

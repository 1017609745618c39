"""When the host is read anew: hints of a change are gathered, and readings are paid for by rests.

A change of one network is a burst of messages: DHCP takes an address away, adds another one, replaces routes.
What stands between is no network, and nobody shall be told of it. So a reading waits until QUIET_S have
passed without a hint, LONGEST_S at most. A reading takes long where there are very many routes; then the next
one waits for REST_SHARE times as long, whatever comes.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

QUIET_S = 0.1
LONGEST_S = 0.5
REST_SHARE = 20
RETRY_S = 2.0                      # after a reading that failed


class Gatherer:
    """Calls *read* some time after `hint`; *read* returns whether it succeeded, and is called again if not.

    *call_later* takes a delay in seconds and a callback, *clock* gives seconds that never go back.
    """

    def __init__(self, read: Callable[[], bool], call_later: Callable[[float, Callable[[], None]], object],
                 clock: Callable[[], float]) -> None:
        self._read = read
        self._call_later = call_later
        self._clock = clock
        self._first_at: float | None = None   # of the hints that wait
        self._last_at = 0.0
        self._not_before = 0.0
        self._is_armed = False

    def hint(self) -> None:
        """Take it that something may have changed."""
        now = self._clock()
        self._last_at = now
        if self._first_at is None:
            self._first_at = now
        self._arm(now)

    def _arm(self, now: float) -> None:
        if not self._is_armed and self._first_at is not None:
            self._is_armed = True
            self._call_later(max(self._due_at(self._first_at) - now, 0.0), self._on_time)

    def _due_at(self, first_at: float) -> float:
        return max(min(self._last_at + QUIET_S, first_at + LONGEST_S), self._not_before)

    def _on_time(self) -> None:
        """Read if the time has come; more hints may have moved it."""
        self._is_armed = False
        begun_at = self._clock()
        if self._first_at is None or begun_at < self._due_at(self._first_at):
            self._arm(begun_at)
            return
        self._first_at = None
        is_read = self._read()
        ended_at = self._clock()
        self._not_before = ended_at + REST_SHARE * (ended_at - begun_at)
        if not is_read:
            self._not_before = max(self._not_before, ended_at + RETRY_S)
            self._first_at = self._last_at = ended_at
        self._arm(ended_at)

"""When the host is read anew: hints of a change are gathered, and readings are paid for by rests.

A change of one network is a burst of messages: DHCP takes an address away, adds another one, replaces routes.
What stands between is no network, and nobody shall be told of it. So a reading waits until QUIET_S have
passed without a hint, LONGEST_S at most. A reading takes long where there are very many routes: it is done in
pieces (`follow.turns`), and the next one waits for REST_SHARE times as long, whatever comes, but not longer
than MAX_REST_S. What counts is processor time: else a machine that is busy with other work, or was suspended
in the middle of a reading, would be followed late for no gain.
"""

from __future__ import annotations

from passt.follow.turns import Turns

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

QUIET_S = 0.1
LONGEST_S = 0.5
REST_SHARE = 20
MAX_REST_S = 30.0                  # after a reading of 1.5 s: of some 200,000 routes
RETRY_S = 2.0                      # after a reading that failed


def rest_s(spent_s: float) -> float:
    """Return for how many seconds to rest after what took *spent_s*."""
    return min(REST_SHARE * spent_s, MAX_REST_S)


class Gatherer:
    """Does the work of *read* some time after `hint`, and again if it returns that it did not succeed.

    *call_later* takes a delay in seconds and a callback, *clock* gives seconds that never go back, and
    *work_clock* the seconds for which we have had a processor.
    """

    def __init__(self, read: Callable[[], Generator[None, None, bool]],
                 call_later: Callable[[float, Callable[[], None]], object],
                 clock: Callable[[], float], work_clock: Callable[[], float]) -> None:
        self._read = read
        self._call_later = call_later
        self._clock = clock
        self._turns = Turns(call_later, work_clock)
        self._is_read = True
        self._first_at: float | None = None   # of the hints that wait
        self._last_at = 0.0
        self._not_before = 0.0
        self._is_armed = False                # by a timer, or as a reading goes on

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
        now = self._clock()
        if self._first_at is None or now < self._due_at(self._first_at):
            self._arm(now)
            return
        self._first_at = None
        self._is_armed = True
        self._turns.do(self._work(), self._on_done)

    def _work(self) -> Generator[None, None, None]:
        self._is_read = yield from self._read()

    def _on_done(self, spent_s: float) -> None:
        """Rest for as long as was spent."""
        self._is_armed = False
        ended_at = self._clock()
        self._not_before = ended_at + rest_s(spent_s)
        if not self._is_read:
            self._not_before = max(self._not_before, ended_at + RETRY_S)
            self._first_at = self._last_at = ended_at
        self._arm(ended_at)

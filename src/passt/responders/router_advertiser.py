"""Schedule of unsolicited router advertisements (RFC 4861 6.2.4).

The interval is random, between a third of MaxRtrAdvInterval and all of it, with the RFC's defaults; so it
wakes an idle process at most every 200 seconds. There is no initial burst: a guest that boots solicits an
advertisement (RFC 4861 6.3.7), and earlier ones may be lost.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

MAX_INTERVAL_S = 600.0
MIN_INTERVAL_S = MAX_INTERVAL_S / 3


class RouterAdvertiser:
    """Passes the frames that *make* returns to *send*, at random intervals.

    *call_later* takes a delay in seconds and a callback; *dice* returns a number from 0 up to 1. *explain*
    gets a line for each interval.
    """

    def __init__(self, make: Callable[[], list[bytes]], send: Callable[[bytes], object],
                 call_later: Callable[[float, Callable[[], None]], object], dice: Callable[[], float], *,
                 explain: Callable[[str], None] | None = None) -> None:
        self._make = make
        self._send = send
        self._call_later = call_later
        self._dice = dice
        self._explain = explain

    def arm(self) -> None:
        """Choose the time of the next advertisement; call it once to start."""
        delay_s = MIN_INTERVAL_S + (MAX_INTERVAL_S - MIN_INTERVAL_S) * self._dice()
        if self._explain:
            self._explain(f"next router advertisement in {delay_s:.0f} s")
        self._call_later(delay_s, self._advertise)

    def _advertise(self) -> None:
        for frame in self._make():
            self._send(frame)
        self.arm()

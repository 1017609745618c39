"""When DHCPv6 clients are called that have not come yet (RFC 8415 18.3.11).

They are called at once, and again after REC_TIMEOUT and twice as long each time, until all have come; after
REC_MAX_RC calls the rest is given up. Such a client comes by itself in less time, as its lease is short.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

REC_TIMEOUT_S = 2.0
REC_MAX_RC = 8


class Reconfigurer:
    """Passes the frames that *make* returns to *send*, for as long as it returns any.

    *call_later* takes a delay in seconds and a callback.
    """

    def __init__(self, make: Callable[[], list[bytes]], send: Callable[[bytes], object],
                 call_later: Callable[[float, Callable[[], None]], object]) -> None:
        self._make = make
        self._send = send
        self._call_later = call_later
        self._n_begun = 0

    def start(self) -> None:
        """Call everybody from the beginning; what went on before is over."""
        self._n_begun += 1
        self._call(self._n_begun, 1)

    def _call(self, begun: int, attempt: int) -> None:
        if begun != self._n_begun:
            return  # a timer of before
        frames = self._make()
        for frame in frames:
            self._send(frame)
        if frames and attempt < REC_MAX_RC:
            self._call_later(REC_TIMEOUT_S * (1 << attempt - 1), lambda: self._call(begun, attempt + 1))

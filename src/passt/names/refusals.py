"""Names and answers that rules have refused, for the main process: numbers and some of the names.

Theory of operation. A guest may ask for thousands of names a second that no rule allows, and each must cost
the main process, where all flows are, next to nothing. So this one counts, and tells at most one message in
PAUSE_S: how many each rule has refused since the last one, and up to MAX_NAMES names, each once a second at
most (`log.recent`). The first refusal after a pause is told at once. If the main process does not listen, the
numbers wait for the next message.

With other rules the places of rules mean others: what was not told yet by then is counted in the total alone,
that of `names.counts`.
"""

from __future__ import annotations

from passt.log.recent import Recent
from passt.names.orders import MAX_TEXT_LEN, build_refused
from passt.wire.dns.message import show_name

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.names.loop import Loop
    from passt.names.orders import Bar

PAUSE_S = 0.1
MAX_NAMES = 16                     # of a message
MAX_NUMBERS = 1024                 # of a message: rules that have refused something


class NameRefusals:
    """Keeps what is refused until it is told by *send*, which raises OSError if it cannot."""

    def __init__(self, loop: Loop, send: Callable[[bytes], object]) -> None:
        self._loop = loop
        self._send = send
        self._recent = Recent(loop.clock)
        self._numbers: dict[int, int] = {}                     # of each rule, by its place
        self._names: list[tuple[Bar, bytes]] = []
        self._is_pausing = False
        self._generation = 0

    def renew(self, generation: int) -> None:
        """Take it that the rules are those of *generation* now."""
        self._tell()
        self._generation = generation
        self._numbers.clear()
        self._names.clear()

    def note(self, bar: Bar, name: bytes) -> None:
        """Take it that *bar* has a question for *name*, in wire form, refused, or the answer to it."""
        self._numbers[bar.place] = self._numbers.get(bar.place, 0) + 1
        if len(self._names) < MAX_NAMES and self._recent.is_due((bar, name)):
            self._names.append((bar, show_name(name).encode("ascii")[:MAX_TEXT_LEN]))
        if not self._is_pausing:
            self._tell()
            self._is_pausing = True
            self._loop.call_later(PAUSE_S, self._go_on)

    def _go_on(self) -> None:
        self._is_pausing = bool(self._numbers)
        if self._is_pausing:
            self._tell()
            self._loop.call_later(PAUSE_S, self._go_on)

    def _tell(self) -> None:
        """Tell what is kept, as far as a message takes it and the main process listens."""
        numbers = dict(list(self._numbers.items())[:MAX_NUMBERS])
        if not numbers:
            return
        try:
            self._send(build_refused(numbers, self._names, self._generation))
        except OSError:
            return
        for place in numbers:
            del self._numbers[place]
        self._names.clear()

"""Does long work in the loop without holding up traffic: some milliseconds of it in each turn.

Between two pieces the loop does all that is due, as a timer of 0 seconds comes behind the events of a turn.
So the work delays a frame by one piece at most.
"""

from __future__ import annotations

from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PIECE_S = 0.002


class Turns(NamedTuple):
    """How work is divided: *call_later* takes a delay in seconds and a callback, *clock* gives seconds."""

    call_later: Callable[[float, Callable[[], None]], object]
    clock: Callable[[], float]

    def do(self, work: Generator[None, None, object], on_done: Callable[[float], None] = lambda _: None,
           spent_s: float = 0.0) -> None:
        """Do *work*, its first piece at once; *on_done* gets the seconds that it took in all.

        An exception of *work* is a mistake of ours, and ends the run.
        """
        begun_at = self.clock()
        took_s = 0.0
        while took_s < PIECE_S:
            is_done = next(work, self) is self
            took_s = self.clock() - begun_at
            if is_done:
                on_done(spent_s + took_s)
                return
        spent_s += took_s
        self.call_later(0.0, lambda: self.do(work, on_done, spent_s))

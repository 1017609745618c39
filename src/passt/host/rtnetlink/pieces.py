"""Long work in pieces, so that what else there is to do has its turn in between.

Such work is a generator that yields where it may be interrupted, and returns its result. It yields much more
often than anybody else has to have a turn: a yield costs a tenth of a microsecond, and only who runs the work
knows how long a piece may be. `follow.turns` runs it in the loop; `finish` all at once.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from typing import TypeVar

    _Result = TypeVar("_Result")
    _Item = TypeVar("_Item")

STEP = 64                          # entries of a table between two yields


def finish(work: Generator[None, None, _Result]) -> _Result:
    """Do all of *work* now; return its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result


def map_in_pieces(change: Callable[[_Item], _Result], items: Iterable[_Item]
                  ) -> Generator[None, None, list[_Result]]:
    """Work that returns what *change* makes of each of *items*."""
    found = []
    for number, item in enumerate(items, 1):
        found.append(change(item))
        if not number % STEP:
            yield
    return found


def filter_in_pieces(is_wanted: Callable[[_Item], object], items: Iterable[_Item]
                     ) -> Generator[None, None, list[_Item]]:
    """Work that returns those of *items* that *is_wanted*."""
    found = []
    for number, item in enumerate(items, 1):
        if is_wanted(item):
            found.append(item)
        if not number % STEP:
            yield
    return found

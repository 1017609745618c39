"""What the forwarder counts, in memory that its process and the main one share.

The process counts; the main one reads whenever somebody asks it for its counters, without a message and
without waiting for anybody. These numbers are all that the memory holds, and showing them is all that the
main process does with them.
"""

from __future__ import annotations

from passt.host.syscalls import share_memory

NAMES = (
    "names_queries", "names_asked", "names_from_cache", "names_server_failures",
    "drop_names_no_query", "drop_names_malformed", "drop_names_refused", "drop_names_forbidden",
    "drop_names_repeated",
    "drop_names_full", "drop_names_no_answer", "drop_names_wrong_answer", "drop_names_connections",
    "drop_names_oversize", "drop_names_unread", "drop_names_unsent",
)  # fmt: skip
(QUERIES, ASKED, FROM_CACHE, SERVER_FAILURES,
 NO_QUERY, MALFORMED, REFUSED, FORBIDDEN,
 REPEATED,
 FULL, NO_ANSWER, WRONG_ANSWER, CONNECTIONS,
 OVERSIZE, UNREAD, UNSENT) = range(len(NAMES))  # fmt: skip
DROPS_FROM = NO_QUERY              # what is before are no drops
_CELL_LEN = 8


class Counts:
    """One number for each of NAMES, from 0 on; made before the process is. Raises OSError."""

    def __init__(self) -> None:
        self._cells = share_memory(_CELL_LEN * len(NAMES)).cast("Q")

    def add(self, place: int) -> None:
        """Count one more of the counter at *place* of NAMES."""
        self._cells[place] += 1

    def read(self) -> dict[str, int]:
        """Return all, by name."""
        return dict(zip(NAMES, self._cells, strict=True))

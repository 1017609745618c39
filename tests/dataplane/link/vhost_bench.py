"""An engine whose link shares the memory of a front end in this process."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.dataplane.engine_bench import Bench

if TYPE_CHECKING:
    from tests.support.front_end import FrontEnd, Received


class VhostBench(Bench):
    """An engine whose link shares the memory of `front`; `ends` holds the reasons of its ends."""

    def __init__(self, front: FrontEnd) -> None:
        self.ends: list[str] = []
        self.front = front
        super().__init__()

    def attach(self, offloads: int) -> None:
        del offloads
        self.kernel, self.unused = socket.socketpair()
        self.device = self.engine.attach_vhost(self.ends.append)

    def start(self) -> VhostBench:
        """Have the front end set all up."""
        self.front.start(self.device)
        self.turn()
        return self

    def end(self) -> None:
        self.engine.close()
        self.kernel.close()
        self.unused.close()
        self.front.close()

    def drops(self) -> dict[str, int]:
        """Give the counters of drops that are not zero."""
        return {name: n for name, n in self.engine.counters().items() if name.startswith("drop_") and n}

    def receive(self, count: int = 1) -> list[Received]:
        """Run turns until *count* frames have come to the guest."""
        found: list[Received] = []

        def has_come() -> bool:
            found.extend(self.front.received())
            return len(found) >= count

        self.until(has_come)
        return found

    def await_end(self) -> str:
        """Run turns until the session has ended; returns why."""
        self.until(lambda: bool(self.ends))
        return self.ends.pop()

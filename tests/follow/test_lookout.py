"""What waits in memory until the host is followed: it needs nothing that is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from passt.facts.settings import Settings
from passt.follow import lookout
from passt.follow.lookout import PARTS, Lookout

if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.guest import GuestNet
    from passt.follow.following import Followed
    from passt.follow.watched_host import WatchedHost

SOURCES = Path(__file__).parents[2] / "src"
# A start of each program loads these; whoever imports PARTS afterwards finds all else among them, in order.
STARTS = {"pasta": "passt.run.pasta, passt.namespace.configurer", "passt": "passt.run.passt"}
SCRIPT = """
import sys
sys.path.append({sources!r})
import passt.cli, passt.run.start, passt.config.resolve, {more}
import passt.follow.watched_host, passt.follow.lookout
for name in passt.follow.lookout.PARTS:
    before = set(sys.modules)
    __import__(name)
    late = set(sys.modules) - before - {{name}}
    if late:
        print(name, late)
"""


@pytest.mark.parametrize("program", STARTS)
def test_parts_need_nothing_but_a_start_and_those_before_them(program: str) -> None:
    script = SCRIPT.format(sources=str(SOURCES), more=STARTS[program])
    done = subprocess.run([sys.executable, "-IS", "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == ""


class Engine:
    """Timers of a loop."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        self.due: list[Callable[[], None]] = []

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.delays.append(delay_s)
        self.due.append(callback)


class Network:
    """A run."""

    def __init__(self) -> None:
        self.engine = Engine()


def test_parts_are_loaded_one_in_a_turn_and_following_begins_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    class Following:
        """Notes what is done with it."""

        def __init__(self, *arguments: object) -> None:
            self.arguments, self.started = arguments, cast("Any", None)
            self.on_changed: object = None
            made.append(self)

        def start(self, *arguments: object) -> None:
            self.started = arguments

    monkeypatch.setattr("passt.follow.following.Following", Following)
    host, network, guest = cast("WatchedHost", "host"), Network(), cast("GuestNet", "guest")
    begun = Lookout(Settings("pasta"), host)
    begun.on_changed = cast("Any", print)
    begun.start(cast("Followed", network), guest)
    engine = network.engine
    assert engine.delays == [lookout.BEGIN_S]
    while engine.due:
        assert not made
        engine.due.pop(0)()
    assert engine.delays == [lookout.BEGIN_S] + [0.0] * len(PARTS)
    (following,) = made
    assert following.arguments == (Settings("pasta"), host)
    assert following.started == (network, guest)
    assert following.on_changed is print

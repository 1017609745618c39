"""When DHCPv6 clients are called again, in virtual time."""

from passt.responders.reconfigurer import REC_MAX_RC, Reconfigurer
from tests.support import fakes


class Link(fakes.Loop):
    """What is sent, and what is to be sent next; time passes by `fire` only."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = [b"one", b"two"]
        self.sent: list[bytes] = []
        self.reconfigurer = Reconfigurer(lambda: list(self.frames), self.sent.append, self.call_later)

    def delays(self) -> list[float]:
        return [delay for delay, _ in self.timers]


def test_calls_are_repeated_twice_as_late_each_time_and_then_given_up() -> None:
    link = Link()
    link.reconfigurer.start()
    seen = []
    while link.timers:
        seen += link.delays()
        link.fire()
    assert seen == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]
    assert link.sent == [b"one", b"two"] * REC_MAX_RC


def test_calls_end_when_all_have_come() -> None:
    link = Link()
    link.reconfigurer.start()
    link.frames = [b"two"]
    link.fire()
    link.frames = []
    link.fire()
    assert link.sent == [b"one", b"two", b"two"]
    assert link.timers == []


def test_nobody_to_call_costs_no_timer() -> None:
    link = Link()
    link.frames = []
    link.reconfigurer.start()
    assert (link.sent, link.timers) == ([], [])


def test_another_change_begins_anew_and_the_timer_of_before_does_nothing() -> None:
    link = Link()
    link.reconfigurer.start()
    link.fire()
    link.reconfigurer.start()
    assert link.delays() == [4.0, 2.0]
    (_, before), _ = link.timers
    before()
    assert len(link.timers) == 2, "it sets no other one"
    assert link.sent == [b"one", b"two"] * 3

"""When unsolicited router advertisements go out, in virtual time."""

import pytest

from passt.responders.router_advertiser import RouterAdvertiser
from tests.support import fakes


class Loop(fakes.Loop):
    """The frames that a loop sent; time passes by `fire` only."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def advertiser(self, *dice: float, frames: tuple[bytes, ...] = (b"ra",)) -> RouterAdvertiser:
        numbers = iter(dice)
        return RouterAdvertiser(
            lambda: list(frames), self.sent.append, self.call_later, lambda: next(numbers)
        )


@pytest.mark.parametrize(("drawn", "delay_s"), [(0.0, 200.0), (0.5, 400.0), (0.999999, 599.9996)])
def test_interval_is_drawn_between_the_rfc_s_bounds(drawn: float, delay_s: float) -> None:
    loop = Loop()
    loop.advertiser(drawn).arm()
    assert [delay for delay, _ in loop.timers] == [pytest.approx(delay_s)]


def test_nothing_is_sent_before_the_first_interval_and_one_after_each() -> None:
    loop = Loop()
    loop.advertiser(0.0, 0.25, 0.75).arm()
    assert loop.sent == []
    for delay_s, n_sent in ((200.0, 1), (300.0, 2)):
        assert [delay for delay, _ in loop.timers] == [delay_s]
        loop.fire()
        assert loop.sent == [b"ra"] * n_sent
    assert [delay for delay, _ in loop.timers] == [500.0]


def test_nothing_to_send_goes_on_all_the_same() -> None:
    loop = Loop()
    loop.advertiser(0.0, 0.0, frames=()).arm()
    loop.fire()
    assert loop.sent == []
    assert len(loop.timers) == 1


def test_interval_is_explained() -> None:
    lines: list[str] = []
    loop = Loop()
    RouterAdvertiser(list, loop.sent.append, loop.call_later, lambda: 0.5, explain=lines.append).arm()
    assert lines == ["next router advertisement in 400 s"]

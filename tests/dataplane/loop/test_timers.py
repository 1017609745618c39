"""The heap of deadlines against a reference made of heapq and a dictionary."""

import heapq

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.dataplane.probes import probe

NEVER = 2**63 - 1


class HeapMachine(RuleBasedStateMachine):
    """Arm, move, cancel and fire in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.heap = probe.Heap(40)
        self.model: dict[int, int] = {}

    @rule(timer=st.integers(0, 39), deadline=st.integers(1, 60))
    def arm(self, timer: int, deadline: int) -> None:
        self.heap.arm(timer, deadline)
        self.model[timer] = deadline

    @rule(timer=st.integers(0, 39))
    def cancel(self, timer: int) -> None:
        self.heap.cancel(timer)
        self.model.pop(timer, None)

    @rule(now=st.integers(0, 60))
    def fire(self, now: int) -> None:
        queue = sorted((deadline, timer) for timer, deadline in self.model.items() if deadline <= now)
        fired: list[tuple[int, int]] = []
        while (timer := self.heap.pop_due(now)) is not None:
            fired.append((self.model.pop(timer), timer))
        assert [deadline for deadline, _ in fired] == [deadline for deadline, _ in queue]
        assert sorted(fired) == queue

    @rule(now=st.integers(0, 60))
    def fire_one(self, now: int) -> None:
        timer = self.heap.pop_due(now)
        first = min(self.model.values(), default=NEVER)
        if timer is None:
            assert first > now
        else:
            assert self.model.pop(timer) == first <= now

    @invariant()
    def knows_the_first(self) -> None:
        assert self.heap.next_deadline() == min(self.model.values(), default=NEVER)
        assert len(self.heap) == len(self.model)


TestHeap = HeapMachine.TestCase
TestHeap.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


@pytest.mark.parametrize("stride", [1, 7, 991])
def test_thousands_fire_in_order(stride: int) -> None:
    n = 2000
    heap = probe.Heap(n)
    reference: list[tuple[int, int]] = []
    for timer in range(n):
        deadline = timer * stride % n
        heap.arm(timer, deadline)
        heapq.heappush(reference, (deadline, timer))
    while reference:
        assert heap.pop_due(n) == heapq.heappop(reference)[1]
    assert heap.pop_due(NEVER) is None


def test_deadline_at_now_is_due_and_one_after_is_not() -> None:
    heap = probe.Heap(1)
    heap.arm(0, 10)
    assert heap.pop_due(9) is None
    assert heap.pop_due(10) == 0
    assert heap.pop_due(NEVER) is None


def test_ids_can_be_used_again_after_firing() -> None:
    heap = probe.Heap(1)
    for deadline in (5, 3, NEVER):
        heap.arm(0, deadline)
        assert heap.next_deadline() == deadline
        assert heap.pop_due(deadline) == 0
    heap.cancel(0)
    assert heap.next_deadline() == NEVER

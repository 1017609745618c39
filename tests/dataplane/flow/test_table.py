"""The flow table: life of a record, look-up by either side, work list, and a model of it all."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.dataplane.probes.probe import Key, Table

FREE, DEAD, TCP, UDP, PING = range(5)
GUEST, HOST = 0, 1
FLOW_EVENT = 2


def key(number: int, *, scope: int = 0) -> Key:
    """One of many keys; even ones IPv4, odd ones IPv6."""
    address = number.to_bytes(16 if number % 2 else 4, "big")
    return Key(address, address[::-1], number & 0xFFFF, 80, 6, scope)


def tag(index: int, generation: int) -> int:
    return FLOW_EVENT << 56 | (generation & 0xFFFFFF) << 32 | index


def alloc(table: Table, kind: int = TCP) -> int:
    index = table.alloc(kind)
    assert index is not None
    return index


def test_secret_must_have_16_octets() -> None:
    for secret in (b"", bytes(15), bytes(17)):
        with pytest.raises(ValueError, match="16 bytes"):
            Table(4, secret)


def test_new_record_is_blank_also_when_used_before() -> None:
    table = Table(1)
    for _ in range(3):
        index = alloc(table, UDP)
        assert table.is_blank(index)
        assert table.insert(index, GUEST, key(1))
        assert table.insert(index, HOST, key(2))
        table.soil(index)
        table.release(index)


def test_full_table_gives_nothing_until_a_flow_ends() -> None:
    table = Table(3)
    indices = [alloc(table) for _ in range(3)]
    assert indices == [0, 1, 2]
    assert table.alloc(TCP) is None
    assert table.n_active == 3
    table.release(1)
    assert table.n_active == 2
    assert table.alloc(UDP) == 1
    assert table.kind(1) == UDP
    assert table.alloc(TCP) is None


def test_empty_table_gives_nothing() -> None:
    assert Table(0).alloc(TCP) is None


def test_last_freed_record_is_used_first() -> None:
    table = Table(8)
    for _ in range(4):
        alloc(table)
    for index in (2, 0, 3):
        table.release(index)
    assert [table.alloc(TCP) for _ in range(5)] == [3, 0, 2, 4, 5]


def test_sides_are_apart_and_keys_are_compared_whole() -> None:
    table = Table(8)
    one = key(7)
    assert table.insert(alloc(table), GUEST, one)
    assert table.find(one, GUEST) == 0
    assert table.find(one, HOST) is None
    for other in (
        one._replace(guest=bytes(15) + b"\x08"),
        one._replace(remote=bytes(16)),
        one._replace(guest_port=8),
        one._replace(remote_port=81),
        one._replace(proto=17),
        one._replace(scope=1),
    ):
        assert table.find(other, GUEST) is None


def test_ip4_key_is_not_the_ip6_key_of_the_same_octets() -> None:
    table = Table(8)
    four = Key(b"\1\2\3\4", b"\5\6\7\x08", 1, 2, 6, 0)
    six = four._replace(guest=four.guest + bytes(12), remote=four.remote + bytes(12))
    assert table.insert(alloc(table), GUEST, four)
    assert table.find(six, GUEST) is None
    assert table.insert(alloc(table), GUEST, six)
    assert (table.find(four, GUEST), table.find(six, GUEST)) == (0, 1)


def test_taken_key_is_refused_and_a_refused_flow_leaves_no_trace() -> None:
    table = Table(8)
    assert table.insert(alloc(table), GUEST, key(1))
    second = alloc(table)
    assert not table.insert(second, GUEST, key(1))
    table.release(second)
    assert table.find(key(1), GUEST) == 0
    third = alloc(table)
    assert table.insert(third, HOST, key(1))


def test_both_sides_go_with_the_flow() -> None:
    table = Table(8)
    index = alloc(table)
    assert table.insert(index, GUEST, key(1))
    assert table.insert(index, HOST, key(2))
    table.release(index)
    assert table.find(key(1), GUEST) is None
    assert table.find(key(2), HOST) is None


def test_same_key_on_both_sides_of_one_flow() -> None:
    table = Table(1)
    index = alloc(table)
    assert table.insert(index, GUEST, key(1))
    assert table.insert(index, HOST, key(1))
    assert table.find(key(1), GUEST) == table.find(key(1), HOST) == index
    table.release(index)
    assert table.find(key(1), GUEST) is table.find(key(1), HOST) is None


def test_tag_of_an_ended_flow_means_nothing() -> None:
    table = Table(4)
    index = alloc(table)
    old = tag(index, table.generation(index))
    assert table.at_tag(old) == index
    table.release(index)
    assert table.at_tag(old) is None
    assert alloc(table) == index
    assert table.at_tag(old) is None
    assert table.at_tag(tag(index, table.generation(index))) == index
    assert table.at_tag(tag(3, 0)) is None  # a record never used
    assert table.at_tag(tag(2**31, 0)) is None  # no record at all


def test_tag_of_a_flow_that_waits_to_be_forgotten_means_nothing() -> None:
    table = Table(4)
    index = alloc(table)
    table.add_work(index)
    table.release(index)
    assert table.kind(index) == DEAD
    assert table.at_tag(tag(index, table.generation(index))) is None


def test_work_list_is_in_order_and_holds_each_flow_once() -> None:
    table = Table(8)
    for _ in range(4):
        alloc(table)
    for index in (2, 0, 2, 3, 0, 2):
        table.add_work(index)
    assert table.take_work() == [2, 0, 3]
    assert table.take_work() == []
    table.add_work(2)
    assert table.take_work() == [2]


def test_record_of_an_ended_flow_is_not_used_while_it_is_on_the_list() -> None:
    table = Table(2)
    alloc(table)
    alloc(table)
    table.add_work(0)
    table.release(0)
    assert table.alloc(TCP) is None
    assert table.n_active == 1
    assert table.take_work() == []
    assert table.alloc(TCP) == 0


def test_flows_that_wait_for_the_link() -> None:
    table = Table(8)
    for _ in range(5):
        alloc(table)
    for index in (0, 1, 2, 1):
        table.add_waiting(index)
    table.add_work(1)  # it waits already, which counts as being on the list
    table.add_work(4)
    table.add_waiting(4)  # it has work already
    table.release(2)
    assert table.take_work() == [4]
    table.wake_waiting()
    assert sorted(table.take_work()) == [0, 1]
    assert table.alloc(TCP) == 2
    table.wake_waiting()
    assert table.take_work() == []


def test_chains_hold_when_many_flows_share_them() -> None:
    table = Table(4000)
    for number in range(4000):
        assert table.insert(alloc(table), GUEST, key(number))
        assert table.insert(number, HOST, key(number, scope=1))
    for number in range(0, 4000, 3):
        table.release(number)
    for number in range(4000):
        expected = None if number % 3 == 0 else number
        assert table.find(key(number), GUEST) == expected
        assert table.find(key(number, scope=1), HOST) == expected


class TableMachine(RuleBasedStateMachine):
    """Any order of operations on a small table, against dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(12)
        self.keys: tuple[dict[Key, int], dict[Key, int]] = ({}, {})
        self.sides: dict[int, list[tuple[int, Key]]] = {}
        self.generations: dict[int, int] = {}
        self.work: list[int] = []
        self.waiting: list[int] = []
        self.dead: set[int] = set()

    def some(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.sides)))

    @rule(kind=st.sampled_from([TCP, UDP, PING]))
    def alloc(self, kind: int) -> None:
        index = self.table.alloc(kind)
        if len(self.sides) + len(self.dead) == 12:
            assert index is None
            return
        assert index is not None
        assert index not in self.sides
        assert index not in self.dead
        assert self.table.is_blank(index)
        self.sides[index] = []
        self.generations[index] = self.table.generation(index)

    @precondition(lambda self: self.sides)
    @rule(data=st.data(), side=st.sampled_from([GUEST, HOST]), number=st.integers(0, 20))
    def insert(self, data: st.DataObject, side: int, number: int) -> None:
        index = self.some(data)
        if any(taken == side for taken, _ in self.sides[index]):
            return
        fits = self.table.insert(index, side, key(number))
        assert fits == (key(number) not in self.keys[side])
        if fits:
            self.keys[side][key(number)] = index
            self.sides[index].append((side, key(number)))

    @precondition(lambda self: self.sides)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        index = self.some(data)
        self.table.soil(index)
        self.table.release(index)
        for side, used in self.sides.pop(index):
            del self.keys[side][used]
        if index in self.work or index in self.waiting:
            self.dead.add(index)

    @precondition(lambda self: self.sides)
    @rule(data=st.data(), waits=st.booleans())
    def add(self, data: st.DataObject, waits: bool) -> None:
        index = self.some(data)
        (self.table.add_waiting if waits else self.table.add_work)(index)
        if index not in self.work + self.waiting:
            (self.waiting if waits else self.work).append(index)

    @rule()
    def take_work(self) -> None:
        assert self.table.take_work() == [index for index in self.work if index in self.sides]
        self.dead -= set(self.work)
        self.work = []

    @rule()
    def wake_waiting(self) -> None:
        self.table.wake_waiting()
        self.dead -= set(self.waiting)
        self.work += [index for index in reversed(self.waiting) if index in self.sides]
        self.waiting = []

    @invariant()
    def finds_what_is_there(self) -> None:
        for side in (GUEST, HOST):
            for number in range(21):
                assert self.table.find(key(number), side) == self.keys[side].get(key(number))
        assert self.table.n_active == len(self.sides)

    @invariant()
    def tags_mean_living_flows(self) -> None:
        for index, generation in self.generations.items():
            expected = index if index in self.sides else None
            assert self.table.at_tag(tag(index, generation)) == expected


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)

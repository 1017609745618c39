"""Work on long tables yields often, and makes of them what it would make at once."""

from passt.host.rtnetlink.pieces import STEP, filter_in_pieces, finish, map_in_pieces


def test_map_and_filter() -> None:
    numbers = list(range(10 * STEP))
    assert finish(map_in_pieces(str, numbers)) == list(map(str, numbers))
    assert finish(filter_in_pieces(lambda number: number % 3, numbers)) == [n for n in numbers if n % 3]
    assert finish(map_in_pieces(str, [])) == finish(filter_in_pieces(bool, [])) == []


def test_no_more_than_a_step_between_two_yields() -> None:
    seen: list[int] = []
    assert sum(1 for _ in map_in_pieces(seen.append, range(10 * STEP + 1))) == 10
    work = filter_in_pieces(seen.append, range(10 * STEP))
    for number in range(1, 11):
        seen.clear()
        next(work)
        assert len(seen) == STEP, number

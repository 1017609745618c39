"""`flows --watch` on a terminal: as much of the table as there is room for."""

from __future__ import annotations

from passt.passtctl.top.table_watch import fit


def texts(rows: list[str], width: int, height: int) -> list[str]:
    lines = fit(rows, width, height, is_utf8=True)
    assert {len(each.text) for each in lines} == {width}
    return [each.text.rstrip() for each in lines]


def test_table_is_cut_to_the_screen_and_says_what_is_missing() -> None:
    rows = ["ID STATE", *(f"{i}.0 ESTABLISHED" for i in range(10))]
    assert texts(rows, 8, 4) == ["ID STATE", "0.0 ESTA", "1.0 ESTA", "and 8 mo"]
    assert texts(rows[:3], 20, 4) == [*rows[:3], ""]
    assert texts(rows[:4], 20, 4) == rows[:4]
    assert texts(["ID"], 20, 1) == ["ID", ""]


def test_text_of_a_hostile_instance_only_stands_there() -> None:
    assert texts(["ID", "\x1b[2J"], 20, 3) == ["ID", r"\x1b[2J", ""]

"""Bytes of a terminal to keys, wherever they are cut."""

from __future__ import annotations

import random

import pytest

from passt.passtctl.top.keys import MAX_SEQUENCE, Keys


@pytest.mark.parametrize(("data", "keys"), [
    (b"q", ["q"]), (b"\x1b[A", ["up"]), (b"\x1bOB", ["down"]), (b"\x1b[5~\x1b[6~", ["page-up", "page-down"]),
    (b"\x1b[1~\x1b[H\x1b[F\x1b[8~", ["home", "home", "end", "end"]), (b"\r\n", ["enter", "enter"]),
    (b"\x7f\x08", ["backspace", "backspace"]), (b"\x0c", ["redraw"]),
    (b"\x15\x17", ["erase-line", "erase-word"]),
    (b"\x1b\x1bq", ["escape", "escape", "q"]),
    (b"\x1bq", ["escape", "q"]), (b"\x1b[99;5u\x1b[Zj", ["j"]), (b"\x1b[1;5A", ["up"]),
    (b"\x00\x01\x02", []), ("\u00f6".encode(), ["\u00f6"]), (b"\x1b[", []),
])  # fmt: skip
def test_sequences(data: bytes, keys: list[str]) -> None:
    assert Keys().feed(data) == keys
    for cut in range(len(data)):
        read = Keys()
        assert read.feed(data[:cut]) + read.feed(data[cut:]) == keys
    read = Keys()
    assert [key for byte in data for key in read.feed(bytes((byte,)))] == keys


def test_esc_alone_is_a_key_when_nothing_follows() -> None:
    read = Keys()
    assert read.feed(b"\x1b") == []
    assert read.is_pending
    assert read.flush() == ["escape"]
    assert not read.is_pending
    read.feed(b"\x1b[")
    assert read.flush() == []
    assert read.feed(b"A") == ["A"]


def test_a_sequence_without_an_end_is_no_more_than_a_few_characters() -> None:
    read = Keys()
    assert read.feed(b"\x1b[" + b"1" * (MAX_SEQUENCE - 3)) == []
    assert read.feed(b"1" * 5) == ["1"] * 4
    assert not read.is_pending


def test_bytes_that_are_not_utf8_can_be_typed_into_a_name() -> None:
    assert Keys().feed(b"a\xff") == ["a", "\udcff"]


def test_random_bytes_never_raise() -> None:
    dice = random.Random(3)  # noqa: S311 - the same bytes each time
    read = Keys()
    for _ in range(2000):
        for key in read.feed(dice.randbytes(dice.randrange(1, 9)).replace(b"m", b"\x1b[")):
            assert key.isprintable() or "\udc80" <= key <= "\udcff"
        if dice.randrange(4) == 0:
            read.flush()

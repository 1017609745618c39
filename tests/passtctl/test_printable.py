"""No text of an instance does anything to a terminal but stand there."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from passt.passtctl.printable import escape_controls, one_column

EVERY = [chr(code) for code in range(sys.maxunicode + 1)]


@pytest.mark.parametrize(("text", "escaped"), [
    ("plain ASCII ~", "plain ASCII ~"), ("\x1b[2J", r"\x1b[2J"), ("\x9b2J", r"\x9b2J"),
    ("a\nb\r\x07", r"a\nb\r\x07"),
    ("\u202eevil", r"\u202eevil"), ("\udc80", r"\udc80"), ("J\u00f6rg", "J\u00f6rg"), ("", ""),
])  # fmt: skip
def test_controls_are_shown_by_number(text: str, escaped: str) -> None:
    assert escape_controls(text) == escaped


@pytest.mark.parametrize(("text", "is_utf8", "shown"), [
    ("J\u00f6rg", True, "J\u00f6rg"), ("J\u00f6rg", False, r"J\xf6rg"), ("\u6f22", True, r"\u6f22"),
    ("e\u0301", True, r"e\u0301"), ("\u05d0", True, r"\u05d0"), ("\x1b]0;x\x07", True, r"\x1b]0;x\x07"),
])  # fmt: skip
def test_characters_of_another_width_or_direction_are_shown_by_number(
    text: str, is_utf8: bool, shown: str
) -> None:
    assert one_column(text, is_utf8=is_utf8) == shown


def test_no_character_of_unicode_passes_that_is_not_one_column_wide() -> None:
    passed = one_column("".join(EVERY[0x80:]).replace("\\", ""))
    kept = {each for each in passed if not each.isascii()}
    assert kept
    assert all(unicodedata.east_asian_width(each) in {"N", "Na", "A"} for each in kept)
    backwards = {"R", "AL", "NSM", "RLE", "RLO", "RLI"}
    assert not backwards & {unicodedata.bidirectional(each) for each in kept}
    assert all(unicodedata.category(each)[0] not in "MC" for each in kept)
    assert one_column("".join(EVERY), is_utf8=False).isascii()


def test_controls_never_pass() -> None:
    passed = set(escape_controls("".join(EVERY)))
    assert not [each for each in passed if unicodedata.category(each)[0] == "C"]

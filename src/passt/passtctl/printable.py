"""Text for terminals: what an instance tells comes, in the end, from a hostile guest or a stranger's program.

A control character in it would be carried out by the terminal; one of another direction or width would move
what stands beside it. Both are shown as their number.
"""

from __future__ import annotations

import unicodedata

# Below are scripts that go from left to right, with one column for each letter.
_END_OF_PLAIN = 0x0590


def escape_controls(text: str) -> str:
    """Return *text* without anything that a terminal would carry out: no control, no change of direction."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def one_column(text: str, *, is_utf8: bool = True) -> str:
    """Return *text* such that each character of it takes one column; without UTF-8 in ASCII alone."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if _is_plain(each) and (is_utf8 or each.isascii()) else _escape(each)
                   for each in text)


def _is_plain(character: str) -> bool:
    return (character.isprintable() and ord(character) < _END_OF_PLAIN
            and not unicodedata.category(character).startswith("M"))


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

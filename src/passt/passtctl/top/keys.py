"""From the bytes of a terminal to keys.

A key is one character, or a name: up, down, page-up, page-down, home, end, enter, backspace, erase-line,
erase-word, escape, redraw.
Cursor keys are sequences that begin with ESC (ECMA-48 5.4, and SS3 in application mode); ESC alone is a key
too, which only the time that passes can tell: see `Keys.flush`.
"""

from __future__ import annotations

import codecs

_NAMED = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\x08": "backspace", "\x0c": "redraw",
          "\x15": "erase-line", "\x17": "erase-word"}  # fmt: skip
_FINAL = {"A": "up", "B": "down", "H": "home", "F": "end"}
_TILDE = {"1": "home", "4": "end", "5": "page-up", "6": "page-down", "7": "home", "8": "end"}
MAX_SEQUENCE = 32      # characters; no key has more


class Keys:
    """Remembers the beginning of a sequence whose end has not come yet."""

    def __init__(self) -> None:
        # A file may have a name that is not UTF-8.
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._rest = ""

    @property
    def is_pending(self) -> bool:
        """Whether `flush` is to be called if nothing comes for a moment."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """Return the keys that are complete with *data*."""
        text = self._rest + self._decoder.decode(data)
        self._rest = ""
        found: list[str] = []
        at = 0
        while at < len(text):
            if text[at] != "\x1b":
                found.append(_NAMED.get(text[at], text[at]))
                at += 1
                continue
            end = sequence_end(text, at)
            if end is None:
                self._rest = text[at:]
                break
            name = _name(text[at + 1:end])
            if name:
                found.append(name)
            at = end
        return [key for key in found if len(key) > 1 or key.isprintable() or "\udc80" <= key <= "\udcff"]

    def flush(self) -> list[str]:
        """Return what a beginning is that nothing followed: the key ESC."""
        is_alone, self._rest = self._rest == "\x1b", ""
        return ["escape"] if is_alone else []


def sequence_end(text: str, start: int) -> int | None:
    """Return where the sequence that begins at *start* ends; None if its end is not there yet."""
    if len(text) == start + 1:
        return None
    if text[start + 1] not in "[O":
        return start + 1       # ESC, and then another key
    for i in range(start + 2, min(len(text), start + MAX_SEQUENCE)):
        if "@" <= text[i] <= "~":
            return i + 1
    return start + MAX_SEQUENCE if len(text) >= start + MAX_SEQUENCE else None


def _name(sequence: str) -> str:
    """Name the key of a sequence without its ESC; "" for one that means nothing here."""
    if not sequence:
        return "escape"
    if sequence.endswith("~"):
        return _TILDE.get(sequence[1:-1].partition(";")[0], "")
    return _FINAL.get(sequence[-1], "")

"""A terminal that shows what it is sent, as far as our programs use one; anything else is an error."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])")


class Vt:
    """Text and graphic rendition of each place; the cursor stops at the end of a line."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.text = [[" "] * width for _ in range(height)]
        self.looks = [[""] * width for _ in range(height)]
        self._row = self._column = 0
        self._look = ""

    def feed(self, data: str) -> None:
        at = 0
        while at < len(data):
            match = _SEQUENCE.match(data, at)
            if match is not None:
                self._obey(match[1], match[2], match[3])
                at = match.end()
                continue
            assert data[at].isprintable(), f"the terminal is sent {data[at]!r}"
            self._put(data[at])
            at += 1

    def _put(self, character: str) -> None:
        assert self._column < self.width, "written behind the end of a line"
        self.text[self._row][self._column] = character
        self.looks[self._row][self._column] = self._look
        self._column += 1

    def _obey(self, private: str, parameters: str, final: str) -> None:
        if private:
            assert final in "hl"
        elif final == "m":
            self._look = "" if parameters in {"", "0"} else parameters
        elif final == "H":
            row, column = (int(each) for each in (parameters or "1;1").split(";"))
            assert 1 <= row <= self.height
            assert 1 <= column <= self.width
            self._row, self._column = row - 1, column - 1
        elif final == "J":
            assert parameters == "2"
            self.__init__(self.width, self.height)  # type: ignore[misc]
        elif final == "K":
            assert not self._look, "erased with a colour"
            for column in range(self._column, self.width):
                self.text[self._row][column], self.looks[self._row][column] = " ", ""
        else:
            raise AssertionError(f"unknown: {final}")

    def lines(self) -> list[str]:
        return ["".join(line) for line in self.text]

"""Bytes of an input as choices. What is not there is zero, so an input that is cut is as good as another."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Source:
    """The bytes of one input, read once from the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def more(self) -> bool:
        """Whether there are bytes left."""
        return self.at < len(self.data)

    def align(self, n: int) -> None:
        """Go on at the next multiple of *n*, unless this is one."""
        self.at += -self.at % n

    def byte(self) -> int:
        """Give the next byte."""
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def word(self) -> int:
        """Give the next two bytes as a number."""
        return self.byte() << 8 | self.byte()

    def take(self, n: int) -> bytes:
        """Give up to *n* bytes."""
        self.at += n
        return self.data[self.at - n : self.at]

    def pick(self, table: tuple[T, ...]) -> T:
        """Choose from *table* by the next byte."""
        return table[self.byte() % len(table)]

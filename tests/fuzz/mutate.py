"""Mutations of inputs, the same each time for the same seed: a small stand-in for a fuzzer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERESTING = (0, 1, 2, 3, 4, 8, 0x3F, 0x40, 0x7F, 0x80, 0xC0, 0xFE, 0xFF)
MAX_LEN = 4096


class Mutator:
    """Draws from *corpus* and bends what it drew."""

    def __init__(self, corpus: list[bytes], seed: int) -> None:
        self.corpus = corpus
        self.dice = random.Random(seed)  # noqa: S311 - it has to be the same each time

    def inputs(self, count: int) -> Iterator[bytes]:
        """Give *count* mutations, most of them of one or two places."""
        for _ in range(count):
            data = bytearray(self.dice.choice(self.corpus))
            for _ in range(self.dice.choice((1, 1, 1, 2, 3, 8))):
                self._bend(data)
            yield bytes(data[:MAX_LEN])

    def _bend(self, data: bytearray) -> None:
        dice = self.dice
        at = dice.randrange(len(data) + 1)
        length = dice.choice((1, 1, 2, 4, 8, 16))
        match dice.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << dice.randrange(8)
            case 1 if at < len(data):
                data[at] = dice.choice(INTERESTING)
            case 2:
                data[at : at + length] = b""
            case 3:
                data[at:at] = dice.randbytes(length)
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                other = dice.choice(self.corpus)
                start = dice.randrange(len(other) + 1)
                data[at : at + length] = other[start : start + length]
            case _:
                data[at : at + 2] = dice.choice((0, 1, len(data), 0xFFFF, 0xC000 | at)).to_bytes(2, "big")


def truncations(data: bytes) -> Iterator[bytes]:
    """Every beginning of *data*, the empty one too."""
    for length in range(len(data)):
        yield data[:length]

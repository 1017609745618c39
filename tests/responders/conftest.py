"""Golden frames for the tests of this directory."""

from collections.abc import Callable
from pathlib import Path

import pytest

VECTORS = Path(__file__).parent.parent / "vectors"


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    """Give a reader of tests/vectors/NAME.hex: hex digits, blanks, comments from # to the line's end."""

    def read(name: str) -> bytes:
        lines = (VECTORS / f"{name}.hex").read_text(encoding="ascii").splitlines()
        return bytes.fromhex("".join(line.partition("#")[0] for line in lines))

    return read

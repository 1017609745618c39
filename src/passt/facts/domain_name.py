"""Domain names as text: labels joined by dots, no dot at the end, ASCII (RFC 1035 2.3).

The root is no name here, because no option that hands out names may hold it. `wire.dns_name` has the form of
names on the wire.
"""

from __future__ import annotations

MAX_LABEL_LEN = 63
MAX_NAME_LEN = 255
"""Encoded, the final zero byte included (RFC 1035 2.3.4)."""


def normalise_name(text: str) -> str | None:
    """Text form of *text* without its final dot; None if it is the root or cannot be encoded."""
    name = text.removesuffix(".")
    return name if is_name(name) else None


def is_name(name: str) -> bool:
    """Whether *name* is in text form: labels of 1 to 63 printable ASCII characters, 255 bytes encoded."""
    return (name.isascii() and name.isprintable() and " " not in name and encoded_len(name) <= MAX_NAME_LEN
            and all(1 <= len(label) <= MAX_LABEL_LEN for label in name.split(".")))


def encoded_len(name: str) -> int:
    """Bytes that *name* takes on the wire: a length byte for each label, and the final zero."""
    return len(name) + 2

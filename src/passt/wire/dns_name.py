"""Domain names as sequences of labels (RFC 1035, 3.1), without compression.

Text form: labels joined by dots, no dot at the end, ASCII; the root is not a name here, because no
option that we send may hold it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from passt.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.wire.cursor import Reader

MAX_LABEL_LEN = 63
MAX_NAME_LEN = 255
"""Encoded, the final zero byte included (RFC 1035, 2.3.4)."""


def normalise_name(text: str) -> str | None:
    """Text form of *text* without its final dot; None if it is the root or cannot be encoded."""
    name = text.removesuffix(".")
    return name if is_name(name) else None


def is_name(name: str) -> bool:
    """Whether *name* is in text form: labels of 1 to 63 printable ASCII characters, 255 bytes encoded."""
    return (name.isascii() and name.isprintable() and " " not in name and encoded_len(name) <= MAX_NAME_LEN
            and all(1 <= len(label) <= MAX_LABEL_LEN for label in name.split(".")))


def encoded_len(name: str) -> int:
    """Bytes that `build_name` makes of *name*: a length byte for each label, and the final zero."""
    return len(name) + 2


def build_name(name: str) -> bytes:
    """Encode *name*, for which `is_name` holds."""
    labels = (bytes((len(label),)) + label.encode("ascii") for label in name.split("."))
    return b"".join(labels) + b"\0"


def pull_name(reader: Reader) -> str:
    """Read one name; "" for the root. `WireError` for compression, bad characters or excess length."""
    labels = []
    while length := reader.pull_u8():
        if length > MAX_LABEL_LEN:
            raise WireError(f"DNS name: label of {length} bytes or a compression pointer")
        label = reader.pull_bytes(length)
        text = label.decode("latin-1")
        if not is_name(text) or "." in text:
            raise WireError(f"DNS name: label {label!r} is not printable ASCII")
        labels.append(text)
    name = ".".join(labels)
    if encoded_len(name) > MAX_NAME_LEN:
        raise WireError(f"DNS name: {len(name)} characters")
    return name


def names_that_fit(texts: Iterable[str], room: int) -> tuple[str, ...]:
    """Names of *texts* in text form: those that can be encoded and find place in *room* bytes, in order."""
    names = []
    for text in texts:
        name = normalise_name(text)
        if name is not None and encoded_len(name) <= room:
            names.append(name)
            room -= encoded_len(name)
    return tuple(names)

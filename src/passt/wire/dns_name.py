"""Domain names encoded as labels (RFC 1035 3.1), single names and lists.

`build_names` writes the search list of DHCPv6 and of router advertisements, which is not compressed
(RFC 8415 10; RFC 8106 5.2). `build_compressed` writes that of DHCP, whose compression pointers count from the
first byte of the option's data (RFC 3397 2). `fit_names` selects the names that a message has room for. The
text form is that of `passt.facts.domain_name`.
"""

from __future__ import annotations

from passt.errors import WireError
from passt.facts.domain_name import MAX_LABEL_LEN, MAX_NAME_LEN, encoded_len, is_name
from passt.wire.cursor import Reader

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_POINTER = 0xc000
_POINTER_BITS = 0xc0
_MAX_POINTER = 0x3fff
"""A pointer has two bytes; its first two bits are ones (RFC 1035 4.1.4)."""


def build_name(name: str) -> bytes:
    """Encode *name*, for which `is_name` holds."""
    labels = (bytes((len(label),)) + label.encode("ascii") for label in name.split("."))
    return b"".join(labels) + b"\0"


def build_names(names: Iterable[str]) -> bytes:
    """Encode *names* one after the other, without compression."""
    return b"".join(build_name(name) for name in names)


def build_compressed(names: Iterable[str]) -> bytes:
    """Encode *names* one after the other; an ending that occurred before becomes a pointer.

    Endings are compared without regard to case (RFC 1035 2.3.3).
    """
    data = bytearray()
    known: dict[str, int] = {}
    for name in names:
        labels = name.split(".")
        for index, label in enumerate(labels):
            ending = ".".join(labels[index:]).lower()
            if ending in known:
                data += (_POINTER | known[ending]).to_bytes(2, "big")
                break
            if len(data) <= _MAX_POINTER:
                known[ending] = len(data)
            data += bytes((len(label),)) + label.encode("ascii")
        else:
            data.append(0)
    return bytes(data)


def fit_names(names: Iterable[str], room: int,
              build: Callable[[Iterable[str]], bytes]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split *names* into those that *build* encodes in *room* bytes altogether, and those left out.

    Earlier names take precedence; a shorter name may fit after a longer one was left out.
    """
    fitting: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    for name in names:
        if len(build((*fitting, name))) <= room:
            fitting += (name,)
        else:
            left_out += (name,)
    return fitting, left_out


def pull_name(reader: Reader) -> str:
    """Read one name; "" for the root. Raises `WireError` for compression, bad characters, excess length."""
    labels = []
    while length := reader.pull_u8():
        if length > MAX_LABEL_LEN:
            raise WireError(f"DNS name: label of {length} bytes or a compression pointer")
        labels.append(_pull_label(reader, length))
    return _join(labels)


def parse_compressed(data: bytes) -> tuple[str, ...]:
    """Read a list of names with compression pointers, up to the end of *data*.

    A pointer must lead to a position before the labels that it ends (RFC 1035 4.1.4: a prior occurrence).
    So each step goes back and no pointer can loop. Raises `WireError` for any other pointer, for the root,
    and as `pull_name`.
    """
    names = []
    reader = Reader(data, "DNS names")
    while reader.remaining:
        name = _pull_compressed(reader, data)
        if not name:
            raise WireError("DNS names: the root is no search domain")
        names.append(name)
    return tuple(names)


def _pull_compressed(reader: Reader, data: bytes) -> str:
    labels: list[str] = []
    start = reader.offset
    n_bytes = 1
    while length := reader.pull_u8():
        if length & _POINTER_BITS == _POINTER_BITS:
            target = (length << 8 | reader.pull_u8()) & _MAX_POINTER
            if target >= start:
                raise WireError(f"DNS names: pointer at {reader.offset - 2} to {target}, not back")
            start = target
            reader = Reader(data, "DNS names")
            reader.pull_bytes(target)
            continue
        if length > MAX_LABEL_LEN:
            raise WireError(f"DNS names: label type {length >> 6}")
        n_bytes += 1 + length
        if n_bytes > MAX_NAME_LEN:
            raise WireError("DNS names: a name of more than 255 bytes")
        labels.append(_pull_label(reader, length))
    return _join(labels)


def _pull_label(reader: Reader, length: int) -> str:
    label = reader.pull_bytes(length)
    text = label.decode("latin-1")
    if not is_name(text) or "." in text:
        raise WireError(f"DNS name: label {label!r} is not printable ASCII")
    return text


def _join(labels: list[str]) -> str:
    name = ".".join(labels)
    if encoded_len(name) > MAX_NAME_LEN:
        raise WireError(f"DNS name: {len(name)} characters")
    return name

"""The name that a client's first bytes say, whatever the protocol: TLS or HTTP/1, which the first byte tells.

The bytes are what a guest chooses. All that is returned or told in an error is printable.
"""

from __future__ import annotations

from passt.errors import WireError
from passt.facts.domain_name import is_name
from passt.wire.first_bytes.client_hello import HANDSHAKE, pull_server_name
from passt.wire.first_bytes.http_head import pull_host

MAX_LEN = 1 << 14                  # within which the name has to be said
_MAX_SHOWN = 80
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_.")
_PLAIN = frozenset(range(0x21, 0x7F)) - frozenset(b"'\\")


def parse_said_name(data: bytes) -> str | None:
    """Return the name that *data* says, in lower case and without a final dot; None: more has to come.

    Raises WireError if there is none, or what is said is no name.
    """
    if not data:
        return None
    is_tls = data[0] == HANDSHAKE
    said = pull_server_name(data) if is_tls else pull_host(data)
    if said is None:
        if len(data) >= MAX_LEN:
            raise WireError(f"no name within {MAX_LEN} bytes")
        return None
    name = said.lower().removesuffix(b".")
    # A last label of digits is an address' (RFC 3696 2).
    if (not name or not set(name) <= _LETTERS or not is_name(name.decode())
            or name.rpartition(b".")[2].isdigit()):
        raise WireError(f"{'SNI' if is_tls else 'Host'} {show(said)} is no name")
    return name.decode()


def show(said: bytes) -> str:
    """Write *said* for people: in quotes, with all that is not plain as its code, and shortened."""
    shown = "".join(chr(each) if each in _PLAIN else f"\\x{each:02x}" for each in said[:_MAX_SHOWN])
    return f"'{shown}{'...' if len(said) > _MAX_SHOWN else ''}'"

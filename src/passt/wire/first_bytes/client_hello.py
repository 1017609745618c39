"""The server's name in a TLS ClientHello: RFC 8446 4.1.2 and 5.1, RFC 6066 3.

Whatever is not as the RFCs say is an error, also where many servers are more lenient: what they would make of
it is not known. A hello may be cut into records as one likes. The rest of its last record is not looked at.
Encrypted ClientHello hides the name behind a hello like any other: it is that one's name that is read.
"""

from __future__ import annotations

from struct import Struct

from passt.errors import WireError
from passt.wire.cursor import Reader

HANDSHAKE = 22                     # ContentType
_CLIENT_HELLO = 1                  # HandshakeType
_SERVER_NAME = 0                   # ExtensionType
_HOST_NAME = 0                     # NameType
_MAJOR = 3                         # of all versions of TLS, and of SSL 3.0
_RECORD_HEADER = 5
_MESSAGE_HEADER = 4
_MAX_RECORD = 1 << 14
_RANDOM_LEN = 32
_MAX_SESSION_ID = 32
_MAX_RECORDS = 64                  # programs that cut a hello make a handful
_MAX_EXTENSIONS = 128              # programs send some twenty
_MAX_HELLO = 1 << 14
_EXTENSION = Struct("!HH")        # type, length of what follows


def pull_server_name(data: bytes) -> bytes | None:
    """Return the name in the hello with which *data* begins; None: it is not all there.

    Raises WireError if it is no hello, or has not just one name.
    """
    hello = _join_records(data)
    return None if hello is None else _find_name(hello)


def _join_records(data: bytes) -> bytes | None:
    """Return the hello without its header, out of its records."""
    message = b""
    at = 0
    for _ in range(_MAX_RECORDS):
        header = data[at:at + _RECORD_HEADER]
        _check_header(header)
        if len(header) < _RECORD_HEADER:
            return None
        record_len = int.from_bytes(header[3:], "big")
        if not 1 <= record_len <= _MAX_RECORD:
            raise WireError(f"TLS: record of {record_len} bytes")
        at += _RECORD_HEADER
        message += data[at:at + record_len]
        if message and message[0] != _CLIENT_HELLO:
            raise WireError(f"TLS: message {message[0]} comes before the ClientHello")
        if len(message) >= _MESSAGE_HEADER:
            end = _MESSAGE_HEADER + int.from_bytes(message[1:_MESSAGE_HEADER], "big")
            if end > _MAX_HELLO:
                raise WireError(f"TLS: ClientHello of {end} bytes")
            if len(message) >= end:
                return message[_MESSAGE_HEADER:end]
        at += record_len
        if at > len(data):
            return None
    raise WireError(f"TLS: ClientHello in more than {_MAX_RECORDS} records")


def _check_header(header: bytes) -> None:
    """Refuse what cannot be the header of a record with a hello, as far as it is there."""
    if header and header[0] != HANDSHAKE:
        raise WireError(f"TLS: record of type {header[0]} before the ClientHello ends")
    if len(header) > 1 and header[1] != _MAJOR:
        raise WireError(f"TLS: record of version {header[1]}")


def _find_name(hello: bytes) -> bytes:
    reader = Reader(hello, "ClientHello")
    if reader.pull_u16() >> 8 != _MAJOR:
        raise WireError("ClientHello: version of no TLS")
    reader.pull_bytes(_RANDOM_LEN)
    if len(reader.pull_bytes(reader.pull_u8())) > _MAX_SESSION_ID:
        raise WireError("ClientHello: session id is too long")
    n_suites = len(reader.pull_bytes(reader.pull_u16()))
    if not n_suites or n_suites % 2:
        raise WireError("ClientHello: cipher suites are cut off")
    if not reader.pull_bytes(reader.pull_u8()):
        raise WireError("ClientHello: no compression method")
    name = _find_extension(reader) if reader.remaining else None
    if name is None:
        raise WireError("ClientHello names no server")
    return name


def _find_extension(reader: Reader) -> bytes | None:
    """Read the extensions, each of which may be there once (RFC 8446 4.2), and the name in one of them."""
    data = reader.pull_bytes(reader.pull_u16())
    reader.finish()
    seen: set[int] = set()
    name = None
    at, end = 0, len(data)
    while at < end:
        # Not by a Reader, which takes three times as long: there are some ten of them.
        if at + _EXTENSION.size > end:
            raise WireError("ClientHello: an extension is cut off")
        kind, length = _EXTENSION.unpack_from(data, at)
        at += _EXTENSION.size
        if at + length > end:
            raise WireError("ClientHello: an extension is cut off")
        if kind in seen:
            raise WireError(f"ClientHello: extension {kind} comes twice")
        seen.add(kind)
        if len(seen) > _MAX_EXTENSIONS:
            raise WireError(f"ClientHello: more than {_MAX_EXTENSIONS} extensions")
        if kind == _SERVER_NAME:
            name = _read_list(data[at:at + length])
        at += length
    return name


def _read_list(body: bytes) -> bytes:
    """Read a list of names, of which there is just one: one of each type may be, and there is one type."""
    whole = Reader(body, "server_name")
    names = Reader(whole.pull_bytes(whole.pull_u16()), "server_name")
    whole.finish()
    kind = names.pull_u8()
    if kind != _HOST_NAME:
        raise WireError(f"server_name: name of type {kind}")
    name = names.pull_bytes(names.pull_u16())
    names.finish()
    if not name:
        raise WireError("server_name: the name is empty")
    return name

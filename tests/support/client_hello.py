"""ClientHellos: real ones, by OpenSSL, and any that a test wants, field by field."""

from __future__ import annotations

import contextlib
import ssl
from struct import pack

RANDOM = bytes(range(32))
SUITES = bytes.fromhex("13011302c02f")


def by_openssl(name: str | None, most: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> bytes:
    """Return what OpenSSL sends first to a server called *name*, None: to one without a name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = most
    sent = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname=name).do_handshake()
    return sent.read()


def seen_by_openssl(data: bytes) -> str | None:
    """Return the name that OpenSSL, as a server, reads in *data*; None if it reads none, or no hello."""
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _conn, name, _context: seen.append(name)
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    received.write(data)
    with contextlib.suppress(ssl.SSLError, UnicodeError):
        context.wrap_bio(received, sent, server_side=True).do_handshake()
    return seen[0] if seen else None


def server_name(*names: bytes, kind: int = 0) -> bytes:
    """Write the extension with *names*."""
    entries = b"".join(pack("!BH", kind, len(name)) + name for name in names)
    return extension(0, pack("!H", len(entries)) + entries)


def extension(kind: int, body: bytes) -> bytes:
    """Write an extension."""
    return pack("!HH", kind, len(body)) + body


def hello(extensions: bytes | None, *, version: int = 0x0303, session: bytes = bytes(32),
          suites: bytes = SUITES, compression: bytes = b"\0", behind: bytes = b"") -> bytes:
    """Write the message; without *extensions* it ends before their length."""
    body = (pack("!H", version) + RANDOM + bytes((len(session),)) + session + pack("!H", len(suites)) + suites
            + bytes((len(compression),)) + compression)
    if extensions is not None:
        body += pack("!H", len(extensions)) + extensions
    body += behind
    return b"\1" + len(body).to_bytes(3, "big") + body


def records(message: bytes, size: int = 1 << 14, *, version: int = 0x0301, kind: int = 22) -> bytes:
    """Cut *message* into records of at most *size* bytes."""
    parts = [message[at:at + size] for at in range(0, len(message), size)]
    return b"".join(pack("!BHH", kind, version, len(part)) + part for part in parts)


def named(name: bytes = b"www.example", size: int = 1 << 14) -> bytes:
    """Write a hello for *name* in records of at most *size* bytes."""
    return records(hello(server_name(name)), size)

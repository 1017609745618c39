"""resolv.conf as the GNU C library reads it (resolv.conf(5), glibc's resolv/res_init.c).

The content of the file is not trusted: a line that is not understood is left out, and none raises.
"""

from __future__ import annotations

import os
import socket
from errno import EACCES, EISDIR, ELOOP, ENODEV, ENOENT, ENOTDIR, EPERM
from ipaddress import IPv4Address, IPv6Address

from passt.errors import HostError
from passt.facts.host import DEFAULT_ATTEMPTS, DEFAULT_TIMEOUT_S, ResolverFacts
from passt.host.interface_index import interface_index

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.address import IPAddress

MAX_SERVERS = 3

# Bytes read. glibc has no limit; ours keeps a device or an endless file from filling memory.
_MAX_LEN = 256 * 1024
# Errors for which glibc goes on as with an empty file, as we do.
_AS_IF_EMPTY = frozenset({ENOENT, ENOTDIR, EACCES, EPERM, EISDIR, ELOOP})
_BLANKS = b" \t"
_MOST = {"timeout": 30, "attempts": 5}   # resolv.conf(5)
_MAX_DIGITS = 9
_MAX_IFINDEX = 2**31 - 1


def read(path: str = "/etc/resolv.conf") -> ResolverFacts:
    """Read *path*; a missing or unreadable file counts as empty. Raises HostError for other failures."""
    try:
        # A named pipe must not block us.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            return parse(whole_lines(file.read(_MAX_LEN) or b"", _MAX_LEN))
    except OSError as error:
        if error.errno in _AS_IF_EMPTY:
            return ResolverFacts()
        raise HostError(f"cannot read {path}: {error.strerror}") from error


def whole_lines(content: bytes, limit: int) -> bytes:
    """Leave out the last line of *content* where it may be cut off, as no more than *limit* bytes were read.

    What is left of an address may be another one.
    """
    return content if len(content) < limit else content[:content.rfind(b"\n") + 1]


def parse(content: bytes, index_of: Callable[[str], int] = interface_index) -> ResolverFacts:
    """Read the first three valid `nameserver` lines and the last `search` or `domain` line.

    Keywords start in the first column and end in a blank or tab; a line that starts with # or ; is a
    comment, and so is the rest of a `nameserver` line from # or ; on. The scope of a link-local server
    becomes the interface's index, and is cut off if there is no such interface; an IPv4-mapped server
    becomes the IPv4 server to which a socket would send. Names in the search list lose a final dot, and the
    entry "." (the root) is left out. Of `options` lines rotate, attempts and timeout count.
    *index_of* returns the index of an interface, and raises OSError with
    ENODEV if there is none.
    """
    servers: list[IPAddress] = []
    searched: list[bytes] = []
    options: dict[str, int] = {}
    for raw in content.split(b"\n"):
        line = raw.partition(b"\0")[0]
        keyword_len = len(line) - len(line.lstrip(b"abcdefghijklmnopqrstuvwxyz"))
        keyword, rest = line[:keyword_len], line[keyword_len:]
        if not rest.startswith((b" ", b"\t")) or not rest.strip(_BLANKS):
            continue
        if keyword == b"nameserver":
            server = _server(rest, index_of) if len(servers) < MAX_SERVERS else None
            if server is not None:
                servers.append(server)
        elif keyword == b"search":
            searched = _words(rest)
        elif keyword == b"domain":
            searched = _words(rest)[:1]
        elif keyword == b"options":
            options |= _options(_words(rest))
    return ResolverFacts(
        tuple(servers), _names(searched),
        timeout_s=options.get("timeout", DEFAULT_TIMEOUT_S),
        attempts=options.get("attempts", DEFAULT_ATTEMPTS),
        rotate="rotate" in options)


def _options(words: list[bytes]) -> dict[str, int]:
    """Read the options that concern the choice of a server, with glibc's limits; 0 counts as 1."""
    found = {}
    for word in words:
        name, colon, number = word.partition(b":")
        if word == b"rotate":
            found["rotate"] = 1
        elif colon and name.decode("latin-1") in _MOST and number[:1].isdigit():
            digits = number[:len(number) - len(number.lstrip(b"0123456789"))][:_MAX_DIGITS]
            option = name.decode("latin-1")
            found[option] = min(max(int(digits), 1), _MOST[option])
    return found


def _words(text: bytes) -> list[bytes]:
    return [word for word in text.replace(b"\t", b" ").split(b" ") if word]


def _server(text: bytes, index_of: Callable[[str], int]) -> IPAddress | None:
    """Read an address as inet_aton(3) does (so 127.1 is one) or as inet_pton(3) reads IPv6."""
    words = _words(text.replace(b"#", b" # ").replace(b";", b" ; "))
    literal = words[0].decode("latin-1")
    if literal.split() != [literal]:
        # inet_aton would stop at a carriage return; glibc's resolver does not.
        return None
    try:
        return IPv4Address(socket.inet_aton(literal))
    except (OSError, ValueError):
        pass
    literal, _, scope = literal.partition("%")
    try:
        address = IPv6Address(socket.inet_pton(socket.AF_INET6, literal))
    except (OSError, ValueError):
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    ifindex = _scope_index(scope, index_of) if address.is_link_local else 0
    return IPv6Address(f"{address}%{ifindex}") if ifindex else address


def _scope_index(scope: str, index_of: Callable[[str], int]) -> int:
    """Return the index of an interface given by name or index; 0 if there is none. Raises OSError."""
    if scope.isascii() and scope.isdecimal():
        return int(scope) if len(scope) < len(str(_MAX_IFINDEX)) else 0
    try:
        return index_of(scope)
    except OSError as error:
        if error.errno != ENODEV:
            raise
        return 0


def _names(words: list[bytes]) -> tuple[str, ...]:
    """Keep the words that can be domain names: printable ASCII."""
    names = (word.removesuffix(b".") for word in words)
    return tuple(name.decode("ascii") for name in names if name and all(33 <= byte <= 126 for byte in name))

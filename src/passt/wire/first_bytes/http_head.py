"""The server's name in the head of an HTTP/1 request: RFC 9112 2 to 5, RFC 9110 5 and 7.2.

Whatever two servers might read in two ways is an error: lines that end in less than CRLF, folded ones, blanks
before a colon, several Host lines, a target that names another host than Host does. A request that asks for a
tunnel (CONNECT) names where that ends, not the server, and HTTP/2 that begins without TLS has no line to
read: both are errors, too. Only the first request of a connection is read.
"""

from __future__ import annotations

import re

from passt.errors import WireError

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TARGET = rb"[\x21-\x7e]"
# A request line, and as much of one as may have come.
_LINE = re.compile(rb"(%b{1,32}) (%b+) HTTP/1\.[01]" % (_TOKEN, _TARGET))
_BEGUN = re.compile(rb"%b{0,32}(?: %b*(?: [HTP]{0,4}(?:/[0-9.]{0,3}\r?)?)?)?" % (_TOKEN, _TARGET))
# Nothing in it can match in two ways: the time that a line takes would be the square of its length.
_FIELD = re.compile(rb"(%b+):([\t\x20-\x7e\x80-\xff]*)" % _TOKEN)
_AUTHORITY = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://([^/?#]*)")
_PORT = re.compile(rb":[0-9]{0,5}\Z")
_HTTP2 = b"PRI * HTTP/2.0"
_CRLF = b"\r\n"


def pull_host(data: bytes) -> bytes | None:
    """Return the host in the head with which *data* begins, without its port; None: it is not all there.

    Raises WireError if it is no request, or has not just one host.
    """
    line_end = data.find(_CRLF)
    line = data if line_end < 0 else data[:line_end]
    if line.startswith(_HTTP2[:8]) and (_HTTP2.startswith(line) or line.startswith(_HTTP2)):
        if len(line) < len(_HTTP2):
            return None
        raise WireError("HTTP/2 without TLS tells no name that could be read")
    if line_end < 0:
        if not _BEGUN.fullmatch(line):
            raise WireError("neither TLS nor HTTP")
        return None
    found = _LINE.fullmatch(line)
    if found is None:
        raise WireError("neither TLS nor HTTP")
    method, target = found.groups()
    if method == b"CONNECT":
        raise WireError("HTTP: CONNECT asks for a tunnel")
    head_end = data.find(_CRLF * 2, line_end)
    if head_end < 0:
        return None
    host = _without_port(_find_host(data[line_end + 2:head_end]))
    asked = _find_authority(target)
    if asked is not None and _without_port(asked).lower() != host.lower():
        raise WireError("HTTP: the request is for another host than its Host line says")
    return host


def _find_host(fields: bytes) -> bytes:
    hosts = []
    for line in fields.split(_CRLF) if fields else ():
        found = _FIELD.fullmatch(line)
        if found is None:
            raise WireError("HTTP: a line of the head is no field")
        if found[1].lower() == b"host":
            hosts.append(found[2].strip(b" \t"))
    if len(hosts) != 1:
        raise WireError(f"HTTP: {len(hosts) or 'no'} Host lines")
    return hosts[0]


def _find_authority(target: bytes) -> bytes | None:
    """Return the host and port of an absolute target, which goes before Host (RFC 9112 3.2.2)."""
    if target.startswith(b"/") or target == b"*":
        return None
    found = _AUTHORITY.match(target)
    if found is None:
        raise WireError("HTTP: target of no known form")
    return found[1]


def _without_port(host: bytes) -> bytes:
    return _PORT.sub(b"", host)

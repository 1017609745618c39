"""Requests and responses as values; what is wrong with a request, as a response (RFC 9110, RFC 9457).

Targets are taken apart here and not by `urllib.parse`, which would take 400 KB of memory.
"""

from __future__ import annotations

import json

from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

JSON = "application/json"
JSON_LINES = "application/jsonl"
PROBLEM = "application/problem+json"
MAX_PARAMETERS = 32
MAX_BODY = 1 << 17  # bytes; all rules of both tables are some 110,000

_ENCODER = json.JSONEncoder(separators=(",", ":"))
TITLES = {
    400: "Bad Request", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    409: "Conflict", 413: "Content Too Large", 503: "Service Unavailable",
}  # fmt: skip


class Request(NamedTuple):
    """*path* without its query, decoded; *accept* is the header of that name."""

    method: str
    path: str
    query: Mapping[str, str]
    body: bytes
    accept: str = ""


class Response(NamedTuple):
    """*body* are the pieces to send, one in each turn of the loop.

    An empty piece means: not yet, ask again in the next turn; None: not until `Client.wake`. *is_whole* says
    that the pieces are all at hand, so that their length can be told; *never_ends* that the client may take
    its time to read, as what it does not read is bounded.
    """

    status: int
    kind: str
    body: Iterable[bytes | None]
    is_whole: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    never_ends: bool = False


class RefusalError(Exception):
    """The request cannot be carried out: *status* and *detail*, a sentence for the user, say why.

    *errors* has a line for each thing that went wrong, where that can be several.
    """

    def __init__(self, status: int, detail: str, headers: tuple[tuple[str, str], ...] = (),
                 errors: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.errors = errors

    def response(self) -> Response:
        """Return the refusal as a response."""
        problem: dict[str, Any] = {"title": TITLES[self.status], "status": self.status, "detail": self.detail}
        if self.errors:
            problem["errors"] = self.errors
        return Response(self.status, PROBLEM, (encode(problem) + b"\n",), headers=self.headers)


def encode(value: Any) -> bytes:
    """Write *value* as JSON, in one line."""
    return _ENCODER.encode(value).encode()


def answer(value: Any) -> Response:
    """Return *value* as a response."""
    return Response(200, JSON, (encode(value) + b"\n",))


def parse_target(target: bytes) -> tuple[str, dict[str, str]]:
    """Take a request target (RFC 9112 3.2.1) apart: decoded path, and parameters. Raises RefusalError."""
    try:
        path, _, query = target.decode("ascii").partition("?")
        given = query.split("&") if query else []
        if len(given) > MAX_PARAMETERS:
            raise RefusalError(400, f"there are more than {MAX_PARAMETERS} parameters")
        found: dict[str, str] = {}
        for each in given:
            name, equals, value = (_decode(part.replace("+", " ")) for part in each.partition("="))
            if not equals:
                raise RefusalError(400, f"the parameter '{name[:40]}' has no value")
            if name in found:
                raise RefusalError(400, f"the parameter '{name[:40]}' is given more than once")
            found[name] = value
        return _decode(path), found
    except ValueError:
        raise RefusalError(400, "the address of the request cannot be read") from None


def _decode(text: str) -> str:
    """Decode what is percent-encoded (RFC 3986 2.1). Raises ValueError."""
    first, *rest = text.split("%")
    data = bytearray(first.encode())
    for part in rest:
        if not part[:2].isalnum():
            raise ValueError(text)
        data += bytes.fromhex(part[:2]) + part[2:].encode()
    return data.decode()


def parse_json(body: bytes, fields: Mapping[str, tuple[type, ...]],
               needed: Iterable[str] = ()) -> dict[str, Any]:
    """Read *body*, an object with some of *fields*, of these types. Raises RefusalError.

    A text among them can be encoded: JSON can write halves of surrogate pairs, no text (RFC 8259 8.2).
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise RefusalError(400, "the body is not JSON") from None
    if type(value) is not dict:
        raise RefusalError(400, "the body is not a JSON object")
    for name, content in value.items():
        if name not in fields:
            raise RefusalError(400, f"'{name}' is unknown; there are {', '.join(fields)}")
        if type(content) not in fields[name]:
            raise RefusalError(400, f"'{name}' has the wrong type")
        if type(content) is str and not is_text(content):
            raise RefusalError(400, f"'{name}' has a character that cannot be written")
    for name in needed:
        if name not in value:
            raise RefusalError(400, f"'{name}' is missing")
    return value


def is_text(value: str) -> bool:
    """Tell whether *value* can be written in UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True

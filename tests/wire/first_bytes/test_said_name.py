"""The name that first bytes say: by the first byte TLS or HTTP, in one form, and nothing that is no name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from passt.errors import WireError
from passt.wire.first_bytes.said_name import MAX_LEN, parse_said_name, show
from tests.support.client_hello import named

if TYPE_CHECKING:
    from collections.abc import Callable


def http(host: bytes) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"


@pytest.mark.parametrize("build", [named, http])
@pytest.mark.parametrize(("said", "name"), [
    (b"www.example", "www.example"),
    (b"WWW.Example", "www.example"),
    (b"www.example.", "www.example"),
    (b"_x-1.example", "_x-1.example"),
    (b"localhost", "localhost"),
    (b"xn--bcher-kva.example", "xn--bcher-kva.example"),
])
def test_name_has_one_form(build: Callable[[bytes], bytes], said: bytes, name: str) -> None:
    assert parse_said_name(build(said)) == name


@pytest.mark.parametrize("build", [named, http])
@pytest.mark.parametrize("said", [
    b"192.0.2.1", b"www.example.1", b"2001:db8::1", b"[2001:db8::1]", b"a..example", b".example", b".", b"..",
    b"www.example..", b"a,b", b"*.example", b"w" * 64 + b".example", b"a." * 127 + b"example",
    b"b\xc3\xbccher", b"a.example b.example", b"user@a.example", b"a.example:80:80", b"a'b.example"])
def test_what_is_no_name(build: Callable[[bytes], bytes], said: bytes) -> None:
    with pytest.raises(WireError, match=r"is no name$") as caught:
        parse_said_name(build(said))
    assert str(caught.value).isprintable()
    assert str(caught.value).isascii()


@pytest.mark.parametrize("said", [b"www.example\0", b"www.example\0.evil.test", b"\xff\x1b[31m", b"a\nb"])
def test_hostile_names_are_quoted(said: bytes) -> None:
    with pytest.raises(WireError, match=r"SNI '.*' is no name$") as caught:
        parse_said_name(named(said))
    assert str(caught.value).isprintable()


def test_shown_text_is_short() -> None:
    assert show(b"a" * 1000) == f"'{'a' * 80}...'"
    assert show(b"a'\\\x7f ") == "'a\\x27\\x5c\\x7f\\x20'"


def test_name_has_to_come_within_the_limit() -> None:
    assert parse_said_name(b"") is None
    head = b"GET / HTTP/1.1\r\nX: "
    assert parse_said_name(head + b"y" * (MAX_LEN - len(head) - 1)) is None
    with pytest.raises(WireError, match=f"no name within {MAX_LEN} bytes"):
        parse_said_name(head + b"y" * (MAX_LEN - len(head)))

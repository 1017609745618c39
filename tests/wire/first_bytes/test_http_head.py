"""The host of an HTTP/1 request: forms of the target, what may be read in two ways, every truncation."""

from __future__ import annotations

import contextlib
import random
import re
from time import thread_time

import h11
import pytest

from passt.errors import WireError
from passt.wire.first_bytes.http_head import pull_host

GOLDEN = b"GET /x?y HTTP/1.1\r\nHost: www.example\r\nAccept: */*\r\n\r\n"


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((line, *fields, b"", b""))


@pytest.mark.parametrize(("data", "host"), [
    (GOLDEN, b"www.example"),
    (request(b"Host: www.example:8080"), b"www.example"),
    (request(b"HOST:www.example\t "), b"www.example"),
    (request(b"host: www.example:"), b"www.example"),
    (request(b"Accept: a", b"Host: www.example", b"X: \xe4 y", b"Empty:"), b"www.example"),
    (request(b"Host: www.example", line=b"OPTIONS * HTTP/1.1"), b"www.example"),
    (request(b"Host: www.example", line=b"GET / HTTP/1.0"), b"www.example"),
    (request(b"Host: www.example", line=b"GET http://www.example HTTP/1.1"), b"www.example"),
    (request(b"Host: www.example", line=b"GET HTTP://WWW.example:80/x HTTP/1.1"), b"www.example"),
    (request(b"Host: [2001:db8::1]:80"), b"[2001:db8::1]"),
    (request(b"Host: "), b""),
    (GOLDEN + b"\0 any body\r\nHost: x\r\n\r\n", b"www.example"),
])
def test_host_without_its_port(data: bytes, host: bytes) -> None:
    assert pull_host(data) == host


@pytest.mark.parametrize("data", [
    GOLDEN, request(b"Host: www.example", line=b"GET http://www.example/ HTTP/1.0")])
def test_every_truncation_asks_for_more(data: bytes) -> None:
    assert [pull_host(data[:n]) for n in range(len(data))] == [None] * len(data)


@pytest.mark.parametrize(("data", "said"), [
    (request(), "no Host lines"),
    (request(b"Host: a.example", b"Host: b.example"), "2 Host lines"),
    (request(b"Host: a.example", b"hOST: a.example"), "2 Host lines"),
    (request(b"Host : a.example"), "no field"),
    (request(b" Host: a.example"), "no field"),
    (request(b"X: y", b" folded", b"Host: a.example"), "no field"),
    (request(b"X: y\nHost: b.example", b"Host: a.example"), "no field"),
    (request(b"X: y\rHost: b.example", b"Host: a.example"), "no field"),
    (request(b"X: y\0", b"Host: a.example"), "no field"),
    (request(b"Host: a.example", b"nothing"), "no field"),
    (request(b"Host: a.example", line=b"GET http://b.example/ HTTP/1.1"), "another host"),
    (request(b"Host: a.example", line=b"GET http://a.example@b.example/ HTTP/1.1"), "another host"),
    (request(b"Host: a.example", line=b"GET http:///x HTTP/1.1"), "another host"),
    (request(b"Host: a.example", line=b"GET a.example:80 HTTP/1.1"), "no known form"),
    (request(b"Host: a.example", line=b"CONNECT a.example:443 HTTP/1.1"), "tunnel"),
    (request(b"Host: a.example", line=b"GET / HTTP/2.0"), "neither"),
    (request(b"Host: a.example", line=b"GET / HTTP/1.2"), "neither"),
    (request(b"Host: a.example", line=b"GET  / HTTP/1.1"), "neither"),
    (request(b"Host: a.example", line=b"GET / x HTTP/1.1"), "neither"),
    (request(b"Host: a.example", line=b"GET /\t HTTP/1.1"), "neither"),
    (request(b"Host: a.example", line=b"GET /\xe4 HTTP/1.1"), "neither"),
    (request(b"Host: a.example", line=b"GET /"), "neither"),
    (b"\r\n" + GOLDEN, "neither"),
    (GOLDEN.replace(b"\r\n", b"\n"), "neither"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2 without TLS"),
    (b"SSH-2.0-OpenSSH_9.2\r\n", "neither"),
    (b"EHLO there\r\n", "neither"),
    (b"0032git-upload-pack /x\0host=a.example\0", "neither"),
    (b"\x80\x2e\1\3\1", "neither"),
    (b"A" * 33, "neither"),
    (bytes(5), "neither"),
])
def test_what_is_no_request_or_more_than_one(data: bytes, said: str) -> None:
    with pytest.raises(WireError, match=said):
        pull_host(data)


@pytest.mark.parametrize("data", [b"SSH-2.0-x\n", b"EHLO there\n", b"\0", b"{", b"GET / FTP"])
def test_what_cannot_become_a_request_is_refused_before_its_line_ends(data: bytes) -> None:
    with pytest.raises(WireError, match="neither"):
        pull_host(data)


@pytest.mark.parametrize("fields", [
    b"Host: a.example\r\nX:%b\0" % (b" " * 16000),
    b"X:%b\0" % (b" \t" * 8000),
    b"Host:%ba.example%b" % (b"\t" * 8000, b" " * 8000),
    b"Host: %b" % (b":1" * 8000),
    b"A" * 16000,
    b"A:\r\n" * 4000,
], ids=["blanks", "tabs", "around", "ports", "name", "lines"])
def test_no_head_takes_long(fields: bytes) -> None:
    """The data plane waits meanwhile: milliseconds, not seconds as where blanks may match in many ways."""
    before = thread_time()
    with contextlib.suppress(WireError):
        pull_host(request(fields))
    assert thread_time() - before < 0.5


def test_another_reader_sees_no_other_host() -> None:
    """What passes here says the same host to h11, however its bytes are bent; h11 may refuse it."""
    generator = random.Random(9112)  # noqa: S311 - the same each time
    n_hosts = 0
    seeds = [GOLDEN, request(b"Host: www.example:80", b"X: y", line=b"GET http://www.example:80/ HTTP/1.1")]
    for _ in range(5000):
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randrange(1, 3)):
            at = generator.randrange(len(data))
            if generator.randrange(3):
                data[at] = generator.choice((*b"\r\n \t:\0@,/H", generator.randrange(256)))
            else:
                data[at:at] = generator.choice((b"\r\n", b"\r\nHost: b.example", b" ", b"\n", b"\t"))
        conn = h11.Connection(h11.SERVER)
        try:
            conn.receive_data(bytes(data))
            event = conn.next_event()
            host = pull_host(bytes(data))
        except (h11.RemoteProtocolError, WireError):
            continue
        if isinstance(event, h11.Request) and host is not None:
            n_hosts += 1
            hosts = [value for name, value in event.headers if name == b"host"]
            assert [re.sub(rb":[0-9]{0,5}$", b"", value) for value in hosts] == [host]
    assert n_hosts > 500

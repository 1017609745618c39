"""The name in a ClientHello: golden bytes, every truncation, each field spoiled, OpenSSL on both sides."""

from __future__ import annotations

import random
import ssl

import pytest

from passt.errors import WireError
from passt.wire.first_bytes.client_hello import pull_server_name
from tests.support.client_hello import (
    RANDOM,
    SUITES,
    by_openssl,
    extension,
    hello,
    named,
    records,
    seen_by_openssl,
    server_name,
)

# RFC 8446 4.1.2 with one suite and nothing but the name; RFC 6066 3.
GOLDEN = bytes.fromhex(
    "16 0301 0041"                                      # handshake record
    "01 00003d"                                         # ClientHello
    "0303" + RANDOM.hex() + "00 0002 1301 01 00"        # version, random, session, suites, compression
    "0012 0000 000e 000c 00 0009 612e6578616d706c65")   # extensions: server_name, host_name "a.example"


def test_golden_hello() -> None:
    assert pull_server_name(GOLDEN) == b"a.example"


@pytest.mark.parametrize("most", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_hello_of_openssl(most: ssl.TLSVersion) -> None:
    data = by_openssl("www.example", most)
    assert pull_server_name(data) == b"www.example"
    with pytest.raises(WireError, match="names no server"):
        pull_server_name(by_openssl(None, most))


@pytest.mark.parametrize("data", [GOLDEN, by_openssl("www.example"), named(size=20), named(size=7)],
                         ids=["golden", "openssl", "20 bytes each", "7 bytes each"])
def test_every_truncation_asks_for_more(data: bytes) -> None:
    assert [pull_server_name(data[:n]) for n in range(len(data))] == [None] * len(data)
    assert pull_server_name(data) is not None


@pytest.mark.parametrize("size", [3, 4, 5, 64, 1000])
def test_hello_may_be_cut_into_records(size: int) -> None:
    assert pull_server_name(named(b"www.example", size)) == b"www.example"


def test_what_follows_is_not_read() -> None:
    assert pull_server_name(GOLDEN + b"\x17garbage") == b"a.example"
    message = hello(server_name(b"a.example"))
    assert pull_server_name(records(message + b"\x02garbage")) == b"a.example"


EMPTY = extension(10, b"")
NAME = server_name(b"a.example")


@pytest.mark.parametrize(("data", "said"), [
    (records(hello(NAME), kind=23), "type 23"),
    (records(hello(NAME), version=0x0201), "version 2"),
    (b"\x16\x03\x01\0\0", "record of 0 bytes"),
    (b"\x16\x03\x01\x40\x01", "record of 16385 bytes"),
    (records(b"\2" + hello(NAME)[1:]), "message 2 comes before"),
    (records(hello(NAME))[:30] + records(hello(NAME))[30:], None),
    (records(hello(NAME)[:30]) + records(hello(NAME)[30:], kind=21), "type 21 before"),
    (records(hello(NAME)[:30]) + records(hello(NAME)[30:], version=0x0505), "version 5"),
    (records(hello(NAME), 1), "more than 64 records"),
    (records(b"\1\0\x40\0" + bytes(100)), "ClientHello of 16388 bytes"),
    (records(b"\1\0\0\0"), "2 bytes wanted at offset 0"),
    (records(hello(NAME, version=0x0203)), "version of no TLS"),
    (records(hello(NAME, session=bytes(33))), "session id is too long"),
    (records(hello(NAME, suites=b"")), "suites"),
    (records(hello(NAME, suites=SUITES[:3])), "suites"),
    (records(hello(NAME, compression=b"")), "no compression"),
    (records(hello(None)), "names no server"),
    (records(hello(b"")), "names no server"),
    (records(hello(EMPTY)), "names no server"),
    (records(hello(NAME, behind=b"x")), "1 bytes too many"),
    (records(hello(NAME + b"\0")), "extension is cut off"),
    (records(hello(NAME + extension(10, b"abc")[:-1])), "extension is cut off"),
    (records(hello(NAME + NAME)), "extension 0 comes twice"),
    (records(hello(EMPTY + NAME + EMPTY)), "extension 10 comes twice"),
    (records(hello(b"".join(extension(n, b"") for n in range(1, 200)) + NAME)), "more than 128 extensions"),
    (records(hello(extension(0, b""))), "2 bytes wanted"),
    (records(hello(extension(0, b"\0\0"))), "1 bytes wanted"),
    (records(hello(server_name(b""))), "the name is empty"),
    (records(hello(server_name(b"a.example", kind=1))), "name of type 1"),
    (records(hello(server_name(b"a.example", b"b.example"))), "bytes too many"),
    (records(hello(extension(0, NAME[4:] + b"x"))), "1 bytes too many"),
])
def test_one_field_spoiled(data: bytes, said: str | None) -> None:
    if said is None:
        assert pull_server_name(data) == b"a.example"
        return
    with pytest.raises(WireError, match=said):
        pull_server_name(data)


def test_name_is_given_as_it_is() -> None:
    assert pull_server_name(named(b"a\0.EXAMPLE.")) == b"a\0.EXAMPLE."


# Python's ssl cannot hand a name to its callback that is not ASCII, and says so on standard error.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_openssl_reads_no_other_name() -> None:
    """What passes here says the same name to a server, however its bytes are bent; it may refuse it."""
    generator = random.Random(8446)  # noqa: S311 - the same each time
    seeds = [by_openssl("www.example"), by_openssl("www.example", ssl.TLSVersion.TLSv1_2), GOLDEN,
             named(size=50)]
    n_names = 0
    for _ in range(3000):
        data = bytearray(generator.choice(seeds))
        for _ in range(generator.randrange(1, 4)):
            at = generator.randrange(len(data))
            if generator.randrange(4):
                data[at] = generator.choice((0, 1, 2, 255, generator.randrange(256)))
            else:
                del data[at:at + generator.randrange(1, 4)]
        seen = seen_by_openssl(bytes(data))
        try:
            name = pull_server_name(bytes(data))
        except WireError:
            continue
        if seen is not None and name is not None:
            n_names += 1
            assert seen.encode("latin-1") == name
    assert n_names > 300

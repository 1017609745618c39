"""DNS messages as a forwarder looks at them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR, DNSRROPT

from passt.errors import WireError
from passt.wire.dns.message import (
    FLAG_TRUNCATED,
    MAX_UDP_LEN,
    DnsView,
    Rcode,
    build_header_reply,
    build_query,
    build_reply,
    encode_name,
    pass_on,
    show_name,
    suffixes,
    truncate,
)
from tests.support.name_server import (
    AT_QUESTION,
    CNAME,
    SOA,
    A,
    address,
    header,
    name,
    opt,
    query,
    record,
    reply,
)

# RFC 1035 4.1.4's way to write names: www is an alias of host, which has an address.
GOLDEN_QUERY = bytes.fromhex(
    "beef 0100 0001 0000 0000 0001"
    "03575757 076578616d706c65 00 0001 0001"            # WWW.example, A, IN
    "00 0029 04d0 00008000 0000")                       # OPT: 1232 bytes, DO
GOLDEN_ANSWER = bytes.fromhex(
    "beef 8180 0001 0002 0000 0001"
    "03777777 076578616d706c65 00 0001 0001"
    "c00c 0005 0001 0000003c 0007 04686f7374 c010"      # www: alias of host.example
    "c029 0001 0001 0000012c 0004 c0000250"             # host.example: 192.0.2.80
    "00 0029 1000 00008000 0000")
NAMES = st.lists(st.text("abcXYZ019-_", min_size=1, max_size=20), min_size=1, max_size=8).map(".".join)


def test_golden_query() -> None:
    view = DnsView(GOLDEN_QUERY)
    assert (view.id, view.name, view.kind, view.klass) == (0xBEEF, b"\3www\7example\0", 1, 1)
    assert view.question == GOLDEN_QUERY[12:29]      # with its own letters
    assert view.opt is not None
    assert (view.udp_len, view.end) == (1232, len(GOLDEN_QUERY))


def test_golden_answer() -> None:
    view = DnsView(GOLDEN_ANSWER)
    alias, host, options = view.records
    assert (alias.name, alias.target, alias.ttl) == (b"\3www\7example\0", b"\4host\7example\0", 60)
    assert (host.name, GOLDEN_ANSWER[host.start:host.end]) == (alias.target, bytes((192, 0, 2, 80)))
    assert [one.section for one in view.records] == [0, 0, 2]
    assert view.opt == options
    assert view.is_answer_to(DnsView(GOLDEN_QUERY))


@pytest.mark.parametrize("data", [GOLDEN_QUERY, GOLDEN_ANSWER], ids=["query", "answer"])
def test_every_truncation_is_rejected(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(WireError, match="DNS"):
            DnsView(data[:length])


SPOILED = {
    "two questions": (5, 2), "more answers than there are": (7, 3), "label type 1": (12, 0x43),
    "label type 2": (12, 0x83), "question is a pointer": (12, 0xC0), "label beyond the end": (16, 63),
    "pointer to itself": (30, 29), "pointer ahead": (30, 60), "pointer into the header": (30, 4),
    "address of five bytes": (59, 5), "alias that ends early": (40, 8), "OPT among the answers": (51, 41),
    "OPT with a name": (64, 1),
}  # fmt: skip


@pytest.mark.parametrize("what", SPOILED)
def test_one_field_spoiled(what: str) -> None:
    at, value = SPOILED[what]
    data = bytearray(GOLDEN_ANSWER)
    assert data[at] != value
    data[at] = value
    with pytest.raises(WireError, match="DNS"):
        DnsView(bytes(data))


def test_what_follows_the_last_record_is_left_out() -> None:
    view = DnsView(GOLDEN_ANSWER + b"more")
    assert view.end == len(GOLDEN_ANSWER)
    assert pass_on(view, DnsView(GOLDEN_QUERY)).endswith(GOLDEN_ANSWER[29:])
    assert build_query(DnsView(GOLDEN_QUERY + b"more"), 7) == b"\0\7" + GOLDEN_QUERY[2:]


@pytest.mark.parametrize("n_labels", [3, 4])
def test_name_has_255_bytes_at_most(n_labels: int) -> None:
    labels = ["x" * 63] * 3 + ["y" * (61 if n_labels == 3 else 62)]
    data = query(".".join(labels))
    if n_labels == 3:
        assert len(DnsView(data).name) == 255
    else:
        with pytest.raises(WireError, match="255"):
            DnsView(data)


def test_long_name_by_pointers_is_rejected() -> None:
    """Each name takes the one before and a label more: the fourth has too many bytes."""
    data = header(1, 0x8180, (1, 4, 0, 0)) + name("z") + b"\0\1\0\1"
    target = 12
    for _ in range(4):
        at = len(data)
        data += record(b"\x3f" + b"x" * 63 + (0xC000 | target).to_bytes(2, "big"), 16, 0, b"")
        target = at
    with pytest.raises(WireError, match="255"):
        DnsView(data)


def test_chain_of_pointers_is_followed_once() -> None:
    """Hostile, but bounded: 5,000 pointers, each to the one before; 800 records begin at the last."""
    data = header(1, 0x8180, (1, 801, 0, 0)) + name("a") + b"\0\1\0\1"
    start = len(data) + 12
    chain = [12, *range(start, start + 2 * 4999, 2)]
    data += record(AT_QUESTION, 16, 0, b"".join((0xC000 | to).to_bytes(2, "big") for to in chain))
    data += record((0xC000 | start + 2 * 4999).to_bytes(2, "big"), 16, 0, b"") * 800
    view = DnsView(data)
    assert {one.name for one in view.records} == {name("a")}


@given(NAMES, st.integers(1, 65535), st.integers(0, 65535))
def test_scapy_reads_the_same_question(text: str, kind: int, number: int) -> None:
    asked = bytes(DNS(id=number, rd=1, qd=DNSQR(qname=text, qtype=kind), ar=DNSRROPT(rclass=1232)))
    view = DnsView(asked)
    assert (view.id, view.kind, show_name(view.name)) == (number, kind, text.lower())
    told = DNS(build_reply(view, Rcode.NOERROR, [bytes((192, 0, 2, 1)), bytes(16)], 60))
    assert (told.id, told.qr, told.ra, told.rcode, told.ancount, told.arcount) == (number, 1, 1, 0, 2, 1)
    assert [(one.type, one.ttl, str(one.rdata)) for one in told.an] == [(1, 60, "192.0.2.1"), (28, 60, "::")]


@given(NAMES, NAMES)
def test_scapy_s_answer_is_read(text: str, alias: str) -> None:
    data = bytes(DNS(id=1, qr=1, qd=DNSQR(qname=text), an=[
        DNSRR(rrname=text, type="CNAME", ttl=5, rdata=alias), DNSRR(rrname=alias, ttl=9, rdata="192.0.2.7")]))
    first, second = DnsView(data).records
    assert (show_name(first.target), second.name, second.ttl) == (alias.lower(), first.target, 9)


def test_answer_is_passed_on_with_the_client_s_own_letters() -> None:
    asked = DnsView(query("wWw.ExAmple", number=7))
    answer = DnsView(reply(query("www.example"), address("192.0.2.1")))
    assert pass_on(answer, asked) == reply(query("wWw.ExAmple", number=7), address("192.0.2.1"))


def test_error_without_a_question_is_passed_on_with_it() -> None:
    asked = DnsView(query("www.example", number=7))
    told = DnsView(pass_on(DnsView(header(99, 0x8182, (0, 0, 0, 0))), asked))
    assert (told.id, told.rcode, told.question) == (7, Rcode.SERVFAIL, asked.question)


@pytest.mark.parametrize("edns", [b"", opt(1232)], ids=["plain", "edns"])
def test_truncated_answer_asks_for_tcp(edns: bytes) -> None:
    asked = DnsView(query("www.example", edns=edns))
    answer = DnsView(reply(query("www.example"), *[address("192.0.2.1")] * 99))
    told = DnsView(truncate(answer, asked))
    assert (told.flags & FLAG_TRUNCATED, told.question, told.n_answers) == (FLAG_TRUNCATED, asked.question, 0)
    assert (told.opt is not None) == bool(edns)


@pytest.mark.parametrize(("size", "meant"), [(0, 512), (512, 512), (1232, 1232), (4096, 4096), (65535, 4096)])
def test_size_of_answers_by_udp(size: int, meant: int) -> None:
    view = DnsView(query("a", edns=opt(size)))
    assert view.udp_len == meant <= MAX_UDP_LEN
    assert DnsView(build_query(view, 1)).udp_len == meant
    assert DnsView(build_query(view, 1)).opt == view.opt._replace(klass=meant)  # type: ignore[union-attr]


def test_reply_to_a_header() -> None:
    assert build_header_reply(query("a", number=9)[:12], Rcode.FORMERR) == header(9, 0x8181, (0, 0, 0, 0))


@pytest.mark.parametrize("spoil", [
    lambda data: data[:2] + b"\x01\0" + data[4:],                 # a query
    lambda data: data[:2] + b"\xa1\x80" + data[4:],               # of another opcode
    lambda data: data.replace(b"\3www", b"\3wwx"),
    lambda data: data[:26] + b"\x1c" + data[27:],                 # AAAA
    lambda data: data[:28] + b"\3" + data[29:],                   # class CH
], ids=["query", "opcode", "name", "type", "class"])  # fmt: skip
def test_answer_to_another_question(spoil: object) -> None:
    assert callable(spoil)
    assert not DnsView(spoil(GOLDEN_ANSWER)).is_answer_to(DnsView(GOLDEN_QUERY))


def test_names_for_people_and_suffixes() -> None:
    assert show_name(b"\0") == "."
    assert show_name(b"\3a.b\2\x07\\\0") == "a\\046b.\\007\\092"
    assert list(suffixes(encode_name("A.b"))) == [b"\1a\1b\0", b"\1b\0", b"\0"]


def test_soa_needs_its_numbers() -> None:
    asked = query("a")
    with pytest.raises(WireError, match="type 6"):
        DnsView(reply(asked, flags=0x8183, authority=[record(AT_QUESTION, SOA, 1, bytes(21))]))
    with pytest.raises(WireError, match="alias"):
        DnsView(reply(asked, record(AT_QUESTION, CNAME, 1, name("b") + b"x")))
    with pytest.raises(WireError):
        DnsView(reply(asked, record(AT_QUESTION, 39, 1, name("b") + b"x")))
    assert DnsView(reply(asked, record(AT_QUESTION, 39, 1, name("B.c")))).records[0].target == name("b.c")
    assert DnsView(reply(asked, record(AT_QUESTION, A, 1, b"any", klass=3))).records[0].klass == 3

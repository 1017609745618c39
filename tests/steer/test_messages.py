"""Messages of the configuration socket: golden bytes both ways, truncations, spoiled fields."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from passt.errors import WireError
from passt.facts.port_rule import PortRule
from passt.light.values import replace
from passt.steer import messages
from passt.steer.messages import Answer, Hello, NewTable, Report, Table, answer_len, find_fault, hello_len

A4, B4 = IPv4Address("127.0.0.1"), IPv4Address("192.0.2.9")
A6, B6 = IPv6Address("2001:db8::1"), IPv6Address("2001:db8::2")
ANY = PortRule(6, 7001, 7004, 8001)
BOUND = PortRule(17, 53, 53, 5353, A4, optional=True)
FOLLOWED = PortRule(6, 1, 32767, 1, ifname="lo", optional=True, auto=True)
LED = PortRule(6, 80, 81, 90, A6, "eth0", target_address=B6)

ZERO16 = "00" * 16
# Written down by hand from the layout.
RULES = {
    ANY: f"{ZERO16} {ZERO16} {ZERO16} 1b59 1b5c 1f41 06 01",
    BOUND: f"00000000000000000000ffff7f000001 {ZERO16} {ZERO16} 0035 0035 14e9 11 02",
    FOLLOWED: f"{ZERO16} {ZERO16} 6c6f{'00' * 14} 0001 7fff 0001 06 07",
    LED: f"20010db8{'00' * 11}01 20010db8{'00' * 11}02 65746830{'00' * 12} 0050 0051 005a 06 00",
}
HELLO = ("626173696c3a7300 00000002 00000080 00000010"
         f" 01 484f5354{'00' * 124} 0000003f 00000002 {RULES[ANY]} {RULES[LED]}"
         f" 03 53504c494345{'00' * 106}7265706f7274{'00' * 10} 0000001f 00000001 {RULES[FOLLOWED]} 00")
ANSWER = f"01 00000001 {RULES[BOUND]} 03 00000000 ff 00000000 00"
GOLDEN = [
    (Hello((Table(1, "HOST", 63, (ANY, LED)), Table(3, "SPLICE", 31, (FOLLOWED,), reports=True))), HELLO),
    (Hello(()), "626173696c3a7300 00000002 00000080 00000010 00"),
    (Answer((NewTable(1, (BOUND,)), NewTable(3)), wants_report=True), ANSWER),
    (Answer(()), "00"),
    (Report(is_refused=True, lines=("port 22: no", "port 23: no")),
     "01 00000017 706f72742032323a206e6f0a706f72742032333a206e6f"),
    (Report(is_refused=False), "00 00000000"),
    (Report(is_refused=True, lines=("a",), has_lost=True), "02 00000001 61"),
]

# Seen of the C programs of Debian's package 0.0~git20261002.cba3570-1:
# pasta -t 127.0.0.1/47000:80 -u %lo/47001 -T auto -U none, and two answers of pesto:
# -A -t 0.0.0.0/47007:192.0.2.9/80 -u [::1]/5 -T 7 -t %lo/9 -t 8000-8001,auto and -t all -U auto.
LO = "6c6f" + "00" * 14
C_HELLO = (f"626173696c3a7300 00000002 00000080 00000010 01 484f5354{'00' * 124} 0000003f 00000002"
           f" 00000000000000000000ffff7f000001 {ZERO16} {ZERO16} b798 b798 0050 06 00"
           f" {ZERO16} {ZERO16} {LO} b799 b799 b799 11 01 03 53504c494345{'00' * 122} 0000003f 00000002"
           f" {ZERO16} {ZERO16} {LO} 0001 7fff 0001 06 07 {ZERO16} {ZERO16} {LO} ee48 ffff ee48 06 07 00")
C_ANSWER = (f"01 00000004 00000000000000000000ffff00000000 00000000000000000000ffffc0000209 {ZERO16}"
            f" b79f b79f 0050 06 00 {'00' * 15}01 {ZERO16} {ZERO16} 0005 0005 0005 11 00"
            f" {ZERO16} {ZERO16} {LO} 0009 0009 0009 06 01 {ZERO16} {ZERO16} {ZERO16} 1f40 1f41 1f40 06 05"
            f" 03 00000001 {ZERO16} {ZERO16} {LO} 0007 0007 0007 06 01 00")
C_ALL = (f"01 00000002 {ZERO16} {ZERO16} {ZERO16} 0001 7fff 0001 06 03"
         f" {ZERO16} {ZERO16} {ZERO16} ee48 ffff ee48 06 03 03 00000002"
         f" {ZERO16} {ZERO16} {LO} 0001 7fff 0001 11 07 {ZERO16} {ZERO16} {LO} ee48 ffff ee48 11 07 00")
LOW_AUTO = PortRule(6, 1, 32767, 1, ifname="lo", optional=True, auto=True)
HIGH_AUTO = PortRule(6, 61000, 65535, 61000, ifname="lo", optional=True, auto=True)
GOLDEN += [
    (Hello((Table(1, "HOST", 63, (PortRule(6, 47000, 47000, 80, A4),
                                  PortRule(17, 47001, 47001, 47001, ifname="lo"))),
            Table(3, "SPLICE", 63, (LOW_AUTO, HIGH_AUTO)))), C_HELLO),
    (Answer((NewTable(1, (PortRule(6, 47007, 47007, 80, IPv4Address(0), target_address=B4),
                          PortRule(17, 5, 5, 5, IPv6Address("::1")), PortRule(6, 9, 9, 9, ifname="lo"),
                          PortRule(6, 8000, 8001, 8000, auto=True))),
             NewTable(3, (PortRule(6, 7, 7, 7, ifname="lo"),)))), C_ANSWER),
    (Answer((NewTable(1, (PortRule(6, 1, 32767, 1, optional=True),
                          PortRule(6, 61000, 65535, 61000, optional=True))),
             NewTable(3, (replace(LOW_AUTO, proto=17), replace(HIGH_AUTO, proto=17))))), C_ALL),
]


@pytest.mark.parametrize(("value", "text"), GOLDEN)
def test_golden_bytes_both_ways(value: Hello | Answer | Report, text: str) -> None:
    data = bytes.fromhex(text)
    assert value.build() == data
    assert type(value).parse(data) == value


@pytest.mark.parametrize(("value", "text"), GOLDEN)
def test_truncated_message_is_refused(value: Hello | Answer | Report, text: str) -> None:
    data = bytes.fromhex(text)
    for length in range(len(data)):
        with pytest.raises(WireError):
            type(value).parse(data[:length])
    with pytest.raises(WireError):
        type(value).parse(data + b"\0")


@pytest.mark.parametrize(("find_len", "text"), [(hello_len, HELLO), (answer_len, ANSWER)])
def test_length_is_known_with_the_last_byte_and_not_before(find_len: object, text: str) -> None:
    data = bytes.fromhex(text)
    assert callable(find_len)
    assert all(find_len(data[:length]) is None for length in range(len(data)))
    assert find_len(data) == find_len(data + b"more") == len(data)


def spoiled(text: str, offset: int, new: str) -> bytes:
    data = bytearray(bytes.fromhex(text))
    data[offset:offset + len(bytes.fromhex(new))] = bytes.fromhex(new)
    return bytes(data)


@pytest.mark.parametrize(("offset", "new", "text"), [
    (0, "00", "not the socket"), (8, "00000003", "version 3"), (12, "00000040", "names of 64"),
    (16, "00000020", "and 32 bytes"), (20, "ff", "not a number"), (21, "00", "bad name"),
    (21, "ff", "table 1"), (21, "41" * 128, "does not end"), (21, "41" * 120, "bad name"),
    (153, "00010000", "65536 rules"),
])
def test_spoiled_hello_is_refused(offset: int, new: str, text: str) -> None:
    with pytest.raises(WireError, match=text):
        Hello.parse(spoiled(HELLO, offset, new))


RULE_AT = 5                        # in the answer, behind id and count


@pytest.mark.parametrize(("offset", "new", "text"), [
    (0, "03", "twice"), (0, "ff", "with rules"), (1, "00000100", "256 rules"),
    (RULE_AT, "e0000001".rjust(32, "0").replace("0000" + "e0000001", "ffffe0000001"), "multicast"),
    (RULE_AT, "ff02" + "00" * 13 + "01", "multicast"),
    (RULE_AT + 16, "20010db8" + "00" * 11 + "01", "of its family"),
    (RULE_AT + 16, "00000000000000000000ffff00000000", "is none"),
    (RULE_AT + 16, "00000000000000000000ffffe0000001", "multicast"),
    (RULE_AT + 32, "41" * 16, "does not end"), (RULE_AT + 32, "410041", "behind its end"),
    (RULE_AT + 32, "412f41", "a letter"), (RULE_AT + 32, "2e2e", "a letter"),
    (RULE_AT + 32, "4120", "a letter"), (RULE_AT + 48, "0000", "no range"),
    (RULE_AT + 48, "0036", "no range"), (RULE_AT + 50, "0034", "no range"),
    (RULE_AT + 52, "0000", "no range"), (RULE_AT + 50, "ffff", "no range"),
    (RULE_AT + 54, "01", "protocol 1"),
    (RULE_AT + 55, "08", "flags"), (RULE_AT + 55, "03", "both families"),
])
def test_spoiled_answer_is_refused(offset: int, new: str, text: str) -> None:
    with pytest.raises(WireError, match=text):
        Answer.parse(spoiled(ANSWER, offset, new))


@pytest.mark.parametrize(("offset", "new"), [(0, "03"), (1, "00000016"), (1, "00010001"), (5, "ff")])
def test_spoiled_report_is_refused(offset: int, new: str) -> None:
    with pytest.raises(WireError):
        Report.parse(spoiled(GOLDEN[4][1], offset, new))


def test_endless_answer_is_refused_early() -> None:
    table = bytes.fromhex("01 00000000")
    with pytest.raises(WireError, match="more than 8 tables"):
        answer_len(table * 9)
    assert answer_len(table * 8 + b"\0") == 41
    with pytest.raises(WireError, match="limit"):
        answer_len(b"\x01\xff\xff\xff\xff")


def test_longest_answer_has_the_length_that_is_told() -> None:
    answer = Answer(tuple([NewTable(number, (ANY,) * 255) for number in range(1, 9)]))
    assert len(answer.build()) == messages.MAX_ANSWER_LEN
    assert Answer.parse(answer.build()) == answer


@pytest.mark.parametrize("rule", [
    PortRule(1, 1, 1, 1), PortRule(6, 0, 1, 1), PortRule(6, 2, 1, 1), PortRule(6, 1, 65536, 1),
    PortRule(6, 1, 2, 65535), PortRule(6, 1, 1, 0), PortRule(6, 1, 1, 1, ifname="x" * 16),
    PortRule(6, 1, 1, 1, ifname=""), PortRule(6, 1, 1, 1, target_address=B4),
    PortRule(6, 1, 1, 1, A4, target_address=B6),
])
def test_rule_that_cannot_be_written_is_our_mistake(rule: PortRule) -> None:
    assert find_fault(rule)
    with pytest.raises(ValueError, match=r"."):
        Answer((NewTable(1, (rule,)),))
    with pytest.raises(ValueError, match=r"."):
        Table(1, "HOST", 63, (rule,))


def test_report_of_too_many_lines_counts_the_rest() -> None:
    report = Report.parse(Report(is_refused=True, lines=("x" * 1000,) * 100).build())
    assert report.lines[:-1] == ("x" * 1000,) * (len(report.lines) - 1)
    assert report.lines[-1] == f"and {101 - len(report.lines)} more"


def test_any_address_is_that_of_the_families_that_are_on() -> None:
    assert messages.any_address(messages.IP4 | messages.IP6) is None
    assert messages.any_address(messages.IP4 | messages.TCP) == IPv4Address(0)
    assert messages.any_address(messages.IP6) == IPv6Address(0)

"""Rules by name come over in messages, at their places and as a whole; what they refuse comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passt.config.egress_grammar import parse_rule_line
from passt.errors import WireError
from passt.facts.egress import EgressRules, RefusedName, Why
from passt.names.name_rules import NameRules
from passt.names.orders import (
    MAX_MESSAGE,
    MAX_PINS_LEN,
    MAX_TEXT_LEN,
    Bar,
    RulesReader,
    build_refused,
    build_rules,
    parse_learned,
    parse_pins,
    parse_refused,
)
from passt.names.refusals import MAX_NAMES, MAX_NUMBERS
from passt.wire.dns.message import encode_name


def rules_of(*lines: str, allows_rest: bool = False) -> EgressRules:
    return EgressRules(tuple(map(parse_rule_line, lines)), allows_rest)


@pytest.mark.parametrize("rules", [
    rules_of(), rules_of(allows_rest=True), rules_of("allow 192.0.2.1", "deny host"),
    rules_of("deny 10.0.0.0/8", "deny bad.example", "allow *.example:443", "allow tcp:www.test",
             "allow ::/0"),
    rules_of(*(f"allow {'x' * 60}.{number}.{'y' * 60}.example" for number in range(4000))),
])
def test_rules_by_name_come_over_at_their_places(rules: EgressRules) -> None:
    reader = RulesReader()
    *first, last = build_rules(rules, 7)
    assert all(len(message) <= MAX_MESSAGE for message in (*first, last))
    assert [reader.add(message) for message in first] == [None] * len(first)
    found = reader.add(last)
    assert found is not None
    came, generation = found
    assert (generation, came.allows_rest, len(came.rules)) == (7, rules.allows_rest, len(rules.rules))
    for sent, got in zip(rules.rules, came.rules, strict=True):
        if sent.name:
            assert (got.allows, got.name, got.is_suffix) == (sent.allows, sent.name, sent.is_suffix)
        else:
            assert not got.name


def test_messages_of_a_change_that_was_not_sent_to_its_end_are_forgotten() -> None:
    many = rules_of(*(f"allow {'x' * 60}.{number}.example" for number in range(400)))
    reader = RulesReader()
    messages = build_rules(many, 1)
    assert len(messages) > 1
    assert reader.add(messages[0]) is None
    found = None
    for message in build_rules(rules_of("allow www.example"), 2):
        found = reader.add(message)
    assert found is not None
    rules = NameRules(found[0])
    assert rules.may_ask(encode_name("www.example"))
    assert not rules.may_ask(encode_name(f"{'x' * 60}.1.example"))


NAMES = [(Bar(3, Why.QUESTION), b"ads.example"), (Bar(0xFFFF, Why.NOT_PINNED), b"x" * 255),
         (Bar(0, Why.ALIAS), b"\\046\\010.test")]
REFUSED_MESSAGE = build_refused({3: 7, 0xFFFF: 0xFFFFFFFF}, NAMES, 9)
# What ends between two names is whole.
WHOLE = {17, 17 + 4 + 11, 17 + 4 + 11 + 4 + 255, len(REFUSED_MESSAGE)}


def test_refusals_come_over_as_they_were() -> None:
    assert parse_refused(REFUSED_MESSAGE) == (9, [(3, 7), (0xFFFF, 0xFFFFFFFF)], [
        RefusedName(3, Why.QUESTION, "ads.example"), RefusedName(0xFFFF, Why.NOT_PINNED, "x" * 255),
        RefusedName(0, Why.ALIAS, "\\046\\010.test")])
    assert parse_refused(build_refused({}, (), 0)) == (0, [], [])
    assert parse_refused(build_refused({1: 1 << 40}, (), 0)) == (0, [(1, 0xFFFFFFFF)], [])
    numbers, names = range(MAX_NUMBERS), [(Bar(0, Why.QUESTION), b"x" * MAX_TEXT_LEN)] * MAX_NAMES
    assert len(build_refused(dict.fromkeys(numbers, 1), names, 0)) <= MAX_PINS_LEN


@pytest.mark.parametrize("length", sorted(set(range(len(REFUSED_MESSAGE))) - WHOLE))
def test_refusals_that_are_cut_off_are_nonsense(length: int) -> None:
    with pytest.raises(WireError):
        parse_refused(REFUSED_MESSAGE[:length])


@pytest.mark.parametrize("name", [b"a b", b"a\n", b"\x1b[2J", b"\x7f", b"\xc3\xa9", b"a\0"])
def test_name_that_is_not_printable_is_nonsense(name: bytes) -> None:
    with pytest.raises(WireError):
        parse_refused(build_refused({}, [(Bar(0, Why.QUESTION), name)], 0))


def test_reason_that_there_is_not_is_nonsense() -> None:
    message = bytearray(build_refused({}, [(Bar(0, Why.QUESTION), b"a")], 0))
    for why in range(256):
        message[7] = why
        if why in set(map(int, (Why.QUESTION, Why.ALIAS, Why.DOH, Why.TOO_MANY, Why.NOT_PINNED))):
            assert parse_refused(bytes(message))[2][0].why == why
        else:
            with pytest.raises(WireError):
                parse_refused(bytes(message))


@given(st.binary(max_size=60))
def test_any_bytes_are_refusals_or_nonsense(message: bytes) -> None:
    try:
        generation, numbers, names = parse_refused(b"x" + message)
    except WireError:
        return
    assert all(name.name.isascii() and name.name.isprintable() for name in names)
    if len(dict(numbers)) == len(numbers):
        built = [(Bar(name.place, name.why), name.name.encode()) for name in names]
        assert build_refused(dict(numbers), built, generation) == b"x" + message


def test_message_of_another_kind_is_nonsense() -> None:
    for parse in (parse_pins, parse_learned):
        with pytest.raises(WireError):
            parse(REFUSED_MESSAGE)
    with pytest.raises(WireError):
        parse_refused(b"p" + REFUSED_MESSAGE[1:])

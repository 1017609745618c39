"""Rules by name come over in messages, at their places and as a whole."""

from __future__ import annotations

import pytest

from passt.config.egress_grammar import parse_rule_line
from passt.facts.egress import EgressRules
from passt.names.name_rules import NameRules
from passt.names.orders import MAX_MESSAGE, RulesReader, build_rules
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

"""What the steps of pesto make of a program's tables."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError
from passt.facts.port_rule import PortRule
from passt.forward.rules import describe_rule
from passt.light.values import replace
from passt.pesto import command
from passt.steer import messages
from passt.steer.draft import Draft
from passt.steer.messages import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

EVERYTHING = 63
HAD = (PortRule(6, 7001, 7004, 8001), PortRule(17, 7001, 7001, 7001, IPv4Address("127.0.0.1")))
INSIDE = (PortRule(6, 7010, 7010, 7010, ifname="lo"),)


def cut(rules: Iterable[PortRule]) -> list[PortRule]:
    """Leave out 32768 to 60999, as on most hosts."""
    return [left for rule in rules for left in (
        replace(rule, skips_ephemeral=False).without([(32768, 60999)]) if rule.skips_ephemeral else [rule])]


def draft(*arguments: str, host: tuple[PortRule, ...] = HAD, inside: tuple[PortRule, ...] | None = INSIDE,
          abilities: int = EVERYTHING) -> Draft:
    tables = [Table(1, "HOST", abilities, host)]
    if inside is not None:
        tables.append(Table(3, "SPLICE", abilities, inside))
    made = Draft(tables, cut)
    for step in command.parse([*arguments, "PATH"]).steps:
        made.apply(step)
    return made


def shown(*arguments: str, abilities: int = EVERYTHING) -> tuple[list[str], list[str]]:
    """Describe both tables after *arguments*."""
    host, inside = draft(*arguments, abilities=abilities).shown()
    return [describe_rule(rule) for rule in host[1]], [describe_rule(rule) for rule in inside[1]]


HAD_LINES = ["TCP [*]:7001-7004  =>  8001-8004", "UDP [127.0.0.1]:7001  =>  7001"]
INSIDE_LINES = ["TCP [*]%lo:7010  =>  7010"]


@pytest.mark.parametrize(("arguments", "host", "inside"), [
    ([], HAD_LINES, INSIDE_LINES),
    (["-A", "-t", "7005"], [*HAD_LINES, "TCP [*]:7005  =>  7005"], INSIDE_LINES),
    (["-A", "-t", "[::1]/7005:5", "-t", "0.0.0.0/7005:192.0.2.9/80"],
     [*HAD_LINES, "TCP [::1]:7005  =>  5", "TCP [0.0.0.0]:7005  =>  192.0.2.9:80"], INSIDE_LINES),
    (["-A", "-T", "7011"], HAD_LINES, [*INSIDE_LINES, "TCP [*]%lo:7011  =>  7011"]),
    (["-D", "-t", "7001-7004:8001-8004"], HAD_LINES[1:], INSIDE_LINES),
    (["-D", "-u", "127.0.0.1/7001", "-A", "-u", "7001"], [HAD_LINES[0], "UDP [*]:7001  =>  7001"],
     INSIDE_LINES),
    (["-t", "7005,7006"], ["TCP [*]:7005  =>  7005", "TCP [*]:7006  =>  7006"], INSIDE_LINES),
    (["-t", "7005", "-u", "7"], ["TCP [*]:7005  =>  7005", "UDP [*]:7  =>  7"], INSIDE_LINES),
    (["-t", "none"], [], INSIDE_LINES), (["-t", "none", "-t", "1"], ["TCP [*]:1  =>  1"], INSIDE_LINES),
    (["-U", "none"], HAD_LINES, []),
    (["-C", "HOST"], [], INSIDE_LINES),
    (["-C", "SPLICE", "-A", "-T", "1"], HAD_LINES, ["TCP [*]%lo:1  =>  1"]),
    (["-u", "none", "-A", "-t", "none"], [], INSIDE_LINES),
    (["-t", "all"], ["TCP [*]:1-32767  =>  1-32767  (best effort)",
                     "TCP [*]:61000-65535  =>  61000-65535  (best effort)"], INSIDE_LINES),
    (["-t", "auto"], ["TCP [*]:1-32767  =>  1-32767  (best effort) (auto-scan)",
                      "TCP [*]:61000-65535  =>  61000-65535  (best effort) (auto-scan)"], INSIDE_LINES),
    (["-t", "8000-8001,auto"], ["TCP [*]:8000-8001  =>  8000-8001  (auto-scan)"], INSIDE_LINES),
    (["-t", "%eth0/22"], ["TCP [*]%eth0:22  =>  22"], INSIDE_LINES),
])
def test_steps_make_tables(arguments: list[str], host: list[str], inside: list[str]) -> None:
    assert shown(*arguments) == (host, inside)


@pytest.mark.parametrize(("arguments", "text"), [
    (["-A", "-t", "7001"], r"conflict: TCP \[\*\]:7001  =>  7001 versus TCP \[\*\]:7001-7004  =>  8001-8004"),
    (["-A", "-t", "[::]/7003"], "conflict"), (["-A", "-u", "7001"], r"versus UDP \[127.0.0.1\]:7001"),
    (["-A", "-t", "7005", "-t", "7005"], "conflict"), (["-A", "-t", "auto"], "conflict"),
    (["-D", "-t", "7005"], r"Couldn't find forwarding rule to delete: TCP \[\*\]:7005"),
    (["-D", "-t", "7001:8001"], r"conflicts with rule TCP \[\*\]:7001-7004 .*, but doesn't match it"),
    (["-A", "-t", "none"], "'none' contradicts a rule"), (["-D", "-t", "none"], "'none' contradicts"),
    (["-C", "NONE"], "no table NONE, only HOST, SPLICE"), (["-t", "0"], "a port is a number"),
    (["-t", "1-65535,~1-65535"], "all of its ports are excluded"), (["-T", "127.0.0.1/1"], "-T and -U"),
])
def test_what_cannot_be_is_told(arguments: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        draft(*arguments)


@pytest.mark.parametrize(("lacking", "arguments", "text"), [
    (messages.TCP, ["-t", "1"], "TCP is off"), (messages.UDP, ["-U", "1"], "UDP is off"),
    (messages.IP6, ["-t", "[::1]/1"], "IPv6 is off"), (messages.IP4, ["-t", "0.0.0.0/1"], "IPv4 is off"),
    (messages.FOLLOWS, ["-t", "auto"], "only pasta"),
    (messages.INTERFACES, ["-t", "%lo/1"], "single interface"),
])
def test_what_the_program_cannot_have_is_told(lacking: int, arguments: list[str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        draft(*arguments, host=(), inside=(), abilities=EVERYTHING & ~lacking)
    with pytest.raises(ConfigError, match="no table SPLICE, only HOST"):
        draft("-T", "1", inside=None)


def test_any_address_of_a_program_with_one_family() -> None:
    assert shown("-t", "5", "-A", "-T", "6", abilities=EVERYTHING & ~messages.IP6) == (
        ["TCP [0.0.0.0]:5  =>  5"], [*INSIDE_LINES, "TCP [0.0.0.0]%lo:6  =>  6"])
    rules = draft("-t", "5", abilities=EVERYTHING & ~messages.IP4).tables()[0].rules
    assert rules == (PortRule(6, 5, 5, 5, IPv6Address(0)),)
    assert shown("-T", "5", abilities=EVERYTHING & ~messages.INTERFACES)[1] == ["TCP [*]:5  =>  5"]


def test_rules_of_a_start_that_follow_all_ports_can_be_deleted() -> None:
    rule = PortRule(6, 1, 65535, 1, optional=True, auto=True)
    assert draft("-D", "-t", "auto", host=(rule,)).shown()[0] == ("HOST", [])
    pieces = tuple(rule.without([(32768, 60999)]))
    assert draft("-D", "-t", "auto", host=pieces).shown()[0] == ("HOST", [])


def test_all_tables_are_in_the_answer_and_looked_for_in_any_order() -> None:
    made = draft("-A", "-t", "5")
    assert [table.id for table in made.tables()] == [1, 3]
    now = [Table(table.id, name, 1, table.rules[::-1])
           for table, name in zip(made.tables(), ("HOST", "SPLICE"), strict=True)]
    assert made.is_done_in(now)
    assert not made.is_done_in(now[:1])


def test_what_others_changed_since_does_not_matter() -> None:
    new, others = PortRule(6, 5, 5, 5), PortRule(6, 6, 6, 6)
    added, deleted = draft("-A", "-t", "5"), draft("-D", "-t", "7001-7004:8001-8004")

    def now(*rules: PortRule) -> list[Table]:
        return [Table(1, "HOST", EVERYTHING, rules), Table(3, "SPLICE", EVERYTHING)]

    assert added.is_done_in(now(new, others))
    assert not added.is_done_in(now(*HAD, others))
    assert deleted.is_done_in(now(others))
    assert not deleted.is_done_in(now(HAD[0]))

r"""What is said over the configuration socket: bytes to values and back. Protocol version 2.

A stream, with one change per connection. The server speaks first, the client answers, the server closes::

    hello:   "basil:s\0" | version 4 | 128 4 | 16 4 | table ... | 0 1
    table:   id 1 | name 128 | abilities 4 | count 4 | rule ...
    answer:  (id 1 | count 4 | rule ...) ... | 0 1
    rule:    address 16 | target address 16 | interface 16 | first 2 | last 2 | target 2 | protocol 1
             | flags 1

Numbers behind a field are bytes; integers are in network order. 128 and 16 are the lengths of a name and of
an interface's. IPv4 addresses are IPv4-mapped (RFC 4291 2.5.5.2); a target address of zeros means none. The
tables of an answer take the place of those with the same id. A client that hangs up before its answer is
whole changes nothing.

The report is an extension of ours, as the protocol has no word for what went wrong. A server that has it says
so by a mark in the last bytes of each name, behind the zero that ends it, where others do not look. A client
that knows the mark may add the table REPORT_ID to its answer, without rules, and then gets, before the
connection is closed::

    report:  status 1 | length 4 | lines in UTF-8

Status 0: it is done; 1: nothing was changed; 2: it could not be done, and ports that were forwarded are lost.

Values are as in `wire/`: parsing what build wrote gives an equal value, and malformed data raises
`WireError`.
"""

from __future__ import annotations

import os
import struct
from ipaddress import IPv4Address, IPv6Address

from passt.errors import WireError
from passt.facts.contracts import MAX_RULES
from passt.facts.port_rule import PortRule
from passt.light.values import NamedTuple, Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from passt.facts.address import IPAddress

MAGIC = b"basil:s\0"
VERSION = 2
NAME_LEN, IFNAMSIZ = 128, 16
HOST_ID, NAMESPACE_ID = 1, 3       # ids of the tables that the C program has
REPORT_ID = 0xff
MAX_TABLES = 8                     # of a message; more than any program has
MAX_FOREIGN_RULES = 0xffff         # of a table in a hello: what another server may have
MAX_REPORT_LEN = 1 << 16           # bytes of text
PATIENCE_S = 5.0                   # of our server with one client, from its connection to its answer

IP4, IP6, TCP, UDP, FOLLOWS, INTERFACES = 1, 2, 4, 8, 16, 32  # abilities of a table
_BOTH, _OPTIONAL, _AUTO = 1, 2, 4  # flags of a rule: any address of both families, best effort, auto-scan
_PROTOCOLS = frozenset((6, 17))
MAX_PORT = 0xffff

_HELLO = struct.Struct("!8sIII")
_TABLE = struct.Struct(f"!B{NAME_LEN}sII")
_ANSWERED = struct.Struct("!BI")
_RULE = struct.Struct(f"!16s16s{IFNAMSIZ}sHHHBB")
_REPORT = struct.Struct("!BI")
_LOST = 2                          # the last status of a report
_END = b"\0"
RULE_LEN = _RULE.size
_MARK, _MARK_AT = b"report", 112
_ANY6 = bytes(16)
_MAPPED = bytes(10) + b"\xff\xff"
MAX_ANSWER_LEN = MAX_TABLES * (_ANSWERED.size + MAX_RULES * _RULE.size) + len(_END)


class Table(Value):
    """One table of a hello: *abilities* says which rules it can have, *reports* that its server reports."""

    id: int
    name: str
    abilities: int
    rules: tuple[PortRule, ...] = ()
    reports: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.id < REPORT_ID:
            raise ValueError(f"table {self.id}: not a number from 1 to {REPORT_ID - 1}")
        if not 0 < len(self.name.encode()) < _MARK_AT or "\0" in self.name:
            raise ValueError(f"table {self.id}: bad name {self.name!r}")
        _require_rules(self.rules)


class Hello(Value):
    """What the server says first."""

    tables: tuple[Table, ...]

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one hello, as long as `hello_len` says."""
        if hello_len(data) != len(data):
            raise WireError("hello: not one whole hello")
        offset = _HELLO.size
        tables = []
        while data[offset]:
            number, name, abilities, count = _TABLE.unpack_from(data, offset)
            offset += _TABLE.size
            rules = _parse_rules(data, offset, count)
            offset += count * _RULE.size
            tables.append(_make_table(number, name, abilities, rules))
        return cls(tuple(tables))

    def build(self) -> bytes:
        """Write the hello."""
        parts = [_HELLO.pack(MAGIC, VERSION, NAME_LEN, IFNAMSIZ)]
        for table in self.tables:
            name = table.name.encode()
            if table.reports:
                name = name.ljust(_MARK_AT, b"\0") + _MARK
            parts += [_TABLE.pack(table.id, name, table.abilities, len(table.rules)),
                      *map(build_rule, table.rules)]
        return b"".join((*parts, _END))


class NewTable(NamedTuple):
    """One table of an answer: the *rules* that the table *id* shall have."""

    id: int
    rules: tuple[PortRule, ...] = ()


class Answer(Value):
    """What the client answers; the report's own table is told by *wants_report*."""

    tables: tuple[NewTable, ...]
    wants_report: bool = False

    def __post_init__(self) -> None:
        for table in self.tables:
            if not 0 < table.id < REPORT_ID or len(table.rules) > MAX_RULES:
                raise ValueError(f"answer: bad table {table.id}")
            _require_rules(table.rules)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one answer, as long as `answer_len` says."""
        if answer_len(data) != len(data):
            raise WireError("answer: not one whole answer")
        offset, wants_report = 0, False
        tables: dict[int, NewTable] = {}
        while data[offset]:
            number, count = _ANSWERED.unpack_from(data, offset)
            offset += _ANSWERED.size
            rules = _parse_rules(data, offset, count)
            offset += count * _RULE.size
            if number == REPORT_ID and not rules:
                wants_report = True
            elif number in tables or number == REPORT_ID:
                raise WireError(f"answer: table {number} twice, or with rules")
            else:
                tables[number] = NewTable(number, rules)
        return cls(tuple(tables.values()), wants_report)

    def build(self) -> bytes:
        """Write the answer."""
        parts: list[bytes] = []
        for table in self.tables:
            parts += [_ANSWERED.pack(table.id, len(table.rules)), *map(build_rule, table.rules)]
        if self.wants_report:
            parts.append(_ANSWERED.pack(REPORT_ID, 0))
        return b"".join((*parts, _END))


class Report(Value):
    """What came of an answer: *lines* for the user; *is_refused*: nothing was changed.

    With *has_lost* too, ports that were forwarded are not any more.
    """

    is_refused: bool
    lines: tuple[str, ...] = ()
    has_lost: bool = False

    def __post_init__(self) -> None:
        if self.has_lost and not self.is_refused:
            raise ValueError("report: ports are lost, and yet it is done")

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read one report."""
        if len(data) < _REPORT.size:
            raise WireError("report: too short")
        status, length = _REPORT.unpack_from(data)
        if status > _LOST or length != len(data) - _REPORT.size or length > MAX_REPORT_LEN:
            raise WireError("report: bad status or length")
        try:
            text = data[_REPORT.size:].decode()
        except UnicodeDecodeError:
            raise WireError("report: the text is not UTF-8") from None
        return cls(status != 0, tuple(text.split("\n")) if text else (), status == _LOST)

    def build(self) -> bytes:
        """Write the report; lines that are too many are counted in the last one."""
        lines: list[str] = list(self.lines)
        if len("\n".join(lines).encode(errors="replace")) > MAX_REPORT_LEN:
            lines = self._cut()
        text = "\n".join(lines).encode(errors="replace")
        return _REPORT.pack(_LOST if self.has_lost else self.is_refused, len(text)) + text

    def _cut(self) -> list[str]:
        lines: list[str] = []
        room = MAX_REPORT_LEN - 80
        for number, line in enumerate(self.lines):
            room -= len(line.encode(errors="replace")) + 1
            if room < 0:
                lines.append(f"and {len(self.lines) - number} more")
                break
            lines.append(line)
        return lines


def hello_len(data: bytes) -> int | None:
    """Return the length of the hello that *data* begins with; None if it goes on behind *data*.

    Raises WireError for what cannot become one.
    """
    if not MAGIC.startswith(data[:len(MAGIC)]):
        raise WireError("hello: not the socket of a passt or pasta")
    if len(data) < _HELLO.size:
        return None
    _, version, name_len, ifname_len = _HELLO.unpack_from(data)
    if version != VERSION:
        raise WireError(f"hello: version {version} of the protocol; this program has {VERSION}")
    if (name_len, ifname_len) != (NAME_LEN, IFNAMSIZ):
        raise WireError(f"hello: names of {name_len} and {ifname_len} bytes")
    return _walk(data, _HELLO.size, _TABLE, MAX_FOREIGN_RULES)


def answer_len(data: bytes) -> int | None:
    """Return the length of the answer that *data* begins with; None if it goes on behind *data*.

    Raises WireError for what cannot become one: no answer is longer than MAX_ANSWER_LEN.
    """
    return _walk(data, 0, _ANSWERED, MAX_RULES)


def _walk(data: bytes, offset: int, head: struct.Struct, max_rules: int) -> int | None:
    """Go from table to table, each behind a *head*, to the end of a message."""
    for _ in range(MAX_TABLES + 1):
        if len(data) <= offset:
            return None
        if data[offset] == 0:
            return offset + len(_END)
        if len(data) < offset + head.size:
            return None
        count = head.unpack_from(data, offset)[-1]
        if count > max_rules:
            raise WireError(f"table {data[offset]}: {count} rules; {max_rules} is the limit")
        offset += head.size + count * _RULE.size
    raise WireError(f"more than {MAX_TABLES} tables")


def _make_table(number: int, field: bytes, abilities: int, rules: tuple[PortRule, ...]) -> Table:
    name, zero, _ = field.partition(b"\0")
    try:
        if not zero:
            raise ValueError("its name does not end")  # noqa: TRY301 - as the other faults of a table
        return Table(number, name.decode(), abilities, rules,
                     field[_MARK_AT:_MARK_AT + len(_MARK)] == _MARK)
    except ValueError as error:
        raise WireError(f"table {number}: {error}") from None


def _parse_rules(data: bytes, offset: int, count: int) -> tuple[PortRule, ...]:
    return tuple([parse_rule(data, offset + index * _RULE.size) for index in range(count)])


def parse_rule(data: bytes, offset: int = 0) -> PortRule:
    """Read one rule, RULE_LEN bytes from *offset* on."""
    if len(data) < offset + RULE_LEN:
        raise WireError("rule: too short")
    address, target_address, ifname, first, last, target, proto, flags = _RULE.unpack_from(data, offset)
    if flags & ~(_BOTH | _OPTIONAL | _AUTO):
        raise WireError(f"rule: unknown flags {flags:#x}")
    name, _, rest = ifname.partition(b"\0")
    if len(name) == IFNAMSIZ or rest.strip(b"\0"):
        raise WireError("rule: the interface's name does not end, or goes on behind its end")
    bound = _unpack(address)
    if flags & _BOTH and not bound.is_unspecified:
        raise WireError(f"rule: {bound} for both families")
    rule = PortRule(proto, first, last, target, None if flags & _BOTH else bound,
                    os.fsdecode(name) if name else None, optional=bool(flags & _OPTIONAL),
                    auto=bool(flags & _AUTO),
                    target_address=None if target_address == _ANY6 else _unpack(target_address))
    fault = find_fault(rule)
    if fault:
        raise WireError(f"rule: {fault}")
    return rule


def build_rule(rule: PortRule) -> bytes:
    """Write one rule that `find_fault` finds no fault with."""
    flags = ((_BOTH if rule.address is None else 0) | (_OPTIONAL if rule.optional else 0)
             | (_AUTO if rule.auto else 0))
    return _RULE.pack(_pack(rule.address), _pack(rule.target_address), os.fsencode(rule.ifname or ""),
                      rule.first, rule.last, rule.target, rule.proto, flags)


def _pack(address: IPAddress | None) -> bytes:
    if address is None:
        return _ANY6
    return address.packed if address.version == 6 else _MAPPED + address.packed


def _unpack(data: bytes) -> IPAddress:
    return IPv4Address(data[len(_MAPPED):]) if data.startswith(_MAPPED) else IPv6Address(data)


def _require_rules(rules: Iterable[PortRule]) -> None:
    for rule in rules:
        fault = find_fault(rule)
        if fault:
            raise ValueError(fault)


def any_address(abilities: int) -> IPAddress | None:
    """Return the unspecified address of a table with one family; None, any address, for one with both."""
    families = abilities & (IP4 | IP6)
    return IPv4Address(0) if families == IP4 else IPv6Address(0) if families == IP6 else None


def find_fault(rule: PortRule) -> str:
    """Say what no server can take of *rule*; empty if there is nothing."""
    if rule.proto not in _PROTOCOLS:
        return f"protocol {rule.proto} is neither TCP nor UDP"
    if not 0 < rule.first <= rule.last <= MAX_PORT:
        return f"ports {rule.first} to {rule.last} are no range"
    if not 0 < rule.target <= rule.service_port(rule.last) <= MAX_PORT:
        return f"target ports from {rule.target} on are no range"
    return _find_address_fault(rule.address, rule.target_address) or _find_ifname_fault(rule.ifname)


def _find_address_fault(bound: IPAddress | None, target: IPAddress | None) -> str:
    for address in (bound, target):
        if address is not None and address.is_multicast:
            return f"{address} is a multicast address"
    if target is not None and target.is_unspecified:
        return f"target address {target} is none"
    if target is not None and (bound is None or bound.version != target.version):
        return f"target address {target} takes an address of its family to listen on"
    return ""


def _find_ifname_fault(name: str | None) -> str:
    """As `find_fault`, for an interface's name: what dev_valid_name() of the kernel refuses."""
    if name is None:
        return ""
    encoded = os.fsencode(name)
    if not 0 < len(encoded) < IFNAMSIZ or b"\0" in encoded:
        return "the interface's name has a bad length"
    if name in {".", ".."} or any(letter in "/:" or letter.isspace() for letter in name):
        return "the interface's name has a letter that none has"
    return ""

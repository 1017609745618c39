"""What a run needed of the network: rules of egress with which it would run again. Pure, no I/O.

Flows are kept by where our socket went and by the address that the guest used; names by the addresses that
they were answered with. The rules are made at the end: a name that has the address of a flow gets the flow's
protocol and port, whether it was asked for before or after; a flow to an address without a name gets a rule
of its own. Where a name may not lead to an address by itself (`egress.Egress.is_inner`), or the address means
another one, the address gets a rule, too.

A name that was asked for without a flow to what it has gets no rule, as that would open its addresses: it
stands in a comment. Names come from strangers and from a process that reads what they write, so what the
grammar of rules does not know as one is counted and left out; the text has no other bytes of theirs.
"""

from __future__ import annotations

from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

from passt.facts.address import IP6_LEN, format_ip
from passt.facts.egress import MAX_EGRESS_RULES, MAX_PORT_RANGES

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

MAX_FLOWS = 16_384                 # different ones: some 4 MB
MAX_NAMES = 16_384                 # pairs of a name and an address: some 8 MB, if all names are long
MAX_TEXT_LEN = 900_000             # bytes: less than `policy_file.MAX_LEN`
_WORDS = {IPPROTO_TCP: "tcp", IPPROTO_UDP: "udp", IPPROTO_ICMP: "icmp", IPPROTO_ICMPV6: "icmp"}
_WITH_PORTS = (IPPROTO_TCP, IPPROTO_UDP)
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")

# The default comes first: a part of the file, if the disk is full, is never one that allows all.
_HEAD = """\
default = "deny"
# What a run with --learn needed of the network: with --policy this is allowed, and nothing else.
# Whoever served a name said which addresses it has: read before you trust.
"""
_CUT = """\
# NOT ALL IS HERE: {} flows and names were more than are kept, or could not be written as a rule.
"""
_ASKED = """\

# Asked for, but no flow went to what the answer said; these questions are refused with the rules above:
"""
# In the file until the run has ended: who takes it as it is opens nothing.
UNFINISHED = b'default = "deny"\n# The run with --learn that writes this file has not ended, or was killed.\n'


class Learning:
    """Keeps what a run needs. *is_inner* tells whether no name may lead to an address by itself."""

    def __init__(self, is_inner: Callable[[bytes], bool]) -> None:
        self._is_inner = is_inner
        self._flows: set[tuple[int, int, bytes, bytes]] = set()
        self._names: dict[bytes, set[str]] = {}
        self._asked: dict[str, None] = {}
        self._n_names = 0
        self._n_lost = 0

    def note(self, proto: int, port: int, address: bytes, asked: bytes) -> None:
        """Take it that the guest opened a flow to *port* of *asked*, which is *address*.

        *address* is empty for the forwarder of --dns-forward.
        """
        flow = (proto, port if proto in _WITH_PORTS else 0, address, asked)
        if len(self._flows) < MAX_FLOWS:
            self._flows.add(flow)
        elif flow not in self._flows:
            self._n_lost += 1

    def note_name(self, name: str, address: bytes) -> None:
        """Take it that the guest was told that *name*, as text, has *address*; empty: that it has none."""
        name = name.lower()
        names = self._names.get(address, set()) if address else self._asked
        if name in names:
            return
        # A last label of digits would read as an address (RFC 3696 2).
        if (self._n_names >= MAX_NAMES or not set(name) <= _NAME_LETTERS
                or name.rpartition(".")[2].isdigit()):
            self._n_lost += 1
            return
        self._n_names += 1
        self._asked[name] = None
        if address:
            self._names.setdefault(address, set()).add(name)

    def text(self, is_rule: Callable[[str], bool]) -> str:
        """Write the file of rules; *is_rule* tells whether a text is one."""
        wanted, has_asked = self._wanted()
        rules: list[str] = []
        n_lost, length = self._n_lost, 0
        for subject in sorted(wanted, key=lambda each: (isinstance(each, bytes) and len(each), each)):
            for rule in _rules_of(subject, wanted[subject]):
                line = f'    "allow {rule}",\n'
                length += len(line)
                if len(rules) < MAX_EGRESS_RULES - 1 and length <= MAX_TEXT_LEN and is_rule(rule):
                    rules.append(line)
                else:
                    n_lost += 1
        named = {subject for subject in wanted if isinstance(subject, str)}
        if has_asked and not named:
            rules.append('    "allow dns",\n')
        asked = [f"#   {name}\n" for name in sorted(self._asked) if name not in named]
        kept = _fit(asked, MAX_TEXT_LEN - length)
        n_lost += len(asked) - len(kept)
        text = [_HEAD, _CUT.format(n_lost) if n_lost else "", "rules = [\n", *rules, "]\n"]
        return "".join([*text, *((_ASKED, *kept) if kept and named else ())])

    def _wanted(self) -> tuple[dict[str | bytes, dict[str, set[int]]], bool]:
        """Return ports by protocol, of each name and address, and whether the forwarder was asked."""
        wanted: dict[str | bytes, dict[str, set[int]]] = {}
        has_asked = False
        for proto, port, address, asked in self._flows:
            if not address:
                has_asked = True
                continue
            subjects: list[str | bytes] = list(self._names.get(asked, ()))
            if not subjects or asked != address:
                subjects.append(address)
            for subject in subjects:
                wanted.setdefault(subject, {}).setdefault(_WORDS[proto], set()).add(port)
        for address, names in self._names.items():
            if not self._is_inner(address):
                continue
            for name in names & wanted.keys():
                for word, ports in wanted[name].items():
                    wanted.setdefault(address, {}).setdefault(word, set()).update(ports)
        return wanted, has_asked


def _fit(lines: Iterable[str], room: int) -> list[str]:
    """Return the first of *lines* that have *room* bytes at most."""
    kept = []
    for line in lines:
        room -= len(line)
        if room < 0:
            break
        kept.append(line)
    return kept


def _rules_of(subject: str | bytes, wanted: dict[str, set[int]]) -> Iterator[str]:
    """Yield texts of rules for *subject*, a name or an address."""
    for word, ports in sorted(wanted.items()):
        if isinstance(subject, str):
            what = subject if "." in subject else f"{subject}."
        elif len(subject) == IP6_LEN and word != "icmp":
            what = f"[{format_ip(subject)}]"
        else:
            what = format_ip(subject)
        if word == "icmp":
            yield f"icmp:{what}"
            continue
        spans = list(_spans(ports))
        for i in range(0, len(spans), MAX_PORT_RANGES):
            yield f"{word}:{what}:{','.join(spans[i:i + MAX_PORT_RANGES])}"


def _spans(ports: Iterable[int]) -> Iterator[str]:
    """Yield *ports* as `22`, or `8000-8010` if they follow each other."""
    first = last = -1
    for port in sorted(ports):
        if port != last + 1 or first < 0:
            if first >= 0:
                yield _span(first, last)
            first = port
        last = port
    if first >= 0:
        yield _span(first, last)


def _span(first: int, last: int) -> str:
    return f"{first}-{last}" if last > first else str(first)

"""What becomes of a question: answered here, or asked of whom. Pure, no I/O.

Each query of the guest passes `Judge.judge` before anything else is done with it, also one whose answer is
remembered. Each answer of a server passes `Judge.admit` before the guest or the cache gets it, and
`Judge.pins` before the guest does. Whoever wants to rule what names the guest may ask for, or what answers it
may see, does it in these places.
"""

from __future__ import annotations

from passt.light.values import NamedTuple
from passt.wire.dns.message import (
    CLASS_IN,
    OPCODE_BITS,
    DnsView,
    Rcode,
    RecordType,
    build_reply,
    encode_name,
    suffixes,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.facts.address import IPAddress
    from passt.names.name_rules import NameLearner, NameRules
    from passt.names.orders import Bar, Pin

TTL_S = 60                         # of names of --dns-hosts: they stay as long as we run


class Ruling(NamedTuple):
    """Answer *reply*; if that is None, ask *servers*, or those of the host if that is None, too.

    *bar* is what forbids the name, if something does.
    """

    reply: bytes | None
    servers: tuple[IPAddress, ...] | None
    bar: Bar | None = None


class Judge:
    """Knows *hosts*, of --dns-hosts, and *routes*, of --dns-route; *has_ip6* says what the guest has.

    *rules* say which names it may ask for; None: all. For others the guest gets the code *refusal*.
    """

    def __init__(self, hosts: Iterable[tuple[str, IPAddress]], routes: Iterable[tuple[str, IPAddress]],
                 *, has_ip6: bool, rules: NameRules | NameLearner | None = None,
                 refusal: int = Rcode.REFUSED) -> None:
        self._has_ip6 = has_ip6
        self._refusal = refusal
        self._rules = rules
        self._hosts: dict[bytes, list[bytes]] = {}
        for name, address in hosts:
            self._hosts.setdefault(encode_name(name), []).append(address.packed)
        self._routes: dict[bytes, tuple[IPAddress, ...]] = {}
        for suffix, server in routes:
            key = encode_name(suffix) if suffix else b"\0"
            self._routes[key] = (*self._routes.get(key, ()), server)

    def renew(self, rules: NameRules | None) -> None:
        """Judge names by *rules* from now on."""
        self._rules = rules

    def judge(self, query: DnsView) -> Ruling:
        """Decide on *query*."""
        if query.flags & OPCODE_BITS or query.kind in {RecordType.AXFR, RecordType.IXFR}:
            # Neither changes of zones nor their transfer: a stub resolver asks for none (RFC 5625 1).
            return Ruling(build_reply(query, Rcode.NOTIMP), None)
        if not query.name or any(record.section < 2 for record in query.records):
            return Ruling(build_reply(query, Rcode.FORMERR), None)
        bar = self._rules.find_bar(query.name) if self._rules is not None else None
        if bar is not None:
            return Ruling(build_reply(query, self._refusal), None, bar)
        return self._answer(query)

    def _answer(self, query: DnsView) -> Ruling:
        """Decide on *query*, which is allowed."""
        if self._rules is not None and self._rules.is_empty(query):
            return Ruling(build_reply(query, Rcode.NOERROR), None)
        if query.klass == CLASS_IN:
            packed = self._hosts.get(query.name)
            if query.kind == RecordType.AAAA and not self._has_ip6:
                # An address of no use would be tried all the same, and makes programs wait.
                return Ruling(build_reply(query, Rcode.NOERROR), None)
            if packed is not None:
                return Ruling(build_reply(query, Rcode.NOERROR, _fitting(query.kind, packed), TTL_S), None)
        return Ruling(None, self._find_route(query.name))

    def admit(self, query: DnsView) -> bool:
        """Tell whether an answer to *query* may be passed on: rules may have come since it was asked."""
        return self._rules is None or self._rules.may_ask(query.name)

    def pins(self, query: DnsView, answer: DnsView) -> list[Pin] | Bar:
        """Return what has to be pinned before *answer* to *query* is passed on, or what forbids that."""
        return self._rules.pins(query.name, answer) if self._rules is not None else []

    def _find_route(self, name: bytes) -> tuple[IPAddress, ...] | None:
        """Return the servers of the longest suffix that *name* ends in."""
        if self._routes:
            for suffix in suffixes(name):
                if suffix in self._routes:
                    return self._routes[suffix]
        return None


def _fitting(kind: int, packed: Iterable[bytes]) -> list[bytes]:
    wanted = 4 if kind == RecordType.A else 16 if kind == RecordType.AAAA else 0
    return [address for address in packed if len(address) == wanted]

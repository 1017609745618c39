"""What becomes of a question: answered here, or asked of whom. Pure, no I/O.

Each query of the guest passes `Judge.judge` before anything else is done with it, also one whose answer is
remembered, and each answer of a server passes `Judge.admit` before the guest or the cache gets it. Whoever
wants to rule what names the guest may ask for, or what answers it may see, does it in these two places.
"""

from __future__ import annotations

from time import monotonic

from passt.light.values import NamedTuple
from passt.wire.dns.message import (
    CLASS_IN,
    OPCODE_BITS,
    DnsView,
    Rcode,
    RecordType,
    build_reply,
    encode_name,
    show_name,
    suffixes,
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from passt.facts.address import IPAddress
    from passt.names.name_learner import NameLearner
    from passt.names.name_rules import NameRules, Pin

MAX_TOLD = 256                     # refused names that are remembered, not to be told again at once
TELL_INTERVAL_S = 1.0
TTL_S = 60                         # of names of --dns-hosts: they stay as long as we run


class Ruling(NamedTuple):
    """Answer *reply*; if that is None, ask *servers*, or those of the host if that is None, too."""

    reply: bytes | None
    servers: tuple[IPAddress, ...] | None


class Judge:
    """Knows *hosts*, of --dns-hosts, and *routes*, of --dns-route; *has_ip6* says what the guest has.

    *rules* say which names it may ask for; None: all. *tell* gets a line for each that is refused, once
    a second: a resolver asks for both families, and all servers that it knows. The guest gets the code
    *refusal*.
    """

    def __init__(self, hosts: Iterable[tuple[str, IPAddress]], routes: Iterable[tuple[str, IPAddress]],
                 *, has_ip6: bool, rules: NameRules | NameLearner | None = None,
                 tell: Callable[[str], None] | None = None, refusal: int = Rcode.REFUSED,
                 clock: Callable[[], float] = monotonic) -> None:
        self._has_ip6 = has_ip6
        self._tell = tell
        self._refusal = refusal
        self._clock = clock
        self._told: dict[bytes, float] = {}                    # the oldest first
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
        code = self._find_bar(query)
        if code is not None:
            return Ruling(build_reply(query, code), None)
        if query.klass == CLASS_IN:
            packed = self._hosts.get(query.name)
            if query.kind == RecordType.AAAA and not self._has_ip6:
                # An address of no use would be tried all the same, and makes programs wait.
                return Ruling(build_reply(query, Rcode.NOERROR), None)
            if packed is not None:
                return Ruling(build_reply(query, Rcode.NOERROR, _fitting(query.kind, packed), TTL_S), None)
        return Ruling(None, self._find_route(query.name))

    def _find_bar(self, query: DnsView) -> int | None:
        """Return the code with which a rule has *query* answered; None if none does."""
        if self._rules is None:
            return None
        if not self._rules.may_ask(query.name):
            self._tell_refused(query.name)
            return self._refusal
        return Rcode.NOERROR if self._rules.is_empty(query) else None

    def _tell_refused(self, name: bytes) -> None:
        """Tell that *name* is refused, but not again within the second."""
        if self._tell is None:
            return
        now = self._clock()
        last = self._told.get(name)
        if last is not None and now - last < TELL_INTERVAL_S:
            return
        self._told.pop(name, None)
        if len(self._told) >= MAX_TOLD:
            del self._told[next(iter(self._told))]
        self._told[name] = now
        self._tell(f"refused: the name {show_name(name)}: no rule allows it")

    def admit(self, query: DnsView) -> bool:
        """Tell whether an answer to *query* may be passed on: rules may have come since it was asked."""
        return self._rules is None or self._rules.may_ask(query.name)

    def pins(self, query: DnsView, answer: DnsView) -> list[Pin] | None:
        """Return what has to be pinned before *answer* to *query* is passed on; None: it may not be."""
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

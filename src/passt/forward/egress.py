"""Which flows of the guest the rules of egress allow. Pure, no I/O.

Theory of operation. The first rule that fits decides. A rule fits by the address that our socket would
connect to, not by the one that the guest sees: the gateway's address may mean the host's loopback, and who
allows the gateway's network has not allowed that. Where a mistake would open something, more is looked at: a
rule that denies fits the address that the guest asked for, too, and the IPv4 address within an IPv6 one that
a translator on the way would take out (`translators`). So "the first rule that fits" is the first of two:
the first that allows, by the one address, and the first that denies, by all of them.

A flow costs the same with one rule as with thousands. All rules about one network and protocol make one
`_PortMap`: the ports cut into intervals, each with the first rule that has it. A look-up asks each length of
prefix that some rule has for its network, and is done with one bisection in each map that it finds.

With rules by name, a well-known server of DNS over HTTPS is open to a rule with exactly its address or its
name alone: a rule about a network was hardly meant to let names be asked for past the forwarder.

The forwarder of --dns-forward has no address: whatever it is reached by, it is we who answer. It stands in
the tables as the address without bytes, `FORWARDER`, which the word `dns` has, and no network.
"""

from __future__ import annotations

from bisect import bisect_right
from heapq import heappop, heappush
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

from passt.facts.address import IP4_LEN, IP6_LEN, IP6_LOOPBACK
from passt.facts.contracts import FORWARDER
from passt.facts.doh_servers import DOH_ADDRESSES, DOH_NAMES, DOH_PORT
from passt.facts.egress import DNS, HOST, ICMP, TCP, UDP, WORDS, EgressRule, Why
from passt.forward.translators import embedded_ip4
from passt.light.values import NamedTuple, replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from passt.facts.egress import EgressRules, RefusedName
    from passt.forward.pins import Pins

_DNS_PORTS = ((53, 53), (853, 853))
_ALL_PORTS = ((0, 0xFFFF),)
_ALL_BUT_DNS = ((0, 52), (54, 852), (854, 0xFFFF))
_NUMBERS = {TCP: (IPPROTO_TCP,), UDP: (IPPROTO_UDP,), ICMP: (IPPROTO_ICMP, IPPROTO_ICMPV6)}
_WITH_PORTS = (IPPROTO_TCP, IPPROTO_UDP)
_ALL = (*_WITH_PORTS, IPPROTO_ICMP, IPPROTO_ICMPV6)
_LOOPBACK = ((bytes((127, 0, 0, 0)), 8), (IP6_LOOPBACK, 128))
_RESERVED = frozenset((53, 853))
# Where no name of somebody else may lead: what words say, this host, and what is no address of a host.
_INNER = (*(EgressRule(False, WORDS[word]) for word in ("private", "link-local", "metadata", "multicast")),
          EgressRule(False, word=HOST),
          EgressRule(False, ((bytes(4), 8), (bytes((240, 0, 0, 0)), 4), (bytes(16), 128))))
# Why a name is refused, beside the rule.
_WHY_NAME = {
    Why.ALIAS: "it is about an alias of the name",
    Why.DOH: "a server of DNS over HTTPS takes a rule with exactly its name",
    Why.TOO_MANY: "the answer has too many addresses",
    Why.NOT_PINNED: "the addresses of the answer were not taken",
}  # fmt: skip


class Refused(NamedTuple):
    """A flow of the guest that was refused: where the guest wanted to go, *why* it may not, and the rule."""

    proto: int
    address: bytes
    port: int
    why: str
    rule: str | None = None


class _PortMap:
    """Intervals of ports, each with the place of the first rule that has it, *nowhere* if none has."""

    __slots__ = ("_firsts", "_starts")

    def __init__(self, spans: Iterable[tuple[int, int, int]], nowhere: int) -> None:
        """Take *spans*: first port, last port, place of the rule."""
        left = sorted(spans, reverse=True)
        bounds = sorted({0} | {first for first, _, _ in left} | {last + 1 for _, last, _ in left})
        self._starts: list[int] = []
        self._firsts: list[int] = []
        open_spans: list[tuple[int, int]] = []
        for start in bounds:
            while left and left[-1][0] == start:
                _, last, place = left.pop()
                heappush(open_spans, (place, last))
            while open_spans and open_spans[0][1] < start:
                heappop(open_spans)
            first = open_spans[0][0] if open_spans else nowhere
            if not self._firsts or first != self._firsts[-1]:
                self._starts.append(start)
                self._firsts.append(first)

    def find(self, port: int) -> int:
        """Return the place of the first rule that has *port*."""
        return self._firsts[bisect_right(self._starts, port) - 1]


class _Side:
    """The rules that allow, or those that deny, with their places among all of them."""

    __slots__ = ("_maps", "_shifts", "nowhere")

    def __init__(self, rules: Iterable[tuple[int, EgressRule]], host: Collection[bytes],
                 resolvers: Collection[bytes], nowhere: int,
                 rest: tuple[tuple[int, int], ...] = _ALL_PORTS) -> None:
        """*rest* are the ports of a rule that names none."""
        self.nowhere = nowhere
        spans: dict[tuple[int, int, int, int], list[tuple[int, int, int]]] = {}
        for place, rule in rules:
            has_ports = bool(rule.ports) or rule.word == DNS
            numbers = _NUMBERS.get(rule.protocol) or (_WITH_PORTS if has_ports else _ALL)
            for (packed, prefix_len), ports in _parts(rule, host, resolvers, rest):
                shift = 8 * len(packed) - prefix_len
                network = int.from_bytes(packed, "big") >> shift
                for number in numbers:
                    spans.setdefault((len(packed), number, shift, network), []).extend(
                        (first, last, place) for first, last in (ports if number in _WITH_PORTS
                                                                 else _ALL_PORTS))
        self._maps = {key: _PortMap(found, nowhere) for key, found in spans.items()}
        shifts: dict[tuple[int, int], set[int]] = {}
        for addr_len, number, shift, _ in spans:
            shifts.setdefault((addr_len, number), set()).add(shift)
        self._shifts = {key: tuple(sorted(found)) for key, found in shifts.items()}

    def find(self, proto: int, port: int, address: bytes) -> int:
        """Return the place of the first rule that fits, `nowhere` if none does."""
        addr_len = len(address)
        best = self.nowhere
        number = int.from_bytes(address, "big")
        maps = self._maps
        for shift in self._shifts.get((addr_len, proto), ()):
            found = maps.get((addr_len, proto, shift, number >> shift))
            if found is not None:
                best = min(best, found.find(port))
        return best


class Ingress:
    """Tells which clients may connect: those of *networks*, all if there is none."""

    def __init__(self, networks: Collection[tuple[bytes, int]]) -> None:
        self._networks: dict[tuple[int, int], set[int]] = {}
        for packed, prefix_len in networks:
            shift = 8 * len(packed) - prefix_len
            self._networks.setdefault((len(packed), shift), set()).add(int.from_bytes(packed, "big") >> shift)

    def may_connect(self, peer: bytes) -> bool:
        """Tell whether a client with the address *peer* may."""
        number = int.from_bytes(peer, "big")
        return not self._networks or any(number >> shift in found
                                         for (addr_len, shift), found in self._networks.items()
                                         if addr_len == len(peer))


class Egress:
    """Decides by *rules*; *host* are the host's own addresses, *resolvers* the servers of names that it uses.

    *networks* are those that it is in, *nat64* prefixes of the network's NAT64: pairs of an address and a
    prefix length. *pins* keep what names have.

    `refused` counts flows that were refused, by place of the rule; that behind the last one is the default's;
    `last` is the last of them. `names_refused` counts names and their answers in the same way. *tell* gets
    each flow, *tell_answer* the address of an answer that may not be, and why, *tell_name* a name and why.
    `watch_name` gets with the name the text of the rule, if it was one, and why.
    """

    def __init__(self, rules: EgressRules, host: Collection[bytes] = (), resolvers: Collection[bytes] = (),
                 tell: Callable[[Refused], None] | None = None, pins: Pins | None = None,
                 networks: Collection[tuple[bytes, int]] = (),
                 tell_answer: Callable[[bytes, str], None] | None = None,
                 tell_name: Callable[[str, str], None] | None = None,
                 nat64: Collection[tuple[bytes, int]] = ()) -> None:
        self._networks = networks
        self._nat64 = nat64
        self._tell_name = tell_name
        self.watch_name: Callable[[str, str | None, str], None] | None = None
        self._tell_answer = tell_answer
        self._tell = tell
        self._pins = pins
        self._host = host
        self._resolvers = resolvers
        self.last: Refused | None = None
        self._set(rules)

    def _set(self, rules: EgressRules) -> None:
        self.rules = rules
        self.has_names = rules.has_names
        n_rules = len(rules.rules)
        self.refused = [0] * (n_rules + 1)
        self.names_refused = [0] * (n_rules + 1)
        # With rules by name nobody but the forwarder answers for names, unless a rule says so with the port.
        resolvers = () if self.has_names else self._resolvers
        self._allowing = _Side(_numbered(rules.rules, allows=True), self._host, resolvers, n_rules,
                               _ALL_BUT_DNS if self.has_names else _ALL_PORTS)
        self._denying = _Side(_numbered(rules.rules, allows=False), self._host, self._resolvers, n_rules)
        inner = ((0, rule) for rule in (*_INNER, EgressRule(False, tuple(self._networks))))
        self._inner = _Side(inner, self._host, (), 1) if self.has_names else None
        allowing = ((0, replace(rule, ports=(), protocol="")) for rule in rules.rules if rule.allows)
        self._known = _Side(allowing, self._host, (), 1) if self.has_names else None
        exact = ((place, rule) for place, rule in _numbered(rules.rules, allows=True)
                 if all(prefix_len == 8 * len(packed) for packed, prefix_len in rule.networks))
        self._exact = _Side(exact, (), (), n_rules) if self.has_names else None

    def renew(self, host: Collection[bytes] | None, resolvers: Collection[bytes],
              networks: Collection[tuple[bytes, int]] = ()) -> None:
        """Take it that the host has these addresses, None: those of before, resolvers and networks now.

        What a name has had may be an address of the host now, or of a network of its; no name opens it then.
        """
        host = self._host if host is None else host
        inner = {*networks} - {*self._networks}
        inner.update((address, 8 * len(address)) for address in {*host} - {*self._host})
        self._networks = networks
        self._host = host
        self._resolvers = resolvers
        refused, names_refused = self.refused, self.names_refused
        self._set(self.rules)
        self.refused, self.names_refused = refused, names_refused
        if self._pins is not None and inner:
            self._unpin(self._pins, inner)

    def _unpin(self, pins: Pins, networks: Collection[tuple[bytes, int]]) -> None:
        """Forget which names have addresses in *networks*, but for those that the user has given these."""
        inner = _Side([(0, EgressRule(False, tuple(networks)))], (), (), 1)
        pins.forget(lambda place, address: self._is_in(inner, address) and not self._is_own(place, address))

    def _is_in(self, networks: _Side, address: bytes) -> bool:
        """Tell whether the one rule of *networks* is about *address*, or about an IPv4 one within it."""
        return any(networks.find(IPPROTO_TCP, 1, each) == 0
                   for each in (address, *embedded_ip4(address, self._nat64)))

    def _is_own(self, place: int, address: bytes) -> bool:
        """Tell whether the user has given *address* to a name of the rule at *place*."""
        names = self._pins.own_names(address) if self._pins is not None else ()
        return any(covers(self.rules.rules[place], name) for name in names)

    def replace(self, rules: EgressRules) -> None:
        """Decide by *rules* from now on. Rules that stay keep their counts, and what names of theirs have.

        That is gone if a rule that denies a name comes before them, and did not stand there: which name of a
        suffix an address was pinned for is not known.
        """
        before = self.rules.rules
        refused, names_refused = self.refused, self.names_refused
        if self._pins is not None:
            self._pins.move(_moved(before, rules.rules))
        self._set(rules)
        self.refused, self.names_refused = (_kept(before, counts, rules.rules)
                                            for counts in (refused, names_refused))

    def decide(self, proto: int, port: int, address: bytes, asked: bytes, *, lapsed: bool = False,
               by_address: bool = False) -> tuple[bool, int]:
        """Decide on a flow to *port* of *address*, `FORWARDER` if that is ours; the guest says *asked*.

        Returns whether it is allowed, and the place of the rule that says so, that behind the last if none
        does. Echo requests have any port. With *lapsed* names have the addresses of before, too, as for a
        flow that is there already; *by_address*: they have none.

        A datagram says no name that could be verified, so names open nothing for it where that is asked for.
        """
        exact = self._exact if self._exact is not None and self._is_doh(proto, port, address) else None
        allowed = (exact or self._allowing).find(proto, port, address)
        denying = self._denying
        denied = denying.find(proto, port, address)
        if address:
            if asked != address:
                denied = min(denied, denying.find(proto, port, asked))
            for inner in embedded_ip4(address, self._nat64):
                denied = min(denied, denying.find(_translated(proto), port, inner))
        if (self._pins is not None and address and not by_address
                and not (self.rules.verifies and proto == IPPROTO_UDP)):
            for place in self._pins.find(address, lapsed=lapsed):
                rule = self.rules.rules[place]
                if (place < min(allowed, denied) and fits(rule, proto, port)
                        and (exact is None or (rule.name in DOH_NAMES and not rule.is_suffix))):
                    allowed = place
        if allowed == denied:
            return exact is None and self._allows_rest(proto, port, address), allowed
        return allowed < denied, min(allowed, denied)

    def _is_doh(self, proto: int, port: int, address: bytes) -> bool:
        """Tell whether a flow is to a well-known server of DNS over HTTPS."""
        return port == DOH_PORT and proto in _WITH_PORTS and any(
            each in DOH_ADDRESSES for each in (address, *embedded_ip4(address, self._nat64)))

    def _allows_rest(self, proto: int, port: int, address: bytes) -> bool:
        """Tell whether a flow is allowed that no rule is about."""
        if not self.has_names:
            return self.rules.allows_rest
        if not address:
            return True            # the forwarder judges each name
        return self.rules.allows_rest and not (proto in _WITH_PORTS and port in _RESERVED)

    def pin(self, place: int, address: bytes, ttl_s: int) -> bool:
        """Take it that a name of the rule at *place* has *address* for *ttl_s* seconds; False: it may not.

        A name that leads to addresses of this host or its networks is refused (DNS rebinding), unless the
        rule is about a name that the user has given the address himself. Where a rule is about such an
        address itself, the name may have it, but opens nothing: that rule says which ports are open, and
        whoever serves the name says which address. The forwarder may be in the hands of a server of names:
        nothing that it says is taken unseen.
        """
        rules = self.rules.rules
        if (self._pins is None or not 0 <= place < len(rules) or not rules[place].name
                or not rules[place].allows or len(address) not in {IP4_LEN, IP6_LEN}):
            return False
        if self.is_inner(address) and not self._is_own(place, address):
            if self._known is not None and self._known.find(IPPROTO_TCP, 1, address) == 0:
                return True
            why = (" is about a name, which may not lead to the host or an inner network; allow the address"
                   " itself, too")
        elif self._pins.add(place, address, ttl_s):
            return True
        else:
            why = ": too many addresses of names are kept"
        if self._tell_answer is not None:
            self._tell_answer(address, self.describe(place) + why)
        return False

    def is_inner(self, address: bytes) -> bool:
        """Tell whether *address* is of a network to which no name of somebody else may lead."""
        return self._inner is not None and self._is_in(self._inner, address)

    def pinned(self, address: bytes) -> Collection[int]:
        """Return the places of the rules of which a name has *address*."""
        return frozenset(self._pins.find(address)) if self._pins is not None else ()

    def refuse(self, proto: int, port: int, asked: bytes, place: int, why: str = "") -> None:
        """Count and tell that a flow to what the guest calls *asked* was refused by the rule at *place*.

        *why*, if it is not that rule alone.
        """
        self.refused[place] += 1
        if not why and self.rules.verifies and proto == IPPROTO_UDP and self.pinned(asked):
            why = f"{self.describe(place)}; UDP says no name that --verify-names could read"
        self.last = Refused(proto, asked, port, why or self.describe(place), self.text_of(place))
        if self._tell is not None:
            self._tell(self.last)

    def refuse_names(self, numbers: Iterable[tuple[int, int]], names: Iterable[RefusedName]) -> None:
        """Count that rules at some places have refused so many names, and tell of some *names*.

        The forwarder says so, which may be in the hands of a server of names: what is shown is of its making,
        and bounded.
        """
        most = len(self.rules.rules)
        for place, number in numbers:
            if place <= most:
                self.names_refused[place] += number
        for place, why, name in names:
            if place > most:
                continue
            reason = self._describe_name(place, why)
            if self._tell_name is not None:
                self._tell_name(name, reason)
            if self.watch_name is not None:
                self.watch_name(name, self.text_of(place), reason)

    def decide_name(self, name: str) -> tuple[bool, int, str]:
        """Decide as the forwarder does on a question for *name*, in text form and lower case.

        Returns whether it may be asked for, the place of the rule that says so, that behind the last if none
        does, and why, for people.
        """
        rules, nowhere = self.rules.rules, len(self.rules.rules)
        if not self.has_names:
            return True, nowhere, "no rule is about a name"
        places = [place for place, rule in enumerate(rules) if rule.name and covers(rule, name)]
        if places and rules[places[0]].allows and name in DOH_NAMES:
            places = [place for place in places if not rules[place].is_suffix]
        if places:
            return rules[places[0]].allows, places[0], self.describe(places[0])
        if name in DOH_NAMES:
            return False, nowhere, _WHY_NAME[Why.DOH]
        return self.rules.allows_rest, nowhere, "no rule is about it" if self.rules.allows_rest else (
            self._describe_name(nowhere, Why.QUESTION))

    def _describe_name(self, place: int, why: Why) -> str:
        """Say why a name is refused, by the rule at *place* if there is one."""
        if why == Why.QUESTION:
            return self.describe(place) if place < len(self.rules.rules) else "no rule allows it"
        rule = f"{self.describe(place)}: " if place < len(self.rules.rules) else ""
        return f"{rule}{_WHY_NAME[why]}"

    def refusals(self) -> dict[str | None, tuple[int, int]]:
        """Return how many flows and names each rule has refused that has refused something, by its text.

        The default is None, and there whatever it has refused.
        """
        found: dict[str | None, tuple[int, int]] = {}
        for place, (flows, names) in enumerate(zip(self.refused, self.names_refused, strict=True)):
            rule = self.text_of(place)
            if flows or names or rule is None:
                before = found.get(rule, (0, 0))               # a rule may be there twice
                found[rule] = (before[0] + flows, before[1] + names)
        return found

    def why(self, proto: int, port: int, asked: bytes) -> Refused | None:
        """Return what refused a flow just now; None if that was no rule."""
        last = self.last
        return last if last is not None and last[:3] == (proto, asked, port) else None

    def text_of(self, place: int) -> str | None:
        """Return the rule at *place* as in a file, None for the default."""
        return self.rules.rules[place].text if place < len(self.rules.rules) else None

    def describe(self, place: int) -> str:
        """Name the rule at *place*, or the default."""
        if place < len(self.rules.rules):
            return f"rule '{self.rules.rules[place].text}'"
        return "no rule fits"


def _kept(before: Sequence[EgressRule], counts: Sequence[int], now: Sequence[EgressRule]) -> list[int]:
    """Return the *counts* of rules and the default for the places of *now*; a rule may be there twice."""
    by_rule: dict[EgressRule, int] = {}
    for rule, n in zip(before, counts, strict=False):
        by_rule[rule] = by_rule.get(rule, 0) + n
    return [*(by_rule.pop(rule, 0) for rule in now), counts[-1]]


def _moved(before: Sequence[EgressRule], now: Sequence[EgressRule]) -> dict[int, int]:
    """Return the places now of rules by name that stay, behind no denied name but those of before."""
    places: dict[EgressRule, tuple[int, frozenset[EgressRule]]] = {}
    for place, rule, denied in _behind_denied(now):
        places.setdefault(rule, (place, denied))
    return {place: places[rule][0] for place, rule, denied in _behind_denied(before)
            if rule in places and places[rule][1] <= denied}


def _behind_denied(rules: Sequence[EgressRule]) -> Iterator[tuple[int, EgressRule, frozenset[EgressRule]]]:
    """Yield rules that allow a name: place, rule, and the rules before it that deny names."""
    denied: frozenset[EgressRule] = frozenset()
    for place, rule in enumerate(rules):
        if rule.name and rule.allows:
            yield place, rule, denied
        elif rule.name:
            denied |= {rule}


def covers(rule: EgressRule, name: str) -> bool:
    """Tell whether *rule*, which is about a name, is about *name*."""
    return name.endswith(f".{rule.name}") if rule.is_suffix else name == rule.name


def fits(rule: EgressRule, proto: int, port: int) -> bool:
    """Tell whether *rule*, which is about a name, fits *proto* and *port*: by default all but 53 and 853."""
    if rule.protocol and proto not in _NUMBERS[rule.protocol]:
        return False
    if proto not in _WITH_PORTS:
        return not rule.ports
    return any(first <= port <= last for first, last in rule.ports or _ALL_BUT_DNS)


def _translated(proto: int) -> int:
    return IPPROTO_ICMP if proto == IPPROTO_ICMPV6 else proto


def _numbered(rules: Sequence[EgressRule], *, allows: bool) -> Iterator[tuple[int, EgressRule]]:
    return ((place, rule) for place, rule in enumerate(rules) if rule.allows == allows)


def _parts(rule: EgressRule, host: Collection[bytes], resolvers: Collection[bytes],
           rest: tuple[tuple[int, int], ...]
           ) -> Iterator[tuple[tuple[bytes, int], tuple[tuple[int, int], ...]]]:
    """Yield networks of *rule* and the ports there."""
    ports = rule.ports or rest
    for network in rule.networks:
        yield network, ports
    if rule.word == HOST:
        for network in (*_LOOPBACK, *((address, 8 * len(address)) for address in host)):
            yield network, ports
    elif rule.word == DNS:
        asked = rule.ports or _DNS_PORTS
        for address in (FORWARDER, *resolvers):
            yield (address, 8 * len(address)), asked

"""Which names the guest may ask for, by rules of egress, and what their answers lead to. Pure, no I/O.

`NameRules` judges by rules; `NameLearner` stands in their place with --learn.

The first rule by name that fits the question decides; without one the question is refused where rules deny
the rest. What fits nothing leaves this process in no message, so names tell nobody anything. Aliases are
followed within an answer from the name that was asked: that one counts, whatever the others are called, but a
rule may deny these. Records HTTPS and SVCB (RFC 9460) are answered empty: their hints are addresses that
nobody has asked for, and their keys hide the names of connections.

A well-known server of DNS over HTTPS is refused unless a rule names exactly it: who asks there asks past us.
"""

from __future__ import annotations

from passt.facts.doh_servers import DOH_NAMES
from passt.facts.egress import Why
from passt.names.orders import MAX_TEXT_LEN, Bar, Pin
from passt.wire.dns.message import CLASS_IN, RecordType, encode_name, show_name, suffixes

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from passt.facts.egress import EgressRules
    from passt.wire.dns.message import DnsView

MAX_ADDRESSES = 64                 # of an answer; one that has more is not passed on
MAX_PLACES = 16                    # rules that an address is pinned for: the first ones that allow the name
MAX_TTL = 0x7fffffff               # RFC 2181 8
_EMPTY = frozenset((RecordType.SVCB, RecordType.HTTPS))
_ADDRESSES = frozenset((RecordType.A, RecordType.AAAA))


class NameRules:
    """Judges names by *rules*."""

    def __init__(self, rules: EgressRules) -> None:
        self._allows_rest = rules.allows_rest
        self._exact: dict[bytes, list[int]] = {}
        self._below: dict[bytes, list[int]] = {}
        self._allows = [rule.allows for rule in rules.rules]
        for place, rule in enumerate(rules.rules):
            if rule.name:
                table = self._below if rule.is_suffix else self._exact
                table.setdefault(encode_name(rule.name), []).append(place)
        self._doh = frozenset(map(encode_name, DOH_NAMES))

    def find_bar(self, name: bytes) -> Bar | None:
        """Return what forbids the guest to ask for *name*, in wire form; None if nothing does."""
        places, nowhere = self._places(name), len(self._allows)
        if places and not self._allows[places[0]]:
            return Bar(places[0], Why.QUESTION)
        if name in self._doh:
            exact = self._exact.get(name)
            if not exact:
                return Bar(nowhere, Why.DOH)
            return None if self._allows[exact[0]] else Bar(exact[0], Why.QUESTION)
        return None if places or self._allows_rest else Bar(nowhere, Why.QUESTION)

    def may_ask(self, name: bytes) -> bool:
        """Tell whether the guest may ask for *name*, in wire form."""
        return self.find_bar(name) is None

    def places(self, name: bytes) -> list[int]:
        """Return the places of the rules that allow *name*, as far as none before them denies it."""
        found = []
        for place in self._places(name):
            if not self._allows[place]:
                break
            found.append(place)
        return found

    def is_empty(self, query: DnsView) -> bool:
        """Tell whether *query* is answered that there is no such record."""
        return is_hint(query)

    def pins(self, name: bytes, answer: DnsView) -> list[Pin] | Bar:
        """Return what *answer* to a question for *name* leads to, or what forbids to pass it on.

        That is so for one with too many addresses, and for one by an alias that a rule denies by its name.
        """
        names, addresses = find_addresses(name, answer)
        for alias in (*names, *_targets(names, answer)):
            places = self._places(alias) if alias != name else ()
            if places and not self._allows[places[0]]:
                return Bar(places[0], Why.ALIAS)
        found = self.places(name)[:MAX_PLACES]
        if len(addresses) > MAX_ADDRESSES:
            return Bar(found[0] if found else len(self._allows), Why.TOO_MANY)
        return [Pin(place, address, ttl) for address, ttl in addresses.items() for place in found]

    def _places(self, name: bytes) -> list[int]:
        """Return the places of all rules that fit *name*, in order."""
        found = list(self._exact.get(name, ()))
        if self._below:
            for parent in list(suffixes(name))[1:]:
                found += self._below.get(parent, ())
        return sorted(found)


class NameLearner:
    """Judges names as `NameRules` does, with no rules: all may be asked for, and each is told.

    HTTPS and SVCB are answered empty, as they are with rules later.
    """

    def find_bar(self, _name: bytes) -> None:
        """Return what forbids the guest to ask for *_name*: nothing does."""

    def may_ask(self, _name: bytes) -> bool:
        """Tell whether the guest may ask for *_name*."""
        return True

    def is_empty(self, query: DnsView) -> bool:
        """Tell whether *query* is answered that there is no such record."""
        return is_hint(query)

    def pins(self, name: bytes, answer: DnsView) -> list[Pin]:
        """Return what *answer* to a question for *name* leads to; a pin without an address if to nothing."""
        addresses = list(find_addresses(name, answer)[1])[:MAX_ADDRESSES]
        text = show_name(name).encode("ascii")[:MAX_TEXT_LEN]
        return [Pin(0, address, 0, text) for address in addresses or (b"",)]


def is_hint(query: DnsView) -> bool:
    """Tell whether *query* asks for addresses and keys beside those of a name: RFC 9460."""
    return query.klass == CLASS_IN and query.kind in _EMPTY


def _targets(names: Collection[bytes], answer: DnsView) -> Iterator[bytes]:
    """Yield what all aliases in *answer* lead to, of *names* or others: who asks may follow any of them.

    A server may give a name two, or for all names below one (DNAME) none for the name itself.
    """
    for record in answer.records:
        if record.section == 0 and record.klass == CLASS_IN:
            if record.kind == RecordType.CNAME:
                yield record.target
            elif record.kind == RecordType.DNAME:
                for name in names:
                    if name != record.name and record.name in suffixes(name):
                        yield name[:-len(record.name)] + record.target


def find_addresses(name: bytes, answer: DnsView) -> tuple[Collection[bytes], dict[bytes, int]]:
    """Return *name* with its aliases by *answer*, and the addresses of these with their TTL."""
    aliases: dict[bytes, tuple[bytes, int]] = {}
    for record in answer.records:
        if record.section == 0 and record.klass == CLASS_IN and record.kind == RecordType.CNAME:
            aliases[record.name] = (record.target, record.ttl)
    names: dict[bytes, int] = {}
    at, ttl = name, MAX_TTL
    while at not in names:
        names[at] = ttl
        target, own_ttl = aliases.get(at, (at, ttl))
        at, ttl = target, min(ttl, own_ttl)
    addresses: dict[bytes, int] = {}
    for record in answer.records:
        if (record.section == 0 and record.klass == CLASS_IN and record.kind in _ADDRESSES
                and record.name in names):
            address = answer.data[record.start:record.end]
            addresses[address] = max(addresses.get(address, 0), min(record.ttl, names[record.name]))
    return names, addresses

"""Addresses that names of rules have, as the forwarder was told, each until its time is over. Pure, no I/O.

A pin is (address, place of a rule). It lasts as long as the answer says, but at least FLOOR_S, as programs
keep addresses longer than they may, and GRACE_S more for those that are slow; flows that are open then live
on. Whoever serves a suffix can answer with any number of addresses, so each rule has at most MAX_OF_RULE, and
the ones that were answered longest ago give way; no rule takes the place of another.
"""

from __future__ import annotations

from collections import OrderedDict

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

FLOOR_S = 300
GRACE_S = 30
MAX_TTL_S = 24 * 3600              # RFC 8767 4
MAX_OF_RULE = 256
MAX_PINS = 65_536                  # of all rules: some 20 MB
MAX_RULES_OF_ADDRESS = 256         # which a look-up goes through; names of one content network share some


class Pins:
    """Keeps pins; *clock* tells seconds. *own* are names that the user has given addresses himself."""

    def __init__(self, clock: Callable[[], float], own: Iterable[tuple[str, bytes]] = ()) -> None:
        self._clock = clock
        self._own: dict[bytes, list[str]] = {}
        for name, address in own:
            self._own.setdefault(address, []).append(name.lower())
        self._sweep_at = 0.0
        self._ends: dict[bytes, dict[int, float]] = {}
        self._of_rule: dict[int, OrderedDict[bytes, None]] = {}
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def own_names(self, address: bytes) -> list[str]:
        """Return the names that the user has given to *address* himself."""
        return self._own.get(address, [])

    def add(self, place: int, address: bytes, ttl_s: int) -> bool:
        """Pin *address* for the rule at *place*; False if there are too many."""
        found = self._of_rule.setdefault(place, OrderedDict())
        end = self._clock() + min(max(ttl_s, FLOOR_S), MAX_TTL_S) + GRACE_S
        if address in found:
            found.move_to_end(address)
            # A second answer takes nothing back from who got the first one.
            self._ends[address][place] = max(end, self._ends[address][place])
            return True
        self._forget_ended(address)
        if len(self._ends.get(address, ())) >= MAX_RULES_OF_ADDRESS:
            return False
        if len(found) >= MAX_OF_RULE:
            self._remove(place, next(iter(found)))
        elif self._n >= MAX_PINS:
            self._sweep()
            if self._n >= MAX_PINS:
                return False
        found[address] = None
        self._ends.setdefault(address, {})[place] = end
        self._n += 1
        return True

    def find(self, address: bytes, *, lapsed: bool = False) -> Iterator[int]:
        """Yield the places of the rules that *address* is pinned for now; with *lapsed*, or was lately."""
        ends = self._ends.get(address)
        if ends:
            now = self._clock()
            for place, end in ends.items():
                if lapsed or end > now:
                    yield place

    def move(self, places: Mapping[int, int]) -> None:
        """Take it that rules have other places now; pins of those that are not in *places* are gone.

        Several rules may have one place now, as a rule that stood there twice has.
        """
        before, self._of_rule = self._of_rule, {}
        for place, found in before.items():
            if place in places:
                self._of_rule.setdefault(places[place], OrderedDict()).update(found)
        kept: dict[bytes, dict[int, float]] = {}
        for address, ends in self._ends.items():
            for place, end in ends.items():
                if place in places:
                    moved = kept.setdefault(address, {})
                    moved[places[place]] = max(end, moved.get(places[place], end))
        self._ends = kept
        self._n = sum(map(len, self._ends.values()))

    def forget(self, is_wrong: Callable[[int, bytes], bool]) -> None:
        """Forget all pins of which *is_wrong*, told the place and the address, says so."""
        wrong = [(place, address) for address, ends in self._ends.items() for place in ends
                 if is_wrong(place, address)]
        for place, address in wrong:
            self._remove(place, address)

    def _sweep(self) -> None:
        """Forget all that is over; once in GRACE_S, as it takes some 50 ms with MAX_PINS."""
        now = self._clock()
        if now >= self._sweep_at:
            self._sweep_at = now + GRACE_S
            for address in tuple(self._ends):
                self._forget_ended(address)

    def _forget_ended(self, address: bytes) -> None:
        now = self._clock()
        for place in [place for place, end in self._ends.get(address, {}).items() if end <= now]:
            self._remove(place, address)

    def _remove(self, place: int, address: bytes) -> None:
        del self._of_rule[place][address]
        del self._ends[address][place]
        if not self._ends[address]:
            del self._ends[address]
        self._n -= 1

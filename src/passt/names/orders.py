"""What the main process and the forwarder tell each other while they run, a message each.

To the forwarder: a `NameService` as text, numbers and addresses; or, beginning with a letter, the number of
pins and whether they are there, or rules by name. From it, each beginning with a letter: pins, with a number;
with --learn names and what they have; what rules have refused. Nothing that it says is trusted: it reads what
strangers write.

Rules have a generation, and pins that of the rules by which they were made: a pin names a rule by its place,
which is another one's when rules have changed. Rules take several messages; the last one has them used.
"""

from __future__ import annotations

from ipaddress import ip_address
from struct import Struct

from passt.errors import WireError
from passt.facts.address import IP4_LEN, IP6_LEN
from passt.facts.egress import EgressRule, EgressRules, RefusedName, Why
from passt.facts.guest import NameService
from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_MESSAGE = 16 * 1024
MAX_PINS_LEN = 32 * 1024           # 1,024 pins, of 23 bytes at most
MAX_TEXT_LEN = 255                 # of a name; what is longer has bytes that no rule can have
PINNED = b"p"
RULES = b"r"
GENERATIONS = 1 << 16
PINS, LEARNED, REFUSED = b"p", b"l", b"x"
_LEARNED = Struct("!cI")           # LEARNED, number; what is learned follows
_NUMBER = Struct("!cIH")           # PINS, number, generation of the rules
_REFUSED = Struct("!cHH")          # REFUSED, generation, how many numbers follow; then names
_OF_RULE = Struct("!HI")           # place, how many it has refused
_NAME = Struct("!HBB")             # place, why, length of the name, which follows
_RULES = Struct("!cH?")            # RULES, generation, whether it is the last message of them
_SETTLED = Struct("!cI?")
_PRINTABLE = frozenset(range(0x21, 0x7F))
_PIN = Struct("!HIB")              # place, TTL, length of the address, which follows


class Pin(NamedTuple):
    """An address that a name of the rule at *place* has, for *ttl* seconds; *name* is text, if learned."""

    place: int
    address: bytes
    ttl: int
    name: bytes = b""


class Bar(NamedTuple):
    """What forbids a name: the rule at *place*, that behind the last one if none allows it, and *why*."""

    place: int
    why: Why


def build_service(service: NameService) -> bytes:
    """Write *service* for the channel."""
    numbers = (service.timeout_s, service.attempts, int(service.rotate), service.ifindex)
    return " ".join(map(str, (*numbers, *service.servers))).encode()


def parse_service(message: bytes) -> NameService:
    """Read what `build_service` wrote."""
    timeout_s, attempts, rotate, ifindex, *servers = message.decode().split()
    return NameService(tuple(map(ip_address, servers)), int(timeout_s), int(attempts), rotate == "1",
                       int(ifindex))


def build_pins(number: int, pins: Sequence[Pin], generation: int = 0) -> bytes:
    """Write *pins* with their *number*, by rules of that *generation*."""
    return _NUMBER.pack(PINS, number, generation) + b"".join(
        _PIN.pack(pin.place, pin.ttl, len(pin.address)) + pin.address for pin in pins)


def parse_pins(message: bytes) -> tuple[int, int, list[tuple[int, bytes, int]]]:
    """Read what `build_pins` wrote: number, generation, and place, address and TTL of each.

    Raises WireError.
    """
    if len(message) < _NUMBER.size or not message.startswith(PINS):
        raise WireError(f"pins: {len(message)} bytes")
    _, number, generation = _NUMBER.unpack_from(message)
    pins = []
    at = _NUMBER.size
    while at < len(message):
        if at + _PIN.size > len(message):
            raise WireError("pins: one is cut off")
        place, ttl, addr_len = _PIN.unpack_from(message, at)
        at += _PIN.size
        address = message[at:at + addr_len]
        at += addr_len
        if addr_len not in {IP4_LEN, IP6_LEN} or at > len(message):
            raise WireError("pins: address of a wrong length")
        pins.append((place, address, ttl))
    return number, generation, pins


def build_rules(rules: EgressRules, generation: int) -> list[bytes]:
    """Write those of *rules* that are by name, in messages that are to be sent in this order."""
    lines = [f"{len(rules.rules)} {rules.allows_rest:d}\n".encode()]
    lines += [f"{place} {rule.allows:d} {rule.is_suffix:d} {rule.name}\n".encode()
              for place, rule in enumerate(rules.rules) if rule.name]
    messages = [b""]
    for line in lines:
        if len(messages[-1]) + len(line) > MAX_MESSAGE - _RULES.size:
            messages.append(b"")
        messages[-1] += line
    last = len(messages) - 1
    return [_RULES.pack(RULES, generation, each == last) + message for each, message in enumerate(messages)]


class RulesReader:
    """Puts the messages of `build_rules` together."""

    def __init__(self) -> None:
        self._generation = -1
        self._lines: list[str] = []

    def add(self, message: bytes) -> tuple[EgressRules, int] | None:
        """Take one; return the rules and their generation with the last one of them.

        Rules that are not by name are left out: the one at their place is by no name.
        """
        _, generation, is_last = _RULES.unpack_from(message)
        if generation != self._generation:
            self._generation, self._lines = generation, []
        self._lines += message[_RULES.size:].decode().splitlines()
        if not is_last:
            return None
        self._generation = -1
        return _parse_rules(self._lines), generation


def _parse_rules(lines: Iterable[str]) -> EgressRules:
    first, *named = lines
    n_rules, allows_rest = map(int, first.split())
    rules = [EgressRule(False)] * n_rules
    for line in named:
        place, allows, is_suffix, name = line.split(" ", 3)
        rules[int(place)] = EgressRule(allows == "1", name=name, is_suffix=is_suffix == "1")
    return EgressRules(tuple(rules), bool(allows_rest))


def build_learned(number: int, pins: Sequence[Pin], _generation: int = 0) -> bytes:
    """Write the names and addresses of *pins* with their *number*; no rules, no generation of them."""
    return _LEARNED.pack(LEARNED, number) + b"".join(
        bytes((len(pin.name),)) + pin.name + bytes((len(pin.address),)) + pin.address for pin in pins)


def parse_learned(message: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
    """Read what `build_learned` wrote: the number, and names as text, each with an address or b"".

    Raises WireError.
    """
    if len(message) < _LEARNED.size or not message.startswith(LEARNED):
        raise WireError(f"names: {len(message)} bytes")
    _, number = _LEARNED.unpack_from(message)
    fields = []
    at = _LEARNED.size
    while at < len(message):
        end = at + 1 + message[at]
        fields.append(message[at + 1:end])
        at = end
    if at > len(message) or len(fields) % 2:
        raise WireError("names: one is cut off")
    found = list(zip(fields[::2], fields[1::2], strict=True))
    if any(len(address) not in {0, IP4_LEN, IP6_LEN} for _, address in found):
        raise WireError("names: address of a wrong length")
    return number, found


def build_refused(numbers: Mapping[int, int], names: Sequence[tuple[Bar, bytes]], generation: int) -> bytes:
    """Write how many the rules at some places have refused, and names, as text, of what was refused."""
    return (_REFUSED.pack(REFUSED, generation, len(numbers))
            + b"".join(_OF_RULE.pack(place, min(n, 0xFFFF_FFFF)) for place, n in numbers.items())
            + b"".join(_NAME.pack(bar.place, bar.why, len(name)) + name for bar, name in names))


def parse_refused(message: bytes) -> tuple[int, list[tuple[int, int]], list[RefusedName]]:
    """Read what `build_refused` wrote: generation, place and number of each rule, names. Raises WireError."""
    if len(message) < _REFUSED.size or not message.startswith(REFUSED):
        raise WireError(f"refusals: {len(message)} bytes")
    _, generation, n_numbers = _REFUSED.unpack_from(message)
    at = _REFUSED.size + n_numbers * _OF_RULE.size
    if at > len(message):
        raise WireError("refusals: numbers are cut off")
    numbers = list(_OF_RULE.iter_unpack(message[_REFUSED.size:at]))
    names = []
    while at < len(message):
        if at + _NAME.size > len(message):
            raise WireError("refusals: one is cut off")
        place, why, length = _NAME.unpack_from(message, at)
        at += _NAME.size
        text = message[at:at + length]
        at += length
        if at > len(message) or not set(text) <= _PRINTABLE:
            raise WireError("refusals: no name")
        try:
            names.append(RefusedName(place, Why(why), text.decode("ascii")))
        except ValueError:
            raise WireError(f"refusals: there is no reason {why}") from None
    return generation, numbers, names


def build_settled(number: int, *, is_pinned: bool) -> bytes:
    """Write whether the pins with this *number* are there."""
    return _SETTLED.pack(PINNED, number, is_pinned)


def parse_settled(message: bytes) -> tuple[int, bool]:
    """Read what `build_settled` wrote."""
    _, number, is_pinned = _SETTLED.unpack(message)
    return number, is_pinned

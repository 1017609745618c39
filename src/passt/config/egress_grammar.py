"""The text of a rule of egress, of --allow, --deny and of a policy file.

::

    [tcp:|udp:|icmp:]WHAT[:PORT[-PORT][,...]]

WHAT is an address, a network ADDR/LEN, a word of `egress.WORDS`, NAME or *.SUFFIX. An IPv6 address or network
that ports follow stands in brackets, as in a URL (RFC 3986 3.2.2). A rule without a protocol is about TCP,
UDP and echo requests; one with ports and without a protocol about TCP and UDP.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

from passt.config.parsers import parse_address, parse_number
from passt.errors import ConfigError
from passt.facts.domain_name import normalise_name
from passt.facts.egress import ANY_PROTOCOL, ICMP, MAX_PORT_RANGES, PROTOCOLS, WORDS, EgressRule

MAX_PORT = 0xFFFF
VERBS = {"allow": True, "deny": False}
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_FORM = ("give ADDR, ADDR/LEN, NAME or a word, maybe with a protocol in front and ports behind, as in"
         " tcp:192.0.2.0/24:22,80")


def parse_egress_rule(text: str, *, allows: bool) -> EgressRule:
    """Read one rule. Raises ConfigError."""
    protocol, what, ports = _split(text)
    if not what:
        raise ConfigError(f"'{text}' names no destination; {_FORM}")
    if protocol == ICMP and ports is not None:
        raise ConfigError(f"'{text}' gives ports, which icmp does not have; leave them out, or give tcp or"
                          " udp")
    networks: tuple[tuple[bytes, int], ...] = ()
    word = name = ""
    if what in WORDS:
        networks, word = WORDS[what], what
    elif _is_address(what):
        try:
            networks = (parse_network(what),)
        except ConfigError as error:
            raise ConfigError(f"'{text}': {error}") from None
    else:
        name = _parse_name(text, what)
    ranges = () if ports is None else _parse_ports(text, ports)
    return EgressRule(allows, networks, word, protocol, ranges, text, name, what.startswith("*."))


def parse_rule_line(line: str) -> EgressRule:
    """Read one rule with its verb, `allow RULE` or `deny RULE`. Raises ConfigError."""
    verb, _, rest = line.strip().partition(" ")
    if verb not in VERBS:
        raise ConfigError(f"'{line}' begins with neither allow nor deny")
    return parse_egress_rule(rest.strip(), allows=VERBS[verb])


def _is_address(what: str) -> bool:
    """Tell whether *what* can only be an address: no name has a last label of digits (RFC 3696 2)."""
    return ":" in what or "/" in what or what.rpartition(".")[2].isdigit()


def _parse_name(text: str, what: str) -> str:
    """Read a name; one of a single label has to end in a dot, as it may be a word that is spelled wrong."""
    if "." not in what:
        raise ConfigError(f"'{text}': '{what}' is not an IPv4 or IPv6 address, nor one of the words"
                          f" {', '.join(WORDS)}; the name is written '{what}.'")
    name = normalise_name(what.removeprefix("*."))
    if name is None or not set(name.lower()) <= _NAME_LETTERS or name.rpartition(".")[2].isdigit():
        raise ConfigError(f"'{text}': '{what}' is not a domain name; give labels of letters, digits and"
                          " hyphens joined by dots, with '*.' in front for all names below")
    return name.lower()


def _split(text: str) -> tuple[str, str, str | None]:
    """Return the protocol, the destination and the ports of *text*, those None if it has none."""
    protocol, colon, rest = text.partition(":")
    if not colon or protocol not in PROTOCOLS:
        protocol, rest = ANY_PROTOCOL, text
    if rest.startswith("["):
        what, bracket, tail = rest[1:].partition("]")
        if not bracket:
            raise ConfigError(f"'{text}' has no ']' for its '['")
        if tail.startswith("/"):
            length, colon, ports = tail.partition(":")
            what += length
        else:
            between, colon, ports = tail.partition(":")
            if between:
                raise ConfigError(f"'{text}' has '{between}' behind its ']'; {_FORM}")
        if ":" not in what:
            raise ConfigError(f"'{text}': brackets are for IPv6; leave them out")
        return protocol, what, ports if colon else None
    if rest.count(":") > 1:
        return protocol, rest, None
    what, colon, ports = rest.partition(":")
    return protocol, what, ports if colon else None


def _parse_ports(text: str, ports: str) -> tuple[tuple[int, int], ...]:
    """Read `22,8000-8010`."""
    found = []
    for part in ports.split(","):
        low, dash, high = part.partition("-")
        try:
            first = parse_number(low, 1, MAX_PORT)
            last = parse_number(high, 1, MAX_PORT) if dash else first
        except ConfigError as error:
            raise ConfigError(f"ports of '{text}': {error}") from None
        if last < first:
            raise ConfigError(f"ports of '{text}': {part} goes down; give {last}-{first}")
        found.append((first, last))
    if len(found) > MAX_PORT_RANGES:
        raise ConfigError(f"'{text}' has {len(found)} ranges of ports; a rule can have {MAX_PORT_RANGES}")
    return tuple(found)


def parse_network(text: str) -> tuple[bytes, int]:
    """Read ADDR or ADDR/LEN. Raises ConfigError."""
    literal, slash, length = text.partition("/")
    address = parse_address(literal)
    if address.version == 6 and int(address) >> 32 == 0xFFFF:
        raise ConfigError(f"{text} is an IPv4-mapped address, to which all flows are refused; give the IPv4"
                          " address")
    if not slash:
        return address.packed, address.max_prefixlen
    try:
        prefix_len = parse_number(length, 0, address.max_prefixlen)
    except ConfigError as error:
        raise ConfigError(f"length of '{text}': {error}") from None
    network: IPv4Network | IPv6Network = ip_network((address, prefix_len), strict=False)
    if network.network_address != address:
        raise ConfigError(f"{text} has bits behind its length; give {network} or {address}")
    return address.packed, prefix_len

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
from passt.facts.address import IP4_LEN
from passt.facts.domain_name import normalise_name
from passt.facts.egress import ANY_PROTOCOL, ICMP, MAX_PORT_RANGES, PROTOCOLS, WORDS, EgressRule
from passt.forward.translators import NAT64_LENGTHS, UNUSED_BYTE

MAX_PORT = 0xFFFF
MAX_NAT64_PREFIXES = 8             # each is looked at for each new flow
VERBS = {"allow": True, "deny": False}
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")
_FORM = ("give ADDR, ADDR/LEN, NAME or a word, maybe with a protocol in front and ports behind, as in"
         " tcp:192.0.2.0/24:22,80")
_ALL = frozenset(("*", "all", "any", "internet"))
_LOOPBACK = frozenset(("localhost", "loopback"))
_MAX_SLIP = 2                      # letters in which a word that is spelled wrong differs from the right one


def parse_egress_rule(text: str, *, allows: bool) -> EgressRule:
    """Read one rule. Raises ConfigError."""
    _check_form(text)
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
            raise ConfigError(str(error) if what == text else f"'{text}': {error}") from None
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
    return ":" in what or "/" in what or what.removesuffix(".").rpartition(".")[2].isdigit()


def _parse_name(text: str, what: str) -> str:
    """Read a name; one of a single label has to end in a dot, as it may be a word that is spelled wrong."""
    where = f"'{what}'" if what == text else f"'{text}': '{what}'"
    name = normalise_name(what.removeprefix("*."))
    is_name = name is not None and set(name.lower()) <= _NAME_LETTERS
    if "." not in what:
        raise ConfigError(f"{where} is not an IPv4 or IPv6 address, nor one of the words {', '.join(WORDS)}"
                          f"{_guess(what.lower(), is_name)}")
    if name is None or not is_name:
        if not what.isascii():
            raise ConfigError(f"{where} has other letters than those of ASCII; give its labels as they are in"
                              " the DNS, where they begin with xn--")
        parent = what.lstrip("*.")
        suffix = f": *.{parent}" if "*" not in parent and normalise_name(parent) else ""
        raise ConfigError(f"{where} is not a domain name; give labels of letters, digits and"
                          f" hyphens joined by dots, with '*.' in front for all names below{suffix}")
    return name.lower()


def _guess(what: str, is_name: bool) -> str:
    """Say what the user may have meant by *what*, which is neither an address nor a word."""
    if what in _ALL:
        return "; all addresses are 0.0.0.0/0 and ::/0"
    if what in _LOOPBACK:
        return ("; host is all addresses of the host, 127.0.0.1 and ::1 are two; the name is written"
                f" '{what}.'")
    near = [word for word in WORDS if _is_near(what, word)]
    meant = f"; did you mean {near[0]}?" if near else ""
    if not is_name:
        return meant
    return f"{meant} The name is written '{what}.'" if meant else f"; the name is written '{what}.'"


def _is_near(what: str, word: str) -> bool:
    """Tell whether *what* is *word* but for a few letters in one place."""
    shorter = min(len(what), len(word))
    start = next((at for at in range(shorter) if what[at] != word[at]), shorter)
    end = next((at for at in range(shorter - start) if what[-1 - at] != word[-1 - at]), shorter - start)
    return start + end > 1 and max(len(what), len(word)) - start - end <= _MAX_SLIP


def _check_form(text: str) -> None:
    """Refuse what is no rule by its form, with the form that was meant. Raises ConfigError."""
    scheme, slashes, rest = text.partition("://")
    if slashes:
        port = {"http": ":80", "https": ":443"}.get(scheme.lower(), "")
        host = rest.partition("/")[0].rpartition("@")[2]
        raise ConfigError(f"'{text}' is a URL; rules know hosts and ports:"
                          f" give {host if ':' in host else host + port}")
    parts = text.split(":")
    if parts[-1].isdigit() and (len(parts) == 1 or parts[:-1] in [[each] for each in PROTOCOLS]):
        raise ConfigError(f"'{text}' names no destination; for all addresses give 0.0.0.0/0:{parts[-1]} and"
                          f" [::/0]:{parts[-1]}")
    ends = [part for part in parts
            if "." in part or any(each in WORDS for each in part.strip("[]").replace(" ", ",").split(","))]
    if len(ends) > 1 or any(mark in part for part in ends for mark in ", "):
        raise ConfigError(f"'{text}' names more than one destination; give each a rule of its own")
    if not ends or len(parts) > 3 or "[" in text or (ends[0] == parts[0] and len(parts) < 3):
        return
    if parts[-1] == ends[0] and len(parts) == 3 and _is_group(parts[0]):
        return                     # an IPv6 address with the IPv4 one that is in it
    if ends[0] == parts[0] or parts[0].isdigit():
        raise ConfigError(f"'{text}' has not its parts in order, protocol, destination, ports; {_FORM}")
    if parts[0] not in PROTOCOLS and not _is_group(parts[0]):
        protocol = parts[0].lower()
        right = f"give {protocol}" if protocol in PROTOCOLS else f"give {', '.join(PROTOCOLS)}"
        raise ConfigError(f"'{text}': '{parts[0]}' is no protocol that rules know; {right}")


def _is_group(part: str) -> bool:
    """Tell whether *part* can be the beginning of an IPv6 address."""
    return not part or (len(part) <= 4 and set(part.lower()) <= set("0123456789abcdef"))


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
    host, slash, path = what.partition("/")
    if slash and host not in WORDS and not host.rpartition(".")[2].isdigit():
        raise ConfigError(f"'{text}' has '/{path}' behind its name; rules know no paths: give {host}")
    return protocol, what, ports if colon else None


def _parse_ports(text: str, ports: str) -> tuple[tuple[int, int], ...]:
    """Read `22,8000-8010`."""
    found = []
    for part in ports.split(","):
        low, dash, high = part.partition("-")
        number, slash, protocol = part.partition("/")
        if slash and protocol in PROTOCOLS:
            raise ConfigError(f"ports of '{text}': '{part}': the protocol stands in front; give {protocol}:"
                              f"{text.partition(':')[0]}:{number}")
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
    if address.version == 6 and ":" in length:
        length, _, ports = length.partition(":")
        raise ConfigError(f"'{text}' has ports, for which IPv6 needs brackets; give"
                          f" [{literal}/{length}]:{ports}")
    try:
        prefix_len = parse_number(length, 0, address.max_prefixlen)
    except ConfigError as error:
        raise ConfigError(f"length of '{text}': {error}") from None
    network: IPv4Network | IPv6Network = ip_network((address, prefix_len), strict=False)
    if network.network_address != address:
        raise ConfigError(f"{text} has bits behind its length; give {network} or {address}")
    return address.packed, prefix_len


def parse_nat64_prefix(text: str) -> tuple[bytes, int]:
    """Read PREFIX/LEN, of IPv6 and of a length that RFC 6052 2.2 has. Raises ConfigError."""
    packed, length = parse_network(text)
    if len(packed) == IP4_LEN or length not in NAT64_LENGTHS:
        raise ConfigError(f"'{text}' is no prefix of NAT64; give one of IPv6 with a length of"
                          f" {', '.join(map(str, NAT64_LENGTHS[:-1]))} or {NAT64_LENGTHS[-1]}, as in"
                          " 2001:db8:64::/96")
    if packed[UNUSED_BYTE]:
        raise ConfigError(f"'{text}' is no prefix of NAT64, of which bits 64 to 71 are zero (RFC 6052 2.2)")
    return packed, length

"""Port specifications: the arguments of -t, -u, -T and -U, and the rules that they add up to.

This version takes `none` and a plain port number. The rest of the grammar is recognised only so
that it can be told from a mistake:

    spec   = "none" | [ [address] ["%" interface] "/" ] item { "," item }
    item   = "all" | "auto" | range [ ":" range ] | "~" range
    range  = port [ "-" port ]
"""

from __future__ import annotations

from passt.errors import ConfigError
from passt.model import PortRule

IPPROTO_TCP = 6      # IANA's numbers; the module socket would cost more time than this whole package
IPPROTO_UDP = 17
MAX_PORT = 65535
_ALLOWED = "give a port number or 'none'"
_NAMES = {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP"}


def parse_spec(spec: str) -> int | None:
    """Read one specification to a port number, None for `none`.

    Raises ConfigError that shows the specification and says what is right.
    """
    if spec == "none":
        return None
    ports = _ports_of(spec)
    if ports is None:
        raise ConfigError(f"'{spec}' is not a port specification; {_ALLOWED}")
    if not all(0 < port <= MAX_PORT for port in ports):
        raise ConfigError(f"'{spec}': a port number is 1 to {MAX_PORT}")
    if not spec.isdecimal():
        raise ConfigError(f"'{spec}' is not available yet in this version; {_ALLOWED}")
    return ports[0]


def _ports_of(spec: str) -> list[int] | None:
    """List the port numbers in *spec*; None if it is not in the grammar."""
    prefix, slash, items = spec.rpartition("/")
    if (slash and not prefix) or not spec.isascii():
        return None
    ports: list[int] = []
    for item in items.split(","):
        if item in {"all", "auto"}:
            continue
        if item.startswith("~") and ":" in item:
            return None
        texts = [text for part in item.removeprefix("~").split(":") for text in part.split("-")]
        if not all(text.isdecimal() for text in texts) or item.count(":") > 1:
            return None
        if any(part.count("-") > 1 for part in item.split(":")):
            return None
        ports += [int(text[-9:]) if len(text.lstrip("0")) < 6 else MAX_PORT + 1 for text in texts]
    return ports


class PortTable:
    """Collects the uses of -t, -u, -T and -U in command-line order and makes rules of them."""

    def __init__(self) -> None:
        self._ports: dict[tuple[int, bool], list[int]] = {
            (proto, inward): [] for proto in (IPPROTO_TCP, IPPROTO_UDP) for inward in (True, False)}
        self._udp_given = {True: False, False: False}

    def add(self, proto: int, spec: str, *, inward: bool) -> None:
        """Take one specification; *inward* for -t and -u. Raises ConfigError.

        `none` after a port is a contradiction; before it, or alone, it only says that there is
        no default, so a port may follow.
        """
        port = parse_spec(spec)
        self._udp_given[inward] |= proto == IPPROTO_UDP
        ports = self._ports[proto, inward]
        if port is None:
            if ports:
                raise ConfigError(f"'none' contradicts port {ports[0]} given before; leave one of them out")
        elif port in ports:
            raise ConfigError(f"{_NAMES[proto]} port {port} is given twice; once is enough")
        else:
            ports.append(port)

    def rules(self, *, tcp: bool, udp: bool) -> tuple[tuple[PortRule, ...], tuple[PortRule, ...]]:
        """Make the rules of the host's ports and those of the namespace's. Raises ConfigError.

        *tcp* and *udp* say whether these protocols are enabled.

        A TCP port brings the UDP port of its number along as long as no -u is given at all: programs
        such as iperf3 use both (passt(1), note at -u).
        """
        enabled = {IPPROTO_TCP: tcp, IPPROTO_UDP: udp}
        return self._side(enabled, inward=True), self._side(enabled, inward=False)

    def _side(self, enabled: dict[int, bool], *, inward: bool) -> tuple[PortRule, ...]:
        rules = []
        for proto, is_on in enabled.items():
            name = _NAMES[proto]
            ports = self._ports[proto, inward]
            if ports and not is_on:
                option = f"--{name.lower()}-{'ports' if inward else 'ns'}"
                raise ConfigError(f"option '{option}' forwards port {ports[0]}, but"
                                  f" --no-{name.lower()} disables {name}; leave one of them out")
            rules += [PortRule(proto, port, port, port) for port in ports]
        if enabled[IPPROTO_UDP] and not self._udp_given[inward]:
            rules += [PortRule(IPPROTO_UDP, port, port, port, optional=True)
                      for port in self._ports[IPPROTO_TCP, inward]]
        return tuple(rules)

"""From port options to port rules: the uses of -t, -u, -T and -U add up, or contradict each other.

Each of the four options has a table of its own (`forward.rules`), which finds rules that overlap before
anything is bound.
"""

from __future__ import annotations

from passt.config.port_grammar import MAX_PORT, PortSpec, parse_spec
from passt.errors import ConfigError
from passt.facts.port_rule import PortRule
from passt.forward.rules import OverlapError, RuleTable

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterator

IPPROTO_TCP = 6      # IANA's numbers; the module socket would cost more time than this whole package
IPPROTO_UDP = 17
_NAMES = {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP"}

# Long option -> letter, protocol, whether the ports are the host's (True) or the namespace's.
PORT_OPTIONS: dict[str, tuple[str, int, bool]] = {
    "tcp-ports": ("-t", IPPROTO_TCP, True),
    "udp-ports": ("-u", IPPROTO_UDP, True),
    "tcp-ns": ("-T", IPPROTO_TCP, False),
    "udp-ns": ("-U", IPPROTO_UDP, False),
}
_TWINS = {"tcp-ports": "udp-ports", "tcp-ns": "udp-ns"}


class PortTable:
    """Collects the uses of the four port options in command-line order and makes rules of them.

    *auto* allows `auto` and makes it the default: in pasta, where the bound ports can be read.
    """

    def __init__(self, *, auto: bool) -> None:
        self._auto = auto
        self._rules: dict[str, RuleTable] = {}
        # Whose ports are known when they are open.
        self._open: dict[str, list[PortRule]] = {}

    def add(self, name: str, text: str) -> None:
        """Take one use of the option *name*, a key of `PORT_OPTIONS`. Raises ConfigError.

        `none` after a port is a contradiction; before a port, or alone, it replaces the default.
        """
        letter, proto, is_host = PORT_OPTIONS[name]
        spec = parse_spec(text, prefix=is_host, auto=self._auto)
        rules = self._rules.setdefault(name, RuleTable())
        if spec.is_none:
            for rule in (*rules, *self._open.get(name, ())):
                raise ConfigError(f"'none' contradicts '{rule.spec}' given before; leave one of them out")
            return
        unknown = make_open_rules(spec, proto, letter)
        before = self._open.setdefault(name, [])
        for rule in unknown:
            if rule.inherited and any(other.inherited == rule.inherited for other in before):
                raise ConfigError(f"'{text}': the sockets '{rule.inherited}' lead to a port already; once is"
                                  " enough")
        before += unknown
        added = make_rules(spec, proto, letter)
        if not (added or unknown):
            raise ConfigError(f"'{text}': all of its ports are excluded; exclude fewer, or say 'none'")
        try:
            rules.add(added)
        except OverlapError as error:
            raise ConfigError(_explain_overlap(error)) from None

    def rules(self, *, tcp: bool, udp: bool, ip4: bool, ip6: bool
              ) -> tuple[tuple[PortRule, ...], tuple[PortRule, ...]]:
        """Make the rules of the host's ports and those of the namespace's.

        The arguments say which protocols are enabled. Raises ConfigError for a rule that needs another one.
        """
        enabled = {IPPROTO_TCP: tcp, IPPROTO_UDP: udp}
        sides: tuple[list[PortRule], list[PortRule]] = ([], [])
        for name, (_, proto, is_host) in PORT_OPTIONS.items():
            if not enabled[proto]:
                self._check_unused(name, _NAMES[proto])
                continue
            if name not in self._rules:
                sides[not is_host].extend(self._defaults(name, tcp=tcp))
                continue
            for rule in (*self._rules[name], *self._open.get(name, ())):
                _check_family(name, rule, ip4=ip4, ip6=ip6)
                sides[not is_host].append(rule)
        return tuple(sides[0]), tuple(sides[1])

    def _check_unused(self, name: str, proto: str) -> None:
        for rule in (*self._rules.get(name, ()), *self._open.get(name, ())):
            raise ConfigError(f"option '--{name}' forwards ports ('{rule.spec}'), but --no-{proto.lower()}"
                              f" disables {proto}; leave one of them out")

    def _defaults(self, name: str, *, tcp: bool) -> Iterator[PortRule]:
        """Yield the rules of an option that is not used at all.

        A named TCP port adds the UDP port of the same number, untranslated: programs such as iperf3 use both
        (passt(1), note at -u). A failure of such a port is ignored, as the user did not ask for it.
        """
        _, proto, _ = PORT_OPTIONS[name]
        for twin, follower in _TWINS.items():
            if follower == name and tcp:
                for rule in self._rules.get(twin, ()):
                    if not (rule.optional or rule.auto):
                        yield PortRule(proto, rule.first, rule.last, rule.first, rule.address, rule.ifname,
                                       optional=True, target_address=rule.target_address)
        if self._auto:
            yield PortRule(proto, 1, MAX_PORT, 1, optional=True, auto=True)


def make_rules(spec: PortSpec, proto: int, letter: str) -> list[PortRule]:
    """Make the rules of one specification: those that must succeed first, then those that may fail."""
    if spec.inherited is not None:
        return []
    named = [PortRule(proto, first, last, target, spec.address, spec.ifname, auto=spec.is_auto,
                      spec=f"{letter} {spec.text}", target_address=spec.target_addresses.get(first))
             for first, last, target in spec.ranges]
    rules = [left for rule in named for left in rule.without(spec.excluded)]
    if spec.is_all or not (named or spec.chosen):
        others = [*spec.excluded, *((rule.first, rule.last) for rule in named)]
        rules += PortRule(proto, 1, MAX_PORT, 1, spec.address, spec.ifname, optional=True,
                          skips_ephemeral=not spec.is_auto, auto=spec.is_auto,
                          spec=f"{letter} {spec.text}",
                          target_address=spec.target_addresses.get(0)).without(others)
    return rules


def make_open_rules(spec: PortSpec, proto: int, letter: str) -> list[PortRule]:
    """Make the rules of one specification that name no port of the host: no two of them overlap."""
    text = f"{letter} {spec.text}"
    rules = [PortRule(proto, 0, 0, target, spec.address, spec.ifname, spec=text, target_address=address)
             for target, address in spec.chosen]
    if spec.inherited is not None:
        name, target = spec.inherited
        rules.append(PortRule(proto, 0, 0, target, inherited=name, spec=text))
    return rules


def _explain_overlap(error: OverlapError) -> str:
    """Name the ports, the specification that has them already, and the one that cannot be added."""
    first, last = error.first, error.last
    ports = f"port {first} is" if first == last else f"ports {first} to {last} are"
    return (f"{_NAMES[error.rule.proto]} {ports} covered by '{error.other.spec}' already;"
            f" change or leave out '{error.rule.spec}'")


def _check_family(name: str, rule: PortRule, *, ip4: bool, ip6: bool) -> None:
    if rule.address is not None and not (ip4 if rule.address.version == 4 else ip6):
        switch = "-6" if rule.address.version == 4 else "-4"
        raise ConfigError(f"option '--{name}': '{rule.spec}' listens on {rule.address}, but {switch} disables"
                          f" IPv{rule.address.version}; leave one of them out")

"""From scanned options to `Settings`: tables with one entry for each available option."""

from __future__ import annotations

from passt.config import parsers
from passt.config.options import PASTA
from passt.config.port_options import IPPROTO_TCP, PORT_OPTIONS, PortTable
from passt.errors import ConfigError
from passt.facts.contracts import MAX_RULES
from passt.facts.settings import Settings
from passt.forward.rules import find_loop

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from passt.config.getopt import Occurrence, Request
    from passt.facts.address import IPAddress
    from passt.facts.settings import EgressSettings, ForwardingSettings, NameSettings

    Changes = dict[str, Any]

# Options without an argument: the fields that they set.
FLAGS: dict[str, Changes] = {
    "debug": {"debug": True, "quiet": False},
    "trace": {"debug": True, "trace": True, "quiet": False},
    "quiet": {"debug": False, "trace": False, "quiet": True},
    "foreground": {"foreground": True},
    "stderr": {},
    "chroot-fallback": {},
    "ipv4-only": {"ip4": True, "ip6": False},
    "ipv6-only": {"ip4": False, "ip6": True},
    "no-map-gw": {"map_gw": False},
    "no-tcp": {"tcp": False},
    "verify-names": {"verify_names": True},
    "no-udp": {"udp": False},
    "no-icmp": {"icmp": False},
    "no-dhcp": {"dhcp": False},
    "dhcp-dns": {"hand_out_dns": True},
    "no-dhcp-dns": {"hand_out_dns": False},
    "dhcp-search": {"hand_out_search": True},
    "no-dhcp-search": {"hand_out_search": False},
    "no-ndp": {"ndp": False},
    "no-ra": {"router_advertisements": False},
    "no-dhcpv6": {"dhcpv6": False},
    "freebind": {"freebind": True},
    "follow": {"follow": True, "must_follow": True},
    "no-follow": {"follow": False, "must_follow": False},
    "config-net": {"config_net": True},
    "no-splice": {"splice": False},
    "host-lo-to-ns-lo": {"host_lo_to_ns_lo": True},
    "splice-only": {"splice_only": True, "host_lo_to_ns_lo": True},
    "no-copy-routes": {"copy_routes": False},
    "no-copy-addrs": {"copy_addresses": False},
    "netns-only": {"netns_only": True, "userns": None},
    "no-netns-quit": {"netns_quit": False},
    "one-off": {"one_off": True},
    "vhost-user": {"vhost_user": True},
}

DNS_REFUSALS = ("refused", "nxdomain")


def _of_family(field: str, address: IPAddress) -> Changes:
    return {f"{field}{address.version}": address}


def _address(text: str) -> Changes:
    address, length = parsers.parse_assigned_address(text)
    return {f"address{address.version}": address, f"address_length{address.version}": length}


def _mapping(field: str, text: str) -> Changes:
    address = parsers.parse_mapped_address(text)
    if address is None:
        return {f"{field}4": None, f"{field}6": None}
    return _of_family(field, address)


def _dns_refuse(text: str) -> Changes:
    if text not in DNS_REFUSALS:
        raise ConfigError(f"'{text}' is not {' or '.join(DNS_REFUSALS)}")
    return {"dns_refuse": text}


def _map_host_loopback(text: str) -> Changes:
    no_default = {"map_gw": False} if text == "none" else {}
    return _mapping("map_host_loopback", text) | no_default


# Options with an argument, other than ports: argument -> the fields that they set.
VALUES: dict[str, Callable[[str], Changes]] = {
    "log-file": lambda text: {"log_file": parsers.parse_path(text)},
    "log-size": lambda text: {"log_size": parsers.parse_number(text, parsers.MIN_LOG_SIZE,
                                                               parsers.MAX_LOG_SIZE)},
    "pcap": lambda text: {"pcap": parsers.parse_path(text)},
    "control": lambda text: {"control_path": parsers.parse_socket_path(text)},
    "stats": lambda text: {"stats_s": parsers.parse_number(text, 1, parsers.MAX_STATS_S)},
    "conf-path": lambda text: {"conf_path": parsers.parse_socket_path(text)},
    "ports-file": lambda text: {"ports_file": parsers.parse_path(text)},
    "pid": lambda text: {"pid_file": parsers.parse_path(text)},
    "runas": lambda text: {"runas": parsers.parse_identity(text)},
    "wait-online": lambda text: {"wait_online_s": parsers.parse_number(text, 0, parsers.MAX_WAIT_S)},
    "netns": lambda text: {"netns": parsers.parse_netns(text)},
    "userns": lambda text: {"userns": parsers.parse_path(text), "netns_only": False},
    "address": _address,
    "netmask": lambda text: {"netmask": parsers.parse_netmask(text)},
    "gateway": lambda text: _of_family("gateway", parsers.parse_host_address(text)),
    "mtu": lambda text: {"mtu": parsers.parse_mtu(text)},
    "mac-addr": lambda text: {"our_mac": parsers.parse_our_mac(text)},
    "interface": lambda text: {"interface": parsers.parse_ifname(text)},
    "outbound": lambda text: _of_family("outbound", parsers.parse_source_address(text)),
    "outbound-if4": lambda text: {"outbound_if4": parsers.parse_ifname(text)},
    "outbound-if6": lambda text: {"outbound_if6": parsers.parse_ifname(text)},
    "hostname": lambda text: {"hostname": parsers.parse_domain(text)},
    "fqdn": lambda text: {"fqdn": parsers.parse_domain(text)},
    "dns-forward": lambda text: _of_family("dns_forward", parsers.parse_host_address(text)),
    "dns-host": lambda text: _of_family("dns_host", parsers.parse_host_resolver(text)),
    "dns-refuse": _dns_refuse,
    "dns-cache": lambda text: {"dns_cache": parsers.parse_number(text, 0, parsers.MAX_DNS_CACHE)},
    "map-host-loopback": _map_host_loopback,
    "map-guest-addr": lambda text: _mapping("map_guest", text),
    "ns-ifname": lambda text: {"ns_ifname": parsers.parse_new_ifname(text)},
    # An all-zero address means the default, which the kernel chooses.
    "ns-mac-addr": lambda text: {"ns_mac": mac if any(mac := parsers.parse_mac(text)) else None},
    # --socket and --fd undo each other, but --fd's implied --one-off remains.
    "socket": lambda text: {"socket_path": parsers.parse_socket_path(text), "fd": None},
    "fd": lambda text: {"fd": parsers.parse_number(text, 0, parsers.MAX_FD), "socket_path": None,
                        "one_off": True},
}


def _dns(text: str, before: Changes) -> Changes:
    """Add a name server; `none` undoes all DNS options before it."""
    address = parsers.parse_resolver(text)
    if address is None:
        return {"dns4": (), "dns6": (), "dns_forward4": None, "dns_forward6": None,
                "dns_host4": None, "dns_host6": None, "dns_cache": 0, "dns_routes": (), "dns_hosts": ()}
    field = f"dns{address.version}"
    return {field: (*(before.get(field) or ()), address)}


def _search(text: str, before: Changes) -> Changes:
    """Add search domains; `none` removes those before it."""
    names = parsers.parse_search(text)
    names = tuple(dict.fromkeys((*(before.get("search") or ()), *names))) if names else ()
    if len(names) > parsers.MAX_SEARCH:
        raise ConfigError(f"'{text}' makes {len(names)} domains; {parsers.MAX_SEARCH} is the limit")
    return {"search": names}


def _named(field: str, limit: int, parse: Callable[[str], tuple[str, IPAddress]]
           ) -> Callable[[str, Changes], Changes]:
    """Return what adds a pair of a name and an address to *field*, *limit* at most."""
    def add(text: str, before: Changes) -> Changes:
        pairs = tuple(dict.fromkeys((*before.get(field, ()), parse(text))))
        if len(pairs) > limit:
            raise ConfigError(f"'{text}' is one too many; {limit} are the limit")
        return {field: pairs}

    return add


def _egress(field: str, *, allows: bool) -> Callable[[str, Changes], Changes]:
    """Return what adds a rule of egress to *field*."""
    def add(text: str, before: Changes) -> Changes:
        # Few starts have rules.
        from passt.config.egress_grammar import parse_egress_rule
        from passt.facts.egress import MAX_EGRESS_RULES

        rules = (*before.get(field, ()), parse_egress_rule(text, allows=allows))
        if len(rules) > MAX_EGRESS_RULES:
            raise ConfigError(f"'{text}' is one too many; {MAX_EGRESS_RULES} are the limit")
        return {field: rules}

    return add


def _allow_from(text: str, before: Changes) -> Changes:
    from passt.config.egress_grammar import parse_network
    from passt.facts.egress import MAX_EGRESS_RULES

    networks = (*before.get("allow_from", ()), parse_network(text))
    if len(networks) > MAX_EGRESS_RULES:
        raise ConfigError(f"'{text}' is one too many; {MAX_EGRESS_RULES} are the limit")
    return {"allow_from": networks}


def _nat64_prefix(text: str, before: Changes) -> Changes:
    from passt.config.egress_grammar import MAX_NAT64_PREFIXES, parse_nat64_prefix

    prefixes = (*before.get("nat64_prefixes", ()), parse_nat64_prefix(text))
    if len(prefixes) > MAX_NAT64_PREFIXES:
        raise ConfigError(f"'{text}' is one too many; {MAX_NAT64_PREFIXES} are the limit")
    return {"nat64_prefixes": prefixes}


def _one_file(field: str) -> Callable[[str, Changes], Changes]:
    """Return what sets *field* to a path, once: who gives two files means both."""
    def put(text: str, before: Changes) -> Changes:
        if before.get(field) not in {None, text}:
            raise ConfigError(f"'{text}' is a second file, after '{before[field]}'; give one")
        return {field: parsers.parse_path(text)}

    return put


# Options whose uses add up, or may not: argument and the fields so far -> the fields that they set.
LISTS: dict[str, Callable[[str, Changes], Changes]] = {
    "dns": _dns,
    "dns-route": _named("dns_routes", parsers.MAX_DNS_ROUTES, parsers.parse_dns_route),
    "dns-hosts": _named("dns_hosts", parsers.MAX_DNS_HOSTS, parsers.parse_dns_name),
    "search": _search,
    "allow": _egress("allowed", allows=True),
    "deny": _egress("denied", allows=False),
    "allow-from": _allow_from,
    "nat64-prefix": _nat64_prefix,
    "policy": _one_file("policy_file"),
    "learn": _one_file("learn_file"),
}


# Options that passt(1) does not have, with an argument that does not begin with a dash. getopt(3) takes what
# follows an option that needs an argument for that, an option or -- too; those of passt(1) stay as they are.
_OWN_ARGUMENTS = frozenset(("allow", "deny", "policy", "dns-refuse", "learn", "allow-from", "nat64-prefix",
                            "control", "ports-file"))


def _refuse_option(occurrence: Occurrence) -> None:
    """Refuse an option, or --, that stands where the argument of *occurrence* is. Raises ConfigError."""
    value, argument = occurrence.value, occurrence.option.argument
    if not value.startswith("-"):
        return
    right = f"--{occurrence.option.name} {argument}" + (", then --" if value == "--" else "")
    path = f"; the path is written ./{value}" if argument.partition("|")[0] in {"FILE", "PATH"} else ""
    raise ConfigError(f"'{value}' stands where {argument} is to be; give {right}{path}")


def _apply(occurrence: Occurrence, changes: Changes, ports: PortTable) -> None:
    name = occurrence.option.name
    if name in FLAGS:
        changes.update(FLAGS[name])
        return
    try:
        if name in _OWN_ARGUMENTS:
            _refuse_option(occurrence)
        if name in PORT_OPTIONS:
            ports.add(name, occurrence.value)
        elif name in LISTS:
            changes.update(LISTS[name](occurrence.value, changes))
        else:
            changes.update(VALUES[name](occurrence.value))
    except ConfigError as error:
        raise ConfigError(f"{occurrence.label}: {error}") from None


def build_settings(mode: str, request: Request) -> tuple[Settings, list[str]]:
    """Make settings for the program *mode* from a request to run; also returns warnings for the user.

    Raises ConfigError that names the option and its value.
    """
    changes: Changes = {}
    ports = PortTable(auto=mode == PASTA)
    warnings = []
    for occurrence in request.occurrences:
        _apply(occurrence, changes, ports)
        if occurrence.option.deprecated:
            warnings.append(f"{occurrence.label} is deprecated and will be removed; leave it out")
    changes |= _prefix_lengths(changes)
    changes |= _operands(mode, request.operands, changes.get("netns"))
    settings = _grouped(mode, changes)
    protocols, mtu = settings.protocols, settings.addresses.mtu
    rules, namespace_rules = ports.rules(tcp=protocols.tcp, udp=protocols.udp, ip4=protocols.ip4,
                                         ip6=protocols.ip6)
    changes |= _circumstances(settings)
    changes.setdefault("follow", _has_to_follow(settings))
    settings = _grouped(mode, changes | {"port_rules": rules, "namespace_rules": namespace_rules})
    _check_together(settings)
    if protocols.ip6 and mtu is not None and mtu < parsers.MIN_MTU_IP6:
        warnings.append(f"MTU {mtu} is too small for IPv6, which needs {parsers.MIN_MTU_IP6};"
                        f" give -4 if IPv6 is not wanted")
    for version, servers in ((4, settings.names.dns4), (6, settings.names.dns6)):
        if servers is not None and len(dict.fromkeys(servers)) > parsers.MAX_RESOLVERS:
            warnings.append(f"option '--dns': only the first {parsers.MAX_RESOLVERS} IPv{version} addresses"
                            f" are used, as no resolver reads more")
    return settings, warnings


def _grouped(mode: str, changes: Changes) -> Settings:
    """Make settings of *changes*, which name fields without their group."""
    group_of = {field: name for name, group in Settings.DEFAULTS.items() for field in group.FIELDS}
    grouped: dict[str, Changes] = {}
    for field, value in changes.items():
        grouped.setdefault(group_of[field], {})[field] = value
    defaults = Settings.DEFAULTS
    return Settings(mode, **{name: type(defaults[name])(**fields) for name, fields in grouped.items()})


def _prefix_lengths(changes: Changes) -> Changes:
    """Combine -n and ADDR/LEN into prefix lengths; removes their own fields from *changes*."""
    netmask = changes.pop("netmask", None)
    length4 = changes.pop("address_length4", None)
    length6 = changes.pop("address_length6", None)
    if netmask is not None and length4 is not None:
        raise ConfigError(f"option '--netmask' is redundant with --address {changes['address4']}/{length4};"
                          f" give the length in one place")
    return {"prefix_len4": netmask if length4 is None else length4, "prefix_len6": length6}


def _operands(mode: str, operands: Sequence[str], netns: str | None) -> Changes:
    """Tell a PID, a single operand that is a whole number, from a command; *netns* allows neither."""
    if mode != PASTA:
        if operands:
            raise ConfigError(f"'{operands[0]}' is not an option, and {mode} takes nothing else")
        return {}
    if netns is not None:
        if operands:
            raise ConfigError(f"option '--netns' {netns} and '{operands[0]}' cannot be combined: pasta joins"
                              " a namespace, or runs a command in a new one")
        return {}
    if len(operands) == 1 and operands[0].isascii() and operands[0].removeprefix("-").isdecimal():
        return {"pid": parsers.parse_pid(operands[0])}
    return {"command": tuple(operands)}


def _circumstances(settings: Settings) -> Changes:
    """Set what follows from the kind of run: a command runs in the foreground and without a banner."""
    if settings.mode != PASTA:
        return {}
    if not settings.namespace.is_attached:
        return {"foreground": True, "banner": settings.log.debug}
    # The path of a network namespace does not tell its user namespace.
    namespace = settings.namespace
    return {"netns_only": True} if namespace.netns is not None and namespace.userns is None else {}


def _has_to_follow(settings: Settings) -> bool:
    """Tell whether options have left something of the guest's network to the host: then that is followed."""
    asked, names, namespace = settings.addresses, settings.names, settings.namespace
    if settings.forwarding.splice_only:
        return False
    copies = namespace.config_net and (namespace.copy_routes or namespace.copy_addresses)
    are_named = {4: names.dns4 is not None or names.dns_host4 is not None,
                 6: names.dns6 is not None or names.dns_host6 is not None}
    families = ((4, settings.protocols.ip4, asked.address4, asked.gateway4),
                (6, settings.protocols.ip6, asked.address6, asked.gateway6))
    is_fixed = all(not is_wanted or (address is not None and gateway is not None and are_named[version])
                   for version, is_wanted, address, gateway in families)
    return copies or names.search is None or not is_fixed


def _check_together(settings: Settings) -> None:
    """Refuse options that contradict each other. Raises ConfigError."""
    for copied, option in ((settings.namespace.copy_routes, "--no-copy-routes"),
                           (settings.namespace.copy_addresses, "--no-copy-addrs")):
        if not copied and not settings.namespace.config_net:
            raise ConfigError(f"option '{option}' needs --config-net; add that or leave it out")
    if settings.forwarding.host_lo_to_ns_lo:
        _check_loopback(settings.forwarding)
    if settings.diagnostics.stats_s is not None and not settings.process.foreground:
        raise ConfigError("option '--stats' prints on standard error, which a program in the background does"
                          " not have; add --foreground")
    _check_sockets(settings)
    _check_egress(settings.egress)
    check_names(settings.names, settings.egress)
    if settings.control.conf_path is not None:
        _check_steering(settings)
    addresses, protocols = settings.addresses, settings.protocols
    if addresses.must_follow and settings.forwarding.splice_only:
        raise ConfigError("option '--follow' has nothing to do with --splice-only, which makes no interface:"
                          " leave one of them out")
    if addresses.outbound_if4 is not None and not protocols.ip4:
        raise ConfigError(f"option '--outbound-if4' {addresses.outbound_if4} needs IPv4, which -6 disables")
    if addresses.outbound_if6 is not None and not protocols.ip6:
        raise ConfigError(f"option '--outbound-if6' {addresses.outbound_if6} needs IPv6, which -4 disables")


def _check_egress(egress: EgressSettings) -> None:
    """Refuse rules of egress where they are to be found out, and what is about rules without one.

    Raises ConfigError.
    """
    if egress.nat64_prefixes and not egress.has_rules and egress.learn_file is None:
        raise ConfigError("option '--nat64-prefix' is about what rules deny: add --deny, --allow or --policy,"
                          " or leave it out")
    if egress.verify_names and egress.learn_file is not None:
        raise ConfigError("option '--verify-names' has nothing to do with --learn, which allows all: leave"
                          " one of them out")
    if egress.verify_names and not egress.has_rules:
        raise ConfigError("option '--verify-names' is about rules by name: add --allow or --policy, or leave"
                          " it out")
    if egress.learn_file is not None and egress.has_rules:
        raise ConfigError(f"option '--learn' {egress.learn_file} allows all, to see which rules are"
                          " needed; leave out --allow, --deny and --policy")


def check_names(names: NameSettings, egress: EgressSettings) -> None:
    """Refuse options of the forwarder where there is none. Raises ConfigError.

    A file of --policy may bring rules by name, and with them a forwarder: call again once it is read.
    """
    may_have_names = egress.has_names or (egress.policy_file is not None and egress.from_file is None)
    # Where there are a forwarder and rules, passtctl may bring some by name later.
    if (names.dns_refuse != DNS_REFUSALS[0] and not may_have_names
            and not (names.is_forwarding and egress.has_rules)):
        raise ConfigError(f"option '--dns-refuse' {names.dns_refuse} needs rules by name: --allow,"
                          " --deny or --policy")
    if may_have_names or names.is_forwarding or egress.learn_file is not None:
        return
    for option, is_given in (("--dns-cache", names.dns_cache), ("--dns-route", names.dns_routes),
                             ("--dns-hosts", names.dns_hosts)):
        if is_given:
            raise ConfigError(f"option '{option}' needs --dns-forward; add that or leave it out")


def _check_sockets(settings: Settings) -> None:
    """Refuse one file for two sockets: the second would take it from the first. Raises ConfigError."""
    control = settings.control
    paths: dict[str, str] = {}
    for option, path in (("--conf-path", control.conf_path),
                         ("--control", None if control.control_path == "auto" else control.control_path),
                         ("--socket", settings.socket.socket_path)):
        if path is None:
            continue
        if path in paths:
            raise ConfigError(f"options '{paths[path]}' and '{option}' name the same file {path}: give each"
                              " one of its own")
        paths[path] = option


def _check_steering(settings: Settings) -> None:
    """Refuse what the socket of --conf-path cannot serve. Raises ConfigError."""
    path = settings.control.conf_path
    for letters, rules in (("-t and -u", settings.forwarding.port_rules),
                           ("-T and -U", settings.forwarding.namespace_rules)):
        # One that leaves out ephemeral ports may become two, below and above them.
        n_rules = sum(2 if rule.skips_ephemeral and rule.first < rule.last else 1 for rule in rules)
        if n_rules > MAX_RULES:
            raise ConfigError(f"option '--conf-path' {path}: {letters} make {n_rules} rules, and the"
                              f" protocol of this socket has room for {MAX_RULES}; write longer ranges")


def _check_loopback(forwarding: ForwardingSettings) -> None:
    """Refuse rules of both sides that lead to each other, from loopback to loopback. Raises ConfigError."""
    if not forwarding.splice:
        option = "--splice-only" if forwarding.splice_only else "--host-lo-to-ns-lo"
        raise ConfigError(f"option '{option}' needs the bypass that --no-splice disables; leave one of them"
                          " out")
    for rule in forwarding.port_rules:
        for back in forwarding.namespace_rules:
            if rule.auto or back.auto:
                continue              # auto forwarding leaves out ports on which the other direction listens
            port = find_loop(rule, back)
            if port is not None:
                name = "-t and -T" if rule.proto == IPPROTO_TCP else "-u and -U"
                raise ConfigError(f"option '--host-lo-to-ns-lo': {name} lead port {port} to each other for"
                                  f" ever; leave it out of one of them")

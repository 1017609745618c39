"""From `Settings` and `HostFacts` to the network that the guest gets: pure, no I/O.

A family that is enabled and has a template interface with an address follows that template. One that
has none is in local mode, whatever the other one has: link-local addresses, no template (passt(1),
"Local mode for disconnected setups"). A kernel without IPv6 disables that.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from passt.config.resolvers import asked_for, choose_resolvers, choose_search, hands_out
from passt.errors import ConfigError
from passt.facts.address import IPAddress, is_subnet_broadcast
from passt.facts.guest import GuestFamily, GuestNet

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.host import FamilyFacts, HostFacts, InterfaceAddress
    from passt.facts.settings import Settings

LOCAL_ADDRESS4 = IPv4Address("169.254.2.1")
LOCAL_PREFIX_LEN4 = 16          # RFC 3927, 2.1: the link-local network
LOCAL_GATEWAY4 = IPv4Address("169.254.2.2")
LOCAL_GATEWAY6 = IPv6Address("fe80::1")
PREFIX_LEN6 = 64                # what SLAAC needs (RFC 4862, 5.5.3), whatever the host's own prefix is
DEFAULT_IFNAME = "tap0"

RT_SCOPE_LINK = 253             # linux/rtnetlink.h
IFA_F_DEPRECATED = 0x20         # linux/if_addr.h


def resolve(settings: Settings, facts: HostFacts) -> GuestNet:
    """Choose what the guest sees.

    Raises ConfigError where an interface was asked for that no family, or not the family in
    question, can use.
    """
    facts4 = facts.ip4 if settings.ip4 and _is_usable(facts.ip4, settings.address4) else None
    facts6 = facts.ip6 if settings.ip6 and _is_usable(facts.ip6, settings.address6) else None
    _check_interfaces(settings, facts4, facts6)
    if settings.address6 is not None and not facts.has_ip6:
        raise ConfigError(f"option '--address': {settings.address6} cannot be used, as the kernel has no IPv6"
                          f" (see the boot parameter ipv6.disable)")
    servers = facts.resolvers.servers
    ip4 = ip6 = None
    if settings.ip4:
        ip4 = _resolve_ip4(settings, facts4, [server for server in servers if server.version == 4])
    if settings.ip6 and facts.has_ip6:
        ip6 = _resolve_ip6(settings, facts6, [server for server in servers if server.version == 6])
    search, left_out = choose_search(settings, facts.resolvers.search)
    tells_search = hands_out(settings.hand_out_search, settings.mode)
    return GuestNet(
        ip4=ip4,
        ip6=ip6,
        ifname=_choose_ifname(settings, facts4, facts6),
        our_mac=settings.our_mac,
        ns_mac=settings.ns_mac,
        mtu=settings.mtu,
        search=search if tells_search else (),
        hostname=settings.hostname,
        fqdn=settings.fqdn,
        warnings=_name_warnings(settings, (ip4, ip6), left_out if tells_search else ()),
        notes=_local_notes(settings, ip4, ip6),
    )


def _local_notes(settings: Settings, ip4: GuestFamily | None, ip6: GuestFamily | None) -> tuple[str, ...]:
    """Tell which families have nothing of the host."""
    where = f"on interface {settings.interface}" if settings.interface else "of an interface with a route"
    return tuple(f"no usable IPv{version} address {where}: local mode for IPv{version}, with link-local"
                 f" addresses" for version, family in ((4, ip4), (6, ip6))
                 if family is not None and family.template_ifname is None)


def _name_warnings(settings: Settings, families: tuple[GuestFamily | None, ...],
                   left_out: tuple[str, ...]) -> tuple[str, ...]:
    """Tell what the guest will miss of the host's name resolution."""
    warnings = []
    wants_servers = settings.dns4 is None and settings.dns6 is None
    if (wants_servers and hands_out(settings.hand_out_dns, settings.mode)
            and not any(family.resolvers for family in families if family)):
        warnings.append("there is no name server to tell the guest: /etc/resolv.conf has none that it could"
                        " reach; give one with --dns, or --dns none")
    if left_out:
        warnings.append(f"search domains of /etc/resolv.conf that are no names, or too many, are left out:"
                        f" {' '.join(left_out)}")
    return tuple(warnings)


def _is_usable(facts: FamilyFacts | None, given: IPAddress | None) -> bool:
    return facts is not None and (facts.address is not None or given is not None)


def _check_interfaces(settings: Settings, facts4: FamilyFacts | None, facts6: FamilyFacts | None) -> None:
    """Refuse what was asked for by name, and would be left aside."""
    if settings.interface is not None and facts4 is None and facts6 is None:
        raise ConfigError(f"option '--interface': {settings.interface} has no usable address;"
                          f" give another interface, or addresses with --address")
    for ifname, facts, version in ((settings.outbound_if4, facts4, 4), (settings.outbound_if6, facts6, 6)):
        if ifname is not None and facts is None:
            raise ConfigError(f"option '--outbound-if{version}': the template interface"
                              f" {settings.interface or ifname} has no usable IPv{version} address;"
                              f" give another interface")


def _choose_ifname(settings: Settings, facts4: FamilyFacts | None, facts6: FamilyFacts | None) -> str:
    """Name the tap interface: as given, else like the template, except that `lo` is there already."""
    if settings.ns_ifname is not None:
        return settings.ns_ifname
    template = facts4 or facts6
    return template.ifname if template is not None and template.ifname != "lo" else DEFAULT_IFNAME


def _resolve_ip4(settings: Settings, facts: FamilyFacts | None, servers: list[IPAddress]) -> GuestFamily:
    address = settings.address4 or (facts.address if facts else LOCAL_ADDRESS4)
    gateway = settings.gateway4 or _gateway(facts, 4, LOCAL_GATEWAY4)
    prefix_len = _prefix_len4(settings, facts)
    for option, given in (("--address", settings.address4), ("--gateway", settings.gateway4)):
        if given is not None and address is not None:
            _check_host(option, given, _network(address, prefix_len))
    map_host = settings.map_host_loopback4 or (gateway if settings.map_gw else None)
    names = choose_resolvers(asked_for(settings, 4), servers, map_host, facts.ifindex if facts else 0)
    # A given mask concerns one address, as a given address does: the host's others would contradict it.
    one_address = settings.address4 is not None or settings.prefix_len4 is not None
    return GuestFamily(
        address=address,
        prefix_len=prefix_len,
        gateway=gateway,
        our_address=gateway,
        map_host_loopback=map_host,
        map_guest=settings.map_guest4,
        dns_match=names.match,
        dns_host=names.host,
        template_ifname=facts.ifname if facts else None,
        template_ifindex=facts.ifindex if facts else 0,
        outbound_address=settings.outbound4,
        outbound_ifname=settings.outbound_if4,
        is_fixed=settings.address4 is not None,
        resolvers=names.shown if hands_out(settings.hand_out_dns, settings.mode) else (),
        copied_addresses=() if one_address else _copied_addresses(settings, facts),
        copied_routes=() if settings.gateway4 or not settings.copy_routes or not facts else facts.routes,
    )


def _resolve_ip6(settings: Settings, facts: FamilyFacts | None, servers: list[IPAddress]) -> GuestFamily:
    gateway = settings.gateway6 or _gateway(facts, 6, LOCAL_GATEWAY6)
    map_host = settings.map_host_loopback6 or (gateway if settings.map_gw else None)
    names = choose_resolvers(asked_for(settings, 6), servers, map_host, facts.ifindex if facts else 0)
    our_address: IPAddress | None = facts.link_local if facts else None
    if gateway is not None and gateway.is_link_local:
        our_address = gateway
    return GuestFamily(
        address=settings.address6 or (facts.address if facts else None),
        prefix_len=settings.prefix_len6 or PREFIX_LEN6,
        gateway=gateway,
        # A host interface may have no link-local address (addr_gen_mode none), but we always need one.
        our_address=our_address or LOCAL_GATEWAY6,
        map_host_loopback=map_host,
        map_guest=settings.map_guest6,
        dns_match=names.match,
        dns_host=names.host,
        template_ifname=facts.ifname if facts else None,
        template_ifindex=facts.ifindex if facts else 0,
        outbound_address=settings.outbound6,
        outbound_ifname=settings.outbound_if6,
        is_fixed=settings.address6 is not None,
        resolvers=names.shown if hands_out(settings.hand_out_dns, settings.mode) else (),
        copied_addresses=() if settings.address6 else _copied_addresses(settings, facts),
        copied_routes=() if settings.gateway6 or not settings.copy_routes or not facts else facts.routes,
    )


def _gateway(facts: FamilyFacts | None, version: int, local: IPAddress) -> IPAddress | None:
    """Take the template's gateway; one of the other family (RFC 9229 next hops) is none for our purpose."""
    if facts is None:
        return local
    gateway = facts.gateway
    return gateway if gateway is not None and gateway.version == version else None


def _prefix_len4(settings: Settings, facts: FamilyFacts | None) -> int:
    """Find the prefix length: as given, else the host's for a subnet with the address, else the class's."""
    if settings.prefix_len4 is not None:
        return settings.prefix_len4
    if settings.address4 is None:
        return facts.prefix_len if facts else LOCAL_PREFIX_LEN4
    fitting = [
        host.prefix_len for host in (facts.addresses if facts else ())
        if settings.address4 in _network(host.address, host.prefix_len)
    ]
    return max(fitting, default=None) or _class_prefix_len(settings.address4)


def _check_host(option: str, address: IPv4Address, network: IPv4Network | IPv6Network) -> None:
    """Refuse what means all hosts of the guest's network. Raises ConfigError."""
    if address in network and is_subnet_broadcast(address.packed, network.prefixlen):
        raise ConfigError(f"option '{option}': {address} is the broadcast address of {network}, which no host"
                          " can have; give another address, or another length of the prefix")


def _network(address: IPAddress, prefix_len: int) -> IPv4Network | IPv6Network:
    kind = IPv4Network if address.version == 4 else IPv6Network
    return kind((int(address), prefix_len), strict=False)


def _class_prefix_len(address: IPv4Address) -> int:
    """Give the length of the network part by the address classes of RFC 791, 3.2; 32 above class C."""
    first = address.packed[0]
    for limit, length in ((128, 8), (192, 16), (224, 24)):
        if first < limit:
            return length
    return 32


def _copied_addresses(settings: Settings, facts: FamilyFacts | None) -> tuple[InterfaceAddress, ...]:
    """Choose what --config-net copies: all but link-local and deprecated addresses."""
    if facts is None or not settings.copy_addresses:
        return ()
    return tuple(
        address for address in facts.addresses
        if address.scope != RT_SCOPE_LINK and not address.flags & IFA_F_DEPRECATED
    )

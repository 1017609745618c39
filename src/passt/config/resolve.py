"""From `Settings` and `HostFacts` to the network that the guest gets: pure, no I/O.

An enabled family with a template interface that has an address follows that template. An enabled family
without one is in local mode, whatever the other family has: link-local addresses, no template (passt(1),
"Local mode for disconnected setups"). A kernel without IPv6 disables IPv6.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from passt.config.resolvers import (
    asked_for,
    choose_resolvers,
    choose_search,
    choose_service,
    hands_out,
    may_choose_forwarder,
    with_forwarder,
)
from passt.errors import ConfigError
from passt.facts.address import IPAddress, is_subnet_broadcast
from passt.facts.guest import GuestFamily, GuestNet
from passt.light.values import replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.facts.host import FamilyFacts, HostFacts, InterfaceAddress
    from passt.facts.settings import AddressSettings, NameSettings, NamespaceSettings, Settings

LOCAL_ADDRESS4 = IPv4Address("169.254.2.1")
LOCAL_PREFIX_LEN4 = 16          # RFC 3927 2.1: the link-local network
LOCAL_GATEWAY4 = IPv4Address("169.254.2.2")
LOCAL_GATEWAY6 = IPv6Address("fe80::1")
PREFIX_LEN6 = 64                # the only length for SLAAC (RFC 4862 5.5.3), whatever the host's prefix is
DEFAULT_IFNAME = "tap0"

RT_SCOPE_LINK = 253             # linux/rtnetlink.h
IFA_F_DEPRECATED = 0x20         # linux/if_addr.h


def resolve(settings: Settings, facts: HostFacts, *, may_come: bool = False) -> GuestNet:
    """Choose what the guest sees.

    Raises ConfigError if no family can use the interface of --interface, or one family cannot use the
    interface of its --outbound-if4 or --outbound-if6; not with *may_come*, as the interface may come then.
    """
    asked, protocols = settings.addresses, settings.protocols
    facts4 = facts.ip4 if protocols.ip4 and _is_usable(facts.ip4, asked.address4) else None
    facts6 = facts.ip6 if protocols.ip6 and _is_usable(facts.ip6, asked.address6) else None
    if not may_come:
        _check_interfaces(asked, facts4, facts6)
    if asked.address6 is not None and not facts.has_ip6:
        raise ConfigError(f"option '--address': {asked.address6} cannot be used, as the kernel has no IPv6"
                          f" (see the boot parameter ipv6.disable)")
    tells_servers = hands_out(settings.names.hand_out_dns, settings.mode)
    tells_search = hands_out(settings.names.hand_out_search, settings.mode)
    ip4 = ip6 = None
    if protocols.ip4:
        ip4 = _complete(_choose_ip4(settings, facts4), 4, settings, facts4, facts.resolvers.servers)
    if protocols.ip6 and facts.has_ip6:
        ip6 = _complete(_choose_ip6(settings, facts6), 6, settings, facts6, facts.resolvers.servers)
    search, left_out = choose_search(settings.names, facts.resolvers.search)
    has_forwarder = any(family is not None and family.is_forwarded for family in (ip4, ip6))
    if settings.egress.has_names and not has_forwarder:
        why = ("there is no server of the host in whose place it could be"
               if may_choose_forwarder(settings.names) else "--dns says whom the guest asks")
        raise ConfigError("rules of egress by name need --dns-forward, as only what that answers is known,"
                          f" and {why}: add --dns-forward ADDR")
    return GuestNet(
        ip4=ip4,
        ip6=ip6,
        ifname=_choose_ifname(settings.namespace.ns_ifname, facts4, facts6),
        our_mac=asked.our_mac,
        ns_mac=settings.namespace.ns_mac,
        mtu=asked.mtu,
        search=search if tells_search else (),
        hostname=settings.names.hostname,
        fqdn=settings.names.fqdn,
        warnings=_name_warnings(settings.names, (ip4, ip6), left_out if tells_search else (),
                                tells_servers=tells_servers),
        notes=_local_notes(asked.interface, ip4, ip6),
        names=(choose_service(settings.names, facts.resolvers, ip6.template_ifindex if ip6 else 0)
               if has_forwarder or settings.names.is_forwarding else None),
    )


def _local_notes(interface: str | None, ip4: GuestFamily | None, ip6: GuestFamily | None) -> tuple[str, ...]:
    """Note which families are in local mode."""
    where = f"on interface {interface}" if interface else "of an interface with a route"
    return tuple(f"no usable IPv{version} address {where}: local mode for IPv{version}, with link-local"
                 f" addresses" for version, family in ((4, ip4), (6, ip6))
                 if family is not None and family.template_ifname is None)


def _name_warnings(asked: NameSettings, families: tuple[GuestFamily | None, ...], left_out: tuple[str, ...],
                   *, tells_servers: bool) -> tuple[str, ...]:
    """Warn of name servers and search domains of the host that the guest is not told."""
    warnings = []
    wants_servers = asked.dns4 is None and asked.dns6 is None
    if wants_servers and tells_servers and not any(family.resolvers for family in families if family):
        warnings.append("there is no name server to tell the guest: /etc/resolv.conf has none that it could"
                        " reach; give one with --dns, or --dns none")
    if left_out:
        warnings.append(f"search domains of /etc/resolv.conf that are no names, or too many, are left out:"
                        f" {' '.join(left_out)}")
    return tuple(warnings)


def _is_usable(facts: FamilyFacts | None, given: IPAddress | None) -> bool:
    return facts is not None and (facts.address is not None or given is not None)


def _check_interfaces(asked: AddressSettings, facts4: FamilyFacts | None, facts6: FamilyFacts | None) -> None:
    """Refuse an interface that an option names and that cannot be used. Raises ConfigError."""
    if asked.interface is not None and facts4 is None and facts6 is None:
        raise ConfigError(f"option '--interface': {asked.interface} has no usable address;"
                          f" give another interface, or addresses with --address")
    for ifname, facts, version in ((asked.outbound_if4, facts4, 4), (asked.outbound_if6, facts6, 6)):
        if ifname is not None and facts is None:
            raise ConfigError(f"option '--outbound-if{version}': the template interface"
                              f" {asked.interface or ifname} has no usable IPv{version} address;"
                              f" give another interface")


def _choose_ifname(asked: str | None, facts4: FamilyFacts | None, facts6: FamilyFacts | None) -> str:
    """Name the tap interface as *asked*, else like the template unless that is `lo`, which exists."""
    if asked is not None:
        return asked
    template = facts4 or facts6
    return template.ifname if template is not None and template.ifname != "lo" else DEFAULT_IFNAME


def _choose_ip4(settings: Settings, facts: FamilyFacts | None) -> GuestFamily:
    """Choose the addresses of IPv4."""
    asked = settings.addresses
    address = asked.address4 or (facts.address if facts else LOCAL_ADDRESS4)
    gateway = asked.gateway4 or _gateway(facts, 4, LOCAL_GATEWAY4)
    prefix_len = _prefix_len4(asked, facts)
    for option, given in (("--address", asked.address4), ("--gateway", asked.gateway4)):
        if given is not None and address is not None:
            _check_host(option, given, _network(address, prefix_len))
    # A given mask, like a given address, is for one address: the host's others would contradict it.
    one_address = asked.address4 is not None or asked.prefix_len4 is not None
    return GuestFamily(
        address=address,
        prefix_len=prefix_len,
        gateway=gateway,
        our_address=gateway,
        map_host_loopback=asked.map_host_loopback4 or (gateway if asked.map_gw else None),
        map_guest=asked.map_guest4,
        outbound_address=asked.outbound4,
        outbound_ifname=asked.outbound_if4,
        is_fixed=asked.address4 is not None,
        copied_addresses=() if one_address else _copied_addresses(settings, facts),
        copied_routes=() if asked.gateway4 else _copied_routes(settings.namespace, facts),
    )


def _choose_ip6(settings: Settings, facts: FamilyFacts | None) -> GuestFamily:
    """Choose the addresses of IPv6."""
    asked = settings.addresses
    gateway = asked.gateway6 or _gateway(facts, 6, LOCAL_GATEWAY6)
    our_address: IPAddress | None = facts.link_local if facts else None
    if gateway is not None and gateway.is_link_local:
        our_address = gateway
    return GuestFamily(
        address=asked.address6 or (facts.address if facts else None),
        prefix_len=asked.prefix_len6 or PREFIX_LEN6,
        gateway=gateway,
        # A host interface may have no link-local address (addr_gen_mode none), but we always need one.
        our_address=our_address or LOCAL_GATEWAY6,
        map_host_loopback=asked.map_host_loopback6 or (gateway if asked.map_gw else None),
        map_guest=asked.map_guest6,
        outbound_address=asked.outbound6,
        outbound_ifname=asked.outbound_if6,
        is_fixed=asked.address6 is not None,
        copied_addresses=() if asked.address6 else _copied_addresses(settings, facts),
        copied_routes=() if asked.gateway6 else _copied_routes(settings.namespace, facts),
    )


def _complete(family: GuestFamily, version: int, settings: Settings, facts: FamilyFacts | None,
              servers: Sequence[IPAddress]) -> GuestFamily:
    """Add the template interface and the resolvers to the *family* of IP *version*."""
    ifindex = facts.ifindex if facts else 0
    found = [server for server in servers if server.version == version]
    asked = asked_for(settings.names, version)
    if settings.egress.needs_names and may_choose_forwarder(settings.names):
        asked = with_forwarder(asked, found, family.map_host_loopback, ifindex)
    names = choose_resolvers(asked, found, family.map_host_loopback, ifindex)
    return replace(
        family,
        dns_match=names.match,
        dns_host=names.host,
        is_forwarded=asked.forward is not None,
        template_ifname=facts.ifname if facts else None,
        template_ifindex=ifindex,
        resolvers=names.shown if hands_out(settings.names.hand_out_dns, settings.mode) else (),
    )


def _gateway(facts: FamilyFacts | None, version: int, local: IPAddress) -> IPAddress | None:
    """Return the template's gateway, or None if it is of the other family (a next hop of RFC 9229)."""
    if facts is None:
        return local
    gateway = facts.gateway
    return gateway if gateway is not None and gateway.version == version else None


def _prefix_len4(asked: AddressSettings, facts: FamilyFacts | None) -> int:
    """Find the prefix length: as given, else the host's for a subnet with the address, else the class's."""
    if asked.prefix_len4 is not None:
        return asked.prefix_len4
    if asked.address4 is None:
        return facts.prefix_len if facts else LOCAL_PREFIX_LEN4
    fitting = [
        host.prefix_len for host in (facts.addresses if facts else ())
        if asked.address4 in _network(host.address, host.prefix_len)
    ]
    return max(fitting, default=None) or _class_prefix_len(asked.address4)


def _check_host(option: str, address: IPv4Address, network: IPv4Network | IPv6Network) -> None:
    """Refuse the broadcast address of the guest's network. Raises ConfigError."""
    if address in network and is_subnet_broadcast(address.packed, network.prefixlen):
        raise ConfigError(f"option '{option}': {address} is the broadcast address of {network}, which no host"
                          " can have; give another address, or another length of the prefix")


def _network(address: IPAddress, prefix_len: int) -> IPv4Network | IPv6Network:
    kind = IPv4Network if address.version == 4 else IPv6Network
    return kind((int(address), prefix_len), strict=False)


def _class_prefix_len(address: IPv4Address) -> int:
    """Give the length of the network part by the address classes of RFC 791 3.2; 32 above class C."""
    first = address.packed[0]
    for limit, length in ((128, 8), (192, 16), (224, 24)):
        if first < limit:
            return length
    return 32


def _copied_addresses(settings: Settings, facts: FamilyFacts | None) -> tuple[InterfaceAddress, ...]:
    """Choose what --config-net copies: all addresses but link-local and deprecated ones.

    Where the host is followed deprecated ones are copied too, as their lifetimes are followed.
    """
    if facts is None or not settings.namespace.copy_addresses:
        return ()
    follows = settings.addresses.follow and settings.namespace.config_net
    return tuple(
        address for address in facts.addresses
        if address.scope != RT_SCOPE_LINK and (follows or not address.flags & IFA_F_DEPRECATED)
    )


def _copied_routes(asked: NamespaceSettings, facts: FamilyFacts | None) -> tuple[bytes, ...]:
    return facts.routes if facts is not None and asked.copy_routes else ()

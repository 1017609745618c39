"""Frozen facts that the parts of the control plane hand to each other."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from passt.value import Value, replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

IPAddress = IPv4Address | IPv6Address

DEFAULT_MTU = 65520
DEFAULT_LOG_SIZE = 1 << 20
OUR_MAC = bytes.fromhex("9a559a559a55")


class PortRule(Value):
    """Ports *first*..*last* on the near side go to ports from *target* on at the far side.

    Near is the host for -t and -u, the namespace for -T and -U. *proto* is IPPROTO_TCP or IPPROTO_UDP;
    *address* None means any address, both families; *ifname* limits the rule to an interface.
    *optional* says that a port that cannot be bound is skipped. *skips_ephemeral* leaves out the ports
    that the kernel gives to clients. *auto* binds a port only while its target is bound at the far side.
    *spec* is the option and its argument as given; empty for a rule that nobody wrote.
    """

    proto: int
    first: int
    last: int
    target: int
    address: IPAddress | None = None
    ifname: str | None = None
    optional: bool = False
    skips_ephemeral: bool = False
    auto: bool = False
    spec: str = ""

    def target_port(self, port: int) -> int:
        """Far-side port for the near-side port *port*."""
        return self.target + port - self.first

    def near_port(self, target: int) -> int | None:
        """Near-side port whose target is *target*; None if there is none."""
        port = self.first + target - self.target
        return port if self.first <= port <= self.last else None

    def without(self, ranges: Iterable[tuple[int, int]]) -> list[PortRule]:
        """Cut the near-side ports of *ranges*, which are inclusive, out of the rule."""
        left: list[PortRule] = []
        first = self.first
        for low, high in sorted(ranges):
            if high < first or low > self.last:
                continue
            if low > first:
                left.append(replace(self, first=first, last=low - 1, target=self.target_port(first)))
            first = high + 1
        if first <= self.last:
            left.append(replace(self, first=first, target=self.target_port(first)))
        return left


class Settings(Value):
    """What the command line asks for: checked values, no defaults taken from the host yet.

    *mode* is "pasta" or "passt". Of the fields that end in 4 or 6 each concerns one family; None means
    that the option was not given. *mtu* None means that none is assigned; *prefix_len4* and
    *prefix_len6* are from -n or ADDR/LEN; *map_gw* False takes away the default of
    *map_host_loopback*. *port_rules* are those of -t and -u, *namespace_rules* those of -T and -U; *splice*
    lets flows from the host's loopback bypass the link, *splice_only* has no other ones. *pid_file* is the
    path of a file for our own process id; *runas* is a user and, behind a colon, a group. *log_file* is the
    path of one for messages, of *log_size* bytes at most, *pcap* that of one for a packet capture; *stats_s*
    are the seconds between rows of counters, None: no rows. *banner* False leaves out what a start tells.
    *trace*, a line for each frame, comes with *debug*.

    *pid* names a process whose namespaces are joined, or *netns* the path of a network namespace;
    *userns* is the path of a user namespace to join. *netns_only* leaves the user namespace as it is;
    *netns_quit* ends us with that process or path. Without *pid* and *netns* a *command* is run in new
    namespaces, a login shell if it is empty (then *foreground* is True already).

    A machine connects to the socket *socket_path* (None: the first default path that is free), unless *fd*
    is its connection already; *one_off* ends the run with the first connection.

    *dns4*, *dns6* and *search* None mean those of resolv.conf, empty means none at all; *hand_out_dns*
    and *hand_out_search* None mean the default of the mode.
    """

    mode: str
    debug: bool = False
    quiet: bool = False
    foreground: bool = False
    banner: bool = True
    pid_file: str | None = None
    trace: bool = False
    log_file: str | None = None
    log_size: int = DEFAULT_LOG_SIZE
    pcap: str | None = None
    stats_s: int | None = None
    mtu: int | None = DEFAULT_MTU
    ip4: bool = True
    ip6: bool = True
    address4: IPv4Address | None = None
    address6: IPv6Address | None = None
    prefix_len4: int | None = None
    prefix_len6: int | None = None
    gateway4: IPv4Address | None = None
    gateway6: IPv6Address | None = None
    interface: str | None = None
    outbound4: IPv4Address | None = None
    outbound6: IPv6Address | None = None
    outbound_if4: str | None = None
    outbound_if6: str | None = None
    map_gw: bool = True
    map_host_loopback4: IPv4Address | None = None
    map_host_loopback6: IPv6Address | None = None
    map_guest4: IPv4Address | None = None
    map_guest6: IPv6Address | None = None
    tcp: bool = True
    udp: bool = True
    icmp: bool = True
    dhcp: bool = True
    dns4: tuple[IPv4Address, ...] | None = None
    dns6: tuple[IPv6Address, ...] | None = None
    dns_forward4: IPv4Address | None = None
    dns_forward6: IPv6Address | None = None
    dns_host4: IPv4Address | None = None
    dns_host6: IPv6Address | None = None
    search: tuple[str, ...] | None = None
    hand_out_dns: bool | None = None
    hand_out_search: bool | None = None
    hostname: str = ""
    fqdn: str = ""
    ndp: bool = True
    router_advertisements: bool = True
    dhcpv6: bool = True
    our_mac: bytes = OUR_MAC
    ns_mac: bytes | None = None
    ns_ifname: str | None = None
    config_net: bool = False
    copy_routes: bool = True
    copy_addresses: bool = True
    freebind: bool = False
    splice: bool = True
    host_lo_to_ns_lo: bool = False
    port_rules: tuple[PortRule, ...] = ()
    namespace_rules: tuple[PortRule, ...] = ()
    splice_only: bool = False
    runas: str | None = None
    command: tuple[str, ...] = ()
    pid: int | None = None
    netns: str | None = None
    userns: str | None = None
    netns_only: bool = False
    netns_quit: bool = True
    socket_path: str | None = None
    fd: int | None = None
    one_off: bool = False

    @property
    def is_attached(self) -> bool:
        """Whether pasta joins a network namespace that exists, instead of running a command."""
        return self.pid is not None or self.netns is not None

    @property
    def has_auto_ports(self) -> bool:
        """Whether some rule follows the ports that are bound at the far side."""
        return any(rule.auto for rule in (*self.port_rules, *self.namespace_rules))


class InterfaceAddress(Value):
    """One address of a host interface; *message* is its RTM_NEWADDR payload (ifaddrmsg + attributes)."""

    address: IPAddress
    prefix_len: int
    scope: int
    flags: int
    message: bytes


class FamilyFacts(Value):
    """One family's view of its template interface.

    *routes* are the RTM_NEWROUTE payloads (struct rtmsg + attributes) of the unicast routes of the main
    table, of all interfaces; empty if nobody asked for them.
    """

    ifname: str
    ifindex: int
    mtu: int
    addresses: tuple[InterfaceAddress, ...]
    routes: tuple[bytes, ...]
    address: IPAddress | None
    prefix_len: int
    gateway: IPAddress | None
    link_local: IPv6Address | None = None


class ResolverFacts(Value):
    """What resolv.conf says: name servers in order and the search list.

    The scope of an IPv6 server, if it has one, is the index of the interface in decimal digits.
    """

    servers: tuple[IPAddress, ...] = ()
    search: tuple[str, ...] = ()


class HostFacts(Value):
    """What was read from the host at start; a family without a usable interface is None.

    *has_ip6* tells whether the kernel knows IPv6 at all, on an interface or not.
    """

    ip4: FamilyFacts | None
    ip6: FamilyFacts | None
    resolvers: ResolverFacts = ResolverFacts()
    has_ip6: bool = True


class GuestFamily(Value):
    """One family as the guest gets it.

    *address* is the one assigned (None: learnt from the guest, IPv6 local mode), *is_fixed* says that
    inbound flows go there whatever else the guest uses; *our_address* is the address by which we speak to
    the guest and that stands for sources it must not see (the gateway for IPv4, our link-local for IPv6);
    *map_host_loopback* and *map_guest* are guest-visible addresses that mean the host's loopback and the
    host's own address; queries to *dns_match* go to
    the host's resolver *dns_host* (with a scope as in `ResolverFacts`; None: the host itself);
    *resolvers* are those to hand out, empty if none are. *copied_addresses* and, of *copied_routes*
    (RTM_NEWROUTE payloads), those through the template, are set up in the namespace by --config-net instead
    of *address* and *gateway*. A family without a template is in local mode.
    """

    address: IPAddress | None
    prefix_len: int
    gateway: IPAddress | None
    our_address: IPAddress | None
    map_host_loopback: IPAddress | None = None
    map_guest: IPAddress | None = None
    dns_match: IPAddress | None = None
    dns_host: IPAddress | None = None
    template_ifname: str | None = None
    template_ifindex: int = 0
    outbound_address: IPAddress | None = None
    outbound_ifname: str | None = None
    is_fixed: bool = False
    resolvers: tuple[IPAddress, ...] = ()
    copied_addresses: tuple[InterfaceAddress, ...] = ()
    copied_routes: tuple[bytes, ...] = ()

    @property
    def our_link_local(self) -> IPv6Address | None:
        """*our_address* if it is one from which a router or DHCPv6 server may speak."""
        ours = self.our_address
        return ours if isinstance(ours, IPv6Address) and ours.is_link_local else None


class GuestNet(Value):
    """The network that the guest is to see; *mtu* None means that none is assigned.

    *ifname* and *ns_mac* concern pasta's tap interface only. *search* are the domains to hand out, in
    the text form of `passt.domain`, as *hostname* and *fqdn* are; those are empty if there is none.
    *warnings* are what the user should know of it, *notes* what may be of interest.
    """

    ip4: GuestFamily | None
    ip6: GuestFamily | None
    ifname: str
    our_mac: bytes = OUR_MAC
    ns_mac: bytes | None = None
    mtu: int | None = DEFAULT_MTU
    search: tuple[str, ...] = ()
    hostname: str = ""
    fqdn: str = ""
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

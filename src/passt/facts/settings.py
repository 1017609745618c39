"""What the command line asks for."""

from __future__ import annotations

from passt.light.values import Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from passt.facts.port_rule import PortRule


DEFAULT_MTU = 65520
DEFAULT_LOG_SIZE = 1 << 20
OUR_MAC = bytes.fromhex("9a559a559a55")


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

"""What the command line asks for, in groups: checked values, no defaults taken from the host yet.

A field that ends in 4 or 6 is for that IP version only. None means that the option was not given, unless
the comment of the field says what else it means. No two groups have a field of the same name.
"""

from __future__ import annotations

from passt.light.values import Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address

    from passt.facts.address import IPAddress
    from passt.facts.egress import EgressRule, EgressRules
    from passt.facts.port_rule import PortRule


DEFAULT_MTU = 65520
DEFAULT_LOG_SIZE = 1 << 20
OUR_MAC = bytes.fromhex("9a559a559a55")


class ProcessSettings(Value):
    """The process itself."""

    foreground: bool = False           # stay in the foreground; always so with a command
    pid_file: str | None = None        # path of a file for our process ID
    runas: str | None = None           # user to become: UID, LOGIN, or one with ":" and a group


class LogSettings(Value):
    """Messages: which ones, and where they go."""

    debug: bool = False                # messages of level debug too, and the counters at the end
    quiet: bool = False                # warnings and errors only
    banner: bool = True                # print the guest's network when the start is complete
    log_file: str | None = None        # path of a file for messages, instead of syslog
    log_size: int = DEFAULT_LOG_SIZE   # largest size of that file, in bytes


class DiagnosticSettings(Value):
    """What is recorded of the traffic."""

    trace: bool = False                # a message for each frame; set together with `LogSettings.debug`
    pcap: str | None = None            # path of a packet capture
    stats_s: int | None = None         # seconds between two rows of counters; None: no rows


class ProtocolSettings(Value):
    """Which protocols the guest may use beyond this host."""

    ip4: bool = True
    ip6: bool = True
    tcp: bool = True
    udp: bool = True
    icmp: bool = True                  # echo requests of ICMP and ICMPv6


class ServiceSettings(Value):
    """What we ourselves answer or send to the guest."""

    dhcp: bool = True
    dhcpv6: bool = True
    ndp: bool = True
    router_advertisements: bool = True


class AddressSettings(Value):
    """The guest's addresses and routes, and where its flows leave the host."""

    interface: str | None = None       # name of the template interface
    address4: IPv4Address | None = None
    address6: IPv6Address | None = None
    prefix_len4: int | None = None     # from --netmask, or from ADDR/LEN of --address
    prefix_len6: int | None = None
    gateway4: IPv4Address | None = None
    gateway6: IPv6Address | None = None
    mtu: int | None = DEFAULT_MTU      # in bytes; None: tell the guest no MTU
    our_mac: bytes = OUR_MAC           # hardware address of the gateway, as the guest sees it
    outbound4: IPv4Address | None = None   # source address of the host's sockets
    outbound6: IPv6Address | None = None
    outbound_if4: str | None = None    # interface that these sockets are bound to
    outbound_if6: str | None = None
    map_gw: bool = True                # the gateway's address means the host's loopback by default
    map_host_loopback4: IPv4Address | None = None   # what means the host's loopback instead
    map_host_loopback6: IPv6Address | None = None
    follow: bool = False               # keep the guest's network true to the host's while we run
    must_follow: bool = False          # it was asked for: what is in its way is an error
    wait_online_s: int | None = None   # seconds to wait for the host's network at the start; 0: for ever
    map_guest4: IPv4Address | None = None  # what means the host's own address
    map_guest6: IPv6Address | None = None


class NameSettings(Value):
    """Name resolution, and the guest's own name."""

    dns4: tuple[IPv4Address, ...] | None = None  # name servers; None: those of resolv.conf; empty: none
    dns6: tuple[IPv6Address, ...] | None = None
    dns_forward4: IPv4Address | None = None      # queries to this address go to the host's name server
    dns_forward6: IPv6Address | None = None
    dns_host4: IPv4Address | None = None         # the host's name server; None: the first of resolv.conf
    dns_host6: IPv6Address | None = None
    dns_cache: int = 0                           # answers that the forwarder remembers
    dns_refuse: str = "refused"                  # the answer for names that rules of egress do not allow
    dns_routes: tuple[tuple[str, IPAddress], ...] = ()  # suffixes that have name servers of their own
    dns_hosts: tuple[tuple[str, IPAddress], ...] = ()   # names that the forwarder knows itself
    search: tuple[str, ...] | None = None        # search domains; None: those of resolv.conf; empty: none
    hand_out_dns: bool | None = None             # tell the guest the name servers; None: passt only
    hand_out_search: bool | None = None          # tell the guest the search domains; None: passt only
    hostname: str = ""                           # empty: the guest is told no name
    fqdn: str = ""

    @property
    def is_forwarding(self) -> bool:
        """Whether there is an address at which the forwarder is asked."""
        return self.dns_forward4 is not None or self.dns_forward6 is not None


class ForwardingSettings(Value):
    """Ports that are forwarded."""

    port_rules: tuple[PortRule, ...] = ()        # -t and -u: the host listens
    namespace_rules: tuple[PortRule, ...] = ()   # -T and -U: the namespace listens
    freebind: bool = False                       # listen on addresses that the host does not have
    splice: bool = True                          # flows from the host's loopback bypass the link
    ports_file: str | None = None                # path of a file that says which ports are open
    splice_only: bool = False                    # there is no link; other flows are refused
    host_lo_to_ns_lo: bool = False               # and then reach services on the namespace's loopback

    @property
    def takes_sockets(self) -> bool:
        """Whether some rule is about sockets that a service manager hands over."""
        return any(rule.inherited for rule in self.port_rules)

    @property
    def has_auto_ports(self) -> bool:
        """Whether some rule follows the ports bound at its service side."""
        return any(rule.auto for rule in (*self.port_rules, *self.namespace_rules))


class EgressSettings(Value):
    """Which flows may pass."""

    denied: tuple[EgressRule, ...] = ()          # tried before those that allow
    allowed: tuple[EgressRule, ...] = ()         # with one of them, all else is denied
    allow_from: tuple[tuple[bytes, int], ...] = ()   # networks whose hosts may connect; empty: all
    policy_file: str | None = None               # path of a file with more rules, tried after these
    from_file: EgressRules | None = None         # what it says, once it is read
    nat64_prefixes: tuple[tuple[bytes, int], ...] = ()         # packed, and their length in bits
    learn_file: str | None = None                # path of a file for rules that would have been needed
    verify_names: bool = False                   # connections to addresses of names have to say the name

    @property
    def is_asked(self) -> bool:
        """Whether any flow is judged or noted."""
        return bool(self.has_rules or self.allow_from or self.learn_file is not None)

    @property
    def has_rules(self) -> bool:
        """Whether flows of the guest are judged by rules."""
        return bool(self.denied or self.allowed or self.policy_file is not None)

    @property
    def has_names(self) -> bool:
        """Whether a rule is about a name, as far as the file is read."""
        return self.has_rules and self.rules.has_names

    @property
    def needs_names(self) -> bool:
        """Whether it has to be known what the guest asks for."""
        return self.learn_file is not None or self.has_names

    @property
    def rules(self) -> EgressRules:
        """All rules, in the order in which they are tried."""
        from passt.facts.egress import EgressRules  # few starts have rules

        more = self.from_file or EgressRules()
        return EgressRules((*self.denied, *self.allowed, *more.rules), not self.allowed and more.allows_rest,
                           verifies=self.verify_names or more.verifies)


class NamespaceSettings(Value):
    """pasta only: the namespaces, what runs there, and the interface there.

    Without *pid* and *netns* the *command* runs in new namespaces.
    """

    command: tuple[str, ...] = ()      # program and arguments; empty: a login shell
    pid: int | None = None             # join the namespaces of this process
    netns: str | None = None           # path of a network namespace to join
    userns: str | None = None          # path of a user namespace to join
    netns_only: bool = False           # stay in the caller's user namespace
    netns_quit: bool = True            # end when that process ends, or that path goes away
    ns_ifname: str | None = None       # name of the interface; None: that of the template
    ns_mac: bytes | None = None        # its hardware address; None: the kernel's choice
    config_net: bool = False           # set up its addresses and routes
    copy_routes: bool = True           # with config_net: the host's routes, not just a default one
    copy_addresses: bool = True        # with config_net: all of the host's addresses, not just one

    @property
    def is_attached(self) -> bool:
        """Whether pasta joins a network namespace that exists, instead of running a command."""
        return self.pid is not None or self.netns is not None


class SocketSettings(Value):
    """passt only: how a virtual machine connects."""

    socket_path: str | None = None     # path of the listening socket; None: the first free default path
    fd: int | None = None              # a connected socket that the caller hands over
    one_off: bool = False              # end with the first connection
    vhost_user: bool = False           # share the machine's memory, instead of sending frames on the socket


class ControlSettings(Value):
    """How the running program can be asked and changed."""

    conf_path: str | None = None       # path of the socket on which `pesto` changes the port rules
    control_path: str | None = None    # path of the socket on which HTTP is spoken, or "auto"

    @property
    def changes_ports(self) -> bool:
        """Whether port rules may come and go while the program runs."""
        return self.conf_path is not None or self.control_path is not None


class Settings(Value):
    """All that the command line says to the program *mode*, "pasta" or "passt"."""

    mode: str
    process: ProcessSettings = ProcessSettings()
    log: LogSettings = LogSettings()
    diagnostics: DiagnosticSettings = DiagnosticSettings()
    protocols: ProtocolSettings = ProtocolSettings()
    services: ServiceSettings = ServiceSettings()
    addresses: AddressSettings = AddressSettings()
    names: NameSettings = NameSettings()
    forwarding: ForwardingSettings = ForwardingSettings()
    egress: EgressSettings = EgressSettings()
    namespace: NamespaceSettings = NamespaceSettings()
    socket: SocketSettings = SocketSettings()
    control: ControlSettings = ControlSettings()

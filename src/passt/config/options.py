"""The one table of all options: the parser, --help and the manual pages are made from it.

An option that this version does not have yet is in the table with `available=False`: it is known, so that
prefixes resolve as they will later, and refused. This module and `getopt` import next to nothing, because
`pasta --version` needs only them: `dataclasses` alone costs three times the start of the interpreter's core.
"""

from __future__ import annotations

PASTA = "pasta"
PASST = "passt"
BOTH = (PASST, PASTA)

GENERAL = "General"
NETWORK = "Network of the guest or namespace"
HOST_SIDE = "Host side"
MAPPING = "Addresses that stand for the host"
PROTOCOLS = "Protocols and services"
NAMES = "Name resolution"
PORTS = "Port forwarding"
EGRESS = "What may be reached"
NAMESPACE = "Namespace"
MACHINE = "Virtual machine"
GROUPS = (GENERAL, NETWORK, HOST_SIDE, MAPPING, PROTOCOLS, NAMES, PORTS, EGRESS, NAMESPACE, MACHINE)

LAST_WINS = "last wins"
PER_FAMILY = "once per family"
ACCUMULATES = "accumulates"


class Option:
    """One option.

    *names* are its long names without dashes, the usual one first; *short* is one character or empty;
    *argument* is the placeholder of its argument, empty if it takes none; *implied* is what stands for an
    argument that is left out, empty if that may not be; *modes* are the programs that have it; *repeat* is
    what a second use means; *text* is its help; *meanwhile* is what to do while it is not available.
    """

    __slots__ = ("argument", "available", "deprecated", "group", "implied", "meanwhile", "modes", "names",
                 "repeat", "short", "text")

    def __init__(self, group: str, short: str, names: str, argument: str, text: str, *,
                 modes: tuple[str, ...] = BOTH, repeat: str = LAST_WINS, implied: str = "",
                 available: bool = False, deprecated: bool = False, meanwhile: str = "") -> None:
        self.group = group
        self.short = short
        self.names = tuple(names.split())
        self.argument = argument
        self.implied = implied
        self.text = text
        self.modes = modes
        self.repeat = repeat
        self.available = available
        self.deprecated = deprecated
        self.meanwhile = meanwhile

    @property
    def name(self) -> str:
        """The usual long name, which identifies the option."""
        return self.names[0]

    def __repr__(self) -> str:
        return f"Option(--{self.name})"


_PASTA_ONLY = (PASTA,)
_PASST_ONLY = (PASST,)

OPTIONS: tuple[Option, ...] = (
    Option(GENERAL, "d", "debug", "",
           "Print detailed messages on standard error, with time stamps, and not in the system log;"
           " undoes --quiet.",
           available=True),
    Option(GENERAL, "", "trace", "", "As --debug, and print a line for each packet.", available=True),
    Option(GENERAL, "q", "quiet", "", "Print warnings and errors only; undoes --debug and --trace.",
           available=True),
    Option(GENERAL, "f", "foreground", "",
           "Stay in the foreground, in the caller's PID namespace; a command or a shell implies it. Default:"
           " go to the background; the program that was called exits when all is ready.", available=True),
    Option(GENERAL, "e", "stderr", "", "No effect; accepted from old callers.",
           available=True, deprecated=True),
    Option(GENERAL, "", "chroot-fallback", "",
           "No effect; accepted from callers of the C program. Where the root directory cannot be replaced,"
           " Landlock closes all paths without being asked.", available=True),
    Option(GENERAL, "l", "log-file", "PATH", "Write messages to the file PATH instead of the system log.",
           available=True),
    Option(GENERAL, "", "log-size", "SIZE",
           "Keep the log file below SIZE bytes, 40960 or more, by removing the oldest lines. Default:"
           " 1048576.",
           available=True),
    Option(GENERAL, "", "runas", "UID[:GID]|LOGIN[:GROUP]",
           "Change to this user and group; takes root, or CAP_SETUID. Default: nobody if started by root"
           " (except a command that pasta runs); else no change.", available=True),
    Option(GENERAL, "p", "pcap", "FILE", "Record the guest's frames to FILE, in pcap format.",
           available=True),
    Option(GENERAL, "P", "pid", "FILE",
           "Write the process ID to FILE when all is ready; until then FILE is empty.",
           available=True),
    Option(GENERAL, "", "control", "PATH|auto",
           "Show what the program does, and take orders, port rules among them, by HTTP on a UNIX socket"
           " that is bound to PATH;"
           " only the user who starts the program may connect. auto: $XDG_RUNTIME_DIR/passt/PID.sock. Needs"
           " the Python package h11.", available=True),
    Option(GENERAL, "c", "conf-path", "PATH",
           "Listen on the UNIX domain socket PATH for pesto(1), which shows and changes the forwarded ports"
           " while the program runs. The file is the caller's alone; one that no process serves any more is"
           " replaced.", available=True),
    Option(GENERAL, "", "stats", "SECONDS",
           "Print a row of counters on standard error every SECONDS seconds, if a counter has changed; needs"
           " --foreground.", available=True),
    Option(GENERAL, "h", "help", "", "Print this overview and exit.", available=True),
    Option(GENERAL, "", "version", "", "Print the version and exit.", available=True),

    Option(NETWORK, "4", "ipv4-only", "", "No IPv6; undoes -6.", available=True),
    Option(NETWORK, "6", "ipv6-only", "", "No IPv4; undoes -4.", available=True),
    Option(NETWORK, "a", "address", "ADDR[/LEN]",
           "Address to assign. Default: the address of the template interface. The host's other addresses are"
           " then not copied for this family.", repeat=PER_FAMILY, available=True),
    Option(NETWORK, "n", "netmask", "MASK",
           "IPv4 netmask to assign, as a.b.c.d or as a number of bits; 0 means the default: the mask of the"
           " host's subnet that the address is in, else that of the address class. The host's other IPv4"
           " addresses are then not copied.", available=True),
    Option(NETWORK, "g", "gateway", "ADDR",
           "Default gateway to assign. Default: the template interface's. The host's other routes are then"
           " not copied for this family.", repeat=PER_FAMILY, available=True),
    Option(NETWORK, "m", "mtu", "MTU",
           "MTU to assign, 68 to 65521 bytes; 0 assigns none. Default: 65520.", available=True),
    Option(NETWORK, "M", "mac-addr", "MAC",
           "Hardware address of the gateway, as the guest sees it. Default: 9a:55:9a:55:9a:55.",
           available=True),
    Option(NETWORK, "i", "interface", "NAME",
           "Template: the host interface whose addresses and routes the guest gets. Default: the interfaces"
           " of --outbound-if4 and --outbound-if6, else those of the first default routes; see NOTES.",
           available=True),
    Option(NETWORK, "H", "hostname", "NAME",
           "Host name to hand out by DHCP, and of the namespace in which pasta runs a command. Default: none,"
           " and that namespace is named after the host.", available=True),
    Option(NETWORK, "", "fqdn", "NAME",
           "Fully qualified name to hand out by DHCP to a client that asks for it or sends one.",
           available=True),

    Option(HOST_SIDE, "o", "outbound", "ADDR",
           "Source address of the host's sockets. Default: the one that the host's routes choose.",
           repeat=PER_FAMILY, available=True),
    Option(HOST_SIDE, "", "outbound-if4", "NAME",
           "Bind outbound IPv4 sockets to this interface; it is the IPv4 template too, unless -i is given.",
           available=True),
    Option(HOST_SIDE, "", "outbound-if6", "NAME", "The same for IPv6.", available=True),
    Option(HOST_SIDE, "", "freebind", "",
           "Allow addresses of -t and -u that the host does not have, or not yet.", available=True),

    Option(HOST_SIDE, "", "follow", "",
           "Keep the guest's network true to the host's: addresses, gateway, interface and name servers that"
           " change, or come after the start, are followed, except where an option fixes them. This is the"
           " default, unless options fix all of it; if it is given, what is in its way is an error, and the"
           " interface of -i may come after the start. Not with --splice-only; undoes --no-follow; see"
           " NOTES.",
           available=True),
    Option(HOST_SIDE, "", "no-follow", "",
           "The guest's network stays as it was at the start; undoes --follow.", available=True),
    Option(HOST_SIDE, "", "wait-online", "SECONDS",
           "Start when the host has an address and a route, but wait no longer than SECONDS; without SECONDS,"
           " or with 0, as long as it takes. Default: start at once, with link-local addresses where there is"
           " no network.", implied="0", available=True),

    Option(MAPPING, "", "map-host-loopback", "ADDR|none",
           "Address that means the host's loopback to the guest. Default: the gateway. none: no such address,"
           " in either family; clients on the host's loopback then still appear to come from the gateway, but"
           " the guest cannot reach the host's loopback.", repeat=PER_FAMILY, available=True),
    Option(MAPPING, "", "no-map-gw", "",
           "The gateway's address does not lead to the host's loopback (unless --map-host-loopback says so).",
           available=True),
    Option(MAPPING, "", "map-guest-addr", "ADDR|none",
           "Address that means the host to the guest, where the guest has the host's own address."
           " Default: none.", repeat=PER_FAMILY, available=True),

    Option(PROTOCOLS, "", "no-tcp", "", "No TCP, in either direction.", available=True),
    Option(PROTOCOLS, "", "no-udp", "", "No UDP, in either direction.", available=True),
    Option(PROTOCOLS, "", "no-icmp", "", "No ping, over IPv4 or IPv6.", available=True),
    Option(PROTOCOLS, "", "no-dhcp", "",
           "No DHCP service; implied if the IPv4 default route has no gateway.", available=True),
    Option(PROTOCOLS, "", "no-ndp", "",
           "No answers to neighbour discovery, and no router advertisements.", available=True),
    Option(PROTOCOLS, "", "no-dhcpv6", "", "No DHCPv6 service.", available=True),
    Option(PROTOCOLS, "", "no-ra", "",
           "No router advertisements; --config-net implies it.", available=True),

    Option(NAMES, "D", "dns", "ADDR|none",
           "Name server to hand out unchanged instead of the host's of the same family; up to three of each"
           " family. none: no name servers, and no --dns-forward or --dns-host given before it. Default:"
           " those of /etc/resolv.conf; instead of one that the guest cannot reach, the address of"
           " --dns-forward or --map-host-loopback is handed out, which then leads to it.",
           repeat=ACCUMULATES, available=True),
    Option(NAMES, "", "dns-forward", "ADDR",
           "Answer DNS queries to ADDR, UDP and TCP port 53, by asking all name servers of the host in turn,"
           " of either family, as resolv.conf(5) says (options timeout, attempts, rotate); see NOTES. Where"
           " the guest has no IPv6, no IPv6 address is told. Port 853 is passed to the server of --dns-host.",
           repeat=PER_FAMILY, available=True),
    Option(NAMES, "", "dns-host", "ADDR",
           "Name server for --dns-forward, an address of the host's view, instead of those of"
           " /etc/resolv.conf. Default: all of them; for port 853 the first of the same family; else the host"
           " itself.", repeat=PER_FAMILY, available=True),
    Option(NAMES, "", "dns-cache", "N",
           "Remember up to N answers to queries to --dns-forward, up to 100000, as long as they say. Default:"
           " 0, none.", available=True),
    Option(NAMES, "", "dns-route", "SUFFIX=ADDR",
           "Ask the name server ADDR for names that end in SUFFIX (. is all names), in queries to"
           " --dns-forward. The longest suffix counts; several servers of one are asked in turn.",
           repeat=ACCUMULATES, available=True),
    Option(NAMES, "", "dns-hosts", "NAME=ADDR",
           "Answer that NAME has the address ADDR, in queries to --dns-forward; several addresses add up.",
           repeat=ACCUMULATES, available=True),
    Option(NAMES, "S", "search", "LIST|none",
           "Search domains, separated by blanks, to hand out instead of the host's. none: no domains (none."
           " with a dot is the domain of that name).", repeat=ACCUMULATES, available=True),
    Option(NAMES, "", "no-dhcp-dns", "", "Do not hand out name servers.", modes=_PASST_ONLY, available=True),
    Option(NAMES, "", "no-dhcp-search", "", "Do not hand out search domains.", modes=_PASST_ONLY,
           available=True),
    Option(NAMES, "", "dhcp-dns", "", "Hand out name servers, by DHCP and router advertisements.",
           modes=_PASTA_ONLY, available=True),
    Option(NAMES, "", "dhcp-search", "", "Hand out search domains, by DHCP and router advertisements.",
           modes=_PASTA_ONLY, available=True),

    Option(PORTS, "t", "tcp-ports", "SPEC",
           "Forward TCP ports of the host to the guest. SPEC: [ADDR][%IF]/ITEM,... with items PORT,"
           " FIRST-LAST, PORTS:TARGETS, PORTS:TARGETADDR[/TARGETS], ~EXCLUDED, all (except ephemeral ports),"
           " 0:TARGET (a free port, see --ports-file), auto (pasta: while bound in the namespace); or none;"
           " or fd:NAME:TARGET (sockets that systemd hands over, see NOTES). Unless -u is given, UDP ports of"
           " the same numbers are forwarded too. Default: auto in pasta, none in passt.",
           repeat=ACCUMULATES, available=True),
    Option(PORTS, "u", "udp-ports", "SPEC",
           "The same for UDP ports; auto follows TCP ports too. With none, -t forwards no UDP ports."
           " Default: auto in pasta, none in passt.",
           repeat=ACCUMULATES, available=True),
    Option(PORTS, "T", "tcp-ns", "SPEC",
           "Forward TCP ports of the namespace's loopback to the host's; SPEC as for -t, without address and"
           " interface. Default: auto.", modes=_PASTA_ONLY, repeat=ACCUMULATES, available=True),
    Option(PORTS, "U", "udp-ns", "SPEC", "The same for UDP ports. Default: auto.",
           modes=_PASTA_ONLY, repeat=ACCUMULATES, available=True),
    Option(PORTS, "", "ports-file", "FILE",
           "When all is ready, write to FILE a line for each port of the host that -t and -u name: protocol,"
           " address or *, port, where it leads. Until then FILE is empty.", available=True),
    Option(PORTS, "", "host-lo-to-ns-lo", "",
           "Clients on the host's loopback reach forwarded ports on the namespace's loopback, including"
           " services bound to loopback only. Default: they reach the namespace's public address.",
           modes=_PASTA_ONLY, available=True),
    Option(PORTS, "", "no-splice", "",
           "Connections from the host's loopback go through the tap interface too. Default: they are passed"
           " on from socket to socket.", modes=_PASTA_ONLY, available=True),
    Option(PORTS, "", "splice-only", "",
           "No tap interface, and no /dev/net/tun needed: only forward connections from loopback to loopback,"
           " by -t, -u, -T and -U; implies --host-lo-to-ns-lo.", modes=_PASTA_ONLY, available=True),

    Option(EGRESS, "", "allow", "RULE",
           "Allow flows to what RULE names, and deny all others that no RULE of --allow names:"
           " [tcp:|udp:|icmp:]WHAT[:PORTS], where WHAT is ADDR, ADDR/LEN, an IPv6 one of these in brackets if"
           " PORTS follow, NAME or *.SUFFIX, or one of host, private, link-local, metadata, multicast, dns."
           " With names, queries go to our forwarder: at --dns-forward, else in the place of the host's"
           " server. What is denied fails at once.",
           repeat=ACCUMULATES, available=True),
    Option(EGRESS, "", "deny", "RULE",
           "Deny flows to what RULE names, whatever --allow says; without --allow, all others are allowed."
           " Queries for a NAME are refused, but none of its addresses is closed: who knows one reaches it if"
           " the rest is allowed.",
           repeat=ACCUMULATES, available=True),
    Option(EGRESS, "", "policy", "FILE",
           "Read rules from FILE, in TOML, and try them after those of --deny and --allow: a list rules of"
           " texts 'allow RULE' and 'deny RULE', default, and profiles (docs/egress.md). SIGHUP has it read"
           " again.", available=True),
    Option(EGRESS, "", "nat64-prefix", "PREFIX/LEN",
           "Deny what this network's NAT64, at PREFIX of length 32, 40, 48, 56, 64 or 96, takes to an IPv4"
           " address that a rule denies. The well-known prefixes, 6to4, Teredo and ISATAP need no option.",
           repeat=ACCUMULATES, available=True),
    Option(EGRESS, "", "verify-names", "",
           "Let a connection to an address that a rule opens by name alone say a name that is allowed there,"
           " in TLS or HTTP, before the other end gets a byte; else reset it. Opens such addresses to TCP and"
           " ping only.", available=True),
    Option(EGRESS, "", "dns-refuse", "CODE",
           "What is answered to a query for a name that no rule allows: refused, or nxdomain, as if there"
           " were no such name. Default: refused.", available=True),
    Option(EGRESS, "", "learn", "FILE",
           "Allow all, and write to FILE, when the run ends, the rules that it would have needed, as --policy"
           " reads them: by name where our forwarder was asked for one, else by address.", available=True),
    Option(EGRESS, "", "allow-from", "ADDR[/LEN]",
           "Only clients with these addresses may use forwarded ports of the host. Default: all clients.",
           repeat=ACCUMULATES, available=True),

    Option(NAMESPACE, "", "config-net", "", "Set up addresses, routes and MTU in the namespace.",
           modes=_PASTA_ONLY, available=True),
    Option(NAMESPACE, "I", "ns-ifname", "NAME",
           "Name of the interface in the namespace. Default: the template's, or tap0 if there is none.",
           modes=_PASTA_ONLY, available=True),
    Option(NAMESPACE, "", "ns-mac-addr", "MAC",
           "Hardware address of the interface in the namespace. Default: the kernel's choice.",
           modes=_PASTA_ONLY, available=True),
    Option(NAMESPACE, "", "no-copy-routes", "", "With --config-net: set a default route only.",
           modes=_PASTA_ONLY, available=True, deprecated=True),
    Option(NAMESPACE, "", "no-copy-addrs", "", "With --config-net: set one address per family only.",
           modes=_PASTA_ONLY, available=True, deprecated=True),
    Option(NAMESPACE, "", "netns", "PATH|NAME",
           "Join the network namespace at PATH; NAME means /run/netns/NAME. Without --userns, stay in the"
           " caller's user namespace. Excludes PID and COMMAND.", modes=_PASTA_ONLY,
           available=True),
    Option(NAMESPACE, "", "userns", "PATH",
           "Join the user namespace at PATH. Default: that of the process PID; for a command, a new one.",
           modes=_PASTA_ONLY, available=True),
    Option(NAMESPACE, "", "netns-only", "",
           "Neither join nor make a user namespace. Of this option and --userns, the last one counts.",
           modes=_PASTA_ONLY, available=True),
    Option(NAMESPACE, "", "no-netns-quit", "",
           "Do not end when the path of --netns is removed or the process PID ends.", modes=_PASTA_ONLY,
           available=True),

    Option(MACHINE, "s", "socket socket-path", "PATH",
           "Listen for the virtual machine on the UNIX domain socket PATH; undoes -F. Default: the first of"
           " /tmp/passt_1.socket to /tmp/passt_64.socket that no process uses.", modes=_PASST_ONLY,
           available=True),
    Option(MACHINE, "F", "fd", "FD",
           "Serve the connected stream socket FD, inherited from the caller; undoes -s, implies --one-off.",
           modes=_PASST_ONLY, available=True),
    Option(MACHINE, "1", "one-off", "", "End when the first client closes its connection.",
           modes=_PASST_ONLY, available=True),
    Option(MACHINE, "", "vhost-user", "",
           "Speak vhost-user on the socket: the virtual machine shares its memory, and frames are not copied"
           " through the socket. Default: each frame is sent with its length in front.", modes=_PASST_ONLY,
           available=True),
    Option(MACHINE, "", "repair-path", "PATH|none",
           "Socket for passt-repair, by which connections go with a machine that is migrated.",
           modes=_PASST_ONLY,
           meanwhile="connections end when a machine is migrated, whatever is given here; leave it out"),
    Option(MACHINE, "", "migrate-exit", "", "End when the machine has been migrated.", modes=_PASST_ONLY,
           meanwhile="--one-off ends passt when its machine closes the connection"),
    Option(MACHINE, "", "migrate-no-linger", "", "Do not wait for the other side when a machine is migrated.",
           modes=_PASST_ONLY, meanwhile="nothing is waited for, as connections do not go with a machine"),
    Option(MACHINE, "", "print-capabilities", "",
           "Print what the vhost-user back end can do, as JSON, and exit.", modes=_PASST_ONLY,
           available=True),
)

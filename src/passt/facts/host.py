"""What was read from the host at the start."""

from __future__ import annotations

from passt.light.values import NamedTuple, Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from ipaddress import IPv6Address

    from passt.facts.address import IPAddress


DEFAULT_TIMEOUT_S, DEFAULT_ATTEMPTS = 5, 2   # resolv.conf(5): of a name server


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
    table, of all interfaces; empty if they were not asked for.
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
    """What resolv.conf says: name servers in order, the search list, and how servers are asked.

    The scope of an IPv6 server, if it has one, is the index of the interface in decimal digits.
    """

    servers: tuple[IPAddress, ...] = ()
    search: tuple[str, ...] = ()
    timeout_s: int = DEFAULT_TIMEOUT_S
    attempts: int = DEFAULT_ATTEMPTS
    rotate: bool = False


class HostChange(NamedTuple):
    """One change for people: *what* of IP *version* (0: of both) was *before* and is *after*."""

    what: str
    version: int
    before: str
    after: str

    @property
    def text(self) -> str:
        """A line for the log."""
        family = f"IPv{self.version} " if self.version else ""
        return f"the host's network has changed: {family}{self.what} {self.before} -> {self.after}"


class HostFacts(Value):
    """What was read from the host at start; a family without a usable interface is None.

    *has_ip6* tells whether the kernel knows IPv6 at all, on an interface or not.
    """

    ip4: FamilyFacts | None
    ip6: FamilyFacts | None
    resolvers: ResolverFacts = ResolverFacts()
    has_ip6: bool = True

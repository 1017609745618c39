"""The network that the guest sees."""

from __future__ import annotations

from ipaddress import IPv6Address

from passt.facts.host import DEFAULT_ATTEMPTS, DEFAULT_TIMEOUT_S
from passt.facts.settings import DEFAULT_MTU, OUR_MAC
from passt.light.values import Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.address import IPAddress
    from passt.facts.host import InterfaceAddress


class GuestFamily(Value):
    """One family of the guest's network. A family without a template interface is in local mode."""

    address: IPAddress | None          # assigned to the guest; None: learnt from it (IPv6 local mode)
    prefix_len: int
    gateway: IPAddress | None
    our_address: IPAddress | None      # source of what we send, and of remotes that the guest must not see
    map_host_loopback: IPAddress | None = None  # means the host's loopback to the guest
    map_guest: IPAddress | None = None          # means the host's own address to the guest
    dns_match: IPAddress | None = None          # queries to this address go to dns_host
    dns_host: IPAddress | None = None           # with a scope as in `ResolverFacts`; None: the host itself
    template_ifname: str | None = None
    template_ifindex: int = 0
    outbound_address: IPAddress | None = None   # source address of the host's sockets
    outbound_ifname: str | None = None          # interface that these sockets are bound to
    is_fixed: bool = False             # inbound flows go to `address`, whatever else the guest uses
    resolvers: tuple[IPAddress, ...] = ()       # name servers to hand out
    # With --config-net these are set up instead of `address` and `gateway`; of the routes, payloads of
    # RTM_NEWROUTE, those through the template.
    copied_addresses: tuple[InterfaceAddress, ...] = ()
    copied_routes: tuple[bytes, ...] = ()
    host_address: IPAddress | None = None       # what `map_guest` leads to; None: to `address`
    is_forwarded: bool = False         # queries to dns_match go to the forwarder, if there is one

    @property
    def our_link_local(self) -> IPv6Address | None:
        """Our address if it is link-local, as the source of a router or DHCPv6 server must be."""
        ours = self.our_address
        return ours if isinstance(ours, IPv6Address) and ours.is_link_local else None


class NameService(Value):
    """Whom the forwarder of --dns-forward asks, and how patiently; see `ResolverFacts`.

    *ifindex* is the link of a link-local server without a scope.
    """

    servers: tuple[IPAddress, ...]
    timeout_s: int = DEFAULT_TIMEOUT_S
    attempts: int = DEFAULT_ATTEMPTS
    rotate: bool = False
    ifindex: int = 0


class GuestNet(Value):
    """The network that the guest sees; *mtu* None means that none is assigned.

    *ifname* and *ns_mac* concern pasta's tap interface only. *search* are the domains to hand out, in
    the text form of `facts.domain_name`, as *hostname* and *fqdn* are; those are empty if there is none.
    *warnings* and *notes* are messages about it for the user.
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
    names: NameService | None = None   # with --dns-forward

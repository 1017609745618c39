"""The network that the guest is to see."""

from __future__ import annotations

from ipaddress import IPv6Address

from passt.facts.settings import DEFAULT_MTU, OUR_MAC
from passt.light.values import Value

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from passt.facts.address import IPAddress
    from passt.facts.host import InterfaceAddress


class GuestFamily(Value):
    """One family as the guest gets it.

    *address* is the one assigned (None: learnt from the guest, IPv6 local mode), *is_fixed* says that
    inbound flows go there whatever else the guest uses; *our_address* is the address by which we speak to
    the guest and that stands for sources it must not see (the gateway for IPv4, our link-local for IPv6);
    *map_host_loopback* and *map_guest* are guest-visible addresses that mean the host's loopback and the
    host's own address; queries to *dns_match* go to the host's resolver *dns_host* (with a scope as in
    `ResolverFacts`; None: the host itself);
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
    the text form of `facts.domain_name`, as *hostname* and *fqdn* are; those are empty if there is none.
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

"""From what the guest has and what the host has become to what the guest gets: pure, no I/O.

The guest's network is worked out anew as at a start (`config.resolve`), so whatever options fix stays. In
three points a running guest is unlike a new one:

* What the host lost has no successor yet: a family without a usable interface, a default route without a
  gateway, a resolv.conf without a server keep what was there before. The guest's connections to the host
  itself go on, and a network that comes back changes nothing.
* An address that the host still has stays the guest's, though a start would take another one: hosts get
  another temporary IPv6 address every day (RFC 8981).
* The interface in the namespace keeps its name. What --config-net has set up there stays if nobody can change
  it any more; what its addresses lead to follows the host.
"""

from __future__ import annotations

from passt.config.resolve import resolve
from passt.errors import ConfigError
from passt.facts.host import HostChange, HostFacts, InterfaceAddress
from passt.light.values import NamedTuple, replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable

    from passt.facts.address import IPAddress
    from passt.facts.guest import GuestFamily, GuestNet
    from passt.facts.host import FamilyFacts
    from passt.facts.settings import Settings

# linux/if_addr.h
_IFA_F_DADFAILED, _IFA_F_DEPRECATED = 0x08, 0x20
_UNUSABLE = _IFA_F_DADFAILED | _IFA_F_DEPRECATED
_NOTHING = "none"
_HOST_ADDRESS = "address of the host"


class Renewal(NamedTuple):
    """The guest's network as it is to be, *guest*, and the *facts* that it is made of.

    *changes* may be empty though *guest* is another one than before: some facts are none of people's concern.
    *fault* says why options and facts contradict each other, empty: they do not; nothing changes then.
    """

    facts: HostFacts
    guest: GuestNet
    changes: tuple[HostChange, ...] = ()
    fault: str = ""


def renew(settings: Settings, known: HostFacts, found: HostFacts, guest: GuestNet, *,
          keeps_inside: bool) -> Renewal:
    """Work out the successor of *guest*, which was made of *known*, now that the host is as *found*.

    *keeps_inside* says that the addresses and routes that the guest has cannot change.
    """
    asked = settings.addresses
    facts = HostFacts(
        _succeed(known.ip4, found.ip4, asked.address4),
        _succeed(known.ip6, found.ip6, asked.address6),
        found.resolvers if found.resolvers.servers else known.resolvers,
        found.has_ip6,
    )
    try:
        wanted = resolve(settings, facts, may_come=True)
    except ConfigError as error:
        return Renewal(known, guest, (), str(error))
    wanted = replace(wanted, ifname=guest.ifname, warnings=guest.warnings, notes=guest.notes)
    if keeps_inside:
        wanted = replace(guest, ip4=_keep_inside(guest.ip4, wanted.ip4),
                         ip6=_keep_inside(guest.ip6, wanted.ip6), names=wanted.names)
    return Renewal(facts, wanted, tuple(_compare(guest, wanted)))


def is_same(one: GuestNet, other: GuestNet) -> bool:
    """Tell whether two networks differ in nothing but lifetimes and routes, which nothing depends on."""
    return _essence(one) == _essence(other)


def _essence(guest: GuestNet) -> GuestNet:
    return replace(guest, ip4=_essence_of(guest.ip4), ip6=_essence_of(guest.ip6))


def _essence_of(family: GuestFamily | None) -> GuestFamily | None:
    if family is None:
        return None
    addresses = {(entry.address.packed, entry.prefix_len): entry.address for entry in family.copied_addresses}
    copied = tuple(InterfaceAddress(addresses[key], key[1], 0, 0, b"") for key in sorted(addresses))
    return replace(family, copied_addresses=copied, copied_routes=())


def _succeed(known: FamilyFacts | None, found: FamilyFacts | None, given: IPAddress | None
             ) -> FamilyFacts | None:
    """Return *found* with what of *known* has to stay; *given* is the address of --address."""
    if known is None:
        return found
    if found is None or (found.address is None and given is None):
        return known
    address, prefix_len = found.address, found.prefix_len
    if known.ifindex == found.ifindex:
        for entry in found.addresses:
            if entry.address == known.address and not entry.flags & _UNUSABLE:
                address, prefix_len = entry.address, entry.prefix_len
    return replace(found, address=address, prefix_len=prefix_len, gateway=found.gateway or known.gateway)


def _keep_inside(before: GuestFamily | None, wanted: GuestFamily | None) -> GuestFamily | None:
    """Keep what a namespace was set up with; take what it leads to from *wanted*."""
    if before is None or wanted is None:
        return before
    match = before.dns_match
    if match is None:
        match = wanted.dns_match
        if match == wanted.map_host_loopback:
            match = before.map_host_loopback
    host_address = wanted.address if wanted.address != before.address else None
    return replace(before, dns_match=match, dns_host=wanted.dns_host, host_address=host_address,
                   template_ifname=wanted.template_ifname, template_ifindex=wanted.template_ifindex)


def _compare(before: GuestNet, after: GuestNet) -> list[HostChange]:
    """List what people may want to know."""
    found = []
    for version, one, other in ((4, before.ip4, after.ip4), (6, before.ip6, after.ip6)):
        if one is None or other is None:
            continue
        # Unless the host's address is not the guest's, one line says both.
        are_apart = one.host_address is not None or other.host_address is not None
        found += [HostChange(what, version, old, new)
                  for (what, old), (_, new) in zip(_describe(one), _describe(other), strict=True)
                  if old != new and (are_apart or what != _HOST_ADDRESS)]
    if before.names is not None and after.names is not None and before.names.servers != after.names.servers:
        found.append(HostChange("name servers behind --dns-forward", 0, _join(before.names.servers),
                                _join(after.names.servers)))
    if before.search != after.search:
        found.append(HostChange("search domains", 0, " ".join(before.search) or _NOTHING,
                            " ".join(after.search) or _NOTHING))
    return found


def _describe(family: GuestFamily) -> list[tuple[str, str]]:
    address = _NOTHING if family.address is None else f"{family.address}/{family.prefix_len}"
    interface = f"{family.template_ifname} ({family.template_ifindex})"
    return [
        ("interface", interface if family.template_ifname else _NOTHING),
        ("address", address),
        (_HOST_ADDRESS, str(family.host_address or family.address or _NOTHING)),
        ("gateway", str(family.gateway or _NOTHING)),
        ("name servers", " ".join(map(str, family.resolvers)) or _NOTHING),
        ("name server behind an address of ours",
         str(family.dns_host or "the host") if family.dns_match and not family.is_forwarded else _NOTHING),
    ]


def _join(servers: Iterable[IPAddress]) -> str:
    return " ".join(map(str, servers))

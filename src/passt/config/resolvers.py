"""Name servers and search domains that the guest gets: pure, like `resolve`.

A name server of the host that the guest could not reach by the same address is shown to it by another
one, and queries sent there go to the host's first server. That concerns servers on the loopback
address, or on 0.0.0.0 or ::, which mean the same to a resolver; one that has the address by which the
guest reaches the host's loopback; and a link-local one on another link than the guest's. The address
shown instead is that of --dns-forward, else the one that means the host's loopback; without either
such a server is left out. Servers given by --dns are told as they are.
"""

from __future__ import annotations

from ipaddress import IPv6Address

from passt.config.parsers import MAX_RESOLVERS, MAX_SEARCH
from passt.facts.domain_name import normalise_name
from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.facts.address import IPAddress
    from passt.facts.settings import NameSettings


class Resolvers(NamedTuple):
    """For one family: queries to *match* go to *host*; *shown* are the servers to tell the guest."""

    match: IPAddress | None
    host: IPAddress | None
    shown: tuple[IPAddress, ...]


class Asked(NamedTuple):
    """What the command line says about one family: --dns, --dns-forward, --dns-host; None: nothing."""

    servers: tuple[IPAddress, ...] | None
    forward: IPAddress | None
    host: IPAddress | None


def asked_for(settings: NameSettings, version: int) -> Asked:
    """Pick the settings of one family."""
    if version == 4:
        return Asked(settings.dns4, settings.dns_forward4, settings.dns_host4)
    return Asked(settings.dns6, settings.dns_forward6, settings.dns_host6)


def choose_resolvers(asked: Asked, found: Sequence[IPAddress], map_host: IPAddress | None,
                     ifindex: int) -> Resolvers:
    """Choose for one family, whose servers in resolv.conf are *found*.

    *map_host* is the address that means the host's loopback, *ifindex* the template interface.
    """
    host = asked.host or (found[0] if found else None)
    if asked.servers is not None:
        return Resolvers(asked.forward, host, tuple(dict.fromkeys(asked.servers))[:MAX_RESOLVERS])
    match = asked.forward
    shown: list[IPAddress] = []
    for server in found:
        shown_as = _without_scope(server)
        if (shown_as.is_loopback or shown_as.is_unspecified or shown_as == map_host
                or _is_elsewhere(server, ifindex)):
            stand_in = match or map_host
            if stand_in is None:
                continue
            shown_as = match = stand_in
        if shown_as not in shown:
            shown.append(shown_as)
        if len(shown) == MAX_RESOLVERS:
            break
    return Resolvers(match, host, tuple(shown))


def choose_search(settings: NameSettings, found: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose the search domains, in the text form of `passt.facts.domain_name`; also what has to be left out.

    Those of --search have been checked, those *found* in resolv.conf may be no names at all.
    """
    if settings.search is not None:
        return settings.search, ()
    names: list[str] = []
    left_out = []
    for text in found:
        name = normalise_name(text)
        if name is None or len(names) == MAX_SEARCH:
            left_out.append(text)
        elif name not in names:
            names.append(name)
    return tuple(names), tuple(left_out)


def hands_out(asked: bool | None, mode: str) -> bool:
    """Whether the guest is told: as asked, else in passt only (passt(1), --dhcp-dns, --no-dhcp-dns)."""
    return mode == "passt" if asked is None else asked


def _without_scope(server: IPAddress) -> IPAddress:
    return IPv6Address(int(server)) if isinstance(server, IPv6Address) else server


def _is_elsewhere(server: IPAddress, ifindex: int) -> bool:
    return isinstance(server, IPv6Address) and server.scope_id not in {None, str(ifindex)}

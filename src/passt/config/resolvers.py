"""Name servers and search domains that the guest gets: pure, like `resolve`.

The guest cannot reach some of the host's name servers by the address in resolv.conf: servers on a loopback
address, or on 0.0.0.0 or ::, which mean the same to a resolver; a server with the address that means the
host's loopback to the guest; and a link-local server on another link. The guest is told another address
instead, that of --dns-forward, else the one that means the host's loopback, and queries sent there go to the
host's first server. Without either address such a server is left out. Servers of --dns are handed out
unchanged.

With rules of egress by name only our forwarder answers, so there has to be one: without --dns-forward it
takes the place of the host's first server that the guest can reach, as the guest may have the host's
resolv.conf, else it is at the address that means the host's loopback.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from passt.config.parsers import MAX_RESOLVERS, MAX_SEARCH
from passt.facts.domain_name import normalise_name
from passt.facts.guest import NameService
from passt.light.values import NamedTuple

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Sequence

    from passt.facts.address import IPAddress
    from passt.facts.host import ResolverFacts
    from passt.facts.settings import NameSettings


_HOST_ITSELF = (IPv4Address("127.0.0.1"), IPv6Address("::1"))   # where resolv.conf(5) looks without a server


class Resolvers(NamedTuple):
    """Name servers of one family: queries to *match* go to *host*; *shown* are those to hand out."""

    match: IPAddress | None
    host: IPAddress | None
    shown: tuple[IPAddress, ...]


class Asked(NamedTuple):
    """--dns, --dns-forward and --dns-host of one family; None: not given."""

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


def may_choose_forwarder(settings: NameSettings) -> bool:
    """Tell whether the forwarder may have an address that nobody has given.

    Where --dns has the guest ask other servers than the host's, only --dns-forward can say it.
    """
    return not settings.is_forwarding and settings.dns4 is None and settings.dns6 is None


def with_forwarder(asked: Asked, found: Sequence[IPAddress], map_host: IPAddress | None, ifindex: int
                   ) -> Asked:
    """Return *asked* with an address for the forwarder."""
    near = (_without_scope(server) for server in found if not _is_elsewhere(server, ifindex))
    reachable = (server for server in near if not (server.is_loopback or server.is_unspecified))
    return Asked(asked.servers, next(reachable, map_host), asked.host)


def choose_service(settings: NameSettings, found: ResolverFacts, ifindex: int) -> NameService:
    """Choose whom the forwarder asks: those of --dns-host, else all of resolv.conf, else the host itself."""
    given = tuple(server for server in (settings.dns_host4, settings.dns_host6) if server is not None)
    servers = tuple(dict.fromkeys(map(_reachable, given or found.servers or _HOST_ITSELF)))
    return NameService(servers, found.timeout_s, found.attempts, found.rotate, ifindex)


def _reachable(server: IPAddress) -> IPAddress:
    """Return what 0.0.0.0 or :: means to a resolver; any other *server* as it is."""
    return _HOST_ITSELF[server.version == 6] if server.is_unspecified else server


def choose_search(settings: NameSettings, found: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Choose the search domains, in the text form of `facts.domain_name`; also return those left out.

    Those of --search are checked already; those *found* in resolv.conf may be invalid.
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
    """Tell whether to hand out: as *asked*, else in passt only (passt(1), --dhcp-dns, --no-dhcp-dns)."""
    return mode == "passt" if asked is None else asked


def _without_scope(server: IPAddress) -> IPAddress:
    return IPv6Address(int(server)) if isinstance(server, IPv6Address) else server


def _is_elsewhere(server: IPAddress, ifindex: int) -> bool:
    return isinstance(server, IPv6Address) and server.scope_id not in {None, str(ifindex)}

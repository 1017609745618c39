"""Where a new flow goes, or why it is refused.

Outbound, the guest's destination is replaced by the first row that fits (passt(1), options
--dns-forward, --map-host-loopback, --map-guest-addr):

1. the DNS address, TCP or UDP, port 53 or 853: becomes the host's resolver (without one, the host itself,
   as in resolv.conf(5)); port 53 of --dns-forward becomes the forwarder (`names.process`) while there is one;
2. the host loopback address: becomes 127.0.0.1 or ::1;
3. the guest map address: becomes the host's own address, which is the one assigned to the guest unless the
   host was given another one since (`GuestFamily.host_address`);
4. any other unicast address, for UDP also a multicast or broadcast address: stays.

Inbound, the source is replaced by the first row that fits (passt(1), "Handling of traffic with loopback
destination and source addresses"; without a host loopback address, the newest versions of the C program
accept loopback clients too, and container engines count on it):

1. a loopback address: becomes the host loopback address, else our address towards the guest; without one the
   flow is refused;
2. the host's own address, if there is a guest map address: becomes that;
3. any address that the guest itself has: becomes our address towards the guest; without one the flow is
   refused;
4. any other address: stays;

and the destination is the guest's address last seen, or the target address of the rule, which may be another
one behind the guest. No router passes a link-local source on (RFC 4291 2.5.6), so a target that is not
link-local itself sees the gateway or the guest map address in the place of ours.

All look-ups use tables of packed addresses made at the start, as a flow waits for the answer. An IPv4-mapped
IPv6 address is always refused: a socket would take it for IPv4, past these rows.

Rules of egress (`forward.egress`) judge an outbound flow once it is known where it goes; an inbound one is
none of theirs, but its client may have to be one of --allow-from.

When the host's network changes, `Policy.renew` puts new tables in the place of all of these.
"""

from __future__ import annotations

import os
from ipaddress import IPv6Address
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

from passt.facts.address import (
    IP4_BROADCAST,
    IP4_LEN,
    IP4_LOOPBACK,
    IP6_LEN,
    IP6_LOOPBACK,
    format_endpoint,
    format_ip,
    is_host_unicast,
    is_link_local6,
    is_loopback,
    is_multicast,
    is_unspecified,
    needs_scope6,
)
from passt.facts.contracts import FORWARDER, PROHIBITED, Explained, InboundTarget, Target
from passt.forward.guest_addresses import NO_GUEST, Observed
from passt.light.values import NamedTuple, cast

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from passt.facts.address import IPAddress
    from passt.facts.guest import GuestFamily, GuestNet
    from passt.facts.port_rule import PortRule
    from passt.forward.egress import Egress, Ingress
    from passt.forward.learning import Learning
    from passt.forward.openings import Openings

    Note = Callable[[str], None]  # takes one step of a decision

PORT_DNS, PORT_DNS_OVER_TLS = 53, 853
_DNS_PORTS = frozenset((PORT_DNS, PORT_DNS_OVER_TLS))
_WITH_PORTS = frozenset((IPPROTO_TCP, IPPROTO_UDP))
_NAMES = {IPPROTO_TCP: "TCP", IPPROTO_UDP: "UDP", IPPROTO_ICMP: "ICMP echo", IPPROTO_ICMPV6: "ICMPv6 echo"}

_DISABLED = "family or protocol disabled"
NOT_A_CLIENT = "the client is none of --allow-from"
_NO_SOURCE = "no address to show to the guest for this peer"
_FORWARDER = "DNS forwarder"
_UNCHANGED, _OUR_ADDRESS = "unchanged", "our address"


class _Destination(NamedTuple):
    """A `Target` without its port, and the *name* of the row that says so."""

    name: str
    address: bytes
    scope_id: int
    source: bytes | None
    ifname: bytes | None


class _Family:
    """Tables for one family, made from its frozen facts."""

    __slots__ = ("dns", "guest_owned", "host", "ifname", "is_forwarded", "map_guest",
                 "map_host_loopback", "mapped", "our_address", "protocols", "routed", "scope_id", "source")

    def __init__(self, facts: GuestFamily, protocols: frozenset[int], loopback: bytes) -> None:
        self.protocols = protocols
        self.is_forwarded = facts.is_forwarded
        self.source = _packed(facts.outbound_address)
        self.ifname = os.fsencode(facts.outbound_ifname) if facts.outbound_ifname else None
        # A socket bound to an interface takes its scope, and the interface may not be the template.
        self.scope_id = 0 if self.ifname else facts.template_ifindex
        assigned = _packed(facts.address)
        self.host = _packed(facts.host_address) or assigned
        self.our_address = _packed(facts.our_address)
        self.map_host_loopback = _packed(facts.map_host_loopback)
        self.map_guest = _packed(facts.map_guest) if self.host else None
        self.routed = next((address for address in (_packed(facts.gateway), _packed(facts.map_guest))
                            if address and not is_link_local6(address)), None)
        self.guest_owned = {assigned, *(copied.address.packed for copied in facts.copied_addresses)}
        # Later entries win, so the rows are entered in reverse.
        self.mapped: dict[bytes, _Destination] = {}
        if self.map_guest and self.host:
            self.mapped[self.map_guest] = self._destination("guest map", self.host)
        if self.map_host_loopback:
            self.mapped[self.map_host_loopback] = self._destination("host loopback", loopback)
        self.dns: dict[bytes, _Destination] = {}
        if facts.dns_match:
            host = _packed(facts.dns_host) or loopback
            self.dns[facts.dns_match.packed] = self._destination(
                "DNS", loopback if is_unspecified(host) else host, _scope_of(facts.dns_host))

    def _destination(self, name: str, address: bytes, scope_id: int = 0) -> _Destination:
        # A socket bound to an interface or to another address does not reach the loopback address, nor
        # a link-local one on another link.
        if is_loopback(address):
            return _Destination(name, address, 0, None, None)
        if scope_id and scope_id != self.scope_id:
            return _Destination(name, address, scope_id, None, None)
        return _Destination(name, address, self.scope_of(address), self.source, self.ifname)

    def scope_of(self, address: bytes) -> int:
        """Return the interface index for a flow to *address*, if it or our source needs one (RFC 4007)."""
        if needs_scope6(address) or (self.source and needs_scope6(self.source)):
            return self.scope_id
        return 0


class Policy:
    """Implements `contracts.FlowPolicy` for the guest network *net*.

    The switches *tcp*, *udp* and *icmp* refuse all flows of a protocol when False. *explain* gets a
    line for each decision, if given; *warn* gets one when clients on the host's loopback are refused for the
    first time, as there is no address to show to the guest; *on_ping_forbidden* is called once, when the host
    refuses ping sockets. `observed` is the `contracts.GuestEvents` for the data plane. *egress* judges where
    flows of the guest go, *ingress* whose come; None: all may. *openings* judges what they say first.
    *learning* is told where they go.
    """

    def __init__(self, net: GuestNet, *, tcp: bool = True, udp: bool = True, icmp: bool = True,
                 explain: Callable[[str], None] | None = None,
                 warn: Callable[[str], None] | None = None,
                 on_ping_forbidden: Callable[[], None] | None = None,
                 egress: Egress | None = None, ingress: Ingress | None = None,
                 learning: Learning | None = None, openings: Openings | None = None) -> None:
        self.egress = egress
        self.openings = openings
        self.learning = learning
        self.ingress = ingress
        self.observed = Observed(net, explain=explain, on_ping_forbidden=on_ping_forbidden)
        self._explain = explain
        self._warn = warn
        self._warned: set[int] = set()  # families that were warned of, by the length of their addresses
        both = {number for number, on in ((IPPROTO_TCP, tcp), (IPPROTO_UDP, udp)) if on}
        self._protocols4 = frozenset(both | ({IPPROTO_ICMP} if icmp else set()))
        self._protocols6 = frozenset(both | ({IPPROTO_ICMPV6} if icmp else set()))
        self._families = self._make_families(net)
        self._doors: Mapping[tuple[int, int], Target] = {}

    def serve_names(self, doors: Mapping[tuple[int, int], Target]) -> None:
        """Have the forwarder behind *doors* answer what is sent to --dns-forward from now on.

        There is one door for each protocol and length of an address. Without a door, queries go to the
        host's first server as they are.
        """
        self._doors = doors

    def _make_families(self, net: GuestNet) -> dict[int, _Family]:
        families = {}
        if net.ip4:
            families[IP4_LEN] = _Family(net.ip4, self._protocols4, IP4_LOOPBACK)
        if net.ip6:
            families[IP6_LEN] = _Family(net.ip6, self._protocols6, IP6_LOOPBACK)
        return families

    def renew(self, net: GuestNet) -> None:
        """Decide by *net* from now on; flows that there are go where they went.

        The data plane remembers answers, and has to be told: `Engine.renew`.
        """
        self._families = self._make_families(net)
        self.observed.renew(net)

    def outbound(self, proto: int, source: bytes, source_port: int,
                 destination: bytes, destination_port: int) -> Target | None:
        """Map a flow that the guest opens to what our socket connects to; None refuses it."""
        target, why = self._decide_outbound(proto, source, source_port, destination, destination_port)
        if target is not None and self.egress is not None:
            place = self._find_bar(proto, target, why, destination, destination_port)
            if place is not None:
                self.egress.refuse(proto, destination_port, destination, place)
                target, why = PROHIBITED, self.egress.describe(place)
            elif self._must_say_name(proto, target, why, destination, destination_port):
                target = target._replace(held=True)
        elif target is not None and self.learning is not None:
            address = FORWARDER if why == _FORWARDER else target.address
            self.learning.note(proto, destination_port, address, destination)
        if self._explain is not None:
            is_refused = target is None or target is PROHIBITED
            self._explain_flow("outbound", proto, (source, source_port, destination, destination_port),
                               "" if is_refused else _describe_target(target), why, is_refused=is_refused)
        return target

    def _must_say_name(self, proto: int, target: Target, row: str, asked: bytes, port: int) -> bool:
        """Tell whether a flow that may go to *target* has to say a name first."""
        return (self.openings is not None and proto == IPPROTO_TCP and row != _FORWARDER
                and self.openings.is_wanted(port, target.address, asked))

    def judge_opening(self, source: bytes, source_port: int, destination: bytes, destination_port: int,
                      data: bytes, end: str) -> bool | None:
        """Tell whether a connection that is held may go on; None: more has to come."""
        target, _ = self._decide_outbound(IPPROTO_TCP, source, source_port, destination, destination_port)
        if target is None or self.openings is None:
            return False           # it has no way any more, as the host's network has changed
        return self.openings.judge(destination_port, target.address, destination, data, end)

    def explain_outbound(self, proto: int, source: bytes, source_port: int,
                         destination: bytes, destination_port: int) -> Explained:
        """Decide as `outbound`, and say how."""
        steps: list[str] = []
        target, why = self._decide_outbound(proto, source, source_port, destination, destination_port,
                                            steps.append)
        if target is not None and self.egress is not None:
            place = self._find_bar(proto, target, why, destination, destination_port, steps.append)
            if place is not None:
                target, why = None, self.egress.describe(place)
            elif self._must_say_name(proto, target, why, destination, destination_port):
                steps.append("its first bytes have to say a name that a rule allows there (--verify-names)")
        return Explained(target, why, tuple(steps))

    def _find_bar(self, proto: int, target: Target, row: str, asked: bytes, port: int,
                  note: Note | None = None) -> int | None:
        """Return the place of the rule that forbids a flow to *target*, to which *row* led, if one does."""
        egress = cast("Egress", self.egress)
        address = FORWARDER if row == _FORWARDER else target.address
        is_allowed, place = egress.decide(proto, port, address, asked)
        if note is not None:
            note(f"{egress.describe(place)}: it is {'allowed' if is_allowed else 'denied'}")
            if egress.has_names and place == len(egress.rules.rules):
                note("the forwarder judges each name by the rules" if row == _FORWARDER else
                     "rules by name are about the addresses with which the forwarder has answered")
        return None if is_allowed else place

    def inbound(self, proto: int, rule: object, peer: bytes, peer_port: int,
                local: bytes, local_port: int) -> InboundTarget | None:
        """Map a flow accepted for *rule*, a `PortRule`, to what the guest sees; None refuses it.

        An IPv4 *peer* of a dual-stack socket has 4 bytes, and so has *local*.
        """
        target, why = self._decide_inbound(proto, cast("PortRule", rule), peer, peer_port, local, local_port)
        if target is None and is_loopback(peer) and why == _NO_SOURCE:
            self._warn_of_loopback(len(peer))
        if self._explain is not None:
            self._explain_flow("inbound", proto, (peer, peer_port, local, local_port),
                               _describe_inbound(target), why, is_refused=target is None)
        return target

    def explain_inbound(self, proto: int, rule: object, peer: bytes, peer_port: int,
                        local: bytes, local_port: int) -> Explained:
        """Decide as `inbound`, and say how."""
        steps: list[str] = []
        target, why = self._decide_inbound(proto, cast("PortRule", rule), peer, peer_port, local, local_port,
                                           steps.append)
        return Explained(target, why, tuple(steps))

    def leads_to(self, proto: int, rule: object, address: bytes, port: int) -> bool:
        """Tell whether *rule*, a `PortRule`, leads *port* to the same port of the guest's *address*."""
        family = self._families.get(len(address))
        port_rule = cast("PortRule", rule)
        if family is None or proto not in family.protocols or port_rule.service_port(port) != port:
            return False
        if port_rule.target_address is not None:
            return port_rule.target_address.packed == address
        return self.observed.is_guest(address)

    def outbound_bypass(self, proto: int, rule: object, peer: bytes, peer_port: int,
                       local: bytes, local_port: int) -> Target | None:
        """Refuse: only `forward.bypass` has listeners in the namespace."""

    def explain_outbound_bypass(self, _proto: int, _rule: object, _peer: bytes, _peer_port: int,
                                _local: bytes, _local_port: int) -> Explained:
        """Decide as `outbound_bypass`, and say why."""
        return Explained(None, "nothing listens in the namespace", ())

    def guest_visible_source(self, address: bytes) -> bytes | None:
        """Translate a host-side *address* to the one the guest sees; 0.0.0.0 and :: mean this host."""
        family = self._families.get(len(address))
        if family is None:
            return None
        if is_unspecified(address):
            return family.our_address or family.map_host_loopback
        return self._inbound_source(family, address)[0]

    def _decide_outbound(self, proto: int, source: bytes, source_port: int, destination: bytes,
                         destination_port: int, note: Note | None = None) -> tuple[Target | None, str]:
        """Return where a flow goes and the name of the row that says so; or None, and why not."""
        family = self._families.get(len(destination))
        if family is None or proto not in family.protocols:
            if note is not None:
                note(_name_switch(family, proto, len(destination)))
            return None, _DISABLED
        if len(source) != len(destination) or not is_host_unicast(source):
            return None, "bad source address"
        if proto in _WITH_PORTS and not (source_port and destination_port):
            return None, "port 0"
        row, door = self._find_row(family, proto, destination, destination_port)
        if note is not None:
            _note_rows(family, destination, row, note, is_forwarded=door is not None)
        if row is not None:
            asked = Target(row.address, destination_port, row.scope_id, row.source, row.ifname)
            return door or asked, row.name if door is None else _FORWARDER
        if not is_host_unicast(destination) and not (proto == IPPROTO_UDP and _is_group(destination)):
            return None, "destination not allowed"
        # A multicast group has no route of its own: use the template interface.
        scope_id = family.scope_id if _is_group(destination) else family.scope_of(destination)
        return Target(destination, destination_port, scope_id, family.source, family.ifname), _UNCHANGED

    def _find_row(self, family: _Family, proto: int, destination: bytes, port: int
                  ) -> tuple[_Destination | None, Target | None]:
        """Return what *destination* stands for, if anything, or where the forwarder takes queries to it."""
        row = family.dns.get(destination) if proto in _WITH_PORTS and port in _DNS_PORTS else None
        if row is not None and port == PORT_DNS and family.is_forwarded:
            return row, self._doors.get((proto, len(destination)))
        return row or family.mapped.get(destination), None

    def _decide_inbound(self, proto: int, rule: PortRule, peer: bytes, peer_port: int, local: bytes,
                        local_port: int, note: Note | None = None) -> tuple[InboundTarget | None, str]:
        """Return what the guest sees of a flow and the name of the row that says so; or None, and why not."""
        family = self._families.get(len(peer))
        if family is None or proto not in family.protocols or proto not in _WITH_PORTS:
            if note is not None:
                note(_name_switch(family, proto, len(peer)))
            return None, _DISABLED
        if not peer_port:
            return None, "port 0"
        if self.ingress is not None and not self.ingress.may_connect(peer):
            return None, NOT_A_CLIENT
        source, row = self._source_for(family, peer, rule)
        if source is None:
            return None, _NO_SOURCE
        if proto == IPPROTO_UDP and _is_group(local):
            destination, whose = local, "the group that it was sent to"
        elif rule.target_address is not None:
            destination, whose = rule.target_address.packed, "the target address of the rule"
        else:
            guest = self.observed.inbound_destination(source)
            if guest is None:
                return None, NO_GUEST
            destination, whose = guest, "the guest's address, last seen or assigned"
        if note is not None:
            note(f"the client {format_ip(peer)} is shown to the guest as {format_ip(source)} ({row})")
            note(f"it goes to {format_ip(destination)}: {whose}")
        return InboundTarget(source, peer_port, destination, rule.service_port(local_port)), row

    def _source_for(self, family: _Family, peer: bytes, rule: PortRule) -> tuple[bytes | None, str]:
        """Return how *peer* appears where *rule* leads, and the name of the row that says so."""
        source, row = self._inbound_source(family, peer)
        target = rule.target_address
        if source is None or target is None or row == _UNCHANGED or not is_link_local6(source):
            return source, row
        return source if target.is_link_local else family.routed or source, row

    def _inbound_source(self, family: _Family, peer: bytes) -> tuple[bytes | None, str]:
        """Return how *peer* appears to the guest, and the name of the row that says so."""
        if is_loopback(peer):
            if family.map_host_loopback:
                return family.map_host_loopback, "host loopback"
            return family.our_address, _OUR_ADDRESS
        if not is_host_unicast(peer):
            return None, ""
        if peer == family.host and family.map_guest:
            return family.map_guest, "guest map"
        if peer in family.guest_owned or self.observed.is_guest(peer):
            return family.our_address, _OUR_ADDRESS
        return peer, _UNCHANGED

    def _warn_of_loopback(self, addr_len: int) -> None:
        """Warn once per family why clients on the host's loopback are refused."""
        if self._warn is not None and addr_len not in self._warned:
            self._warned.add(addr_len)
            version = 4 if addr_len == IP4_LEN else 6
            self._warn(f"IPv{version} clients on the host's loopback are refused: there is no gateway whose"
                       f" address they could appear to come from; give one with --gateway, or an address with"
                       f" --map-host-loopback")

    def _explain_flow(self, direction: str, proto: int, flow: tuple[bytes, int, bytes, int], outcome: str,
                      why: str, *, is_refused: bool) -> None:
        if self._explain is not None:
            name = _NAMES.get(proto, f"protocol {proto}")
            source, destination = format_endpoint(*flow[:2]), format_endpoint(*flow[2:])
            text = f"refused, {why}" if is_refused else f"{outcome} ({why})"
            self._explain(f"{direction} {name} {source} -> {destination}: {text}")


def _name_switch(family: _Family | None, proto: int, addr_len: int) -> str:
    if family is None:
        return f"IPv{4 if addr_len == IP4_LEN else 6} is off, or the host has no address of it"
    return f"{_NAMES.get(proto, f'protocol {proto}')} is off, or not forwarded in this direction"


def _note_rows(family: _Family, destination: bytes, chosen: _Destination | None, note: Note, *,
               is_forwarded: bool) -> None:
    """Tell which rows of the outbound table there are, and which one was *chosen*, if not the forwarder."""
    if is_forwarded:
        note(f"{format_ip(destination)} with port {PORT_DNS} is the forwarder, which asks the host's servers")
        return
    ports = " or ".join(map(str, sorted(_DNS_PORTS)))
    rows = [(f"{format_ip(address)} with port {ports} of TCP or UDP", row)
            for address, row in family.dns.items()]
    rows += [(format_ip(address), row) for address, row in reversed(family.mapped.items())]
    for asked, row in rows:
        fits = "applies" if row is chosen else "does not apply"
        note(f"{row.name}: {asked} means {format_ip(row.address)}: {fits}")
    if not rows:
        note("no address stands for another one")
    if chosen is None:
        note(f"{format_ip(destination)} stands for itself")


def _scope_of(address: IPAddress | None) -> int:
    return int(address.scope_id or 0) if isinstance(address, IPv6Address) else 0


def _is_group(address: bytes) -> bool:
    return is_multicast(address) or address == IP4_BROADCAST


def _packed(address: IPAddress | None) -> bytes | None:
    return address.packed if address else None


def _describe_target(target: Target | None) -> str:
    """Write where a flow goes, and from where."""
    if target is None:
        return ""
    text = f"to {format_endpoint(target.address, target.port)}"
    if target.scope_id:
        text += f" scope {target.scope_id}"
    if target.source:
        text += f" from {format_endpoint(target.source, 0)}"
    if target.ifname:
        text += f" by {os.fsdecode(target.ifname)}"
    return text


def _describe_inbound(target: InboundTarget | None) -> str:
    if target is None:
        return ""
    source = format_endpoint(target.source, target.source_port)
    return f"guest sees {source} -> {format_endpoint(target.destination, target.destination_port)}"

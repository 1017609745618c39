"""What would become of a flow, and why: by the policy that decides on real ones, without one.

Outbound, the guest's flow to an address and port. Inbound, what comes to a port of the host: from the host's
own loopback, and from another machine, for which an address stands that no machine has (RFC 5737, RFC 3849),
unless the request names the client. Which listener the kernel would choose is known from what they are bound
to (ip(7)); where there is none, the rules say why. Nothing is opened, sent, kept or logged.

Of a name it is told whether rules of egress let the guest ask for it, and what that means for its addresses.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from socket import IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

from passt.config.port_grammar import parse_spec
from passt.control.flows import PROTOCOLS, end_of, number, rule_text
from passt.control.http import RefusalError
from passt.errors import ConfigError
from passt.facts.address import IP4_LEN, IP4_LOOPBACK, IP6_LOOPBACK, format_ip, is_loopback
from passt.facts.contracts import HOST_TABLE, NAMESPACE_TABLE, InboundTarget, Target
from passt.facts.domain_name import normalise_name
from passt.facts.port_rule import PortRule
from passt.forward.rules import describe_rule
from passt.steer import messages

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from passt.control.api import Observed
    from passt.facts.contracts import Explained, FlowExplainer, ListenerInfo
    from passt.facts.guest import GuestFamily, GuestNet
    from passt.forward.egress import Egress
    from passt.steer.tables import ClientTables

# A client elsewhere, and the port of one.
STRANGERS = (ip_address("203.0.113.1").packed, ip_address("2001:db8::1").packed)
CLIENT_PORT = 50000
_LOOPBACKS = (IP4_LOOPBACK, IP6_LOOPBACK)
_WITH_PORTS = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP}
_ABILITIES = {IPPROTO_TCP: messages.TCP, IPPROTO_UDP: messages.UDP}
_FORWARDED, _REFUSED, _CLOSED = "forwarded", "refused", "not forwarded"
_ALLOWED = "allowed"


class Explainer:
    """Explains what *policy* decides; *ping* says why the host refuses echo requests, empty if not."""

    def __init__(self, policy: FlowExplainer, observed: Observed, guest: GuestNet,
                 listeners_at: Callable[[int, int], list[ListenerInfo]], tables: ClientTables, ping: str
                 ) -> None:
        self._policy = policy
        self._observed = observed
        self._listeners_at = listeners_at
        self._tables = tables
        self._ping = ping
        self.renew(guest)

    def renew(self, guest: GuestNet) -> None:
        """Take it that *guest* is the guest's network now; the policy has been told."""
        self._families: dict[int, GuestFamily | None] = {4: guest.ip4, 16: guest.ip6}

    def explain(self, query: Mapping[str, str], egress: Egress | None = None) -> dict[str, Any]:
        """Answer a request with these parameters; *egress* has the rules, if there are any.

        Raises RefusalError.
        """
        if "name" in query:
            return {"flows": [], "name": explain_name(query, egress)}
        protocol = query.get("protocol")
        if protocol not in {None, "icmp", *_WITH_PORTS}:
            raise RefusalError(400, "protocol is tcp, udp or icmp")
        address, source = _read_address(query, "address"), _read_address(query, "source")
        port = number(query, "inbound", 1, 0xFFFF)
        if port is None:
            if address is None:
                raise RefusalError(400, "give address, where the guest's flow goes, or inbound, a port")
            port = number(query, "port", 1, 0xFFFF)
            return {"flows": [self._outbound(protocol, address, port, source)]}
        if "port" in query or protocol == "icmp":
            raise RefusalError(400, "inbound is the port, and of tcp or udp")
        protos = [_WITH_PORTS[protocol]] if protocol is not None else list(_WITH_PORTS.values())
        return {"flows": [flow for proto in protos for flow in self._inbound(proto, port, address, source)]}

    def _outbound(self, protocol: str | None, address: bytes, port: int | None, source: bytes | None
                  ) -> dict[str, Any]:
        protocol = protocol or ("icmp" if port is None else "tcp")
        if protocol == "icmp":
            if port is not None:
                raise RefusalError(400, "icmp has no port")
            proto, port = IPPROTO_ICMP if len(address) == IP4_LEN else IPPROTO_ICMPV6, 0
        elif port is None:
            raise RefusalError(400, f"{protocol} needs a port")
        else:
            proto = _WITH_PORTS[protocol]
        if is_loopback(address):
            return self._from_loopback(proto, address, port)
        steps = []
        sender = source or self._observed.inbound_destination(address)
        if sender is None:
            steps.append("no address of the guest is known yet in this family")
        if address in self._observed.addresses():
            steps.append("the guest has this address itself, and will hardly send this to us")
        found = self._policy.explain_outbound(proto, sender or bytes(len(address)), CLIENT_PORT, address,
                                              port)
        flow = _flow("outbound", proto, end_of(sender or b"", CLIENT_PORT), end_of(address, port))
        outcome = _outcome(found, [*steps, *found.steps])
        if proto in {IPPROTO_ICMP, IPPROTO_ICMPV6} and found.target is not None and self._ping:
            outcome |= {"verdict": _REFUSED, "why": self._ping}
        return flow | outcome | {"path": "link", "guest": _ends(flow["source"], flow["destination"]),
                                 "host": _host_of(found.target)}

    def _from_loopback(self, proto: int, address: bytes, port: int) -> dict[str, Any]:
        """Explain what goes to the namespace's loopback, which only rules of -T and -U lead out of."""
        peer = _LOOPBACKS[len(address) != IP4_LEN]
        flow = _flow("outbound", proto, end_of(peer, CLIENT_PORT), end_of(address, port))
        listener = _choose(self._at(proto, port, in_namespace=True), address)
        if listener is None:
            steps = ["what is sent to loopback stays in the guest, unless a rule of -T or -U has the port"]
            return flow | self._closed(proto, port, NAMESPACE_TABLE, steps)
        rule = _rule_of(listener)
        found = self._policy.explain_outbound_bypass(proto, rule, peer, CLIENT_PORT, address, port)
        return flow | _outcome(found, [_name_listener(rule, port), *found.steps]) | {
            "path": "bypass", "rule": rule_text(rule), "guest": _ends(flow["source"], flow["destination"]),
            "host": _host_of(found.target)}

    def _inbound(self, proto: int, port: int, local: bytes | None, source: bytes | None
                 ) -> list[dict[str, Any]]:
        """Explain what comes to a port of the host, for each kind of client."""
        listeners = self._at(proto, port, in_namespace=False)
        if not listeners:
            end = end_of(local or b"", port) or {"address": None, "port": port}
            flow = _flow("inbound", proto, None, end)
            return [flow | self._closed(proto, port, HOST_TABLE, [])]
        if source is not None:
            clients = [source]
        else:
            clients = [client for pair in (_LOOPBACKS, STRANGERS) for client in pair
                       if self._families[len(client)] is not None
                       and (local is None or len(local) == len(client))]
        return [self._from_client(listeners, client, local or self._local(client, listeners))
                for client in clients]

    def _at(self, proto: int, port: int, *, in_namespace: bool) -> list[ListenerInfo]:
        """Return the listeners of one port, on the host or in the namespace."""
        return [each for each in self._listeners_at(proto, port) if each.namespace == in_namespace]

    def _local(self, client: bytes, listeners: Iterable[ListenerInfo]) -> bytes:
        """Return the address of the host that *client* would use: one that a rule listens on, if it can."""
        if is_loopback(client):
            return client
        for bound in map(_bound, listeners):
            if len(bound) == len(client) and any(bound) and not is_loopback(bound):
                return bound
        family = self._families[len(client)]
        address = (family.host_address or family.address) if family is not None else None
        return address.packed if address is not None else bytes(len(client))

    def _from_client(self, listeners: list[ListenerInfo], client: bytes, local: bytes) -> dict[str, Any]:
        proto, port = listeners[0].proto, listeners[0].port
        if len(client) != len(local):
            raise RefusalError(400, "source and address are of two families")
        flow = _flow("inbound", proto, end_of(client, CLIENT_PORT), end_of(local, port))
        steps = []
        if client in STRANGERS:
            steps.append(f"{format_ip(client)} stands for any client elsewhere")
        listener = _choose(listeners, local)
        if listener is None:
            return flow | _nothing([*steps, f"no rule listens on {format_ip(local)} with this port"],
                                   "no rule has this address")
        rule = _rule_of(listener)
        steps.append(_name_listener(rule, port))
        if rule.ifname is not None:
            steps.append(f"only what comes by the interface {rule.ifname}")
        found = self._policy.explain_inbound(proto, rule, client, CLIENT_PORT, local, port)
        target = found.target
        bypasses = isinstance(target, Target)
        guest = None
        if isinstance(target, InboundTarget):
            guest = _ends(end_of(target.source, target.source_port),
                          end_of(target.destination, target.destination_port))
        elif target is not None:
            guest = _ends(end_of(target.source or b"", 0), end_of(target.address, target.port))
        host = {"source": flow["source"], "destination": flow["destination"], "interface": rule.ifname,
                "scope": None}
        return flow | _outcome(found, [*steps, *found.steps]) | {
            "path": "bypass" if bypasses else "link", "rule": rule_text(rule), "guest": guest, "host": host}

    def _closed(self, proto: int, port: int, name: str, steps: list[str]) -> dict[str, Any]:
        """Say why nothing listens on *port* for the table *name*."""
        live, kind = self._tables.live, PROTOCOLS[proto].upper()
        if name not in live.names() or proto not in _ABILITIES:
            return _nothing(steps, f"there is no table {name} here with rules for {kind}")
        if not self._tables.abilities[name] & _ABILITIES[proto]:
            return _nothing(steps, f"{kind} is off")
        waiting = live.explain_closed(name, proto, port)
        if waiting:
            for rule, why in waiting:
                steps.append(f"rule {_describe(rule)}: {why}")
            return _nothing(steps, waiting[0][1]) | {"rule": rule_text(waiting[0][0])}
        specs = {rule.spec for rule in live.rules(name) if rule.proto == proto and rule.spec}
        for spec in sorted(specs):
            why = _find_gap(spec, port)
            if why:
                return _nothing([*steps, f"rule '{spec}': {why}"], why) | {"rule": spec}
        return _nothing(steps, f"no rule of the table {name} has {kind} port {port}")


def explain_name(query: Mapping[str, str], egress: Egress | None) -> dict[str, Any]:
    """Tell whether the guest may ask for a name, and why. Raises RefusalError."""
    if len(query) > 1:
        raise RefusalError(400, "a name is asked for before there is a flow; give it alone")
    name = normalise_name(query["name"])
    if name is None:
        raise RefusalError(400, f"'{query['name'][:60]}' is not a domain name")
    if egress is None:
        return {"name": name, "verdict": _ALLOWED, "why": "there are no rules of egress", "rule": None,
                "steps": []}
    is_allowed, place, why = egress.decide_name(name.lower())
    rule = egress.text_of(place)
    if not is_allowed:
        alias = ", and answers that lead to it by an alias are refused, too" if rule is not None else ""
        default = ", or the default, which allows" if egress.rules.allows_rest else ""
        closed = "that closes no address: one that it has is open where other rules allow it"
        steps = [f"queries for it are refused and go nowhere{alias}", closed + default]
    elif rule is not None:
        steps = ["the addresses with which it is answered are open by this rule, as long as the answer says"]
    else:
        default = "allows" if egress.rules.allows_rest else "denies"
        steps = [f"that opens no address: rules about addresses decide, and the default, which {default}"]
    return {"name": name, "verdict": _ALLOWED if is_allowed else _REFUSED, "why": why, "rule": rule,
            "steps": steps}


def _read_address(query: Mapping[str, str], name: str) -> bytes | None:
    if name not in query:
        return None
    try:
        found = ip_address(query[name])
    except ValueError:
        raise RefusalError(400, f"'{query[name][:60]}' is not an IP address") from None
    return found.packed


def _rule_of(listener: ListenerInfo) -> PortRule:
    assert isinstance(listener.rule, PortRule)  # noqa: S101 - all of ours have one
    return listener.rule


def _bound(listener: ListenerInfo) -> bytes:
    """Return the address that a rule listens on; empty for any."""
    address = _rule_of(listener).address
    return b"" if address is None else address.packed


def _choose(listeners: Iterable[ListenerInfo], local: bytes) -> ListenerInfo | None:
    """Return the listener of a port that gets what comes to *local*: the closer it is bound, the better."""
    best, most = None, -1
    for each in listeners:
        bound = _bound(each)
        # The namespace's listeners are bound to lo, whatever address the rule has.
        is_any = not any(bound) or each.namespace
        if bound and (len(bound) != len(local) or not (is_any or bound == local)):
            continue
        score = 2 * (not is_any) + (_rule_of(each).ifname is not None)
        if score > most:
            best, most = each, score
    return best


def _describe(rule: PortRule) -> str:
    return f"'{rule_text(rule)}' ({describe_rule(rule)})"


def _name_listener(rule: PortRule, port: int) -> str:
    return f"we listen on port {port} by rule {_describe(rule)}"


def _find_gap(text: str, port: int) -> str:
    """Say why the rules of an option with its specification leave *port* out; empty if they do not."""
    if "~" not in text and "all" not in text:
        return ""                  # it excludes nothing; to read hundreds of specifications takes long
    letter, _, spec_text = text.partition(" ")
    try:
        spec = parse_spec(spec_text, prefix=letter in {"-t", "-u"})
    except ConfigError:
        return ""
    if any(first <= port <= last for first, last in spec.excluded):
        return f"port {port} is excluded"
    if spec.is_all and not spec.is_auto:
        return f"it leaves out the ports that the kernel gives to clients, such as {port}"
    return ""


def _flow(direction: str, proto: int, source: dict[str, Any] | None, destination: dict[str, Any] | None
          ) -> dict[str, Any]:
    return {"direction": direction, "protocol": PROTOCOLS[proto], "source": source,
            "destination": destination, "verdict": _CLOSED, "why": "", "path": None, "rule": None,
            "guest": None, "host": None, "steps": []}


def _outcome(found: Explained, steps: list[str]) -> dict[str, Any]:
    return {"verdict": _REFUSED if found.target is None else _FORWARDED, "why": found.why, "steps": steps}


def _nothing(steps: list[str], why: str) -> dict[str, Any]:
    return {"verdict": _CLOSED, "why": why, "steps": steps}


def _ends(source: dict[str, Any] | None, destination: dict[str, Any] | None) -> dict[str, Any]:
    return {"source": source, "destination": destination}


def _host_of(target: object) -> dict[str, Any] | None:
    """Write what our socket connects to, and how; the kernel chooses what is None."""
    if not isinstance(target, Target):
        return None
    return {"source": end_of(target.source or b"", 0), "destination": end_of(target.address, target.port),
            "interface": os.fsdecode(target.ifname) if target.ifname else None,
            "scope": target.scope_id or None}

"""Flows as JSON, what of the settings applied to them, and filters."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from passt.control.http import RefusalError
from passt.facts.contracts import HOST_TABLE, NAMESPACE_TABLE

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from passt.facts.contracts import FlowDetail, PortTables
    from passt.facts.guest import GuestFamily, GuestNet
    from passt.facts.port_rule import PortRule

PROTOCOLS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp", socket.IPPROTO_ICMP: "icmp",
             socket.IPPROTO_ICMPV6: "icmp6"}  # fmt: skip
DIRECTIONS = ("inbound", "outbound")
PATHS = ("link", "bypass")
_NS_PER_MS = 1_000_000


def address_text(packed: bytes) -> str | None:
    """Write a packed address; None if there is none. Faster than `ipaddress`, as lists are long."""
    if not packed:
        return None
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)


def end_of(packed: bytes, port: int) -> dict[str, Any] | None:
    """Write one end of a flow; None if it is not known."""
    return {"address": address_text(packed), "port": port} if packed else None


def name_of(index: int, generation: int) -> str:
    """Give the name of a flow, which no other one of this run has."""
    return f"{index}.{generation}"


def parse_name(text: str) -> tuple[int, int]:
    """Take a flow's name apart. Raises RefusalError."""
    index, _, generation = text.partition(".")
    if all(part.isascii() and part.isdecimal() and len(part) <= 9 for part in (index, generation)):
        return int(index), int(generation)
    raise RefusalError(404, f"'{text[:40]}' is not the id of a flow; ids are like 17.0")


class FlowTexts:
    """Writes flows; *guest* and the port tables tell which mapping or rule applied to one.

    A rule is looked for among the few hundred that there can be, as they are now: the listeners, of which
    there may be 60,000, are not.
    """

    def __init__(self, guest: GuestNet) -> None:
        self.renew(guest)
        self.tables: PortTables | None = None  # set when they are there

    def renew(self, guest: GuestNet) -> None:
        """Take it that *guest* is the guest's network now."""
        self._mappings4 = _mappings(guest.ip4)
        self._mappings6 = _mappings(guest.ip6)

    def write(self, flow: FlowDetail) -> dict[str, Any]:
        """Write *flow* as a JSON object; docs/control-api.json has its schema."""
        return {
            "id": name_of(flow.number, flow.generation),
            "protocol": PROTOCOLS[flow.proto],
            "state": flow.state,
            "path": "bypass" if flow.bypassed else "link",
            "direction": "inbound" if flow.inbound else "outbound",
            "guest": end_of(flow.guest_address, flow.guest_port),
            "remote": end_of(flow.remote_address, flow.remote_port),
            "host": {"local": end_of(flow.local_address, flow.local_port),
                     "peer": end_of(flow.peer_address, flow.peer_port)},
            "rule": self.applied(flow),
            "age_ms": flow.age_ns // _NS_PER_MS,
            "idle_ms": None if flow.idle_ns is None else flow.idle_ns // _NS_PER_MS,
            "bytes": {"to_guest": flow.bytes_to_guest, "to_host": flow.bytes_to_host},
            "packets": {"to_guest": flow.packets_to_guest, "to_host": flow.packets_to_host},
            "rtt_us": {"guest": flow.rtt_guest_us, "host": flow.rtt_host_us},
            "retransmits": {"to_guest": flow.retransmits_to_guest, "to_host": flow.retransmits_to_host},
            "window": {"guest": flow.window_guest, "ours": flow.window_ours, "host": flow.window_host},
        }  # fmt: skip

    def applied(self, flow: FlowDetail) -> str | None:
        """Return the port rule by which *flow* came in, or the mapping of its remote; None for neither."""
        if flow.inbound or flow.bypassed:
            return self._rule_of(flow)
        mappings = self._mappings4 if len(flow.remote_address) == 4 else self._mappings6
        return mappings.get(flow.remote_address) if flow.remote_address != flow.peer_address else None

    def _rule_of(self, flow: FlowDetail) -> str | None:
        if flow.inbound:
            port, near = flow.local_port, flow.local_address
        else:
            port, near = flow.remote_port, flow.remote_address
        table = HOST_TABLE if flow.inbound else NAMESPACE_TABLE
        if self.tables is None or table not in self.tables.names():
            return None
        found = None
        for rule in self.tables.rules(table):
            if rule.first <= port <= rule.last and rule.proto == flow.proto and _has(rule, near):
                if not rule.auto:
                    return rule_text(rule)
                found = found or rule_text(rule)     # a rule that follows leaves the ports of others alone
        return found


def _has(rule: PortRule, address: bytes) -> bool:
    """Tell whether *rule* listens on *address*; 0.0.0.0 and :: are all addresses of their family."""
    if rule.address is None:
        return True
    if rule.address.is_unspecified:
        return len(rule.address.packed) == len(address)
    return rule.address.packed == address


def rule_text(rule: PortRule) -> str:
    """Write *rule* as its option was given, or as one could be."""
    if rule.spec:
        return rule.spec
    ports = str(rule.first) if rule.first == rule.last else f"{rule.first}-{rule.last}"
    return f"{PROTOCOLS[rule.proto]} {ports}{' (auto)' if rule.auto else ''}"


def _mappings(family: GuestFamily | None) -> dict[bytes, str]:
    """Return the addresses that mean something else to the guest, with the option that says so."""
    if family is None:
        return {}
    named = ((family.map_guest, "--map-guest-addr"), (family.map_host_loopback, "--map-host-loopback"),
             (family.dns_match, "--dns-forward"))
    return {address.packed: f"{name} {address}" for address, name in named if address is not None}


class FlowFilter:
    """Chooses flows by the parameters of a request. Raises RefusalError for values that make no sense."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._protocol = _choice(query, "protocol", tuple(PROTOCOLS.values()))
        self._path = _choice(query, "path", PATHS)
        self._direction = _choice(query, "direction", DIRECTIONS)
        self._state = query["state"].upper() if "state" in query else None
        self._rule = query.get("rule")
        self._port = number(query, "port", 1, 0xFFFF)
        self._address: bytes | None = None
        if "address" in query:
            try:
                self._address = ip_address(query["address"]).packed
            except ValueError:
                raise RefusalError(400, f"'{query['address'][:60]}' is not an IP address") from None

    def takes(self, flow: FlowDetail, texts: FlowTexts) -> bool:
        """Tell whether *flow* is one of those that are wanted; an address or port may be of any end."""
        ports = {flow.guest_port, flow.remote_port, flow.peer_port, flow.local_port}
        addresses = {flow.guest_address, flow.remote_address, flow.peer_address, flow.local_address}
        return ((self._protocol is None or PROTOCOLS[flow.proto] == self._protocol)
                and (self._path is None or (self._path == "bypass") == flow.bypassed)
                and (self._direction is None or (self._direction == "inbound") == flow.inbound)
                and (self._state is None or flow.state == self._state)
                and (self._port is None or self._port in ports)
                and (self._address is None or self._address in addresses)
                and (self._rule is None or self._rule in (texts.applied(flow) or "")))


def _choice(query: Mapping[str, str], name: str, words: tuple[str, ...]) -> str | None:
    word = query.get(name)
    if word is not None and word not in words:
        raise RefusalError(400, f"{name} '{word[:40]}' is none of {', '.join(words)}")
    return word


def number(query: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """Read a parameter that is a number; None if it is not given. Raises RefusalError."""
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and least <= int(text) <= most):
        raise RefusalError(400, f"{name} '{text[:40]}' is not a number from {least} to {most}")
    return int(text)

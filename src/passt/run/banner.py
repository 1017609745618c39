"""The banner: what a start prints of interfaces, addresses, services and forwarded ports.

The labels are those that the C program prints, because scripts look for them.
"""

from __future__ import annotations

from ipaddress import IPv4Network

from passt.facts.address import format_mac
from passt.forward.rules import describe_rule
from passt.light.values import replace

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from passt.facts.address import IPAddress
    from passt.facts.guest import GuestFamily, GuestNet
    from passt.facts.port_rule import PortRule
    from passt.facts.settings import ForwardingSettings, ServiceSettings

# A longer list of rules is cut here, and the rest is counted.
MAX_RULES = 32


def banner(mode: str, services: ServiceSettings, forwarding: ForwardingSettings, guest: GuestNet
           ) -> list[str]:
    """Describe the network that the guest gets from the program *mode*, a line each."""
    lines = _interfaces(guest)
    if mode == "pasta":
        lines.append(f"Namespace interface: {guest.ifname}")
    lines += ["MAC:", f"    host: {format_mac(guest.our_mac)}"]
    if guest.ip4:
        lines += _ip4(services, guest, guest.ip4)
    if guest.ip6:
        lines += _ip6(services, guest, guest.ip6)
    lines += _rules("Inbound forwarding rules (HOST):", forwarding.port_rules)
    if mode == "pasta":
        # Namespace rules listen on the loopback interface only.
        lines += _rules("Outbound forwarding rules (SPLICE):",
                        [replace(rule, ifname="lo") for rule in forwarding.namespace_rules])
    return lines


def _interfaces(guest: GuestNet) -> list[str]:
    """Name the host's interfaces in use, and the source addresses of outbound sockets."""
    families = [(version, family) for version, family in ((4, guest.ip4), (6, guest.ip6)) if family]
    lines = []
    for label, field in (
            ("Template interface", "template_ifname"), ("Outbound interface", "outbound_ifname")):
        named = [f"{name} (IPv{version})" for version, family in families if (name := getattr(family, field))]
        if named:
            lines.append(f"{label}: {', '.join(named)}")
    return lines + [f"Outbound IPv{version} address: {family.outbound_address}"
                    for version, family in families if family.outbound_address]


def _ip4(services: ServiceSettings, guest: GuestNet, family: GuestFamily) -> list[str]:
    lines = [f"    NAT to host 127.0.0.1: {family.map_host_loopback}"] if family.map_host_loopback else []
    if services.dhcp and family.gateway and family.address:
        mask = IPv4Network((0, family.prefix_len)).netmask
        lines += ["DHCP:", f"    assign: {family.address}", f"    mask: {mask}",
                  f"    router: {family.gateway}"]
    return lines + _names(guest, family.resolvers)


def _ip6(services: ServiceSettings, guest: GuestNet, family: GuestFamily) -> list[str]:
    lines = [f"    NAT to host ::1: {family.map_host_loopback}"] if family.map_host_loopback else []
    served = [name for name, is_on in (("NDP", services.ndp), ("DHCPv6", services.dhcpv6)) if is_on]
    if served:
        lines.append(f"{'/'.join(served)}:")
        if family.address:
            lines.append(f"    assign: {family.address}")
        if family.gateway:
            lines.append(f"    router: {family.gateway}")
        lines.append(f"    our link-local: {family.our_link_local}")
    return lines + _names(guest, family.resolvers)


def _names(guest: GuestNet, resolvers: Iterable[IPAddress]) -> list[str]:
    """List the name servers and search domains that the guest is told."""
    servers = [f"    {server}" for server in resolvers]
    search = [f"    {name}" for name in guest.search]
    return (["DNS:", *servers] if servers else []) + (["DNS search list:", *search] if search else [])


def _rules(title: str, rules: Sequence[PortRule]) -> list[str]:
    if not rules:
        return []
    lines = [title, *(f"    {describe_rule(rule)}" for rule in rules[:MAX_RULES])]
    if len(rules) > MAX_RULES:
        lines.append(f"    and {len(rules) - MAX_RULES} more")
    return lines

"""Routes and addresses of the host, by which the guest gets its own: per family the interface, gateway, MTU.

The interface that a guest's network is made after is chosen by `host_facts.read_host`, as in a start.
"""

from __future__ import annotations

import shlex

from passt.errors import PasstError
from passt.facts.settings import DEFAULT_MTU
from passt.host.host_facts import read_host
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING, Finding, set_sysctl

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable

    from passt.facts.host import FamilyFacts, HostFacts
    from passt.passtctl.doctor.machine import Machine

MIN_MTU4, MIN_MTU6 = 576, 1280    # RFC 1122 3.3.2 of what every host takes, RFC 8200 5
USUAL_MTU = 1500
_NO_IP6 = "net.ipv6.conf.{}.disable_ipv6"


def read_without_routes() -> HostFacts:
    """Read what a start reads, but not the routes that a guest would get. Raises PasstError, OSError."""
    return read_host(want_routes=False)


def check(machine: Machine, read: Callable[[], HostFacts] = read_without_routes) -> list[Finding]:
    """Say what a guest of this host gets."""
    try:
        facts = read()
    except PasstError as error:
        return [Finding(ERROR, "network", str(error))]
    ip4 = _family(machine, 4, facts.ip4)
    ip6 = _disabled(machine, facts) or _family(machine, 6, facts.ip6)
    has_any = any(family is not None and family.address is not None for family in (facts.ip4, facts.ip6))
    if not has_any:
        ip4 = [finding._replace(level=ERROR) if finding.level == WARNING else finding for finding in ip4]
    found = [*ip4, *ip6, *_mtu(facts)]
    if facts.ip4 and facts.ip6 and facts.ip4.ifname != facts.ip6.ifname:
        found.append(Finding(NOTE, "network", "the families leave by different interfaces: IPv4 by"
                             f" {facts.ip4.ifname}, IPv6 by {facts.ip6.ifname}; -i names one for both"))
    return found


def _family(machine: Machine, version: int, facts: FamilyFacts | None) -> list[Finding]:
    """Judge one family. IPv4 alone, without IPv6, is no fault."""
    subject, level = f"IPv{version}", WARNING if version == 4 else NOTE
    dash = "" if version == 4 else " -6"
    if facts is None:
        return [Finding(level, subject, f"there is no route, so guests have no IPv{version}",
                        (f"ip{dash} route add default via GATEWAY dev INTERFACE",), as_root=True)]
    name = shlex.quote(facts.ifname)
    if facts.address is None:
        return [Finding(level, subject, f"{facts.ifname}, by which the route leads, has no address for guests"
                        " to have", (f"ip{dash} address add ADDRESS/LENGTH dev {name}",), as_root=True),
                *_link(machine, facts, level)]
    text = f"guests get {facts.address}/{facts.prefix_len} of {facts.ifname}"
    if facts.gateway is None:
        found = [Finding(NOTE, subject, f"{text}; there is no gateway, and so no address that stands for the"
                         " host's loopback: --map-host-loopback gives one",
                         (f"pasta --map-host-loopback {'192.0.2.1' if version == 4 else '2001:db8::1'}",))]
    else:
        found = [Finding(OK, subject, f"{text}, gateway {facts.gateway}")]
    return [*found, *_link(machine, facts, WARNING)]


def _link(machine: Machine, facts: FamilyFacts, level: str) -> list[Finding]:
    """Judge the state of an interface (Linux' Documentation/networking/operstates.rst)."""
    state = (machine.read(f"/sys/class/net/{facts.ifname}/operstate") or "").strip()
    if state not in {"down", "lowerlayerdown"}:
        return []
    return [Finding(level, "network", f"{facts.ifname} is down",
                    (f"ip link set {shlex.quote(facts.ifname)} up",), as_root=True)]


def _mtu(facts: HostFacts) -> list[Finding]:
    """Compare the MTU of each interface with that of guests, and with the least that its families take."""
    families = [(family, least) for family, least in ((facts.ip4, MIN_MTU4), (facts.ip6, MIN_MTU6))
                if family is not None and family.address is not None]
    found = []
    for ifname, mtu in dict.fromkeys((family.ifname, family.mtu) for family, _ in families):
        least = max(least for family, least in families if family.ifname == ifname)
        text = f"that of {ifname} is {mtu}"
        if mtu < least:
            found.append(Finding(WARNING, "MTU", f"{text}: IPv{6 if least == MIN_MTU6 else 4} wants {least}",
                                 (f"ip link set {shlex.quote(ifname)} mtu {USUAL_MTU}",), as_root=True))
        elif mtu < USUAL_MTU:
            found.append(Finding(NOTE, "MTU", f"{text}, that of guests {DEFAULT_MTU}: TCP is cut to fit,"
                                 " larger datagrams travel in fragments or are refused; guests with the same"
                                 " MTU send none",
                                 (f"pasta --mtu {mtu}",)))
        else:
            found.append(Finding(OK, "MTU", f"{text}, that of guests {DEFAULT_MTU}: TCP is cut to fit"))
    return found


def _disabled(machine: Machine, facts: HostFacts) -> list[Finding]:
    """Say where IPv6 is switched off, if that is why guests have none."""
    if not facts.has_ip6:
        return [Finding(NOTE, "IPv6", "the kernel has none (boot parameter ipv6.disable, or CONFIG_IPV6), so"
                        " guests have none")]
    if facts.ip6 is not None and facts.ip6.address is not None:
        return []
    places = ["all", "default", *([facts.ip4.ifname.replace(".", "/")] if facts.ip4 else [])]
    names = [name for name in map(_NO_IP6.format, places) if machine.sysctl(name) == "1"]
    if not names:
        return []
    return [Finding(NOTE, "IPv6", f"it is switched off ({', '.join(names)}), so guests have none",
                    tuple(set_sysctl(name, 0) for name in names), as_root=True)]

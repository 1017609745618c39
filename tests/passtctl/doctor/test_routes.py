"""What is said of routes, addresses, IPv6 and MTU, for hosts that lack one thing each."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from passt.errors import HostError
from passt.facts.host import FamilyFacts, HostFacts
from passt.passtctl.doctor.finding import ERROR, NOTE, OK, WARNING, Finding
from passt.passtctl.doctor.routes import check, read_without_routes
from tests.support.made_machine import make, sysctls

if TYPE_CHECKING:
    from pathlib import Path


def family(version: int, **changes: Any) -> FamilyFacts:
    fields: dict[str, Any] = {
        "ifname": "eth0", "ifindex": 2, "mtu": 1500, "addresses": (), "routes": (),
        "address": ip_address("192.0.2.9" if version == 4 else "2001:db8::9"),
        "prefix_len": 24 if version == 4 else 64,
        "gateway": ip_address("192.0.2.1" if version == 4 else "fe80::1")}  # fmt: skip
    return FamilyFacts(**(fields | changes))


def look(
    tmp_path: Path,
    ip4: FamilyFacts | None,
    ip6: FamilyFacts | None,
    files: dict[str, str] | None = None,
    *,
    has_ip6: bool = True,
) -> list[Finding]:
    """Give the findings that are not all right."""
    facts = HostFacts(ip4, ip6, has_ip6=has_ip6)
    return [finding for finding in check(make(tmp_path, files), lambda: facts) if finding.level != OK]


def test_host_with_both_families(tmp_path: Path) -> None:
    assert look(tmp_path, family(4), family(6)) == []
    found = check(make(tmp_path), lambda: HostFacts(family(4), family(6)))
    assert [finding.subject for finding in found] == ["IPv4", "IPv6", "MTU"]


def test_host_without_routes(tmp_path: Path) -> None:
    four, six = look(tmp_path, None, None)
    assert (four.level, six.level) == (ERROR, NOTE)
    assert four.commands == ("ip route add default via GATEWAY dev INTERFACE",)
    assert six.commands == ("ip -6 route add default via GATEWAY dev INTERFACE",)
    assert [finding.level for finding in look(tmp_path, None, family(6))] == [WARNING]
    assert [finding.level for finding in look(tmp_path, family(4), None)] == [NOTE]


def test_interface_without_an_address(tmp_path: Path) -> None:
    [found] = look(tmp_path, family(4, address=None), family(6))
    assert (found.level, found.commands) == (WARNING, ("ip address add ADDRESS/LENGTH dev eth0",))
    [found, _] = look(tmp_path, family(4, address=None, ifname="a;b"), None)
    assert (found.level, found.commands) == (ERROR, ("ip address add ADDRESS/LENGTH dev 'a;b'",))


def test_route_without_a_gateway(tmp_path: Path) -> None:
    [found] = look(tmp_path, family(4, gateway=None), family(6))
    assert (found.level, found.commands) == (NOTE, ("pasta --map-host-loopback 192.0.2.1",))


def test_families_by_different_interfaces(tmp_path: Path) -> None:
    [found] = look(tmp_path, family(4), family(6, ifname="wg0"))
    assert "IPv6 by wg0" in found.text


@pytest.mark.parametrize(
    ("state", "n"), [("up", 0), ("unknown", 0), ("", 0), ("down", 2), ("lowerlayerdown", 2)]
)
def test_interface_that_is_down(tmp_path: Path, state: str, n: int) -> None:
    found = look(tmp_path, family(4), family(6), {"/sys/class/net/eth0/operstate": f"{state}\n"})
    assert [finding.commands for finding in found] == [("ip link set eth0 up",)] * n


@pytest.mark.parametrize(
    ("mtu4", "mtu6", "levels"),
    [(1500, 1500, []), (65536, 65536, []), (1400, 1400, [NOTE]), (1280, 1280, [NOTE]),
     (1279, 1279, [WARNING]),
     (575, 1500, [WARNING]), (576, 1500, [NOTE])],
)  # fmt: skip
def test_mtu(tmp_path: Path, mtu4: int, mtu6: int, levels: list[str]) -> None:
    other = "eth0" if mtu4 == mtu6 else "eth1"
    found = look(tmp_path, family(4, mtu=mtu4), family(6, mtu=mtu6, ifname=other))
    assert [finding.level for finding in found if finding.subject == "MTU"] == levels
    for finding in found:
        if finding.level == NOTE and finding.subject == "MTU":
            assert finding.commands == (f"pasta --mtu {mtu4}",)
        elif finding.level == WARNING:
            assert finding.commands == ("ip link set eth0 mtu 1500",)


@pytest.mark.parametrize("place", ["all", "default", "eth0"])
def test_ip6_switched_off(tmp_path: Path, place: str) -> None:
    files = sysctls(
        {f"net.ipv6.conf.{each}.disable_ipv6": int(each == place) for each in ("all", "default", "eth0")}
    )
    [found] = look(tmp_path, family(4), None, files)
    assert (found.level, found.commands) == (NOTE, (f"sysctl -w net.ipv6.conf.{place}.disable_ipv6=0",))
    assert look(tmp_path, family(4), family(6), files) == []


def test_name_of_an_interface_with_a_dot(tmp_path: Path) -> None:
    files = {"/proc/sys/net/ipv6/conf/eth0.7/disable_ipv6": "1\n"}
    [found] = look(tmp_path, family(4, ifname="eth0.7"), None, files)
    assert found.commands == ("sysctl -w net.ipv6.conf.eth0/7.disable_ipv6=0",)


def test_kernel_without_ip6(tmp_path: Path) -> None:
    [found] = look(tmp_path, family(4), None, has_ip6=False)
    assert (found.level, "boot parameter" in found.text) == (NOTE, True)


def test_kernel_that_does_not_answer(tmp_path: Path) -> None:
    def read() -> HostFacts:
        raise HostError("cannot read the routes")

    assert check(make(tmp_path), read) == [Finding(ERROR, "network", "cannot read the routes")]


def test_this_host_is_read() -> None:
    facts = read_without_routes()
    assert all(not one.routes for one in (facts.ip4, facts.ip6) if one)

"""What the namespace gets of hosts of many kinds: `ip -json` on both sides, through the whole program."""

from __future__ import annotations

import json
import re
import resource
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Lab, Place

pytestmark = pytest.mark.needs_root

LINK = "link add {0} type veth peer name {0}p\nlink set {0}p up\nlink set {0} up\n"
UPLINK = LINK.format("up0")
IP4 = "addr add 192.0.2.2/24 dev up0\nroute add default via 192.0.2.1\n"
IP6 = "addr add 2001:db8::2/64 dev up0 nodad\nroute add default via 2001:db8::1\n"
OTHER = LINK.format("up1") + "addr add 198.51.100.2/25 dev up1\naddr add 2001:db8:5::2/64 dev up1 nodad\n"
# What an address has on one side only: how it was made, and for how long.
OWN = {"nodad", "label", "valid_life_time", "preferred_life_time", "dynamic", "tentative"}


class Seen(NamedTuple):
    """One interface: its link, its addresses beyond the link, its routes; by ip(8)."""

    link: dict[str, Any]
    addresses: list[dict[str, Any]]
    routes: list[dict[str, Any]]

    def gateways(self) -> list[str]:
        """Gateways of the default routes, IPv4 first."""
        return [route["gateway"] for route in self.routes if route["dst"] == "default"]

    def prefixes(self) -> list[str]:
        """All addresses as people write them."""
        return [f"{one['local']}/{one['prefixlen']}" for one in self.addresses]


def script(ifname: str) -> list[str]:
    """Make the command that shows an interface."""
    return ["sh", "-c", f"ip -json addr show dev {ifname}; ip -json -4 route; ip -json -6 route"]


def seen(text: bytes, ifname: str) -> Seen:
    """Read what `script` has said."""
    decoder, found, at = json.JSONDecoder(), [], 0
    decoded = text.decode()
    while at < len(decoded.rstrip()):
        value, at = decoder.raw_decode(decoded, at + len(decoded[at:]) - len(decoded[at:].lstrip()))
        found.append(value)
    links, routes4, routes6 = found
    link = next(link for link in links if link.get("ifname") == ifname)
    addresses = [{key: value for key, value in one.items() if key not in OWN}
                 for one in link["addr_info"] if one["scope"] != "link"]
    return Seen(link, addresses, [route for route in (*routes4, *routes6) if route.get("dev") == ifname])


def make_host(lab: Lab, commands: str) -> Place:
    """Make a host of *commands* of ip(8)."""
    place = lab.bare_place()
    place.run(["ip", "-batch", "-"], feed=commands.encode())

    def has_link_local(ifname: str) -> bool:
        return b"fe80:" in place.run(["ip", "-6", "addr", "show", "dev", ifname, "scope", "link"]).stdout

    # The kernel gives these, with their routes, when it has noticed that the link is up.
    names = re.findall(r"^link set (up\d) up$", commands, re.MULTILINE)
    wait_until(lambda: all(map(has_link_local, names)), "the interfaces have their link-local addresses")
    return place


def inside(lab: Lab, place: Place, *options: str, ifname: str = "up0", user: bool = True) -> Seen:
    """Look at the interface in a namespace; nothing but what ip(8) says may be printed."""
    result = lab.run(["--config-net", *options], script(ifname), user=user, place=place)
    assert result.stderr == b""
    return seen(result.stdout, ifname)


def outside(place: Place, ifname: str = "up0") -> Seen:
    """Look at an interface of the host."""
    return seen(place.run(script(ifname)).stdout, ifname)


RICH = UPLINK + OTHER + IP4 + IP6 + """
addr add 192.0.2.3/24 dev up0
addr add 10.1.2.3/32 dev up0
addr add 2001:db8:7::1/56 dev up0 nodad
route add default via 192.0.2.9 metric 50
route add 10.0.0.0/8 via 192.0.2.5 src 192.0.2.3 mtu 1400
route add 203.0.113.0/24 dev up0 scope link
route add 10.99.0.0/16 via 203.0.113.9 onlink dev up0
route add 172.16.0.0/12 nexthop via 192.0.2.1 dev up0 weight 3 nexthop via 192.0.2.7 dev up0
route add 100.64.0.0/10 via inet6 fe80::9 dev up0
route add 2001:db8:100::/40 via fe80::77 dev up0 metric 5
route add 10.55.0.0/16 via 198.51.100.1
"""


def test_addresses_and_routes_are_those_of_the_template(lab: Lab, user: bool) -> None:
    place = make_host(lab, RICH)
    there, here = outside(place), inside(lab, place, user=user)
    assert here.addresses == there.addresses
    assert here.routes == there.routes
    assert len(here.routes) > 10
    assert here.link["mtu"] == 65520


@pytest.mark.parametrize(("options", "prefixes", "gateways"), [
    pytest.param(["-a", "192.0.2.77"], ["192.0.2.77/24", "2001:db8::2/64"], ["192.0.2.1", "2001:db8::1"],
                 id="address"),
    pytest.param(["-a", "10.9.9.9/30", "-g", "10.9.9.10"], ["10.9.9.9/30", "2001:db8::2/64"],
                 ["10.9.9.10", "2001:db8::1"], id="length-and-gateway"),
    pytest.param(["-a", "10.9.9.9", "-n", "255.255.0.0", "-g", "10.7.0.1", "-a", "2001:db8:9::9", "-g",
                  "fe80::99"], ["10.9.9.9/16", "2001:db8:9::9/64"], ["10.7.0.1", "fe80::99"],
                 id="both-families-and-a-gateway-elsewhere"),
    pytest.param(["-n", "28"], ["192.0.2.2/28", "2001:db8::2/64"], ["192.0.2.1", "2001:db8::1"], id="mask"),
    pytest.param(["--no-copy-addrs", "--no-copy-routes"], ["192.0.2.2/24", "2001:db8::2/64"],
                 ["192.0.2.1", "2001:db8::1"], id="nothing-copied"),
    pytest.param(["-i", "up1"], ["198.51.100.2/25", "2001:db8:5::2/64"], [], id="interface"),
    pytest.param(["--outbound-if4", "up1"], ["198.51.100.2/25", "2001:db8::2/64"], ["2001:db8::1"],
                 id="outbound-interface-of-one-family"),
    pytest.param(["--outbound-if4", "up1", "--outbound-if6", "up1", "-i", "up0"],
                 ["192.0.2.2/24", "2001:db8::2/64"], ["192.0.2.1", "2001:db8::1"], id="interface-wins"),
    pytest.param(["-4"], ["192.0.2.2/24"], ["192.0.2.1"], id="ip4-only"),
    pytest.param(["-6"], ["2001:db8::2/64"], ["2001:db8::1"], id="ip6-only"),
])
def test_options_change_addresses_and_gateways(
        lab: Lab, options: list[str], prefixes: list[str], gateways: list[str]) -> None:
    place = make_host(lab, UPLINK + OTHER + IP4 + IP6)
    result = lab.run(["--config-net", "-I", "tap7", *options], script("tap7"), user=True, place=place)
    found = seen(result.stdout, "tap7")
    assert found.prefixes() == prefixes
    assert found.gateways() == gateways


def test_hardware_addresses_name_and_mtu(lab: Lab) -> None:
    place = make_host(lab, UPLINK + IP4 + IP6)
    found = inside(lab, place, "-I", "net0", "--ns-mac-addr", "02:00:00:00:00:07", "-m", "1400",
                   ifname="net0").link
    assert (found["address"], found["mtu"]) == ("02:00:00:00:00:07", 1400)
    ask = ("ping -c 1 -w 20 192.0.2.1 >/dev/null; ping -c 1 -w 20 2001:db8::1 >/dev/null;"
           " ip -json neigh show nud all | tr -d '[:space:]'")
    neighbours = lab.run(["--config-net", "-M", "02:00:00:00:00:08"], ["sh", "-c", ask], user=True,
                         place=place).stdout
    found_macs = {one["dst"]: one["lladdr"] for one in json.loads(neighbours) if "lladdr" in one}
    assert (found_macs["192.0.2.1"], found_macs["2001:db8::1"]) == ("02:00:00:00:00:08",) * 2


LOCAL4, LOCAL6 = ("169.254.2.1/16", "169.254.2.2"), "fe80::1"


@pytest.mark.parametrize(("host", "options", "prefixes", "gateways"), [
    pytest.param(UPLINK + IP4, [], ["192.0.2.2/24"], ["192.0.2.1", LOCAL6], id="ip4-host"),
    pytest.param(UPLINK + IP4, ["-4"], ["192.0.2.2/24"], ["192.0.2.1"], id="ip4-host-ip4"),
    pytest.param(UPLINK + IP6, [], [LOCAL4[0], "2001:db8::2/64"], [LOCAL4[1], "2001:db8::1"], id="ip6-host"),
    pytest.param(UPLINK + IP6, ["-6"], ["2001:db8::2/64"], ["2001:db8::1"], id="ip6-host-ip6"),
    pytest.param(UPLINK + IP4, ["-6"], [], [LOCAL6], id="ip4-host-ip6"),
    pytest.param("", ["-4"], [LOCAL4[0]], [LOCAL4[1]], id="no-interface-ip4"),
    pytest.param("", ["-6"], [], [LOCAL6], id="no-interface-ip6"),
])
def test_family_that_the_host_lacks_is_in_local_mode(
        lab: Lab, host: str, options: list[str], prefixes: list[str], gateways: list[str]) -> None:
    place = make_host(lab, host)
    found = inside(lab, place, "-I", "tap0", *options, ifname="tap0")
    assert found.prefixes() == prefixes
    assert found.gateways() == gateways


def test_host_with_ip6_disabled_by_sysctl_starts_without_a_word(lab: Lab) -> None:
    place = lab.bare_place()
    place.run(["bash", "-c", "echo 1 | tee /proc/sys/net/ipv6/conf/{all,default}/disable_ipv6"])
    place.run(["ip", "-batch", "-"], feed=(UPLINK + IP4).encode())
    found = inside(lab, place)
    assert found.prefixes() == ["192.0.2.2/24"]
    assert found.gateways()[0] == "192.0.2.1"


@pytest.mark.parametrize(("options", "words"), [
    (["-i", "up1"], ["--interface", "up1", "no usable address"]),
    (["-i", "nothere"], ["--interface", "nothere", "no such interface"]),
    (["--outbound-if6", "up1"], ["--outbound-if6", "up1", "no usable IPv6 address"]),
    (["-i", "lo"], ["--interface", "lo", "no usable address"]),
])
def test_interface_without_use_is_refused_in_one_line(lab: Lab, options: list[str], words: list[str]) -> None:
    place = make_host(lab, "link set lo up\n" + UPLINK + IP4 + IP6 + LINK.format("up1"))
    result = lab.run(["--config-net", *options], ["true"], user=True, place=place, check=False)
    text = result.stderr.decode()
    assert (result.returncode, text.count("\n"), result.stdout) == (1, 1, b"")
    assert all(word in text for word in words), text


def many_routes(family: int, total: int) -> Iterator[str]:
    """Make the commands for *total* routes of *family*."""
    for index in range(total):
        high, low = divmod(index, 256)
        yield (f"route add 10.{high}.{low}.0/24 via 192.0.2.1" if family == 4
               else f"route add 2001:db8:1:{index:x}::/64 via 2001:db8::1")


def cpu_s_of_children() -> float:
    """Processor time of all that we have started and that has ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("family", [4, 6])
def test_ten_thousand_routes_arrive(lab: Lab, family: int) -> None:
    total = 10_000
    place = make_host(lab, UPLINK + IP4 + IP6 + "\n".join(many_routes(family, total)) + "\n")
    start = cpu_s_of_children()
    command = ["sh", "-c", f"ip -{family} route | wc -l"]
    count = lab.run(["--config-net"], command, user=True, place=place).stdout
    took = cpu_s_of_children() - start
    assert int(count) >= total
    # Some 0.5 s of a processor; what takes seconds is a search in a search.
    assert took < 15

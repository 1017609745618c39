"""The option table against the manual's options, and what must agree with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from passt.config.getopt import ACTIONS
from passt.config.options import ACCUMULATES, BOTH, GROUPS, LAST_WINS, OPTIONS, PER_FAMILY
from passt.config.port_options import PORT_OPTIONS
from passt.config.settings import FLAGS, LISTS, VALUES

# All long options of the manual of the system (passt(1)), with what short form and whether an argument.
MANUAL = """
d debug, trace, q quiet, f foreground, e stderr, l log-file=, log-size=, runas=, h help, version, p pcap=,
P pid=, m mtu=, a address=, n netmask=, M mac-addr=, g gateway=, i interface=, o outbound=, outbound-if4=,
outbound-if6=, D dns=, dns-forward=, dns-host=, dns-cache=, dns-route=,
dns-hosts=, S search=, no-dhcp-dns, dhcp-dns, no-dhcp-search,
dhcp-search, no-tcp, no-udp, no-icmp, no-dhcp, no-ndp, no-dhcpv6, no-ra, freebind, map-host-loopback=,
no-map-gw, map-guest-addr=, 4 ipv4-only, 6 ipv6-only, s socket-path=, s socket=, vhost-user,
print-capabilities, F fd=, 1 one-off, t tcp-ports=, u udp-ports=, I ns-ifname=, T tcp-ns=, U udp-ns=,
host-lo-to-ns-lo, userns=, netns=, netns-only, no-netns-quit, config-net, no-copy-routes, no-copy-addrs,
ns-mac-addr=
"""


@pytest.mark.parametrize("entry", [entry.strip() for entry in MANUAL.replace("\n", " ").split(",")])
def test_option_of_the_manual_is_in_the_table(entry: str) -> None:
    short, _, long = entry.rpartition(" ")
    option = next(option for option in OPTIONS if long.rstrip("=") in option.names)
    assert option.short == short
    assert bool(option.argument) == long.endswith("=")


def test_names_and_short_forms_are_unique() -> None:
    names = [name for option in OPTIONS for name in option.names]
    shorts = [option.short for option in OPTIONS if option.short]
    assert len(set(names)) == len(names)
    assert len(set(shorts)) == len(shorts)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)
def test_row_is_well_formed(option: object) -> None:
    row = next(row for row in OPTIONS if row is option)
    assert row.group in GROUPS
    assert row.modes in {BOTH, ("pasta",), ("passt",)}
    assert row.repeat in {LAST_WINS, PER_FAMILY, ACCUMULATES}
    assert row.text.endswith(".")
    assert all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in row.names)
    assert row.argument or row.repeat == LAST_WINS
    assert not row.deprecated or row.available


def test_exactly_the_available_options_are_carried_out() -> None:
    flags = {option.name for option in OPTIONS if option.available and not option.argument}
    valued = {option.name for option in OPTIONS if option.available and option.argument}
    assert flags == set(FLAGS) | set(ACTIONS)
    assert valued == set(VALUES) | set(LISTS) | set(PORT_OPTIONS)


def test_table_and_scanner_import_nothing_but_our_errors() -> None:
    package = Path(__file__).parents[2] / "src" / "passt"
    imports = {
        line.split()[1]
        for name in ("config/options.py", "config/getopt.py", "errors.py")
        for line in (package / name).read_text(encoding="utf-8").splitlines()
        if line.startswith(("import ", "from "))
    }
    # errno is a part of the interpreter itself.
    assert imports <= {"__future__", "errno", "passt.config.options", "passt.errors"}

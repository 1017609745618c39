"""What the uses of the port options add up to."""

from __future__ import annotations

import time
from socket import IPPROTO_TCP as T
from socket import IPPROTO_UDP as U

import pytest

from passt.config import port_options
from passt.config.port_options import PORT_OPTIONS, PortTable
from passt.errors import ConfigError
from passt.facts.port_rule import PortRule

NAMES = {letter: name for name, (letter, _, _) in PORT_OPTIONS.items()}


def table_of(text: str, *, auto: bool = False) -> PortTable:
    """Make the table of options written as `-t 22 -u 53`."""
    table = PortTable(auto=auto)
    words = text.split()
    for letter, spec in zip(words[::2], words[1::2], strict=True):
        table.add(NAMES[letter], spec)
    return table


def rules(text: str, *, side: int = 0, auto: bool = False, tcp: bool = True, udp: bool = True
          ) -> list[tuple[object, ...]]:
    """Give (protocol, first, last, target, flags) of each rule of one side: 0 the host's."""
    found = table_of(text, auto=auto).rules(tcp=tcp, udp=udp, ip4=True, ip6=True)[side]
    return [(rule.proto, rule.first, rule.last, rule.target,
             "o" * rule.optional + "e" * rule.skips_ephemeral + "a" * rule.auto) for rule in found]


def test_protocol_numbers_are_those_of_the_socket_module() -> None:
    assert (port_options.IPPROTO_TCP, port_options.IPPROTO_UDP) == (T, U)


@pytest.mark.parametrize(("text", "expected"), [
    ("", []),
    ("-t none", []),
    ("-t none -u none -t none", []),
    ("-t 80", [(T, 80, 80, 80, ""), (U, 80, 80, 80, "o")]),
    ("-t 80:8080", [(T, 80, 80, 8080, ""), (U, 80, 80, 80, "o")]),
    ("-t 80 -t 443",
     [(T, 80, 80, 80, ""), (T, 443, 443, 443, ""), (U, 80, 80, 80, "o"), (U, 443, 443, 443, "o")]),
    ("-t 80 -u none", [(T, 80, 80, 80, "")]),
    ("-u none -t 80", [(T, 80, 80, 80, "")]),
    ("-t none -t 80 -u 53", [(T, 80, 80, 80, ""), (U, 53, 53, 53, "")]),
    ("-u 53", [(U, 53, 53, 53, "")]),
    ("-u 22-80:32-90", [(U, 22, 80, 32, "")]),
    ("-u 2000-5000:3000-6000,~3000-3010,~4000",
     [(U, 2000, 2999, 3000, ""), (U, 3011, 3999, 4011, ""), (U, 4001, 5000, 5001, "")]),
    ("-u 20-30,~20,~30", [(U, 21, 29, 21, "")]),
    ("-t all", [(T, 1, 65535, 1, "oe")]),
    ("-u ~20000-20010", [(U, 1, 19999, 1, "oe"), (U, 20011, 65535, 20011, "oe")]),
    ("-u all,8080:80,~22", [(U, 8080, 8080, 80, ""), (U, 1, 21, 1, "oe"), (U, 23, 8079, 23, "oe"),
                            (U, 8081, 65535, 8081, "oe")]),
    ("-T 22", []),
])
def test_options_add_up_to_rules_of_the_host(text: str, expected: list[tuple[object, ...]]) -> None:
    assert rules(text) == expected


AUTO_T, AUTO_U = (T, 1, 65535, 1, "oa"), (U, 1, 65535, 1, "oa")


@pytest.mark.parametrize(("text", "host", "namespace"), [
    ("", [AUTO_T, AUTO_U], [AUTO_T, AUTO_U]),
    ("-t none", [AUTO_U], [AUTO_T, AUTO_U]),
    ("-t auto -u none -T none -U none", [(T, 1, 65535, 1, "oa")], []),
    ("-t 80 -T none", [(T, 80, 80, 80, ""), (U, 80, 80, 80, "o"), AUTO_U], [AUTO_U]),
    ("-T 80 -u none", [AUTO_T], [(T, 80, 80, 80, ""), (U, 80, 80, 80, "o"), AUTO_U]),
    ("-t 8000-8010:9000-9010,auto,~8005 -u none",
     [(T, 8000, 8004, 9000, "a"), (T, 8006, 8010, 9006, "a")], [AUTO_T, AUTO_U]),
    ("-t ~22,auto -u none", [(T, 1, 21, 1, "oa"), (T, 23, 65535, 23, "oa")], [AUTO_T, AUTO_U]),
])
def test_ports_bound_inside_are_followed_unless_options_say_otherwise(
        text: str, host: list[tuple[object, ...]], namespace: list[tuple[object, ...]]) -> None:
    assert (rules(text, auto=True), rules(text, side=1, auto=True)) == (host, namespace)


@pytest.mark.parametrize(("text", "expected"), [
    ("-t 0:80", [(80, "", None)]),
    ("-t 0:80 -t 0:81,0:80", [(80, "", None), (81, "", None), (80, "", None)]),
    ("-t fd:web:80 -u none", [(80, "web", None)]),
    ("-t fd:web:80 -t fd:ssh:22 -u fd:web:80", [(80, "web", None), (22, "ssh", None), (80, "web", None)]),
    ("-t none -t 127.0.0.1/0:80", [(80, "", "127.0.0.1")]),
])
def test_rules_that_name_no_port_of_the_host(text: str, expected: list[tuple[int, str, str | None]]) -> None:
    """No two of them overlap, and no UDP port follows: nobody knows its number."""
    found, _ = table_of(text).rules(tcp=True, udp=True, ip4=True, ip6=True)
    assert [(rule.first, rule.last) for rule in found] == [(0, 0)] * len(expected)
    assert [(rule.target, rule.inherited, rule.address and str(rule.address)) for rule in found] == expected
    assert not any(rule.optional or rule.auto for rule in found)


def test_they_stand_beside_others_and_contradict_none() -> None:
    assert rules("-t 0:80,5000,~22 -u none") == [(T, 5000, 5000, 5000, ""), (T, 0, 0, 80, "")]
    with pytest.raises(ConfigError, match="'none' contradicts '-t 0:80' given before"):
        table_of("-t 0:80 -t none")
    with pytest.raises(ConfigError, match="'fd:web:81': the sockets 'web' lead to a port already"):
        table_of("-t fd:web:80 -t fd:web:81")
    with pytest.raises(ConfigError, match=r"forwards ports \('-t fd:web:80'\), but --no-tcp disables TCP"):
        rules("-t fd:web:80", tcp=False)
    with pytest.raises(ConfigError, match="listens on ::1, but -4 disables IPv6"):
        table_of("-t ::1/0:80").rules(tcp=True, udp=True, ip4=True, ip6=False)


def test_rules_keep_address_interface_and_what_was_written() -> None:
    found = table_of("-t 127.0.0.1%lo/80").rules(tcp=True, udp=True, ip4=True, ip6=True)[0]
    assert [(str(rule.address), rule.ifname, rule.spec) for rule in found] == [
        ("127.0.0.1", "lo", "-t 127.0.0.1%lo/80"), ("127.0.0.1", "lo", "")]


def test_disabled_udp_has_no_twins_and_disabled_protocols_no_ports() -> None:
    assert rules("-t 80", udp=False) == [(T, 80, 80, 80, "")]
    assert rules("-t none", auto=True, tcp=False, udp=False) == []
    assert rules("", auto=True, tcp=False) == [AUTO_U]
    for text, tcp, message in (("-t 80", False, "'--tcp-ports' forwards ports ('-t 80'), but --no-tcp"),
                               ("-u auto", True, "'--udp-ports' forwards ports ('-u auto'), but --no-udp"),
                               ("-T 80", False, "'--tcp-ns' forwards ports ('-T 80'), but --no-tcp")):
        with pytest.raises(ConfigError) as caught:
            rules(text, auto=True, tcp=tcp, udp=not tcp)
        assert message in str(caught.value)


@pytest.mark.parametrize("text", [
    "-t 127.0.0.1/80:1 -t 192.0.2.2/80:2", "-t 127.0.0.1/80 -t ::1/80", "-t %eth0/80 -t %eth1/80",
    "-t 0.0.0.0/80 -t ::/80", "-t 80 -u 80", "-t 80 -T 80", "-t 80-90 -t 91",
])
def test_rules_that_do_not_meet_go_together(text: str) -> None:
    assert len(table_of(text).rules(tcp=True, udp=True, ip4=True, ip6=True)) == 2


@pytest.mark.parametrize(("text", "ports"), [
    ("-t 80 -t 80", "port 80 is"), ("-t 80 -t 127.0.0.1/80", "port 80 is"),
    ("-t 127.0.0.1/80:1 -t 127.0.0.1/80:2", "port 80 is"), ("-t 0.0.0.0/80 -t 127.0.0.1/80", "port 80 is"),
    ("-t 80-90 -t 85-95", "ports 85 to 90 are"), ("-t %eth0/80 -t 80", "port 80 is"),
    ("-t all -t 5000", "port 5000 is"), ("-t auto -t 5000", "port 5000 is"), ("-T 5 -T all", "port 5 is"),
])
def test_overlap_is_found_before_anything_is_bound(text: str, ports: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table_of(text, auto=True)
    one, other = text.replace(" -", "\n-").splitlines()
    assert str(caught.value) == (f"TCP {ports} covered by '{one}' already; change or leave out '{other}'")


@pytest.mark.parametrize("text", ["-t 80 -t none", "-t auto -t none"])
def test_none_after_ports_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"'none' contradicts '-t [8a].* given before"):
        table_of(text, auto=True)


@pytest.mark.parametrize("text", ["-t 22,~22", "-t 20-30,~1-65535", "-t ~1-65535"])
def test_nothing_left_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="all of its ports are excluded"):
        table_of(text)


def test_address_of_a_disabled_family_is_refused() -> None:
    for text, ip4, message in (("-t ::1/80", True, "listens on ::1, but -4 disables IPv6"),
                               ("-u 127.0.0.1/80", False, "listens on 127.0.0.1, but -6 disables IPv4")):
        with pytest.raises(ConfigError) as caught:
            table_of(text).rules(tcp=True, udp=True, ip4=ip4, ip6=not ip4)
        assert message in str(caught.value)


def test_thousands_of_options_are_cheap() -> None:
    start = time.process_time()
    table_of(" ".join(f"-t {port}" for port in range(1, 5001)))
    # A small part of a second; comparing each with each takes many.
    assert time.process_time() - start < 2


def test_rule_maps_ports_both_ways() -> None:
    rule = PortRule(T, 22, 80, 32)
    assert (rule.service_port(22), rule.service_port(80)) == (32, 90)
    assert [rule.listen_port(port) for port in (31, 32, 90, 91)] == [None, 22, 80, None]


@pytest.mark.parametrize(("holes", "left"), [
    ([], [(10, 20, 110)]),
    ([(1, 5), (25, 30)], [(10, 20, 110)]),
    ([(1, 10), (20, 30)], [(11, 19, 111)]),
    ([(12, 15), (14, 16)], [(10, 11, 110), (17, 20, 117)]),
    ([(15, 16), (12, 12)], [(10, 11, 110), (13, 14, 113), (17, 20, 117)]),
    ([(1, 65535)], []),
])
def test_holes_are_cut_out_of_a_rule(holes: list[tuple[int, int]], left: list[tuple[int, int, int]]) -> None:
    assert [(rule.first, rule.last, rule.target) for rule in PortRule(T, 10, 20, 110).without(holes)] == left

"""Port specifications and the rules that they add up to."""

from __future__ import annotations

from socket import IPPROTO_TCP, IPPROTO_UDP

import pytest

from passt.config import portspec
from passt.config.portspec import PortTable, parse_spec
from passt.errors import ConfigError
from passt.model import PortRule


def rules(*specs: tuple[int, str], tcp: bool = True, udp: bool = True) -> list[tuple[int, int, bool]]:
    table = PortTable()
    for proto, spec in specs:
        table.add(proto, spec, inward=True)
    return [(rule.proto, rule.first, rule.optional) for rule in table.rules(tcp=tcp, udp=udp)]


def test_protocol_numbers_are_those_of_the_socket_module() -> None:
    assert (portspec.IPPROTO_TCP, portspec.IPPROTO_UDP) == (IPPROTO_TCP, IPPROTO_UDP)


@pytest.mark.parametrize(
    ("spec", "port"), [("none", None), ("1", 1), ("8080", 8080), ("65535", 65535), ("0080", 80)]
)
def test_port_or_none_is_read(spec: str, port: int | None) -> None:
    assert parse_spec(spec, inward=True) == port


@pytest.mark.parametrize(
    "spec",
    [
        "auto",
        "all",
        "22,auto",
        "22:23",
        "22,25",
        "22-80",
        "22-80:32-90",
        "192.0.2.1/22",
        "192.0.2.1%eth0/22",
        "%eth0/22",
        "2000-5000,~3000-3010",
        "192.0.2.1/20-30,~25",
        "~20000-20010",
        "192.0.2.1/all",
        "::1/22",
    ],
)
def test_rest_of_the_grammar_is_not_available_yet(spec: str) -> None:
    with pytest.raises(ConfigError, match="is not available yet in this version") as caught:
        parse_spec(spec, inward=True)
    assert f"'{spec}'" in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "x",
        "22x",
        "-5",
        "+5",
        "0x50",
        " 22",
        "22 ",
        "22,",
        ",22",
        "22-",
        "-22",
        "22:",
        ":22",
        "22-23-24",
        "1:2:3",
        "~",
        "~1:2",
        "/22",
        "a/",
        "None",
        "\u0662\u0662",
        "8o80",
    ],
)
def test_mistake_is_told_with_what_is_right(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(spec, inward=True)
    assert str(caught.value) == f"'{spec}' is not a port specification; give a port number or 'none'"


@pytest.mark.parametrize("spec", ["0", "65536", "99999999999999999999", "1-65536", "0:22", "22,70000"])
def test_port_out_of_range_is_refused(spec: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_spec(spec, inward=True)
    assert str(caught.value) == f"'{spec}': a port number is 1 to 65535"


@pytest.mark.parametrize("spec", ["auto", "22", "22-23"])
def test_outward_takes_none_only(spec: str) -> None:
    assert parse_spec("none", inward=False) is None
    with pytest.raises(ConfigError, match="is not available yet in this version; only 'none' is"):
        parse_spec(spec, inward=False)


T, U = IPPROTO_TCP, IPPROTO_UDP


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([], []),
        ([(T, "none")], []),
        ([(T, "none"), (U, "none")], []),
        ([(T, "none"), (T, "none")], []),
        ([(T, "80")], [(T, 80, False), (U, 80, True)]),
        ([(T, "80"), (T, "443")], [(T, 80, False), (T, 443, False), (U, 80, True), (U, 443, True)]),
        ([(T, "80"), (U, "none")], [(T, 80, False)]),
        ([(U, "none"), (T, "80")], [(T, 80, False)]),
        ([(T, "80"), (U, "53")], [(T, 80, False), (U, 53, False)]),
        ([(T, "none"), (T, "80"), (U, "none")], [(T, 80, False)]),
        ([(U, "53")], [(U, 53, False)]),
    ],
)
def test_specifications_add_up_to_rules(
    specs: list[tuple[int, str]], expected: list[tuple[int, int, bool]]
) -> None:
    assert rules(*specs) == expected


def test_rule_is_for_any_address_and_keeps_the_number() -> None:
    table = PortTable()
    table.add(T, "80", inward=True)
    table.add(U, "none", inward=True)
    assert table.rules(tcp=True, udp=True) == (PortRule(T, 80, 80, 80),)


def test_outward_none_does_not_count_as_u() -> None:
    table = PortTable()
    table.add(T, "80", inward=True)
    table.add(U, "none", inward=False)
    assert len(table.rules(tcp=True, udp=True)) == 2


def test_disabled_udp_has_no_twins_and_disabled_tcp_no_ports() -> None:
    assert rules((T, "80"), udp=False) == [(T, 80, False)]
    assert rules((T, "none"), tcp=False, udp=False) == []
    with pytest.raises(ConfigError, match="'--tcp-ports' forwards port 80, but --no-tcp disables TCP"):
        rules((T, "80"), tcp=False)
    with pytest.raises(ConfigError, match="'--udp-ports' forwards port 53, but --no-udp disables UDP"):
        rules((U, "53"), udp=False)


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="'none' contradicts port 80 given before"):
        rules((T, "80"), (T, "none"))
    with pytest.raises(ConfigError, match="UDP port 53 is given twice"):
        rules((U, "53"), (U, "53"))

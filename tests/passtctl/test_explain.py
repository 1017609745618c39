"""`passtctl explain` against a real policy, and its words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.passtctl.command import parse
from passt.passtctl.explain import parse_flow, split_endpoint
from passt.passtctl.main import run
from tests.control.test_explain import Flows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def flows(tmp_path: Path) -> Iterator[Flows]:
    made = Flows(tmp_path)
    with made.bench.turning():
        yield made
    made.bench.close()


def passtctl(flows: Flows, *arguments: str) -> int:
    return run(parse(["-s", flows.bench.path, "explain", *arguments]))


def test_outbound_flow_step_by_step(flows: Flows, capfd: pytest.CaptureFixture[str]) -> None:
    assert passtctl(flows, "udp", "192.0.2.4:53") == 0
    assert capfd.readouterr().out.splitlines() == [
        "outbound udp 192.0.2.5:50000 -> 192.0.2.4:53: forwarded (DNS)",
        "    DNS: 192.0.2.4 with port 53 or 853 of TCP or UDP means 198.51.100.53: applies",
        "    host loopback: 192.0.2.1 means 127.0.0.1: does not apply",
        "    path: link",
        "    host sees: an address that the kernel chooses -> 198.51.100.53:53",
        "    guest sees: 192.0.2.5:50000 -> 192.0.2.4:53"]  # fmt: skip
    passtctl(flows, "[2001:db8:2::1]:443")
    assert "    host sees: 2001:db8:9::9 -> [2001:db8:2::1]:443, by interface eth8" in capfd.readouterr().out
    passtctl(flows, "198.51.100.1")
    first = capfd.readouterr().out.splitlines()[0]
    assert first == "outbound icmp 192.0.2.5 -> 198.51.100.1: forwarded (unchanged)"
    passtctl(flows, "0.0.0.0:1")
    first = capfd.readouterr().out.splitlines()[0]
    assert first == "outbound tcp 192.0.2.5:50000 -> 0.0.0.0:1: refused (destination not allowed)"


def test_inbound_flows(flows: Flows, capfd: pytest.CaptureFixture[str]) -> None:
    passtctl(flows, "tcp", "--inbound", "8080")
    lines = capfd.readouterr().out.splitlines()
    heads = [line for line in lines if not line.startswith(" ")]
    assert heads == [
        "inbound tcp 127.0.0.1:50000 -> 127.0.0.1:8080: forwarded (bypass)",
        "inbound tcp [::1]:50000 -> [::1]:8080: forwarded (bypass)",
        "inbound tcp 203.0.113.1:50000 -> 192.0.2.5:8080: forwarded (unchanged)",
        "inbound tcp [2001:db8::1]:50000 -> [2001:db8:1::5]:8080: forwarded (unchanged)"]  # fmt: skip
    assert "    rule: -t 8080:80" in lines
    passtctl(flows, "tcp", "--inbound", "9999")
    assert capfd.readouterr().out.splitlines() == [
        "inbound tcp port 9999: not forwarded (no rule of the table HOST has TCP port 9999)"]  # fmt: skip
    passtctl(flows, "--inbound", "8081", "203.0.113.7", "--source", "198.51.100.9", "--json")
    tcp, udp = json.loads(capfd.readouterr().out)["flows"]
    assert (tcp["verdict"], tcp["rule"]) == ("forwarded", "-t 203.0.113.7/8081")
    assert udp["verdict"] == "not forwarded"


@pytest.mark.parametrize(("words", "asked"), [
    (["10.0.0.1"], {"address": "10.0.0.1"}), (["tcp", "10.0.0.1:80"],
                                             {"protocol": "tcp", "address": "10.0.0.1", "port": "80"}),
    (["::1"], {"address": "::1"}), (["[::1]"], {"address": "::1"}),
    (["[2001:db8::1]:53"], {"address": "2001:db8::1", "port": "53"}),
    (["udp", "--inbound", "53"], {"protocol": "udp", "inbound": "53"}),
    (["www.example"], {"name": "www.example"}), (["localhost."], {"name": "localhost."}),
    (["xn--bcher-kva.example"], {"name": "xn--bcher-kva.example"}),
    (["--inbound", "53", "10.0.0.1"], {"inbound": "53", "address": "10.0.0.1"}),
])  # fmt: skip
def test_words_become_parameters(words: list[str], asked: dict[str, str]) -> None:
    assert parse_flow(parse(["explain", *words])) == asked


@pytest.mark.parametrize("words", [[], ["tcp"], ["x"], ["10.0.0.1:x"], ["10.0.0.1", "10.0.0.2"], ["[::1"],
                                   ["[::1]80"], ["host.example:80"]])  # fmt: skip
def test_words_that_make_no_sense(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_flow(parse(["explain", *words]))


def test_refusals_are_told(flows: Flows) -> None:
    for words, line in ((["--inbound", "x"], "inbound 'x' is not a number from 1 to 65535"),
                        (["icmp", "10.0.0.1:9"], "icmp has no port"),
                        (["--inbound", "0"], "inbound '0' is not a number from 1 to 65535")):
        with pytest.raises(HostError, match=f"^{line}$"):
            passtctl(flows, *words)


def test_endpoints_are_taken_apart() -> None:
    assert split_endpoint("10.0.0.1:80") == ("10.0.0.1", "80")
    assert split_endpoint("2001:db8::80") == ("2001:db8::80", "")


@pytest.mark.parametrize("words", [["tcp", "www.example"], ["www.example", "--source", "10.0.0.1"],
                                   ["--inbound", "80", "www.example"]])
def test_name_stands_alone(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"^'www\.example' is a name, which is asked for before there"):
        parse_flow(parse(["explain", *words]))


def test_name(flows: Flows, capfd: pytest.CaptureFixture[str]) -> None:
    assert passtctl(flows, "www.example") == 0
    assert capfd.readouterr().out == "name www.example: allowed (there are no rules of egress)\n"

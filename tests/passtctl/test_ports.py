"""`passtctl ports` against tables whose listeners a test sees."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING

import pytest

from passt.errors import HostError
from passt.facts.contracts import ListenerInfo
from passt.facts.port_rule import PortRule
from passt.passtctl.command import parse
from passt.passtctl.main import run
from passt.passtctl.ports import tables_of
from tests.control.test_ports import WEB, Ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ports]:
    """Lend an instance that logs nothing: its standard error is ours."""
    monkeypatch.setattr("passt.run.port_tables.log.limited", lambda *_: None)
    made = Ports(tmp_path)
    with made.bench.turning():
        yield made
    made.bench.close()


def passtctl(ports: Ports, *arguments: str) -> int:
    return run(parse(["-s", ports.bench.path, "ports", *arguments]))


def test_rules_and_open_ports_are_listed(ports: Ports, capfd: pytest.CaptureFixture[str]) -> None:
    behind = PortRule(6, 9, 9, 80, spec="-T 9:80")
    udp = PortRule(17, 7, 7, 7, spec="-u 7")
    ports.bench.source.ports = [ListenerInfo(6, 9, behind, namespace=True),
                                ListenerInfo(17, 7, udp, namespace=False),
                                ListenerInfo(6, 80, WEB, namespace=False)]  # fmt: skip
    assert passtctl(ports) == 0
    assert capfd.readouterr().out.splitlines() == [
        "TABLE  RULE                  OPEN  OPTION",
        "HOST   TCP [*]:80  =>  8080     1  -t 80:8080", "",
        "SIDE       PROTO  ADDRESS  INTERFACE  PORT  LEADS-TO  RULE",
        "host       tcp    *        -            80      8080  -t 80:8080",
        "host       udp    *        -             7         7  -u 7",
        "namespace  tcp    *        -             9        80  -T 9:80"]  # fmt: skip
    passtctl(ports, "list", "--json")
    found = json.loads(capfd.readouterr().out)
    assert [rule["option"] for rule in found["rules"]] == ["-t 80:8080"]


def test_rules_are_added_deleted_and_set(ports: Ports, capfd: pytest.CaptureFixture[str]) -> None:
    assert passtctl(ports, "add", "-t", "127.0.0.1/90:91", "-T", "5432", "-u", "53") == 0
    assert capfd.readouterr() == ("", "")
    assert passtctl(ports, "del", "-t", "80:8080", "-u", "53") == 0
    assert {port for _, port in ports.world.listening()} == {90}
    assert passtctl(ports, "set", "-t", "7", "-u", "8", "--json") == 0
    assert json.loads(capfd.readouterr().out)["opened"] == 2
    assert {port for _, port in ports.world.listening()} == {7, 8}
    assert len(ports.world.inner_side.listening) == 1      # SPLICE was not named
    passtctl(ports, "set", "-T", "none")
    assert ports.world.inner_side.listening == {}


def test_ports_that_cannot_be_had_are_told_one_by_one(
    ports: Ports, capfd: pytest.CaptureFixture[str]
) -> None:
    ports.world.side.refused = {81: errno.EADDRINUSE, 82: errno.EADDRINUSE}
    with pytest.raises(HostError, match=r"^nothing was changed$"):
        passtctl(ports, "add", "-t", "81-83")
    assert capfd.readouterr().err.splitlines() == [
        "HOST: TCP port 81: cannot listen: Address already in use",
        "HOST: TCP port 82: cannot listen: Address already in use"]  # fmt: skip
    assert {port for _, port in ports.world.listening()} == {80}
    # What could be had of an optional rule is a success with notes.
    assert passtctl(ports, "add", "-u", "all,~1-80,~84-65535") == 0
    assert len(capfd.readouterr().err.splitlines()) == 2
    with pytest.raises(HostError, match="a port is a number"):
        passtctl(ports, "add", "-t", "0")
    ports.world.side.on_close = lambda port: ports.world.side.refused.update({port: errno.EADDRINUSE})
    with pytest.raises(HostError, match=r"^the change failed, and ports that were forwarded are lost$"):
        passtctl(ports, "set", "-t", "127.0.0.1/80")


def test_specifications_are_sorted_by_table() -> None:
    specs = ["-t 1", "-T 2", "-u 3", "-U 4"]
    assert tables_of(specs) == {"HOST": ["-t 1", "-u 3"], "SPLICE": ["-T 2", "-U 4"]}

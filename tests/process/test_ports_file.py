"""The file of --ports-file: empty until all is ready, a line for each port, gone if the start fails."""

from __future__ import annotations

import os
from ipaddress import ip_address
from socket import IPPROTO_TCP, IPPROTO_UDP
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.facts.port_rule import PortRule
from passt.process.background import Background
from passt.process.ports_file import PortsFile, describe

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("rule", "port", "line"), [
    (PortRule(IPPROTO_TCP, 40000, 40000, 80), 40000, "tcp * 40000 80\n"),
    (PortRule(IPPROTO_UDP, 5000, 5009, 6000, ip_address("::1")), 5004, "udp ::1 5004 6004\n"),
    (PortRule(IPPROTO_TCP, 7, 7, 9, ip_address("192.0.2.1"), target_address=ip_address("192.0.2.9")), 7,
     "tcp 192.0.2.1 7 192.0.2.9/9\n"),
])
def test_line_of_a_port(rule: PortRule, port: int, line: str) -> None:
    assert describe(rule, port) == line


def test_file_is_empty_until_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "ports"
    path.write_text("tcp * 1 2\n" * 100, encoding="ascii")
    background = Background()
    file = PortsFile(str(path), background)
    assert path.read_bytes() == b""
    file.write([(PortRule(IPPROTO_TCP, 40000, 40001, 80), port) for port in (40000, 40001)])
    assert path.read_text(encoding="ascii") == "tcp * 40000 80\ntcp * 40001 81\n"
    background.fail()
    assert path.exists()  # it was there before


def test_new_file_is_the_callers_alone_and_goes_with_a_start_that_fails(tmp_path: Path) -> None:
    path = tmp_path / "ports"
    background = Background()
    PortsFile(str(path), background).write([])
    assert path.stat().st_mode & 0o777 == 0o600
    background.fail()
    assert not path.exists()


def test_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"^option '--ports-file' {tmp_path}: cannot open the file"):
        PortsFile(str(tmp_path), Background())


def test_file_that_cannot_be_written_ends_the_start() -> None:
    file = PortsFile("/dev/full", Background())
    with pytest.raises(HostError, match="option '--ports-file' /dev/full: cannot write the file: No space"):
        file.write([(PortRule(IPPROTO_TCP, 1, 1, 1), 1)])
    assert os.path.exists("/dev/full")

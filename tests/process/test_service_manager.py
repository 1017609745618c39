"""Readiness as it is told to a service manager: to which socket, how often, and what if nobody is there."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from passt.process.service_manager import ServiceManager

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_manager_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    address = str(tmp_path / "notify") if kind == "path" else f"@passt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address if kind == "path" else f"\0{address[1:]}")
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        told = ServiceManager.from_environment()
        assert told is not None
        assert "NOTIFY_SOCKET" not in os.environ
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        told.tell_ready()
        told.tell_ready()
        assert manager.recv(100) == b"READY=1"
        with pytest.raises(BlockingIOError):
            manager.recv(100)


@pytest.mark.parametrize("address", [None, "", "relative", "vsock:2:1"])
def test_an_address_that_is_none_is_ignored(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert ServiceManager.from_environment() is None


def test_a_manager_that_is_not_there_is_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notify"
    ServiceManager(str(path)).tell_ready()
    assert capfd.readouterr().err == (
        f"NOTIFY_SOCKET={path}: the service manager cannot be told that the start is complete:"
        " No such file or directory\n")
    ServiceManager(f"/{'x' * 200}").tell_ready()
    assert "AF_UNIX path too long" in capfd.readouterr().err


def test_a_manager_that_has_gone_is_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        told = ServiceManager(path)
    told.tell_ready()
    assert capfd.readouterr().err.endswith("Connection refused\n")

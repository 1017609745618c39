"""The machine that is none against the engine's links for machines: all of its modes, all of its MTUs."""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench.lab import read_until
from passt.dataplane.engine import Engine
from passt.dataplane.link import vhost_rings
from passt.facts.contracts import MAX_REGIONS, Target
from passt.vhost_user.backend import Backend
from passt.vhost_user.session import Session
from tests.bench.test_load import free_port, load, serving  # noqa: F401 - the fixture
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import OUR_MAC, packed

# They measure, for a moment.
pytestmark = [pytest.mark.slow, pytest.mark.alone]

SECONDS = "0.3"


class Host(Policy):
    """Sends everything to the host's loopback, port unchanged."""

    def outbound(
        self, proto: int, source: bytes, source_port: int, destination: bytes, destination_port: int
    ) -> Target | None:
        self.target = Target(packed("127.0.0.1"), destination_port)
        return super().outbound(proto, source, source_port, destination, destination_port)


class Passt:
    """An engine that waits for a machine at a socket, until the machine is gone."""

    def __init__(self, path: Path, mtu: int, link: str = "stream", ring: int = 1024) -> None:
        self.path, self.mtu, self.link, self.ring = path, mtu, link, ring
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        self.engine = Engine(Host(), Responder(), Events(), our_mac=OUR_MAC, mtu=mtu, max_flows=32)
        self.engine.add_reader(self.listener.fileno(), self.accept)
        self.ends: list[str] = []

    def accept(self) -> None:
        client, _ = self.listener.accept()
        if self.link == "stream":
            self.engine.attach_stream(client.detach(), self.on_end)
        else:
            backend = Backend(vhost_rings.OFFERED_FEATURES, vhost_rings.MAX_QUEUE_PAIRS, MAX_REGIONS,
                              self.mtu)
            self.session = Session(self.engine, client.detach(), backend, self.on_end)

    def on_end(self, reason: str) -> None:
        self.ends.append(reason)
        self.engine.stop()

    def serve(self, program: str, port: str, mode: str, size: int) -> dict[str, Any]:
        """Run the machine against it; returns what that printed."""
        argv = [program, "machine", str(self.path), "192.0.2.2", "192.0.2.1", port, str(self.mtu)]
        argv += [SECONDS, mode, str(size), self.link, str(self.ring)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as machine:
            self.engine.call_later(20, self.engine.stop)
            self.engine.run()
            out, err = machine.communicate(timeout=60)
        self.engine.close()
        self.listener.close()
        assert (machine.returncode, err) == (0, "")
        # Where it left something unread, a reset.
        assert self.ends in (["it closed the connection"], ["Connection reset by peer"])
        value: dict[str, Any] = json.loads(out)
        return value


LINKS = ["stream", "vhost", "vhost-plain"]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("mtu", [1500, 9000, 65520])
@pytest.mark.parametrize(("mode", "service"), [("tcp-out", "sink"), ("tcp-in", "source"), ("rr", "rr")])
def test_tcp(load: str, tmp_path: Path, mtu: int, mode: str, service: str, link: str) -> None:  # noqa: F811
    check_tcp(load, Passt(tmp_path / "socket", mtu, link), mode, service)


@pytest.mark.parametrize("ring", [256, 64])
@pytest.mark.parametrize(("mode", "service"), [("tcp-out", "sink"), ("tcp-in", "source")])
def test_tcp_by_small_rings(load: str, tmp_path: Path, mode: str, service: str, ring: int) -> None:  # noqa: F811
    check_tcp(load, Passt(tmp_path / "socket", 1500, "vhost-pages", ring), mode, service)


def check_tcp(load: str, passt: Passt, mode: str, service: str) -> None:  # noqa: F811
    port = free_port(socket.SOCK_STREAM)
    with serving(load, "tcp-server", port, service, "30"):
        result = passt.serve(load, port, mode, 64)
    if mode == "rr":
        assert result["count"] > 10
    else:
        assert result["received"] > 1 << 20
        assert (result["retransmits"], result["reset"]) == (0, 0)


@pytest.mark.parametrize("link", LINKS)
def test_datagrams_out(load: str, tmp_path: Path, link: str) -> None:  # noqa: F811
    port = free_port(socket.SOCK_DGRAM)
    passt = Passt(tmp_path / "socket", 1500, link)
    with serving(load, "udp-sink", port, "30") as sink:
        result = passt.serve(load, port, "udp-out", 1400)
        arrived = json.loads(read_until(sink, "}", 10))["received"]
    assert 1000 < arrived <= result["sent"]


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("how", [[], ["joined"]], ids=["one-by-one", "joined"])
def test_datagrams_in(load: str, tmp_path: Path, how: list[str], link: str) -> None:  # noqa: F811
    port = free_port(socket.SOCK_DGRAM)
    passt = Passt(tmp_path / "socket", 1500, link)
    with serving(load, "udp-blast", port, "1400", SECONDS, "0", "30", *how):
        result = passt.serve(load, port, "udp-in", 1400)
    assert result["received"] > 1000

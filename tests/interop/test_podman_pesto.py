"""Podman 6 with `rootless_port_forwarder = "pasta"`: one pasta for its networks, ports by pesto."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.interop.podman import TRANSFER, sender
from tests.interop.tree import HOME
from tests.support.lab import HOST4, HOST6, OUTSIDE4, OUTSIDE6
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.podman import Podman
    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
SETTINGS = f"{HOME}/.config/containers/containers.conf"
SETTING = '[network]\nrootless_port_forwarder = "pasta"\n'


@pytest.fixture
def network(podman: Podman) -> Iterator[str]:
    """Make a network of podman's own whose ports are forwarded by pasta."""
    found = re.search(rb"(\d+)\.", podman.run("--version").stdout)
    assert found
    if int(found[1]) < 6:
        pytest.skip("podman is older than 6: PASST_INTEROP_SUITE=experimental has it")
    podman.tree.run(["sh", "-c", "mkdir -p ${0%/*}; cat >$0", SETTINGS], user=True, feed=SETTING.encode())
    podman.run("network", "create", "--ipv6", "own")
    yield "own"
    podman.run("rm", "--all", "--force", "--time=0")
    podman.run("network", "rm", "own")
    podman.tree.run(["rm", SETTINGS], user=True)


def peers(podman: Podman, name: str) -> list[str]:
    """Tell whom the receiver in a container has seen."""
    return [line.split()[-1] for line in podman.log(name)[1:]]


@pytest.mark.parametrize(("address", "client"), [(HOST4, OUTSIDE4), (HOST6, OUTSIDE6)])
def test_client_from_outside_is_seen_with_its_address(lab: Lab, podman: Podman, network: str, address: str,
                                                      client: str) -> None:
    name = podman.start(("--publish=7000:5000/tcp", "--publish=7000:5000/udp"), *TRANSFER, "receive", "5000",
                        network=network, ready="ready")
    for kind in ("tcp", "udp"):
        lab.outside.run([*sender(lab), kind, address, "7000", "1000", "far"])
    wait_until(lambda: len(peers(podman, name)) == 2, "both have arrived")
    assert set(peers(podman, name)) == {client}


@pytest.mark.parametrize("address", [HOST4, HOST6, "127.0.0.1", "::1"])
def test_dialogues_endings_and_resets_inwards(lab: Lab, podman: Podman, network: str, address: str) -> None:
    podman.start(("--publish=7000-7016:8000-8016/tcp", "--publish=7007:8007/udp"), "python3", "-I",
                 "/srv/servers.py", "8000", network=network, ready="ready")
    lab.host.run([*lab.client, "tcp,udp,end-first,end-last,reset,send-reset", address, "7000", "50000"])


def test_ports_come_and_go_with_their_containers(lab: Lab, podman: Podman, network: str) -> None:
    def answers(port: int) -> bool:
        command = ["curl", "-sSf", f"http://127.0.0.1:{port}/10"]
        return lab.host.run(command, check=False).returncode == 0

    server = ("python3", "-I", "/srv/servers.py", "8000")
    first = podman.start(("--publish=7000:8000",), *server, network=network, ready="ready")
    second = podman.start(("--publish=127.0.0.1:7001:8000",), *server, network=network, ready="ready")
    assert [answers(7000), answers(7001)] == [True, True]
    assert len(podman.tree.find("pasta")) == 1
    podman.run("stop", "--time=0", first)
    assert [answers(7000), answers(7001)] == [False, True]
    podman.run("start", first)
    wait_until(lambda: answers(7000), "the port is back")
    podman.run("network", "reload", "--all")
    assert [answers(7000), answers(7001)] == [True, True]
    podman.run("restart", "--time=0", second)
    wait_until(lambda: answers(7001), "the port is back")
    podman.run("rm", "--force", "--time=0", first, second)
    assert [answers(7000), answers(7001)] == [False, False]
    wait_until(lambda: not podman.tree.find("pasta"), "pasta has ended")

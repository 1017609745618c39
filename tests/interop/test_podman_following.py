"""A container of podman with --follow, whose host is renumbered, and renumbered back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import HELPERS
from tests.interop.podman import CLIENT, Podman
from tests.interop.tree import Tree
from tests.support.lab import FAR4, FAR6, HOST4, HOST6, Lab, Place
from tests.support.processes import wait_until
from tests.system.test_following import (
    HOST_MOVES,
    HOST_MOVES_BACK,
    NEW4,
    NEW6,
    OUTSIDE_MOVES,
    batch,
    fetch,
    host_and_outside,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]

LIMIT_S = 60.0  # podman takes long to start a command
SERVER = """
import socket
with socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True) as server:
    print("ready", flush=True)
    while True:
        with server.accept()[0] as client:
            client.sendall(b"inside")
"""


@pytest.fixture
def places(lab: Lab) -> Iterator[tuple[Place, Place]]:
    """Make a host and an outside of their own, with servers, that are connected."""
    with host_and_outside(lab, connected=True) as made:
        yield made


@pytest.fixture
def moving(lab: Lab, places: tuple[Place, Place]) -> Iterator[Podman]:
    """Have podman run on that host."""
    tree = Tree.enter(lab, places[0], HELPERS)
    podman = Podman(tree)
    podman.import_image()
    yield podman
    tree.close()


def test_ports_and_the_host_s_name_survive_a_renumbering(moving: Podman, places: tuple[Place, Place]) -> None:
    host, outside = places
    name = moving.start(["--publish=7000:9000"], "python3", "-I", "-c", SERVER, network="pasta:--follow",
                        ready="ready")

    def reaches(address: str) -> bool:
        command = ("exec", name, *CLIENT, "tcp,udp", address, "8000", "3000")
        return moving.run(*command, check=False).returncode == 0

    def is_served(address: str) -> bool:
        return fetch(outside, address, 7000) == "inside"

    def works(address4: str, address6: str) -> None:
        for address in (address4, address6):
            wait_until(partial(is_served, address), f"the port at {address}", LIMIT_S)
        for far in ("host.containers.internal", FAR4, FAR6):
            wait_until(partial(reaches, far), f"the container reaches {far}", LIMIT_S)
        shown = moving.run("exec", name, "ip", "-o", "addr", "show", "dev", "h0").stdout.decode()
        assert f"{address4}/24" in shown
        assert f"{address6}/64" in shown

    works(HOST4, HOST6)
    batch(outside, OUTSIDE_MOVES)
    batch(host, HOST_MOVES)
    works(NEW4, NEW6)
    batch(host, HOST_MOVES_BACK)
    works(HOST4, HOST6)
    moving.run("rm", "--force", "--time=0", name)
    wait_until(lambda: not moving.tree.find("pasta"), "pasta ends with its container", LIMIT_S)

"""What else podman and buildah start pasta for: networks of their own, and steps of a build."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.podman import CLIENT, IMAGE, SHARED, TRANSFER, sender
from tests.interop.tree import CLIENT_LIMIT_S, HOME
from tests.support.lab import FAR4, FAR6, HOST4
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.podman import Podman
    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]


@pytest.fixture
def bridge(podman: Podman) -> Iterator[str]:
    """Make a network of podman's own, behind one pasta."""
    podman.run("network", "create", "--ipv6", "own")
    yield "own"
    podman.run("rm", "--all", "--force", "--time=0")
    podman.run("network", "rm", "own")


@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_bridge_reaches_the_outside(podman: Podman, bridge: str, address: str) -> None:
    podman.inside((), *CLIENT, "tcp,end-first,end-last", address, "8000", "50000", network=bridge)
    podman.inside((), *CLIENT, "udp", address, "8000", "1400", network=bridge)


@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_bridge_takes_answers_larger_than_its_mtu(podman: Podman, bridge: str, address: str) -> None:
    # In IPv6 the way through the bridge's router is found out by losing an answer to it.
    client = " ".join([*CLIENT, "udp", address, "8000"])
    learn = f"ping -c 2 -W 1 -s 4000 {address} >&2;" if address == FAR6 else ""
    podman.inside((), "sh", "-c", f"{learn} {client} 4000 && {client} 60000", network=bridge)


def test_bridge_looks_up_names(podman: Podman, bridge: str) -> None:
    name = podman.start((), "sleep", "60", network=bridge)
    script = f"getent ahostsv4 www.lab.example; getent ahostsv4 {name}"
    text = podman.inside((), "sh", "-c", script, network=bridge)
    assert b"192.0.2.80" in text.stdout
    assert text.stdout.count(b"STREAM") == 2


def test_bridge_publishes_ports_and_pasta_ends_with_the_last_container(
    lab: Lab, podman: Podman, bridge: str
) -> None:
    name = podman.start(("--publish=7000:5000",), *TRANSFER, "receive", "5000", network=bridge, ready="ready")
    for place, address in ((lab.host, "127.0.0.1"), (lab.outside, HOST4)):
        place.run([*sender(lab), "tcp", address, "7000", "10000", "seed"])
    wait_until(lambda: len(podman.log(name)) == 3, "transfers have arrived")
    second = podman.start((), "sleep", "60", network=bridge)
    assert len(podman.tree.find("pasta")) == 1
    for container in (name, second):
        podman.run("rm", "--force", "--time=0", container)
    wait_until(lambda: not podman.tree.find("pasta"), "pasta has ended")


CONTAINERFILE = f"""FROM {IMAGE}
RUN {' '.join(CLIENT)} tcp,udp {FAR4} 8000 3000 && {' '.join(CLIENT)} tcp,udp {FAR6} 8000 3000 && ip -br link
"""


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_build(podman: Podman, tool: str) -> None:
    script = f"""
set -e
mkdir -p {HOME}/context
cat >{HOME}/context/Containerfile
{tool} build --network=pasta --pull=never --no-cache {' '.join(SHARED)} {HOME}/context
"""
    result = podman.tree.run(["sh", "-c", script], user=True, feed=CONTAINERFILE.encode(),
                             timeout=CLIENT_LIMIT_S)
    assert result.stdout.count(b"well\n") == 2
    assert b"h0 " in result.stdout


def test_buildah_run_with_options(podman: Podman) -> None:
    script = f"""
set -e
container=$(buildah from --pull=never {IMAGE})
buildah run --isolation=oci --network=pasta:--mtu,1400 {' '.join(SHARED)} "$container" ip link show h0
buildah run --network=pasta {' '.join(SHARED)} "$container" {' '.join(CLIENT)} tcp,udp {FAR4} 8000 3000
buildah rm "$container" >&2
"""
    text = podman.tree.run(["sh", "-c", script], user=True, timeout=CLIENT_LIMIT_S).stdout
    assert b"mtu 1400 " in text
    assert text.endswith(b"well\n")

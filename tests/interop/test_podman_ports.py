"""Ports that podman publishes through pasta: every form, protocol, family and way, and what arrives there."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from tests.interop.podman import CLIENT, TRANSFER, sender
from tests.support.lab import HOST4, HOST6, OUTSIDE4, OUTSIDE6
from tests.support.processes import wait_until
from tests.system.transfer import content

if TYPE_CHECKING:
    from tests.interop.podman import Podman
    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
TARGETS = [(HOST4, "h0"), (HOST6, "h0"), ("127.0.0.1", "lo"), ("::1", "lo")]
# What is asked of podman: the ports of the host, those of the container, whether the address is named.
FORMS = [("7000", "7000", ""), ("7000-7002", "7000-7002", ""), ("7000", "7001", ""),
         ("7000-7002", "7003-7005", ""),
         ("7000", "7000", "address"), ("7000", "7000", "interface")]
SMALL, LARGE = 2048, 10 << 20
DATAGRAMS_LEN = 53248  # a quarter of net.core.wmem_default: what no socket buffer on the way has to lose


def expand(ports: str) -> list[int]:
    """Numbers of a range FIRST-LAST, or of a single port."""
    first, _, last = ports.partition("-")
    return list(range(int(first), int(last or first) + 1))


def digests(kind: str, seed: str, ports: str, at: str, size: int) -> set[str]:
    """Lines, without the peer, of a receiver on the ports *at* when all has arrived."""
    return {
        f"{kind} {target} {size} {hashlib.sha256(content(seed, port, size)).hexdigest()}"
        for port, target in zip(expand(ports), expand(at), strict=True)
    }


def arrived(podman: Podman, name: str) -> set[str]:
    """Tell what the receiver has printed, without the peers."""
    return {line.rpartition(" ")[0] for line in podman.log(name)[1:]}


def publish(kind: str, address: str, ifname: str, form: tuple[str, str, str]) -> tuple[list[str], str]:
    """Give the options of podman for a *form*, and the network."""
    ports, at, named = form
    if named == "interface":
        return [], f"pasta:--{kind}-ports,{address}%{ifname}/{ports}:{at}"
    where = f"[{address}]:" if ":" in address else f"{address}:"
    return [f"--publish={where if named else ''}{ports}:{at}/{kind}"], "pasta"


@pytest.mark.parametrize("form", FORMS, ids="-".join)
@pytest.mark.parametrize(("address", "ifname"), TARGETS)
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_forward(lab: Lab, podman: Podman, kind: str, address: str, ifname: str,
                 form: tuple[str, str, str]) -> None:
    ports, at, _ = form
    options, network = publish(kind, address, ifname, form)
    name = podman.start(options, *TRANSFER, "receive", *map(str, expand(at)), network=network, ready="ready")
    lab.host.run([*sender(lab), kind, address, ports, "1", "byte"])
    wanted = digests(kind, "byte", ports, at, 1)
    wait_until(lambda: arrived(podman, name) == wanted, f"{wanted} has arrived")


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("address", [address for address, _ in TARGETS])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_transfer(lab: Lab, podman: Podman, kind: str, address: str, size: int) -> None:
    if kind == "udp":
        size = min(size, DATAGRAMS_LEN)
    options = [f"--publish=7000:5000/{kind}"]
    name = podman.start(options, *TRANSFER, "receive", "5000", ready="ready")
    lab.host.run([*sender(lab), kind, address, "7000", str(size), "data"])
    wanted = digests(kind, "data", "7000", "5000", size)
    wait_until(lambda: arrived(podman, name) == wanted, f"{wanted} has arrived")


@pytest.mark.parametrize(("address", "client"), [(HOST4, OUTSIDE4), (HOST6, OUTSIDE6)])
def test_client_from_outside_is_seen_with_its_address(lab: Lab, podman: Podman, address: str,
                                                      client: str) -> None:
    name = podman.start(["--publish=7000:5000/tcp", "--publish=7000:5000/udp"], *TRANSFER, "receive", "5000",
                        ready="ready")
    for kind in ("tcp", "udp"):
        lab.outside.run([*sender(lab), kind, address, "7000", "1000", "far"])
    # The outside is the gateway, too, which stands for nobody else here.
    wait_until(lambda: len(podman.log(name)) == 3, "both have arrived")
    assert {line.split()[-1] for line in podman.log(name)[1:]} == {client}


@pytest.mark.parametrize("address", [HOST4, HOST6, "127.0.0.1", "::1"])
def test_dialogues_endings_and_resets_inwards(lab: Lab, podman: Podman, address: str) -> None:
    podman.start(["--publish=7000-7016:8000-8016/tcp", "--publish=7007:8007/udp"], "python3", "-I",
                 "/srv/servers.py", "8000", ready="ready")
    lab.host.run([*lab.client, "tcp,udp,end-first,end-last,reset,send-reset", address, "7000", "50000"])


def test_address_that_is_not_named_is_not_served(lab: Lab, podman: Podman) -> None:
    podman.start([f"--publish={HOST4}:7000:5000"], *TRANSFER, "receive", "5000", ready="ready")
    for address in ("127.0.0.1", HOST6):
        lab.host.run([*lab.client, "refused", address, str(7000 - 99)])


def test_large_download_is_byte_exact(lab: Lab, podman: Podman) -> None:
    podman.start(["--publish=7000:8000"], "python3", "-I", "/srv/servers.py", "8000", ready="ready")
    wanted = lab.host.run(["sh", "-c", "curl -sSf http://127.0.0.1:8000/50000000 | sha256sum"]).stdout
    for address in ("127.0.0.1", HOST4, f"[{HOST6}]"):
        script = f"curl -sSf http://{address}:7000/50000000 | sha256sum"
        assert lab.host.run(["sh", "-c", script]).stdout == wanted


def test_two_containers_talk_through_published_ports(podman: Podman) -> None:
    podman.start(["--publish=7007:8007", "--publish=7007:8007/udp"], "python3", "-I", "/srv/servers.py",
                 "8000", ready="ready")
    podman.inside((), *CLIENT, "tcp,udp", "host.containers.internal", "7000", "3000")

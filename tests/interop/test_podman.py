"""Rootless podman with pasta as its network: what a container sees, and how pasta starts and ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.interop.podman import CLIENT, IMAGE, SHARED, TRANSFER, sender
from tests.interop.tree import RUNTIME
from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.interop.podman import Podman
    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
# A server that the host's loopback alone has.
LOCAL_SERVER = """
import socket
with socket.create_server(("127.0.0.1", 9000)) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].sendall(b"from the loopback")
"""
CONNECT = "import socket,sys; print(socket.create_connection((sys.argv[1], 9000), 5).recv(100).decode())"


def addresses(link: dict[str, Any]) -> list[str]:
    """Global addresses of a link of `ip -json address`, with prefix lengths."""
    return [f"{one['local']}/{one['prefixlen']}" for one in link["addr_info"] if one["scope"] == "global"]


def routes(text: bytes) -> set[tuple[str, ...]]:
    """What counts of the routes of `ip -json route`."""
    return {(one["dst"], one.get("gateway", ""), one["dev"]) for one in json.loads(text)}


def test_podman_finds_our_pasta(podman: Podman) -> None:
    info = json.loads(podman.run("info", "--format=json").stdout)["host"]["pasta"]
    assert info["executable"] == f"{podman.tree.helpers}/pasta"
    assert info["executable"] == f"{podman.tree.helpers}/pasta"


def test_run_is_silent_and_passes_the_status(podman: Podman) -> None:
    result = podman.inside((), "sh", "-c", "echo out; exit 7", check=False)
    assert (result.returncode, result.stdout, result.stderr) == (7, b"out\n", b"")


def test_addresses_are_the_hosts(podman: Podman) -> None:
    lo, link = podman.json((), "ip", "-json", "address")
    assert link["ifname"] == "h0"
    assert link["mtu"] == 65520
    assert "UP" in link["flags"]
    assert "UP" in lo["flags"]
    assert addresses(link) == [f"{HOST4}/24", f"{HOST6}/64"]


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_routes_are_the_hosts(lab: Lab, podman: Podman, family: str) -> None:
    listing = ["ip", "-json", family, "route"]
    assert routes(podman.inside((), *listing).stdout) == routes(lab.host.run(listing).stdout)


@pytest.mark.parametrize(("address", "gateway", "own"), [
    ("198.51.100.7", "198.51.100.1", "198.51.100.7/24"),
    ("2001:db8:7::7", "2001:db8:7::1", "2001:db8:7::7/64"),
])
def test_address_and_gateway_given(podman: Podman, address: str, gateway: str, own: str) -> None:
    family = "-6" if ":" in address else "-4"
    network = f"pasta:-a,{address},-g,{gateway}" + (",-n,24" if family == "-4" else "")
    script = f"ip -json {family} address show dev h0; ip -json {family} route show default"
    lines = podman.inside((), "sh", "-c", script, network=network).stdout.splitlines()
    links, default = map(json.loads, lines)
    assert addresses(links[0]) == [own]
    assert default[0]["gateway"] == gateway


def test_mtu_given(podman: Podman) -> None:
    assert podman.json((), "ip", "-json", "link", "show", "h0", network="pasta:-m,1280")[0]["mtu"] == 1280


def test_interface_and_hardware_address_given_twice_the_last_wins(podman: Podman) -> None:
    options = "-I,first,--ns-mac-addr,9a:dd:31:ea:92:98,-I,second,--ns-mac-addr,aa:bb:cc:dd:ee:ff"
    links = podman.json((), "ip", "-json", "link", network=f"pasta:{options}")
    assert [(link["ifname"], link["address"]) for link in links[1:]] == [("second", "aa:bb:cc:dd:ee:ff")]


@pytest.mark.parametrize(("option", "left"), [("-4", [f"{HOST4}/24"]), ("-6", [f"{HOST6}/64"])])
def test_one_family_only(podman: Podman, option: str, left: list[str]) -> None:
    links = podman.json((), "ip", "-json", "address", network=f"pasta:{option}")
    assert addresses(links[1]) == left


@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_connections_datagrams_and_pings_go_out(podman: Podman, address: str) -> None:
    podman.inside((), *CLIENT, "tcp,udp,end-first,end-last,reset,send-reset", address, "8000", "50000")
    ping = ("--sysctl=net.ipv4.ping_group_range=0 0",)
    podman.inside(ping, "ping", "-c", "1", "-W", "5", address)


def test_refused_connection_is_refused_at_once(podman: Podman) -> None:
    podman.inside((), *CLIENT, "refused", FAR4)


def test_names_are_looked_up_through_the_forwarder(podman: Podman) -> None:
    script = "cat /etc/resolv.conf; getent ahostsv4 www.lab.example; getent ahostsv6 www.lab.example"
    text = podman.inside((), "sh", "-c", script).stdout.decode()
    assert "nameserver 169.254.1.1\n" in text
    assert "192.0.2.80" in text
    assert "2001:db8::80" in text


def test_another_forwarder(podman: Podman) -> None:
    script = "cat /etc/resolv.conf; getent ahostsv4 www.lab.example"
    network = "pasta:--dns-forward,198.51.100.53"
    text = podman.inside((), "sh", "-c", script, network=network).stdout.decode()
    assert "nameserver 198.51.100.53\n" in text
    assert "192.0.2.80" in text


@pytest.fixture
def host_server(podman: Podman) -> Iterator[Callable[[str], None]]:
    """Give the host, as pasta finds it in the tree, one name server; it has those of before in the end."""
    def write(text: bytes) -> None:
        podman.tree.run(["sh", "-c", "cat >/etc/resolv.conf"], feed=text)

    before = podman.tree.run(["cat", "/etc/resolv.conf"]).stdout
    yield lambda address: write(f"nameserver {address}\n".encode())
    write(before)


@pytest.mark.parametrize(("address", "server"), [("2001:db8::1", FAR4), ("198.51.100.53", FAR6)],
                         ids=["IPv6", "IPv4"])
def test_forwarder_of_the_other_family_than_the_host_s_server(
        podman: Podman, host_server: Callable[[str], None], address: str, server: str) -> None:
    """The case "Custom DNS forward address, IPv6" of Podman's own tests, skipped there; and its reverse."""
    host_server(server)
    network = f"pasta:--dns-forward,{address}"
    lines = podman.inside((), "grep", "nameserver", "/etc/resolv.conf", network=network).stdout.splitlines()
    assert lines[0] == f"nameserver {address}".encode()
    found = podman.inside((), "busybox", "nslookup", "www.lab.example", address, network=network).stdout
    assert b"192.0.2.80" in found
    assert b"2001:db8::80" in found


def test_host_is_reached_by_its_name(podman: Podman) -> None:
    text = podman.inside((), "sh", "-c", "cat /etc/hosts && " + " ".join(CLIENT)
                         + " tcp,udp host.containers.internal 8000 3000").stdout.decode()
    assert "169.254.1.2" in text
    assert text.endswith("well\n")


def test_loopback_of_the_host_is_reached_as_asked_only(lab: Lab, podman: Podman) -> None:
    server = lab.host.spawn(["/usr/bin/python3", "-I", "-c", LOCAL_SERVER])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    call = ("python3", "-c", CONNECT)
    for network, address, reached in (
        ("pasta", OUTSIDE4, False), ("pasta", "127.0.0.1", False),
        ("pasta", "host.containers.internal", False),
        ("pasta:--map-gw", OUTSIDE4, True), ("pasta:-T,9000", "127.0.0.1", True),
    ):
        result = podman.inside((), *call, address, network=network, check=False)
        assert (result.stdout == b"from the loopback\n") is reached, (network, address, result.stderr)
    server.kill()


def test_pid_file_names_pasta_which_ends_with_the_container(podman: Podman) -> None:
    path = f"{RUNTIME}/own.pid"
    name = podman.start((), "sleep", "60", network=f"pasta:--pid,{path}")
    inner = int(podman.tree.run(["cat", path]).stdout)
    command = podman.tree.run(["cat", f"/proc/{inner}/cmdline"]).stdout
    assert b"pasta" in command
    assert len(podman.tree.find("pasta")) == 1
    podman.run("kill", name)
    podman.run("wait", name)
    wait_until(lambda: not podman.tree.find("pasta"), "pasta has ended")


def test_mistake_is_shown_by_podman(podman: Podman) -> None:
    result = podman.inside((), "true", network="pasta:--mtu,99999", check=False)
    assert result.returncode not in {0, 1}
    assert b"mtu" in result.stderr
    unknown = podman.inside((), "true", network="pasta:--no-such-option", check=False)
    assert b"unrecognized option '--no-such-option'" in unknown.stderr


def test_port_that_is_taken_is_shown_by_podman(podman: Podman) -> None:
    result = podman.inside(("--publish=8007:80",), "true", check=False)
    assert result.returncode == 126
    assert b"8007" in result.stderr


def test_containers_of_a_pod_share_the_network(lab: Lab, podman: Podman) -> None:
    podman.run("pod", "create", "--network=pasta", "--publish=7100:5000", "--name=pod")
    podman.run("run", "--detach", "--pod=pod", "--name=member", *SHARED, IMAGE, *TRANSFER, "receive", "5000")
    wait_until(lambda: "ready" in podman.log("member"), "server listens")
    hosts = podman.run("run", "--rm", "--pod=pod", *SHARED, IMAGE, "cat", "/etc/hosts").stdout.decode()
    assert HOST4 in hosts
    lab.outside.run([*sender(lab), "tcp", HOST4, "7100", "5000", "seed"])
    wait_until(lambda: len(podman.log("member")) == 2, "transfer has arrived")


def test_restarted_container_has_its_ports_again(lab: Lab, podman: Podman) -> None:
    name = podman.start(("--publish=7100:5000",), *TRANSFER, "receive", "5000", ready="ready")
    podman.run("stop", "--time=0", name)
    wait_until(lambda: not podman.tree.find("pasta"), "pasta has ended")
    podman.run("start", name)
    wait_until(lambda: podman.log(name).count("ready") == 2, "server listens again")
    lab.outside.run([*sender(lab), "tcp", HOST6, "7100", "5000", "seed"])
    wait_until(lambda: len(podman.log(name)) == 3, "transfer has arrived")
    podman.run("stop", "--time=0", name)
    lab.host.run([*lab.client, "refused", HOST4, str(7100 - 99)])


def test_gateway_answers_but_is_not_the_host(podman: Podman) -> None:
    podman.inside((), *CLIENT, "tcp", OUTSIDE6)

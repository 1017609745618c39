"""rootlesskit with pasta: it sets up the interface itself, and ports follow those that are bound."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.tree import HOME
from tests.support.lab import FAR4, HOST4
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.interop.tree import Tree
    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
ROOTLESSKIT = ("rootlesskit", "--net=pasta", "--copy-up=/etc", "--copy-up=/run", "--port-driver=implicit")
CLIENT = "python3 -I /tmp/client.py"
GATEWAY = "10.0.2.2"


def run(tree: Tree, script: str, *options: str) -> tuple[int, str]:
    """Run a script under rootlesskit; its status and what it printed."""
    result = tree.run([*ROOTLESSKIT, *options, "sh", "-c", script], user=True, cwd=HOME, check=False)
    return result.returncode, result.stdout.decode()


def test_interface_is_as_rootlesskit_sets_it_up(tree: Tree) -> None:
    script = "ip -o address show dev tap0; ip -o link show tap0; ip route; cat /etc/resolv.conf"
    status, text = run(tree, script)
    assert status == 0
    for expected in ("10.0.2.100/24", "mtu 65520", f"default via {GATEWAY} dev tap0", "nameserver 10.0.2.3"):
        assert expected in text


def test_status_of_the_command_is_passed_on(tree: Tree) -> None:
    assert run(tree, "exit 5")[0] == 5


def test_outside_host_and_names_are_reached(tree: Tree) -> None:
    script = f"{CLIENT} tcp,udp {FAR4} && {CLIENT} tcp,udp {GATEWAY} && getent ahostsv4 www.lab.example"
    status, text = run(tree, script)
    assert status == 0
    assert text.count("well") == 2
    assert "192.0.2.80" in text


def test_host_is_not_reached_when_it_is_disabled(tree: Tree) -> None:
    status, text = run(tree, f"{CLIENT} tcp {FAR4}; {CLIENT} tcp {GATEWAY}", "--disable-host-loopback")
    assert text == "well\n"
    assert status != 0


def test_ports_appear_while_they_are_bound_and_go_with_the_command(lab: Lab, tree: Tree) -> None:
    argv = [*ROOTLESSKIT, "python3", "-I", "/tmp/servers.py", "7500"]  # noqa: S108 - in the tree
    running = tree.spawn(argv, user=True, cwd=HOME)

    def answers() -> bool:
        return lab.host.run([*lab.client, "tcp", HOST4, "7500"], check=False).returncode == 0

    wait_until(answers, "the ports are forwarded")
    for address in (HOST4, "127.0.0.1"):
        lab.host.run([*lab.client, "tcp,udp,end-first,end-last,reset", address, "7500"])
    lab.outside.run([*lab.client, "tcp,udp", HOST4, "7500"])
    running.kill()
    wait_until(lambda: not tree.find("pasta"), "pasta has ended")
    lab.host.run([*lab.client, "refused", HOST4, "7500"])

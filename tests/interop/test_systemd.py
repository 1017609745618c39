"""A user's systemd with the units in share/: what it hands over, starts anew, and leaves in the end."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.interop.tree import HOME, OURS, RUNTIME
from tests.support.lab import HOST4, TREE, UID
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.interop.tree import Tree
    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
UNITS = TREE / "share" / "systemd" / "user"
OWN_UNITS = f"{HOME}/.config/systemd/user"
GROUP = f"/sys/fs/cgroup/passt-interop-{os.getpid()}"
# It takes over a group of processes that is the user's, as from the system's one, which this stands for.
START = f"""
mkdir -p {GROUP}/init /run/systemd/system
chown -R {UID} {GROUP}
echo $$ >{GROUP}/init/cgroup.procs
exec "$@"
"""
# As an installation for one user; ~/.local/bin is not on systemd's PATH.
INSTALL = f"""
mkdir -p {OWN_UNITS} {HOME}/.config/pasta {HOME}/.config/passt {HOME}/.local/bin
ln -s {OURS}/pasta {OURS}/passt {HOME}/.local/bin
"""
WEB = "PASTA_OPTIONS=--config-net -t fd:web:8000 -u none -T none -U none -- python3 -I /tmp/servers.py 8000\n"
WEB_SOCKET = "[Socket]\nListenStream=7507\nFileDescriptorName=web\n"


@dataclass
class Manager:
    """systemd as the plain user of *tree* runs it."""

    tree: Tree

    def call(self, *arguments: str, check: bool = True) -> str:
        """Run systemctl, and return what it prints."""
        done = self.tree.run(["systemctl", "--user", *arguments], user=True, check=check)
        return done.stdout.decode().strip()

    def write(self, path: str, text: str) -> None:
        """Make a file of the user's."""
        self.tree.run(["tee", path], user=True, feed=text.encode())

    def state(self, unit: str) -> str:
        """Tell the state of a unit: active, inactive, failed, ..."""
        return self.call("is-active", unit, check=False)

    def kill(self, unit: str) -> str:
        """Kill the main process of a unit that is active; its number, as the manager has it."""
        pid = self.call("show", "--property=MainPID", "--value", unit)
        self.tree.run(["kill", f"-{signal.SIGKILL}", pid])
        return pid

    def has_another_process(self, unit: str, pid: str) -> bool:
        """Tell whether a unit is active with another main process than *pid*."""
        return (self.state(unit) == "active"
                and self.call("show", "--property=MainPID", "--value", unit) != pid)


@pytest.fixture(scope="module")
def manager(tree: Tree) -> Iterator[Manager]:
    """Start systemd for the plain user, with the units in share/."""
    tree.run(["sh", "-ec", INSTALL], user=True)
    manager = Manager(tree)
    for unit in UNITS.iterdir():
        manager.write(f"{OWN_UNITS}/{unit.name}", unit.read_text(encoding="ascii"))
    who = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups", "--"]
    running = tree.spawn(["sh", "-ec", START, "sh", "env", *tree.environment(user=True), *who,
                          "/usr/lib/systemd/systemd", "--user"])
    wait_until(lambda: manager.call("is-system-running", check=False) == "running", "systemd runs")
    yield manager
    running.kill()
    for script in (f"echo 1 >{GROUP}/cgroup.kill", f"find {GROUP} -depth -type d -exec rmdir {{}} +"):
        tree.run(["sh", "-c", f"{script}; exit 0"])


def test_first_connection_to_a_socket_starts_pasta(lab: Lab, manager: Manager) -> None:
    manager.write(f"{HOME}/.config/pasta/web.conf", WEB)
    manager.write(f"{OWN_UNITS}/pasta@web.socket", WEB_SOCKET)
    manager.call("daemon-reload")
    manager.call("start", "pasta@web.socket")
    assert manager.state("pasta@web.service") == "inactive"

    def answers() -> bool:
        return lab.host.run(["curl", "-sSf", "http://127.0.0.1:7507/100"], check=False).returncode == 0

    wait_until(answers, "the server behind the socket answers")
    lab.outside.run(["curl", "-sSf", f"http://{HOST4}:7507/100"])
    assert manager.state("pasta@web.service") == "active"
    pid = manager.kill("pasta@web.service")
    wait_until(lambda: manager.has_another_process("pasta@web.service", pid), "pasta is started anew")
    wait_until(answers, "the server answers again")
    manager.call("stop", "pasta@web.socket", "pasta@web.service")
    # The command was ended by SIGTERM: that is no failure.
    assert manager.state("pasta@web.service") == "inactive"
    assert manager.tree.find("pasta") == []


def test_passt_is_started_anew_and_leaves_nothing(manager: Manager) -> None:
    def sockets() -> str:
        return manager.tree.run(["ls", f"{RUNTIME}/passt"], user=True).stdout.decode()

    manager.call("start", "passt@machine")
    assert sockets() == "machine.socket\n"
    pid = manager.kill("passt@machine")
    wait_until(lambda: manager.has_another_process("passt@machine", pid), "passt is started anew")
    assert sockets() == "machine.socket\n"
    manager.call("stop", "passt@machine")
    assert (manager.state("passt@machine"), sockets()) == ("inactive", "")
    assert manager.tree.find("passt") == []


def test_mistake_in_the_options_is_told_to_who_starts_it(manager: Manager) -> None:
    manager.write(f"{HOME}/.config/passt/wrong.conf", "PASST_OPTIONS=--mtu=none\n")
    done = manager.tree.run(["systemctl", "--user", "start", "passt@wrong"], user=True, check=False)
    assert done.returncode == 1
    manager.call("stop", "passt@wrong")

"""libvirt in session mode: a domain whose interface is passt, which libvirt starts and ends.

All of it with an interface of type user (QEMU's stream socket) and of type vhostuser (shared memory).
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.guest.initramfs import KERNEL, build_initramfs
from tests.guest.vm import Vm
from tests.interop.tree import CLIENT_LIMIT_S, HOME, RUNTIME, Tree
from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, make_readable
from tests.support.processes import process_state, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
HERE = Path(__file__).parent
VIRSH = ("virsh", "--quiet", "--connect=qemu:///session")
STATE = f"{RUNTIME}/libvirt/qemu/run/passt"


def description(name: str, kind: str) -> str:
    """Describe a domain to libvirt; its interface is of the type *kind*."""
    text = (HERE / "domain.xml").read_text(encoding="ascii")
    return text.replace("NAME", name).replace("TYPE", kind)


class Domain(Vm):
    """A machine that libvirt has started: its commands go through a socket that socat speaks to."""

    def __init__(self, tree: Tree, name: str, kind: str) -> None:
        self.tree, self.name, self.kind = tree, name, kind
        self.root = Path(f"/proc/{tree.init}/root")
        self._console = self.root / HOME[1:] / f"{name}.console"
        self._buffer = b""
        text = description(name, kind)
        tree.run(["sh", "-c", f"cat >{HOME}/{name}.xml"], user=True, feed=text.encode())
        tree.run([*VIRSH, "create", f"{HOME}/{name}.xml"], user=True, cwd=HOME, timeout=CLIENT_LIMIT_S)
        self.running = tree.spawn(["socat", "-", f"UNIX-CONNECT:{HOME}/{name}.commands"], user=True, stdin=-1)

    def destroy(self) -> None:
        """Have libvirt end the machine."""
        self.tree.run([*VIRSH, "destroy", self.name], user=True)
        self.running.finish()

    def is_gone(self) -> bool:
        """Whether libvirt knows it no more, and nothing is left of its passt.

        libvirt 11.3 removes socket and pid file for an interface of type user only, whichever passt it is.
        """
        domains = self.tree.run([*VIRSH, "list", "--name"], user=True).stdout.split()
        files = self.kind == "user" and list((self.root / STATE[1:]).iterdir())
        return not domains and not files and not self.tree.find("passt")


@pytest.fixture(scope="module")
def files(tree: Tree) -> None:
    """Put kernel and file system of the guests into the tree."""
    directory = Path(f"/proc/{tree.init}/root/tmp/guest")
    directory.mkdir()
    shutil.copy(KERNEL / "vmlinuz", directory)
    (directory / "initrd").write_bytes(build_initramfs())
    make_readable([directory])


@pytest.fixture(scope="module", params=["user", "vhostuser"])
def kind(request: pytest.FixtureRequest) -> str:
    """Name the type of the domain's interface."""
    return str(request.param)


@pytest.fixture(scope="module")
def domain(tree: Tree, files: None, kind: str) -> Iterator[Domain]:  # noqa: ARG001
    """One machine for the tests of this module, which has its addresses."""
    domain = Domain(tree, "one", kind)
    domain.wait_for_boot()
    yield domain
    if not domain.is_gone():
        domain.destroy()


def test_guest_gets_the_address_of_the_domain(domain: Domain) -> None:
    told = domain.configure4()
    assert told["ip"] == HOST4
    assert told["router"] == OUTSIDE4
    assert told["dns"].split()[0] == FAR4
    domain.configure6()
    assert f"{HOST6}/128" in domain.run("ip -6 addr show dev eth0")


@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_guest_reaches_the_outside(domain: Domain, address: str) -> None:
    domain.run(f"ping -c 1 -W 5 {address}")
    host = f"[{address}]" if ":" in address else address
    assert domain.run(f"wget -q -O - http://{host}:8000/1000000 | wc -c").strip() == "1000000"


@pytest.mark.parametrize(("port", "target", "address"), [
    ("2222", 22, HOST4), ("2222", 22, HOST6), ("5000", 5000, HOST4), ("5010", 5010, "127.0.0.1"),
])
def test_ports_of_the_domain_lead_to_the_guest(lab: Lab, domain: Domain, port: str, target: int, address: str
                                               ) -> None:
    domain.serve("TCP", 6 if ":" in address else 4, target, "SYSTEM:cat")
    assert ask(lab, "TCP", address, port) == b"hello"


def test_datagrams_to_the_address_of_the_domain_lead_to_the_guest(lab: Lab, domain: Domain) -> None:
    domain.serve("UDP", 4, 6001, "SYSTEM:cat")
    assert ask(lab, "UDP", "127.0.0.1", "6000") == b"hello"


def ask(lab: Lab, protocol: str, address: str, port: str) -> bytes:
    """Send a word from the host and return what comes back."""
    target = f"{protocol}:[{address}]:{port}" if ":" in address else f"{protocol}:{address}:{port}"
    return lab.host.run(["socat", "-t", "5", "-", target], feed=b"hello").stdout


def test_libvirt_asks_for_what_the_domain_says(domain: Domain, kind: str) -> None:
    [pid] = domain.tree.find("passt")
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    assert (b"--vhost-user" in argv) == (kind == "vhostuser")


def test_passt_writes_its_log_where_the_domain_says(domain: Domain) -> None:
    assert b"passt" in domain.tree.run(["cat", f"{HOME}/passt.log"], user=True).stdout


def check_network(domain: Domain) -> None:
    """Check that the guest reaches the outside, with whole streams."""
    domain.wait_for(f"ping -c 1 -W 1 {FAR4}", "the guest has the network", 60)
    assert domain.run(f"wget -q -O - http://{FAR4}:8000/1000000 | wc -c").strip() == "1000000"


def test_domain_is_suspended_and_resumed(domain: Domain) -> None:
    for _ in range(3):
        for verb in ("suspend", "resume"):
            domain.tree.run([*VIRSH, verb, domain.name], user=True)
        check_network(domain)


def test_guest_boots_again(domain: Domain) -> None:
    domain.reboot()
    domain.configure4()
    check_network(domain)


def test_network_comes_back_with_a_new_passt(domain: Domain) -> None:
    """Libvirt starts another one, QEMU connects again, and the guest is told nothing."""
    [pid] = domain.tree.find("passt")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not process_state(pid), "passt is gone")
    check_network(domain)
    [other] = domain.tree.find("passt")
    assert other != pid


def test_nothing_is_left_when_libvirt_destroys_the_domain(domain: Domain) -> None:
    assert len(domain.tree.find("passt")) == 1
    domain.destroy()
    wait_until(domain.is_gone, "passt and its files are gone")


@pytest.mark.usefixtures("files")
def test_nothing_is_left_when_the_guest_powers_off(tree: Tree, kind: str) -> None:
    second = Domain(tree, "two", kind)
    second.wait_for_boot()
    second.power_off()
    wait_until(second.is_gone, "passt and its files are gone")


def test_port_that_is_taken_is_shown_by_libvirt(tree: Tree, kind: str) -> None:
    text = description("bad", kind).replace("2222", "8007")
    tree.run(["sh", "-c", f"cat >{HOME}/bad.xml"], user=True, feed=text.encode())
    result = tree.run([*VIRSH, "create", f"{HOME}/bad.xml"], user=True, cwd=HOME, check=False)
    assert result.returncode != 0
    assert b"8007" in result.stderr
    assert not tree.find("passt")

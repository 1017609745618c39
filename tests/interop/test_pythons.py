"""The package with each Python of Debian's releases: its unit tests, its programs, and real connections.

`tools/python-trees` has built it there with assertions, and installed it from a wheel.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt import __version__
from tests.interop.podman import sender
from tests.interop.tree import ROOT, Tree
from tests.support.lab import FAR4, FAR6, HOST4, HOST6, LabError
from tests.support.processes import wait_until
from tests.system.transfer import content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Lab

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_userns]
PYTHONS = ROOT.parent / "pythons"
LINES = Path(__file__).with_name("pythons.txt").read_text(encoding="ascii").splitlines()
ROWS = [(suite, version) for suite, *versions in map(str.split, LINES) if suite != "#"
        for version in versions]
# Of the tree, for the programs of the tests; they are not what is tried.
PYTHON = ("/usr/bin/python3", "-I")
PROGRAMS = ("pasta", "passt", "qrap", "pesto", "passtctl")
# Half a minute of tests: what is decided in Python, and the data plane with its probes.
ROOMS = ("config", "facts", "forward", "light", "dataplane/flow", "dataplane/packet", "dataplane/udp",
         "dataplane/test_engine.py", "dataplane/test_engine_stream.py", "dataplane/tcp/test_handshake.py")
UNIT_TESTS = "not slow and not alone and not needs_root and not needs_userns"


# What the receiver says of 50,000 bytes.
SENT = [b"tcp", b"5000", b"50000", hashlib.sha256(content("seed", 7000, 50000)).hexdigest().encode()]


@dataclass
class Python:
    """A Python in a tree of its distribution, with this package; the sources are /srv."""

    version: str
    tree: Tree

    def program(self, name: str) -> str:
        """Path of an installed program."""
        return f"{self.tree.helpers}/{name}"

    def run_tests(self) -> str:
        """Run the unit tests as the plain user; what pytest prints, whatever became of them."""
        variables = (f"PYTHONPATH=/srv/src:/srv/python-{self.version}", "PYTHONDONTWRITEBYTECODE=1",
                     "HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis")
        command = [f"/usr/bin/python{self.version}", "-m", "pytest", "-q", "-p", "no:cacheprovider",
                   "--capture=sys", "-m", UNIT_TESTS, *(f"tests/{room}" for room in ROOMS)]
        done = self.tree.run(["env", *variables, *command], user=True, cwd="/srv", timeout=280, check=False)
        return (done.stdout + done.stderr).decode()


@pytest.fixture(scope="module", params=ROWS, ids="-".join)
def python(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Python]:
    """Enter the tree of a Python."""
    suite, version = request.param
    root = PYTHONS / suite
    if not (root / "opt" / f"{version}.made").exists():
        raise LabError(f"there is no tree with Python {version}: 'tools/python-trees' makes it, as root")
    tree = Tree.enter_root(lab, lab.host, root, f"/opt/passt-{version}/bin", str(PYTHONS / "copy"))
    yield Python(version, tree)
    tree.close()


def test_installed_programs_start_that_python(python: Python) -> None:
    for name in PROGRAMS:
        lines = python.tree.run([python.program(name), "--version"], user=True).stdout.decode().splitlines()
        assert lines[0] == f"{name} {__version__}"
        assert f"Python {python.version}." in lines[1]


def test_unit_tests_pass(python: Python) -> None:
    said = python.run_tests()
    counted = re.search(r"^(\d+) passed[^\n]*$", said, re.MULTILINE)
    assert counted is not None, said[-5000:]
    assert "failed" not in counted[0], said[-5000:]
    assert "error" not in counted[0], said[-5000:]
    # Whole rooms, not what is left of them.
    assert int(counted[1]) > 1500


@pytest.mark.parametrize("address", [FAR4, FAR6])
def test_connections_and_datagrams_go_out(python: Python, address: str) -> None:
    calls = ("tcp,udp,end-first,end-last,reset,send-reset", address, "8000", "50000")
    python.tree.run([python.program("pasta"), "--config-net", "-q", "--", *PYTHON, "/tmp/client.py", *calls],  # noqa: S108
                    user=True)


def test_connections_come_in(python: Python, lab: Lab) -> None:
    command = ("--config-net", "-q", "-t", "7000:5000", "--", *PYTHON, "/tmp/transfer.py", "receive", "5000")  # noqa: S108
    pasta = python.tree.spawn([python.program("pasta"), *command], user=True)
    assert pasta.popen.stdout is not None
    try:
        assert pasta.popen.stdout.readline() == b"ready\n"
        for address in (HOST4, HOST6):
            lab.outside.run([*sender(lab), "tcp", address, "7000", "50000", "seed"])
            assert pasta.popen.stdout.readline().split()[:4] == SENT
    finally:
        pasta.kill()
    wait_until(lambda: not python.tree.find("pasta"), "pasta has ended")

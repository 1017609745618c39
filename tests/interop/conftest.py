"""The network of the system tests, with a Debian 13 in it where real clients run."""

from __future__ import annotations

import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.interop.podman import Podman
from tests.interop.tree import OURS, Tree
from tests.support import switches
from tests.support.lab import Lab, make_lab
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

TEST_LIMIT_S = 900
# Where clients find passt and pasta, in the tree: /usr/bin has Debian's.
HELPERS = switches.HELPERS or OURS


def give_up(_signum: int, _frame: object) -> None:
    """Fail a test that hangs outside a call with a time limit of its own."""
    raise TimeoutError(f"test took more than {TEST_LIMIT_S} s")


@pytest.fixture(autouse=True)
def time_limit() -> Iterator[None]:
    """Bound the time of every test."""
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TEST_LIMIT_S)
    yield
    signal.alarm(0)


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Make the network once."""
    directory = Path(tempfile.mkdtemp(prefix="passt-interop-"))
    try:
        lab = make_lab(directory)
    except BaseException:
        shutil.rmtree(directory)
        raise
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def tree(lab: Lab) -> Iterator[Tree]:
    """Enter the tree, in the host's network."""
    tree = Tree.enter(lab, lab.host, HELPERS)
    yield tree
    tree.close()


@pytest.fixture(scope="session")
def session_podman(tree: Tree) -> Podman:
    """Give the plain user a podman with an image."""
    podman = Podman(tree)
    podman.import_image()
    return podman


@pytest.fixture
def podman(session_podman: Podman) -> Iterator[Podman]:
    """Lend podman to a test, which fails if pasta outlives its containers."""
    yield session_podman
    session_podman.run("rm", "--all", "--force", "--time=0")
    session_podman.run("pod", "rm", "--all", "--force", "--time=0")
    wait_until(lambda: not session_podman.tree.find("pasta"), "pasta has ended with its container")

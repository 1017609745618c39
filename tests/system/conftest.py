"""The lab of the session, who starts the program, and the watch for what a test leaves behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import (
    PRIVATE_PLACES,
    PROGRAMS,
    SETTLE_S,
    UID,
    Lab,
    LabError,
    Place,
    Running,
    make_lab,
    next_line,
    userns_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEST_LIMIT_S = 300


@pytest.fixture(scope="session")
def session_lab() -> Iterator[Lab]:
    """Make the network once; the reason why it cannot be made skips the tests."""
    directory = Path(tempfile.mkdtemp(prefix="passt-lab-"))
    try:
        lab = make_lab(directory)
    except LabError as error:
        shutil.rmtree(directory)
        pytest.skip(str(error))
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def refusal(session_lab: Lab) -> str:
    """Why plain users cannot run pasta on this machine; empty if they can."""
    return userns_refusal(session_lab.host)


def left_behind(place: Place, before: set[int]) -> list[str]:
    """Describe the processes that are there but were not in *before*."""
    found = []
    for pid in place.pids() - before:
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"{pid}: {text or Path(f'/proc/{pid}/comm').read_text(encoding='utf-8')}")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


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


@pytest.fixture
def lab(session_lab: Lab) -> Iterator[Lab]:
    """Lend the lab to one test, which fails if it leaves a process, interface, mount or file behind."""
    host = session_lab.host
    # A namespace lives on by a process in it or by a mount of it: there are no other ways.
    before, links, mounts = host.pids(), host.links(), Counter(host.mounts())
    yield session_lab
    for place in session_lab.extra:
        place.close()
    session_lab.extra.clear()
    limit = time.monotonic() + SETTLE_S
    while (rest := left_behind(host, before)) and time.monotonic() < limit:
        time.sleep(0.02)
    for pid in host.pids() - before:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if rest:
        host.collect(before)
    assert not rest, f"processes left behind: {rest}"
    # The kernel takes down what was in a namespace in its own time, and the other end of a link with it.
    while (found := host.links()) != links and time.monotonic() < limit:
        time.sleep(0.02)
    assert found == links
    # A mount of the machine's goes in all namespaces when somebody removes the directory below it.
    now = Counter(host.mounts())
    assert not now - mounts, f"mounts left behind: {now - mounts}"
    assert now.keys() >= PRIVATE_PLACES
    files = [str(path) for path in (session_lab.directory / "home").iterdir()]
    assert not files, f"files left behind: {files}"


@pytest.fixture(
    scope="session",
    params=[
        pytest.param("root", marks=pytest.mark.needs_root),
        pytest.param("user", marks=[pytest.mark.needs_root, pytest.mark.needs_userns]),
    ],
)
def user(request: pytest.FixtureRequest, refusal: str) -> bool:
    """Whether the program is started by a plain user; all tests run as root, then as a plain user."""
    if request.param == "user" and refusal:
        pytest.skip(refusal)
    return bool(request.param == "user")


@pytest.fixture(scope="session")
def plain(refusal: str) -> bool:
    """Start the program by a plain user where that is possible: for tests too long to run twice."""
    return not refusal


@pytest.fixture
def scratch(user: bool) -> Iterator[Path]:
    """Lend a directory that is open to the program's user only."""
    directory = Path(tempfile.mkdtemp(prefix="passt-scratch-"))
    if user:
        os.chown(directory, UID, UID)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def name_server(lab: Lab) -> Iterator[Callable[[str, str], Running]]:
    """Have the host ask one name server, which answers in a way; all is as before in the end."""
    path: Path = lab.host.directory / "etc" / "resolv.conf"
    before = path.read_text(encoding="utf-8")
    running: list[Running] = []

    def start(way: str, answer: str) -> Running:
        argv = ["/usr/bin/python3", "-I", str(PROGRAMS / "name_server.py"), "127.0.0.79", way, answer]
        running.append(lab.host.spawn(argv))
        assert next_line(running[-1]) == "ready"
        path.write_text("nameserver 127.0.0.79\n", encoding="utf-8")
        return running[-1]

    yield start
    path.write_text(before, encoding="utf-8")
    for server in running:
        server.kill()

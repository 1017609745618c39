"""The lab with what guests boot from, and one guest that serves all tests of a module."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.guest.initramfs import HERE, KERNEL, build_initramfs, find_program
from tests.guest.vm import QEMU
from tests.support.lab import FAR4, FAR6, Lab, LabError, make_readable
from tests.support.processes import wait_until
from tests.system.conftest import left_behind, refusal, session_lab, time_limit

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["refusal", "session_lab", "time_limit"]

TFTP_PORT = 6900


@pytest.fixture(scope="session")
def guest_files(session_lab: Lab) -> Path:
    """Directory with kernel and file system of the guests, where everybody may make sockets."""
    directory = session_lab.directory / "guest"
    try:
        find_program(QEMU)
        initrd = build_initramfs()
    except LabError as error:
        pytest.skip(str(error))
    directory.mkdir()
    shutil.copy(KERNEL / "vmlinuz", directory)
    (directory / "initrd").write_bytes(initrd)
    make_readable([directory])
    directory.chmod(0o1777)
    return directory


@pytest.fixture(scope="session")
def tftp(session_lab: Lab) -> subprocess.Popen[bytes]:
    """Server for UDP transfers on the outside; its output tells what has been written to it."""
    shutil.copy(HERE / "tftp_server.py", session_lab.directory)
    server = session_lab.outside.spawn(
        ["/usr/bin/python3", str(session_lab.directory / "tftp_server.py"), str(TFTP_PORT), FAR4, FAR6])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    return server.popen


@pytest.fixture(scope="module")
def lab(session_lab: Lab) -> Iterator[Lab]:
    """Lend the lab to the tests of a module, which fail if they leave a process or an interface behind."""
    host = session_lab.host
    before, links = host.pids(), host.links()
    yield session_lab
    wait_until(lambda: not left_behind(host, before), "nothing is left behind")
    assert host.links() == links
    assert not list((session_lab.directory / "home").iterdir())

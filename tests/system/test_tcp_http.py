"""nginx and wrk: thousands of connections, one after the other and at once, and nothing of them left."""

from __future__ import annotations

import os
import re
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, PATH, Lab, Place, Running
from tests.support.processes import status_field, wait_until
from tests.support.switches import LONG

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.skipif(
        not (shutil.which("nginx", path=PATH) and shutil.which("wrk", path=PATH)),
        reason="nginx or wrk is missing: 'make test' installs them",
    ),
]

SECONDS = 20 if LONG else 1
CONNECTIONS = 64
FILE_LEN = 10_000
PORT = 8080
LEAST_REQUESTS = 200
# What a second run may add to the memory of a first one.
GROWTH_KB = 8192  # one run may leave some thousand tuples more in TIME-WAIT than another
# Our own time in TIME-WAIT, and some.
SETTLE_S = 30.0
LATER = 2  # descriptors that the program opens when its command runs already
# Listeners that come and go while the test counts descriptors would confuse it.
NO_PORTS = [word for option in ("-t", "-u", "-T", "-U") for word in (option, "none")]

CONFIG = """
daemon off;
# The master would make its workers another user's, which one's own namespace does not have.
master_process off;
user root;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    server {{
        listen {port} backlog=1024;
        listen [::]:{port} backlog=1024;
        root {directory};
    }}
}}
"""


@pytest.fixture
def site(lab: Lab) -> Iterator[Path]:
    """Write the configuration of nginx and a file to fetch, where the program's user can read and write."""
    directory = lab.directory / "nginx"
    directory.mkdir()
    (directory / "file").write_bytes(os.urandom(FILE_LEN))
    text = CONFIG.format(directory=directory, port=PORT)
    (directory / "nginx.conf").write_text(text, encoding="ascii")
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def nginx(site: Path) -> list[str]:
    return ["nginx", "-p", str(site), "-c", str(site / "nginx.conf"), "-e", str(site / "error.log")]


def wait_for_port(place: Place) -> None:
    wait_until(lambda: f":{PORT} ".encode() in place.run(["ss", "-Hltn"]).stdout, "nginx listens")


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kb(pid: int) -> int:
    return int(status_field(pid, "VmRSS").split()[0])


def wrk(address: str, *, keep_alive: bool) -> list[str]:
    """Command line of wrk."""
    host = f"[{address}]" if ":" in address else address
    header = [] if keep_alive else ["-H", "Connection: close"]
    return ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "--timeout", "60s", *header, f"http://{host}:{PORT}/file"]


def check_wrk(text: str) -> None:
    """Fail if wrk saw any error, or hardly a request."""
    print(text)  # noqa: T201 - shown with a failure, or by pytest -s
    assert "Socket errors" not in text
    assert "Non-2xx" not in text
    done = re.search(r"(\d+) requests in", text)
    assert done
    assert int(done[1]) > LEAST_REQUESTS


def check_settled(running: Running, fds: int, resident: int) -> None:
    """Fail unless the program has given back what the connections took."""
    wait_until(lambda: descriptors(running.pid) <= fds + LATER, "descriptors are closed", SETTLE_S)
    grown = resident_kb(running.pid) - resident
    print("grown", grown, "kB of", resident)  # noqa: T201 - shown with a failure, or by pytest -s
    assert grown < GROWTH_KB


@pytest.mark.parametrize("keep_alive", [True, False])
def test_wrk_in_the_namespace(lab: Lab, plain: bool, site: Path, keep_alive: bool) -> None:
    server = lab.outside.spawn(nginx(site), user=False)
    wait_for_port(lab.outside)
    argv = ["bash", "-c", 'echo ready; while read -r line; do eval "$line"; echo done; done']
    running = lab.start(["--config-net", *NO_PORTS], argv, user=plain, stdin=-1)
    assert running.popen.stdin is not None
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    fds, resident = descriptors(running.pid), 0
    for number, address in enumerate((FAR4, FAR6, FAR4)):
        command = " ".join(f"'{word}'" for word in wrk(address, keep_alive=keep_alive))
        running.popen.stdin.write(f"{command}\n".encode())
        running.popen.stdin.flush()
        lines = b""
        while not lines.endswith(b"done\n"):
            line = running.popen.stdout.readline()
            assert line
            lines += line
        check_wrk(lines.decode())
        if not number:
            resident = resident_kb(running.pid)
    check_settled(running, fds, resident)
    running.popen.stdin.close()
    running.popen.stdin = None
    assert running.finish().stderr == b""
    server.kill()


@pytest.mark.parametrize("keep_alive", [True, False])
def test_nginx_in_the_namespace(lab: Lab, plain: bool, site: Path, keep_alive: bool) -> None:
    running = lab.start(["--config-net", "-t", str(PORT)], nginx(site), user=plain)
    url = f"http://{HOST4}:{PORT}/file"
    wait_until(
        lambda: (
            lab.outside.run(["curl", "-sSf", "-m", "1", "-o", "/dev/null", url], check=False).returncode == 0
        ),
        "nginx answers",
    )
    time.sleep(2.5)  # the tuples of these are forgotten
    fds, resident = descriptors(running.pid), 0
    for number in range(2):
        check_wrk(lab.outside.run(wrk(HOST4, keep_alive=keep_alive), timeout=60).stdout.decode())
        if not number:
            resident = resident_kb(running.pid)
    check_settled(running, fds, resident)
    running.kill()


def test_one_curl_after_the_other(lab: Lab, plain: bool, site: Path) -> None:
    server = lab.outside.spawn(nginx(site), user=False)
    wait_for_port(lab.outside)
    count = 1000 if LONG else 100
    argv = [
        "bash",
        "-c",
        f"set -e; for i in $(seq {count}); do curl -sSf http://{FAR4}:{PORT}/file | cmp - {site}/file; done",
    ]
    assert lab.run(["--config-net"], argv, user=plain, timeout=120).stderr == b""
    server.kill()

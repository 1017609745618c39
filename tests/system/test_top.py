"""`passtctl top` of a real run in a real terminal, started by root and by a plain user."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.lab import FAR4, UID, Lab
from tests.support.processes import wait_until
from tests.support.tmux import Tmux

pytestmark = pytest.mark.needs_root

MAIN = Path(__file__).parents[2] / "src" / "passt" / "__main__.py"
# Downloads without end, at some megabytes a second, until the connection is reset.
GUEST = f"""
import socket, time
out = socket.create_connection(("{FAR4}", 8000))
out.sendall(b"GET /{10**12} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
print("ready", flush=True)
try:
    while out.recv(1 << 16):
        time.sleep(0.01)
    print("end", flush=True)
except ConnectionResetError:
    print("reset", flush=True)
time.sleep(60)
"""
RATE = re.compile(r"\d[KM]$")


def test_rates_of_a_real_flow_are_shown_and_it_is_closed(lab: Lab, user: bool, scratch: Path) -> None:
    path = str(scratch / "control")
    options = ["--config-net", "--control", path]
    running = lab.start(options, ["/usr/bin/python3", "-I", "-c", GUEST], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    rights = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"] if user else []
    argv = [*rights, sys.executable, "-IS", str(MAIN), "passtctl", "-s", path, "top", "tcp"]

    def row() -> list[str]:
        """Words of the download's line: ID, PROTO, STATE, DIR, GUEST, REMOTE, OUT/s, IN/s."""
        return next((line.split() for line in terminal.screen() if f" {FAR4}:8000 " in line), [])

    with Tmux(argv, 80, 24, {"LC_ALL": "C.UTF-8"}) as terminal:
        wait_until(lambda: bool(row()) and RATE.search(row()[-1]) is not None, "the rate of the download")
        wait_until(lambda: row()[1:4] == ["tcp", "ESTAB", "out"], "the flow's line")
        wait_until(lambda: RATE.search(terminal.screen()[2].split("B/s")[0]) is not None, "that of all")
        wait_until(lambda: terminal.screen()[0].startswith("pasta "), "the title")
        terminal.keys("Down", "x", "y")
        wait_until(lambda: not row(), "the flow is closed")
        assert running.popen.stdout.readline() == b"reset\n"
        running.kill()
        wait_until(lambda: terminal.status() is not None, "the view ends with the instance")
        assert terminal.status() == 1
        wait_until(lambda: "the instance has ended" in terminal.text(), "it says so")

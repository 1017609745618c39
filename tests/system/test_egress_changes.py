"""Rules of egress that change while pasta runs: for new flows, for names, and with an end to open flows."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, Lab
from tests.support.processes import is_readable, wait_until
from tests.system.machines import passt
from tests.system.test_egress import NONE, PORT, start_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Running

pytestmark = pytest.mark.needs_root

KEPT = 9704
# Keeps a connection to KEPT; for each line of input, asks for a name or tries a connection, and prints what
# came of it.
COMMAND = f"""
import socket, subprocess, sys
kept = socket.create_connection(({FAR4!r}, {KEPT}), 60)
print("ready", flush=True)
for line in sys.stdin:
    verb, what = line.split()
    if verb == "try":
        try:
            with socket.create_connection((what, {PORT}), 60) as sock:
                print(sock.recv(2).decode(), flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
    elif verb == "ask":
        done = subprocess.run(["getent", "ahostsv4", what], capture_output=True, text=True, check=False)
        print((done.stdout.split() or ["none"])[0], flush=True)
    else:
        kept.settimeout(60)
        try:
            kept.sendall(b"hello")
            print("open" if kept.recv(100) == b"hello" else "end", flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
"""
ECHO = f"""
import socket
door = socket.create_server(({FAR4!r}, {KEPT}))
print("ready", flush=True)
while True:
    sock = door.accept()[0]
    while data := sock.recv(100):
        sock.sendall(data)
"""


class Policed:
    """A pasta with rules and a control socket, its command, and the file of --policy."""

    def __init__(self, lab: Lab, scratch: Path, rules: str, *options: str, user: bool) -> None:
        self.lab, self.user = lab, user
        scratch.chmod(0o755)       # the user who serves may be another one than the one who starts
        self.file = scratch / "policy.toml"
        self.write(rules)
        self.path = str(scratch / "control")
        self.running = lab.start(["--config-net", *NONE, "--control", self.path, "--policy", str(self.file),
                                  *options],
                                 ["/usr/bin/python3", "-I", "-c", COMMAND], user=user,
                                 stdin=subprocess.PIPE)
        assert self._read() == "ready"

    def write(self, rules: str) -> None:
        self.file.write_text(f"rules = [{rules}]\n")
        self.file.chmod(0o644)

    def _read(self) -> str:
        output = self.running.popen.stdout
        assert output is not None
        assert is_readable(output.fileno(), 120)
        return output.readline().decode().strip()

    def say(self, *words: str) -> str:
        """Have the command do something; return what it prints."""
        assert self.running.popen.stdin is not None
        self.running.popen.stdin.write(f"{' '.join(words)}\n".encode())
        self.running.popen.stdin.flush()
        return self._read()

    def passtctl(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        program = str(Path(self.lab.pasta).with_name("passtctl"))
        done = self.lab.host.run([program, "-s", self.path, "policy", *arguments], user=self.user,
                                 check=False, timeout=120)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def echo(lab: Lab) -> Iterator[None]:
    far = start_server(lab.outside, (FAR4,))
    kept: Running = lab.outside.spawn(["/usr/bin/python3", "-I", "-c", ECHO])
    assert kept.popen.stdout is not None
    assert is_readable(kept.popen.stdout.fileno(), 60)
    assert kept.popen.stdout.readline() == b"ready\n"
    yield
    far.kill()
    kept.kill()


@pytest.mark.usefixtures("echo")
def test_rules_are_read_again_for_new_flows_and_open_ones_end_if_that_is_asked_for(
        lab: Lab, user: bool, scratch: Path) -> None:
    policed = Policed(lab, scratch, f'"allow {FAR4}", "allow www.lab.example"', user=user)
    assert policed.say("try", FAR4) == "ok"
    assert policed.say("ask", "www.lab.example") == "192.0.2.80"
    policed.write(f'"deny {FAR4}:{PORT}", "allow other.example"')
    policed.passtctl("reload")
    # What is open lives on; a mistake changes nothing.
    assert policed.say("try", FAR4) == "ConnectionRefusedError"
    assert policed.say("ask", "www.lab.example") == "none"
    assert policed.say("kept", "-") == "open"
    policed.write('"allow x"')
    assert "line 1: 'x'" in policed.passtctl("reload", status=1)[1]
    shown = json.loads(policed.passtctl("--json")[0])
    assert [rule["rule"] for rule in shown["rules"]] == [f"deny {FAR4}:{PORT}", "allow other.example"]
    assert shown["rules"][0]["refused"] == 1
    policed.write('"allow www.lab.example"')
    policed.passtctl("set", str(policed.file), "--kill")
    assert policed.say("kept", "-") in {"ConnectionResetError", "end", "BrokenPipeError"}
    # What was asked before the rules were others has to be asked again, and is.
    assert policed.say("ask", "www.lab.example") == "192.0.2.80"
    policed.running.kill()


@pytest.mark.usefixtures("echo")
def test_hangup_has_the_file_read_again(lab: Lab, user: bool, scratch: Path) -> None:
    """The command gets no such signal; rules of the command line stay; a mistake is told with its line."""
    policed = Policed(lab, scratch, f'"allow {FAR4}:{KEPT}"', "--deny", "192.0.2.1", user=user)
    assert policed.say("try", FAR4) == "ConnectionRefusedError"
    policed.write(f'"allow {FAR4}"')
    policed.running.send(signal.SIGHUP)
    wait_until(lambda: f"allow {FAR4} " in policed.passtctl()[0], "the rules are there")
    assert policed.say("try", FAR4) == "ok"
    assert policed.say("kept", "-") == "open"
    policed.write('"allow x"')
    policed.running.send(signal.SIGHUP)
    error = policed.running.popen.stderr
    assert error is not None
    while b"--policy" not in (line := error.readline()):
        assert line
    assert b"line 1: 'x'" in line
    shown = json.loads(policed.passtctl("--json")[0])
    assert [rule["rule"] for rule in shown["rules"]] == ["deny 192.0.2.1", f"allow {FAR4}"]
    policed.file.write_text('default = "allow"\n')
    policed.passtctl("reload")
    shown = json.loads(policed.passtctl("--json")[0])
    assert [rule["rule"] for rule in shown["rules"]] == ["deny 192.0.2.1"]
    policed.running.kill()


def test_hangup_has_the_file_of_a_machine_read_again(lab: Lab, user: bool, scratch: Path) -> None:
    """passt, in the foreground, where a hang-up would end it without a file."""
    scratch.chmod(0o755)
    file, control = scratch / "policy.toml", str(scratch / "control")
    file.write_text('rules = ["allow 192.0.2.1"]')
    file.chmod(0o644)
    program = str(Path(lab.pasta).with_name("passtctl"))
    with passt(lab, "--policy", str(file), "--control", control, user=user) as (running, _):
        def shows(rule: str) -> bool:
            done = lab.host.run([program, "-s", control, "policy"], user=user, check=False, timeout=120)
            return rule in done.stdout.decode()

        wait_until(lambda: shows("allow 192.0.2.1 "), "passt serves")
        file.write_text('rules = ["allow 192.0.2.2"]')
        running.send(signal.SIGHUP)
        wait_until(lambda: shows("allow 192.0.2.2 "), "the new rule is there")


@pytest.mark.parametrize("options", [(), ("--learn", "learned.toml")])
def test_run_without_rules_has_none_to_change_and_lives_on(lab: Lab, user: bool, scratch: Path,
                                                           options: tuple[str, ...]) -> None:
    scratch.chmod(0o755)
    path, program = str(scratch / "control"), str(Path(lab.pasta).with_name("passtctl"))
    given = [str(scratch / each) if each.endswith(".toml") else each for each in options]
    running = lab.start(["--config-net", *NONE, "--control", path, *given],
                        ["/usr/bin/python3", "-c", "print('ready', flush=True); print(input(), flush=True)"],
                        user=user, stdin=subprocess.PIPE)
    output = running.popen.stdout
    assert output is not None
    assert is_readable(output.fileno(), 120)
    assert output.readline() == b"ready\n"
    done = lab.host.run([program, "-s", path, "policy", "set", "/dev/null"], user=user, check=False,
                        timeout=120)
    assert done.returncode == 1
    assert b"was started without rules of egress, and has none to change" in done.stderr
    assert running.popen.communicate(b"still here\n", timeout=120)[0] == b"still here\n"
    assert running.popen.returncode == 0

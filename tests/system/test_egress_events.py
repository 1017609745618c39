"""What rules of egress refuse is counted and told, by the control socket and the log: flows and names."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.lab import FAR4, Lab
from tests.support.processes import is_readable, wait_until
from tests.system.test_egress import FORWARD, FORWARD4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.lab import Running

pytestmark = pytest.mark.needs_root

PORT = 9708
# For each line of input, asks for a name of the forwarder, connects, or sends a datagram.
COMMAND = f"""
import socket, struct, sys
print("ready", flush=True)
for line in sys.stdin:
    verb, what = line.split()
    if verb == "ask":
        name = b"".join(bytes((len(label),)) + label for label in what.encode().split(b".")) + b"\\0"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(60)
            sock.connect(({FORWARD4!r}, 53))
            sock.send(struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1))
            print(sock.recv(512)[3] & 15, flush=True)
    elif verb == "tcp":
        try:
            with socket.create_connection((what, {PORT}), 60) as sock:
                print(len(sock.recv(1)), flush=True)
        except OSError as error:
            print(type(error).__name__, flush=True)
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", (what, {PORT}))
        print("sent", flush=True)
"""


class Watched:
    """A pasta whose events are read while its command does what a test says."""

    def __init__(self, lab: Lab, scratch: Path, *options: str, user: bool) -> None:
        self.lab, self.user = lab, user
        scratch.chmod(0o755)
        self.path = str(scratch / "control")
        self.running = lab.start(
            ["--config-net", "-t", "none", "-u", "none", "-T", str(PORT), "-U", str(PORT), *FORWARD,
             "--control", self.path, "--log-file", str(scratch / "log"), *options],
            ["/usr/bin/python3", "-I", "-c", COMMAND], user=user, stdin=subprocess.PIPE)
        assert self.running.popen.stdout is not None
        self.output = self.running.popen.stdout
        assert self._line(self.output) == "ready\n"
        self.events = lab.host.spawn([self.program, "-s", self.path, "events", "flow_refused", "name_refused",
                                      "--json"], user=user)
        info = ["curl", "-sS", "--unix-socket", self.path, "http://passt/v1/info"]
        wait_until(lambda: b'"listeners_of_events":1' in lab.host.run(info, user=user, timeout=120).stdout,
                   "somebody listens")

    @property
    def program(self) -> str:
        return str(Path(self.lab.pasta).with_name("passtctl"))

    @staticmethod
    def _line(output: Any) -> str:
        assert is_readable(output.fileno(), 120)
        return str(output.readline().decode())

    def say(self, *words: str) -> str:
        """Have the command do something; return what it prints."""
        assert self.running.popen.stdin is not None
        self.running.popen.stdin.write(f"{' '.join(words)}\n".encode())
        self.running.popen.stdin.flush()
        return self._line(self.output).strip()

    def event(self) -> dict[str, Any]:
        """Return the next event."""
        found: dict[str, Any] = json.loads(self._line(self.events.popen.stdout))
        return found

    def passtctl(self, *words: str) -> str:
        done = self.lab.host.run([self.program, "-s", self.path, *words], user=self.user, timeout=120)
        return done.stdout.decode()

    def close(self) -> None:
        self.running.kill()
        self.events.kill()


@pytest.fixture
def watch(lab: Lab, user: bool, scratch: Path) -> Iterator[Callable[..., Watched]]:
    """Start what is watched, and end it with the test."""
    made: list[Watched] = []

    def start(*options: str) -> Watched:
        made.append(Watched(lab, scratch, *options, user=user))
        return made[-1]

    yield start
    for each in made:
        each.close()


def test_names_are_told_and_counted(watch: Callable[..., Watched], scratch: Path,
                                    name_server: Callable[[str, str], Running]) -> None:
    name_server("alias", FAR4)             # www.good.test is an alias of cdn.test
    watched = watch("--deny", "ads.test", "--deny", "cdn.test", "--allow", "*.test", "--allow",
                    "*.google")
    for name, rule, reason in (
            ("ads.test", "deny ads.test", "rule 'deny ads.test'"),
            ("x.example", None, "no rule allows it"),
            ("www.good.test", "deny cdn.test", "rule 'deny cdn.test': it is about an alias of the name"),
            ("dns.google", None, "a server of DNS over HTTPS takes a rule with exactly its name")):
        assert watched.say("ask", name) == "5"
        event = watched.event()
        assert {key: event[key] for key in ("event", "name", "rule", "reason")} == {
            "event": "name_refused", "name": name, "rule": rule, "reason": reason}
    for _ in range(3):
        assert watched.say("ask", "ads.test") == "5"

    def counts() -> list[int]:
        shown = json.loads(watched.passtctl("policy", "--json"))
        return [*(rule["names_refused"] for rule in shown["rules"]), shown["names_refused_by_default"]]

    wait_until(lambda: counts() == [4, 1, 0, 0, 2], "each name is counted for its rule")
    metrics = watched.passtctl("metrics")
    assert 'passt_egress_refusals_total{rule="deny ads.test",what="name"} 4' in metrics
    assert 'passt_drops_total{reason="names_forbidden"} 7' in metrics
    told = (scratch / "log").read_text()
    assert "refused: the name ads.test: rule 'deny ads.test'\n" in told
    assert "refused: the name x.example: no rule allows it\n" in told


def test_what_the_bypass_refuses_is_outbound_and_has_its_rule(watch: Callable[..., Watched]) -> None:
    watched = watch("--deny", f"udp:127.0.0.1:{PORT}", "--allow", FAR4)
    for verb, rule, reason in (("udp", f"deny udp:127.0.0.1:{PORT}", f"rule 'deny udp:127.0.0.1:{PORT}'"),
                               ("tcp", None, "no rule fits")):
        watched.say(verb, "127.0.0.1")
        event = watched.event()
        assert event["source"]["address"] == "127.0.0.1"
        del event["source"], event["time"]
        assert event == {
            "event": "flow_refused", "protocol": verb, "direction": "outbound",
            "destination": {"address": "127.0.0.1", "port": PORT}, "rule": rule, "reason": reason}

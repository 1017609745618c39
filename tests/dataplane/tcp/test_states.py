"""The table of the TCP states: whole, what the connections do, and what docs/tcp-states.md says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from passt.dataplane.tcp.states import transitions
from passt.facts.contracts import Target
from tests.dataplane.tcp.script import Script
from tools import gen_tcp_states as tool

ROOT = Path(__file__).parents[3]
TABLE = {(source, target) for source, target, _, _ in transitions()}
STATES = {state for pair in TABLE for state in pair}

# How a connection comes to a state: through which one, and what happens there then.
WAYS: dict[str, tuple[str, list[str]]] = {
    "CONNECTING": ("CLOSED", ["guest S seq=0 win=65535 mss=1460"]),
    "SYN_SENT": ("CLOSED", ["client"]),
    "SYN_RECEIVED": ("CONNECTING", ["connected"]),
    "HELD": ("SYN_RECEIVED", ["guest A seq=1 ack=1"]),
    "ESTABLISHED by what was held": ("HELD", ["guest PA seq=1 ack=1 len=10"]),
    "ESTABLISHED": ("SYN_RECEIVED", ["guest A seq=1 ack=1"]),
    "ESTABLISHED by a client": ("SYN_SENT", ["guest SA seq=0 ack=1 mss=1460"]),
    "FIN_WAIT_1": ("ESTABLISHED", ["end"]),
    "FIN_WAIT_2": ("FIN_WAIT_1", ["guest A seq=1 ack=2"]),
    "CLOSE_WAIT": ("ESTABLISHED", ["guest FA seq=1 ack=1"]),
    "CLOSING": ("FIN_WAIT_1", ["guest FA seq=1 ack=1"]),
    "LAST_ACK": ("CLOSE_WAIT", ["end"]),
    "TIME_WAIT": ("FIN_WAIT_2", ["guest FA seq=1 ack=2"]),
    "TIME_WAIT at once": ("FIN_WAIT_1", ["guest FA seq=1 ack=2"]),
    "TIME_WAIT from CLOSING": ("CLOSING", ["guest A seq=2 ack=2"]),
    "TIME_WAIT from LAST_ACK": ("LAST_ACK", ["guest A seq=2 ack=2"]),
}


class Seen:
    """The transitions of a script's one connection."""

    def __init__(self, script: Script) -> None:
        self.state = "CLOSED"
        self.pairs: set[tuple[str, str]] = set()
        script.bench.set_trace(self.note)

    def note(self, line: str) -> None:
        """Take a line of the trace, such as "flow 0: ESTABLISHED"."""
        said = re.fullmatch(r"flow 0: (\w+)", line)
        assert said
        self.pairs.add((self.state, said[1]))
        self.state = said[1]


def go(script: Script, state: str) -> None:
    """Bring the connection to a state, by one of WAYS."""
    if state == "CLOSED":
        return
    before, events = WAYS[state]
    if state == "HELD":
        script.policy.target = Target(b"", 0, held=True)
    go(script, before)
    for event in events:
        verb, _, segment = event.partition(" ")
        if verb == "guest":
            script.guest(segment)
        elif verb == "client":
            script.peer.knock()
        elif verb == "connected":
            script.sock.connected()
        else:
            script.sock.end()
        script.take_all()


@pytest.mark.parametrize("way", WAYS)
def test_connection_comes_to_the_state_by_legal_steps(way: str) -> None:
    with Script() as script:
        seen = Seen(script)
        go(script, way)
        # What follows LAST_ACK is forgotten with the next timers.
        assert seen.state in {way.partition(" ")[0], "CLOSED"}
        assert seen.pairs <= TABLE


def test_each_step_of_the_table_can_happen() -> None:
    found = set()
    for way in WAYS:
        with Script() as script:
            seen = Seen(script)
            go(script, way)
            script.close_engine()
            script.take_all()
            assert seen.state == "CLOSED"
            found |= seen.pairs
    assert found == TABLE


def test_each_step_is_in_the_table_once_with_its_section_and_event() -> None:
    assert len(transitions()) == len(TABLE) == 26
    for _, _, sections, event in transitions():
        assert re.fullmatch(r"3\.\d+(\.\d+)*(, 3\.\d+(\.\d+)*)*", sections)
        assert event
        assert not {*event} & {*":;|\n"}  # they would end a label of the diagram, or a cell of the table


def test_each_state_is_reached_and_left() -> None:
    assert len(STATES) == 12
    assert {source for source, _ in TABLE} == {target for _, target in TABLE} == STATES
    # A connection can be cut short in every state.
    assert {source for source, target in TABLE if target == "CLOSED"} == STATES - {"CLOSED"}


def test_page_is_what_the_tool_prints_of_the_table() -> None:
    check = subprocess.run([sys.executable, str(ROOT / "tools" / "gen_tcp_states.py"), "--check"],
                           capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")


def test_page_that_differs_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "docs" / "tcp-states.md"
    monkeypatch.setattr(tool, "PAGE", page)
    monkeypatch.setattr(tool, "ROOT", tmp_path)
    monkeypatch.setattr(tool, "__file__", str(tmp_path / "tools" / "gen_tcp_states.py"))
    assert tool.main(["--check"]) == 1
    page.parent.mkdir()
    assert tool.main([]) == 0
    assert tool.main(["--check"]) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("CLOSING", "CLOSED", 1), encoding="utf-8")
    assert tool.main(["--check"]) == 1
    assert capsys.readouterr().err == 2 * "docs/tcp-states.md is out of date: run tools/gen_tcp_states.py\n"

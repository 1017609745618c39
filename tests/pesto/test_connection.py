"""What pesto makes of what comes from the other end."""

from __future__ import annotations

import concurrent.futures
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from passt.errors import HostError
from passt.facts.port_rule import PortRule
from passt.pesto.connection import Connection
from passt.steer.messages import Answer, Hello, NewTable, Report, Table
from tests.pesto.program import Program, program, say
from tests.support.processes import is_readable, wait_until

if TYPE_CHECKING:
    from pathlib import Path

HELLO = Hello((Table(1, "HOST", 63, (PortRule(6, 80, 80, 80),) * 255, reports=True),))
ANSWER = Answer((NewTable(1),), wants_report=True)


def test_tables_come_in_any_pieces(tmp_path: Path) -> None:
    with program(tmp_path, say(HELLO.build(), 11)) as made, Connection(made.path) as connection:
        assert connection.read_hello() == HELLO


@pytest.mark.parametrize(("data", "text"), [
    (b"", "closed the connection: did another user start it"),
    (HELLO.build()[:-1], "closed the connection in the middle of its tables"),
    (b"HTTP/1.1 400 Bad Request", "not the socket of a passt or pasta"),
    (HELLO.build()[:8] + b"\0\0\0\7" + HELLO.build()[12:], "version 7"),
])
def test_no_tables_is_one_line(tmp_path: Path, data: bytes, text: str) -> None:
    with (program(tmp_path, say(data)) as made, Connection(made.path) as connection,
          pytest.raises(HostError, match=text)):
        connection.read_hello()


def test_report_is_read_to_its_end(tmp_path: Path) -> None:
    report = Report(is_refused=True, lines=("port 22: no",))
    with program(tmp_path, say(HELLO.build(), reply=report.build())) as made:
        with Connection(made.path) as connection:
            connection.read_hello()
            assert connection.send_answer(ANSWER) == report
        assert made.answers == [ANSWER]


def test_program_that_tells_nothing_is_believed_only_if_it_never_does(tmp_path: Path) -> None:
    quiet = Answer((NewTable(1),))
    with program(tmp_path, say(HELLO.build(), reply=b""), say(HELLO.build(), reply=b"")) as made:
        with Connection(made.path) as connection:
            connection.read_hello()
            assert connection.send_answer(quiet) is None
        with Connection(made.path) as connection:
            connection.read_hello()
            with pytest.raises(HostError, match="may have been changed, or not"):
                connection.send_answer(ANSWER)


def test_who_is_let_go_is_told_so(tmp_path: Path) -> None:
    """Before the answer is sent, as somebody has thought about it too long, and before it is read."""
    is_asked = threading.Event()

    def wait(_: Program, client: socket.socket) -> None:
        client.sendall(HELLO.build())
        is_asked.wait(60)

    def wait_for_data(_: Program, client: socket.socket) -> None:
        client.sendall(HELLO.build())
        client.recv(1)

    with program(tmp_path, wait, wait_for_data) as made:
        with Connection(made.path) as connection:
            connection.read_hello()
            is_asked.set()
            wait_until(lambda: is_readable(connection._sock), "the program lets go")
            with pytest.raises(HostError, match="let us go, as it waits for an answer 5 s, or it has ended"):
                connection.send_answer(ANSWER)
        with Connection(made.path) as connection:
            connection.read_hello()
            with pytest.raises(HostError, match="nothing was changed"):
                connection.send_answer(ANSWER)


def test_program_that_does_not_answer_is_given_up(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "socket"))
    sock.listen(1)
    with (sock, Connection(str(tmp_path / "socket"), wait_s=0.05) as connection,
          pytest.raises(HostError, match="does not answer")):
        connection.read_hello()


def test_program_that_answers_a_byte_at_a_time_is_given_up(tmp_path: Path) -> None:
    is_over = threading.Event()

    def drip(_: Program, client: socket.socket) -> None:
        client.sendall(HELLO.build()[:-1] + b"\2" + bytes(134) + b"\xff\xff")   # 65,535 rules follow
        while not is_over.wait(0.01):
            client.sendall(b"\0")

    with program(tmp_path, drip) as made:
        try:
            with (Connection(made.path, wait_s=0.2) as connection,
                  pytest.raises(HostError, match="does not answer")):
                connection.read_hello()
        finally:
            is_over.set()


def test_no_program_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"^Failed to connect to /no/socket: No such file or directory$"):
        Connection("/no/socket")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "socket"))
    sock.close()
    with pytest.raises(HostError, match="Connection refused; the program that made"):
        Connection(str(tmp_path / "socket"))
    with pytest.raises(HostError, match=r"Failed to connect to x+: AF_UNIX path too long"):
        Connection("x" * 200)


def test_many_at_once_wait_for_a_silent_one(tmp_path: Path) -> None:
    """The queue of the program's socket has room for 8 (`host.unix_socket.BACKLOG`), or less."""
    is_first_done = threading.Event()

    def hold(_: Program, client: socket.socket) -> None:
        client.sendall(HELLO.build())
        is_first_done.wait(60)

    with (program(tmp_path, hold, *[say(HELLO.build())] * 20) as made, Connection(made.path) as silent,
          concurrent.futures.ThreadPoolExecutor(20) as threads):
        silent.read_hello()

        def ask(_: int) -> Hello:
            with Connection(made.path) as connection:
                return connection.read_hello()

        asked = [threads.submit(ask, number) for number in range(20)]
        done, _ = concurrent.futures.wait(asked, 0.2)
        is_first_done.set()
        assert not done
        assert [each.result() for each in asked] == [HELLO] * 20


def test_who_waits_too_long_is_told_why(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "socket"))
        door.listen(0)
        with (Connection(str(tmp_path / "socket")),
              pytest.raises(HostError, match="Connection timed out; others keep the program busy")):
            Connection(str(tmp_path / "socket"), wait_s=0.05)

"""Name servers: which are asked, what their answers mean, and real questions on loopback."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from passt.passtctl.doctor import resolvers
from passt.passtctl.doctor.finding import ERROR, OK, WARNING
from passt.passtctl.doctor.resolvers import SILENT, ask_all, check, read_code
from tests.support.made_machine import make

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from passt.facts.address import IPAddress

GOOD = ""
QUESTION = b"\x01a\x0croot-servers\x03net\x00\x00\x01\x00\x01"
LIMIT_S = 60.0


def judge(tmp_path: Path, text: str, *faults: str) -> list[tuple[str, tuple[str, ...]]]:
    """Give level and commands of each finding about a resolv.conf whose servers reply so."""
    found = check(make(tmp_path, {"/etc/resolv.conf": text}), lambda servers: [*faults][: len(servers)])
    assert all(finding.as_root for finding in found if finding.commands)
    return [(finding.level, finding.commands) for finding in found]


def test_no_server_is_named(tmp_path: Path) -> None:
    wanted = [(ERROR, ("echo nameserver ADDRESS >>/etc/resolv.conf",))]
    for text in ("", "search example.org\n", "nameserver nonsense\n", "\0\xff\n"):
        assert judge(tmp_path, text) == wanted
    assert check(make(tmp_path / "none"))[0].level == ERROR


def test_servers_that_answer(tmp_path: Path) -> None:
    text = "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    assert judge(tmp_path, text, GOOD, GOOD) == [(OK, ()), (OK, ())]
    [found] = check(make(tmp_path, {"/etc/resolv.conf": "nameserver 127.0.0.53\n"}), lambda _: [GOOD])
    assert (found.level, "--dns-forward" in found.text) == (OK, True)


def test_dead_server_beside_one_that_lives_is_taken_out(tmp_path: Path) -> None:
    text = "nameserver 192.0.2.1\nnameserver 2001:db8::1\n"
    (level, [command]), good = judge(tmp_path, text, SILENT, GOOD)
    assert (level, good) == (WARNING, (OK, ()))
    assert r"192\.0\.2\.1" in command
    (level, [command]) = judge(tmp_path, text, GOOD, SILENT)[1]
    assert (level, "2001:db8::1" in command) == (WARNING, True)


def test_only_server_is_dead(tmp_path: Path) -> None:
    """Nothing but the address is for the user to give."""
    for fault in (SILENT, "SERVFAIL"):
        [(level, [command])] = judge(tmp_path, "nameserver 127.0.0.53\n", fault)
        assert (level, "'nameserver ADDRESS'" in command) == (ERROR, True)
    make(tmp_path, {"/run/systemd/resolve/stub": ""})
    assert judge(tmp_path, "nameserver 127.0.0.53\n", SILENT) == [
        (ERROR, ("systemctl restart systemd-resolved",))
    ]


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("nameserver 127.1", "127.0.0.1"),
        ("nameserver\t2001:DB8:0::1#x", "2001:db8::1"),
        ("nameserver 192.0.2.10", "192.0.2.10"),
        ("nameserver fe80::1%1 ; x", "fe80::1%1"),
    ],
)
def test_command_takes_out_that_server_alone(tmp_path: Path, line: str, address: str) -> None:
    rest = "# a comment\nnameserver 192.0.2.1\nnameserver 192.0.2.100\nsearch example.org\noptions edns0\n"
    machine = make(tmp_path, {"/etc/resolv.conf": f"{line}\n{rest}"})
    servers: list[IPAddress] = []

    def ask(found: Sequence[IPAddress]) -> list[str]:
        servers.extend(found)
        return [SILENT, GOOD, GOOD]

    [command] = check(machine, ask)[0].commands
    assert str(servers[0]) == address
    run(tmp_path, command)
    assert (tmp_path / "etc/resolv.conf").read_text(encoding="utf-8") == rest


def test_command_for_dead_servers_keeps_the_rest(tmp_path: Path) -> None:
    text = "search example.org\nnameserver 192.0.2.1\noptions edns0\n"
    [(_, [command])] = judge(tmp_path, text, SILENT)
    run(tmp_path, command.replace("ADDRESS", "192.0.2.2"))
    assert (tmp_path / "etc/resolv.conf").read_text(encoding="utf-8") == (
        "nameserver 192.0.2.2\nsearch example.org\noptions edns0\n"
    )


def run(root: Path, command: str) -> None:
    """Run a command on the files of a made-up machine."""
    subprocess.run(["sh", "-c", command.replace("/etc/", f"{root}/etc/")], check=True)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind(("127.0.0.1", 0))
        made.settimeout(LIMIT_S)
        yield made


def ask(server: socket.socket, answer: Callable[[bytes], Sequence[bytes]], limit_s: float = LIMIT_S) -> str:
    """Ask *server*, which sends what *answer* makes of each question."""
    asked: list[bytes] = []

    def serve() -> None:
        query, client = server.recvfrom(512)
        asked.append(query)
        for datagram in answer(query):
            server.sendto(datagram, client)

    thread = threading.Thread(target=serve)
    thread.start()
    [fault] = ask_all([ip_address("127.0.0.1")], limit_s, server.getsockname()[1])
    thread.join()
    [query] = asked
    assert query[2:] == struct.pack("!5H", 0x0100, 1, 0, 0, 0) + QUESTION
    return fault


def reply_to(query: bytes, code: int = 0) -> bytes:
    return query[:2] + struct.pack("!H", 0x8180 | code) + query[4:]


def test_any_answer_is_a_sign_of_life(server: socket.socket) -> None:
    assert ask(server, lambda query: [reply_to(query)]) == GOOD
    assert ask(server, lambda query: [reply_to(query, 5)]) == GOOD
    found = ask(server, lambda query: [reply_to(query, 2)])
    assert "SERVFAIL" in found


def test_what_is_no_answer_is_passed_over(server: socket.socket) -> None:
    def answer(query: bytes) -> list[bytes]:
        other = bytes((query[0] ^ 1, query[1]))
        return [
            b"",
            b"x",
            query,
            other + reply_to(query)[2:],
            reply_to(query)[:11],
            b"\xff" * 1500,
            reply_to(query),
        ]

    assert ask(server, answer) == GOOD


def test_silence_is_told(server: socket.socket) -> None:
    assert ask_all([ip_address("127.0.0.1")], 0.02, server.getsockname()[1]) == [SILENT]


def test_question_is_repeated(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolvers, "AGAIN_S", 0.01)

    def answer(query: bytes) -> list[bytes]:
        again, _ = server.recvfrom(512)
        assert again == query
        return [reply_to(query)]

    assert ask(server, answer) == GOOD


def test_closed_port_is_told_at_once(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    servers: list[IPAddress] = [ip_address("127.0.0.1"), ip_address("127.0.0.2")]
    assert ask_all(servers, LIMIT_S, port) == ["there is no server: port 53 is closed"] * 2


def test_address_that_cannot_be_asked() -> None:
    # A link-local address without an interface.
    [fault] = ask_all([ip_address("fe80::1")], 0.02)
    assert fault not in {"", SILENT}
    assert ask_all([], 0.02) == []


def test_codes() -> None:
    good = struct.pack("!6H", 7, 0x8183, 1, 0, 0, 0)
    assert read_code(good, 7) == 3
    assert [read_code(good[:n], 7) for n in range(12)] == [None] * 12
    assert read_code(good, 8) is None
    assert read_code(struct.pack("!6H", 7, 0x0103, 1, 0, 0, 0), 7) is None

"""Sockets of a service manager: which are ours, by what variables, and which can be taken for a rule."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError
from passt.facts.port_rule import PortRule
from passt.host import inherited_sockets
from passt.host.inherited_sockets import adopt, list_handed_over

if TYPE_CHECKING:
    from collections.abc import Iterator

TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP


def rule(proto: int = TCP, name: str = "web") -> PortRule:
    return PortRule(proto, 0, 0, 80, inherited=name, spec=f"-t fd:{name}:80")


@pytest.fixture
def stream() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def datagram() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.mark.parametrize(("variables", "found"), [
    ({}, {}),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, {3: "a", 4: "b"}),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a"}, {3: "a", 4: "unknown"}),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, {3: "unknown", 4: "unknown"}),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a:b:c"}, {3: "a"}),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}, {}),
    ({"LISTEN_PID": "8", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}, {}),  # for another process
    ({"LISTEN_FDS": "2"}, {}),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, {}), ({"LISTEN_PID": "7", "LISTEN_FDS": "x"}, {}),
    ({"LISTEN_PID": "7", "LISTEN_FDS": "99999999999"}, {}), ({"LISTEN_PID": "7", "LISTEN_FDS": "\u0662"}, {}),
])
def test_variables_tell_which_descriptors_are_ours(variables: dict[str, str], found: dict[int, str]) -> None:
    assert list_handed_over(variables, 7) == found


def test_the_process_itself_is_meant_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert list_handed_over() == {3: "unknown"}


def test_all_sockets_of_the_name_and_the_protocol_are_taken(stream: socket.socket, datagram: socket.socket
                                                            ) -> None:
    os.set_inheritable(stream.fileno(), True)
    with socket.create_server(("127.0.0.1", 0)) as second, socket.create_server(("127.0.0.1", 0)) as other:
        handed_over = {stream.fileno(): "web", datagram.fileno(): "web", second.fileno(): "web",
                       other.fileno(): "other"}
        for proto, wanted in ((TCP, [stream, second]), (UDP, [datagram])):
            found = adopt(rule(proto), handed_over)
            assert [sock.getsockname() for sock in found] == [sock.getsockname() for sock in wanted]
            for sock in found:
                assert (sock.gettimeout(), sock.get_inheritable()) == (0.0, False)
                sock.close()


def test_a_name_that_nobody_handed_over_is_told_with_those_that_are_there(stream: socket.socket) -> None:
    with pytest.raises(ConfigError, match=r"^-t fd:web:80: no TCP socket .* those that are: ssh$"):
        adopt(rule(), {stream.fileno(): "ssh"})
    with pytest.raises(ConfigError, match=r"no UDP socket .* those that are: web$"):
        adopt(rule(UDP), {stream.fileno(): "web"})
    with pytest.raises(ConfigError, match=r"no sockets are handed over .* at all \(LISTEN_FDS\)$"):
        adopt(rule(), {})


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("kind", ["file", "gone", "bound", "connected"])
def test_what_cannot_be_listened_on_is_refused_and_nothing_stays_open(
        stream: socket.socket, datagram: socket.socket, kind: str) -> None:
    proto = UDP if kind == "connected" else TCP
    file = os.open("/dev/null", os.O_RDONLY)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        datagram.connect(datagram.getsockname())
        descriptor, why = {
            "file": (file, "is no socket"), "gone": (99999, "is no socket"),
            "bound": (bound.fileno(), "does not listen"), "connected": (datagram.fileno(), "is connected"),
        }[kind]
        before = open_descriptors()
        with pytest.raises(ConfigError, match=f"^-t fd:web:80: .*{why}"):
            adopt(rule(proto), {stream.fileno(): "web", descriptor: "web"})
        assert open_descriptors() == before
    os.close(file)


def test_the_command_learns_nothing_of_it(stream: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in inherited_sockets.VARIABLES:
        monkeypatch.setenv(name, "1")
    copy = os.dup(stream.fileno())
    inherited_sockets.forget({copy: "web"})
    assert not any(name in os.environ for name in inherited_sockets.VARIABLES)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)

"""A hostile instance: its answers end in one clear line, in bounded memory, and do nothing to a terminal."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.passtctl import instances
from passt.passtctl.command import Command
from passt.passtctl.instances import GoneError, Instance
from passt.passtctl.main import run
from tests.passtctl.top.test_sample import a_flow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EVIL = "\x1b]0;pwned\x07\x9b2J\u202e"


@contextlib.contextmanager
def answering(path: Path, *bodies: bytes, name: str = "evil.sock") -> Iterator[Instance]:
    """Lend an instance that answers each request in turn with one of *bodies*, the last one for ever."""
    door = socket.socket(socket.AF_UNIX)
    door.bind(str(path / name))
    door.listen()

    def serve() -> None:
        left = list(bodies)
        while True:
            try:
                client, _ = door.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError):
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + (left.pop(0) if len(left) > 1 else left[0]))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield Instance(str(path / name))
    finally:
        door.shutdown(socket.SHUT_RDWR)
        thread.join()
        door.close()


@pytest.mark.parametrize("body", [
    b"", b"{", b"\xff", b"[" * 100_000, b'{"flows":[]}', b'{"flows":7,"next":null}', b'{"flows":[],"next":0}',
    b'{"flows":[],"next":"x"}', b'{"flows":[],"next":[]}', b"[]", b"7",
])  # fmt: skip
def test_nonsense_is_one_line(tmp_path: Path, body: bytes) -> None:
    with answering(tmp_path, body) as instance, pytest.raises(HostError, match="what it answers"):
        list(instance.flows(""))


def test_pages_that_go_round_end(tmp_path: Path) -> None:
    with answering(tmp_path, b'{"flows":[],"next":5}') as instance, pytest.raises(HostError, match="no page"):
        list(instance.flows(""))


def test_an_answer_that_never_ends_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "MAX_ANSWER", 1000)
    with answering(tmp_path, b"x" * 9999) as instance, pytest.raises(HostError, match="more than 1000 bytes"):
        instance.text("/v1/info")


def test_an_instance_that_is_not_there_is_gone_and_one_that_refuses_is_not(tmp_path: Path) -> None:
    with pytest.raises(GoneError):
        Instance(str(tmp_path / "nothing")).ask("/v1/info")
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(tmp_path / "ended"))
    with pytest.raises(GoneError):
        Instance(str(tmp_path / "ended")).ask("/v1/info")
    with answering(tmp_path, b"{") as instance, pytest.raises(HostError) as raised:
        instance.ask("/v1/info")
    assert not isinstance(raised.value, GoneError)


@pytest.mark.parametrize("words", [("flows",), ("metrics",), ("log",), ("ports",), ("events",)])
def test_controls_of_an_instance_are_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    flow = a_flow() | {"rule": EVIL, "state": EVIL, "remote": {"address": EVIL, "port": 5}}
    port = {"side": EVIL, "protocol": "tcp", "address": EVIL, "interface": None, "port": 5, "leads_to": None,
            "target_address": EVIL, "table": EVIL, "auto": True, "rule": EVIL}  # fmt: skip
    rule = {"table": EVIL, "text": EVIL, "open": 1, "option": EVIL}
    body = {"flows": json.dumps({"flows": [flow], "next": None}), "metrics": f"passt_{EVIL} 1\n",
            "log": json.dumps({"level": EVIL}), "ports": json.dumps({"rules": [rule], "ports": [port]}),
            "events": json.dumps({"event": EVIL, "time": 5.0, "flow": flow}) + "\n"}[words[0]]  # fmt: skip
    with answering(tmp_path, body.encode()) as instance:
        with contextlib.suppress(HostError):
            run(Command(words[0], path=instance.path))
        out = capfd.readouterr().out
        assert r"\x1b]0;pwned\x07" in out
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)
        with contextlib.suppress(HostError):
            run(Command(words[0], path=instance.path, json=True))
        assert "\x1b" not in capfd.readouterr().out


def test_an_event_that_is_none_is_one_line(tmp_path: Path) -> None:
    for body in (b"{}\n", b"7\n", b"{\n", b"x" * 100 + b"\n"):
        with answering(tmp_path, body) as instance, pytest.raises(HostError, match="no event"):
            run(Command("events", path=instance.path))
        (tmp_path / "evil.sock").unlink()


def test_an_instance_with_a_full_queue_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "LIMIT_S", 0.05)
    path = str(tmp_path / "busy.sock")
    with socket.socket(socket.AF_UNIX) as door, socket.socket(socket.AF_UNIX) as first:
        door.bind(path)
        door.listen(0)
        first.connect(path)
        with pytest.raises(HostError, match="no answer in"):
            Instance(path).ask("/v1/info")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the directory of this user's sockets."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "passt").mkdir()
    return tmp_path / "passt"


def test_one_that_does_not_answer_is_told_and_not_passed_over(
    runtime: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(str(runtime / "3.sock"))
    with answering(runtime, b"{", name="4.sock"), answering(runtime, b'{"pid":5}', name="5.sock"):
        silent: list[HostError] = []
        assert [info["pid"] for _, info in instances.reachable(silent)] == [5]
        [error] = silent
        assert "4.sock: what it answers is no JSON" in str(error)
        with pytest.raises(ConfigError, match=r"-p.*4\.sock"):
            instances.choose(None, None)
        assert instances.choose(5, None).path.endswith("/5.sock")
    with answering(runtime, b"7", name="6.sock"):
        run(Command("list"))
        assert "6.sock: what it answers does not tell who it is" in capfd.readouterr().err


def test_name_chooses_among_those_that_answer_and_none_while_one_does_not(runtime: Path) -> None:
    web, sleep = b'{"pid":3,"command":["/bin/web","x"]}', b'{"pid":4,"command":["sleep","9"]}'
    with answering(runtime, web, name="3.sock"), answering(runtime, sleep, name="4.sock"):
        assert instances.choose(None, None, "we").path.endswith("/3.sock")
        assert instances.choose(None, None, "4").path.endswith("/4.sock")
        with pytest.raises(ConfigError, match=r"'cat' is neither .* 3 \(/bin/web x\), 4 \(sleep 9\)"):
            instances.choose(None, None, "cat")
        with pytest.raises(ConfigError, match=r"or its name: 3 \(/bin/web x\), 4 \(sleep 9\)"):
            instances.choose(None, None)
        with answering(runtime, b"{", name="5.sock"), pytest.raises(ConfigError, match=r"-p.*5\.sock"):
            instances.choose(None, None, "web")


def test_pid_is_asked_for_at_the_socket_of_that_name_first(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX) as stopped, answering(runtime, b'{"pid":41}', name="41.sock"):
        stopped.bind(str(runtime / "7.sock"))
        stopped.listen()
        stopped.setblocking(False)
        assert instances.choose(41, None).path.endswith("/41.sock")
        with pytest.raises(BlockingIOError):
            stopped.accept()           # nobody has come


def test_pid_that_another_name_has_is_found(runtime: Path) -> None:
    with answering(runtime, b'{"pid":41}', name="2.sock"):
        assert instances.choose(41, None).path.endswith("/2.sock")
        with pytest.raises(ConfigError, match="no instance"):
            instances.choose(2, None)


def test_what_is_no_control_socket_is_told(tmp_path: Path) -> None:
    file, left = tmp_path / "file", tmp_path / "left.sock"
    file.touch()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(left))
    for path, line in ((file, "Connection refused; this is no socket"),
                       (left, "Connection refused; the program that made this socket has ended")):
        with pytest.raises(GoneError, match=f"^{path}: {line}$"):
            Instance(str(path)).ask("/v1/info")


def test_socket_of_conf_path_is_told(tmp_path: Path) -> None:
    """Its program speaks first, in bytes of its own."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(tmp_path / "conf"))
        door.listen()

        def greet() -> None:
            client, _ = door.accept()
            with client:
                client.sendall(b"basil:s\0\0\0\0\2" * 9)
                client.recv(1 << 16)

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(HostError, match=r"no socket of --control; that of --conf-path is for pesto$"):
            Instance(str(tmp_path / "conf")).ask("/v1/info")
        thread.join()

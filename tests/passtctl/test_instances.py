"""A hostile instance: its answers end in one clear line, in bounded memory, and do nothing to a terminal."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.passtctl import instances, main
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
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass           # closed with a body unread, the connection would be reset

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


@pytest.mark.parametrize("begin", [
    b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
])  # fmt: skip
def test_an_answer_that_comes_a_byte_at_a_time_has_its_time(tmp_path: Path, begin: bytes) -> None:
    path = str(tmp_path / "slow.sock")
    is_over = threading.Event()

    def drip() -> None:
        client, _ = door.accept()
        with client, contextlib.suppress(OSError):
            client.sendall(begin)
            while not is_over.wait(0.01):
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" if b"100" in begin else b"x")

    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(HostError, match=r"no answer in|line"):
                Instance(path, 0.1).ask("/v1/info")
        finally:
            is_over.set()
            thread.join()


@pytest.mark.parametrize("following", [b"0.1", b"true", b"65537", b"1e300"])
def test_cursors_that_never_end_are_refused(tmp_path: Path, following: bytes) -> None:
    with answering(tmp_path, b'{"flows":[],"next":%s}' % following) as instance, pytest.raises(
            HostError, match="no page"):
        list(instance.flows(""))


def test_more_flows_than_there_can_be_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instances, "MAX_FLOWS", 3)
    pages = [b'{"flows":[1,2],"next":%d}' % n for n in (1, 2, 3)]
    with answering(tmp_path, *pages) as instance, pytest.raises(HostError, match="no page"):
        list(instance.flows(""))


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


@pytest.mark.parametrize(("words", "options"), [
    (("flows",), {}), (("stats",), {}), (("stats",), {"json": True}), (("log",), {}), (("log", "info"), {}),
    (("ports",), {}), (("ports", "add"), {"specs": ("-t 80",)}), (("explain", "192.0.2.1:80"), {}),
    (("explain",), {"inbound": "80"}), (("capture", "list"), {}), (("capture", "list"), {"json": True}),
    (("capture", "stop", "1"), {}), (("capture",), {"ring": "1M"}),
])  # fmt: skip
@pytest.mark.parametrize("body", [b"7", b"null", b"{}", b'[{"id":[]}]', b'"x"', b'{"flows":[{}],"next":null}',
                                  b'{"limits":{"x":{"now":[],"most":{}}}}', b'{"captures":[{}],"rules":[3]}'])
def test_answers_of_another_kind_are_one_line(tmp_path: Path, words: tuple[str, ...],
                                              options: dict[str, object], body: bytes) -> None:
    asked = Command(words[0], words=words[1:], **options)  # type: ignore[arg-type]
    with answering(tmp_path, body) as instance, contextlib.suppress(HostError):
        run(asked._replace(path=instance.path))


def test_capture_prints_no_controls(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told = {"id": EVIL, "to": EVIL, "filter": EVIL, "packets": EVIL, "lost": EVIL, "overwritten": EVIL,
            "held_bytes": 1, "size_bytes": 1}  # fmt: skip
    for words, body in ((("stop", "1"), told), ((), told), (("list",), {"captures": [told]})):
        asked = Command("capture", words=words, ring=None if words else "1M")
        with answering(tmp_path, json.dumps(body).encode()) as instance:
            run(asked._replace(path=instance.path))
        (tmp_path / "evil.sock").unlink()
        told = told | {"to": "ring"}
        out, err = capfd.readouterr()
        assert r"\x1b]0;pwned\x07" in out + err
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out + err)


@pytest.mark.parametrize("event", [b'{"event":"x","time":1e999}', b'{"event":"x","time":1e17}'])
def test_an_event_at_no_time_is_one_line(tmp_path: Path, event: bytes) -> None:
    with answering(tmp_path, event + b"\n") as instance, pytest.raises(HostError, match="no event"):
        run(Command("events", path=instance.path))


def test_kinds_that_are_not_ascii_are_asked_for(tmp_path: Path) -> None:
    with answering(tmp_path, b"") as instance, pytest.raises(HostError, match="has ended"):
        run(Command("events", path=instance.path, words=("\u043a\u043b", "a b")))


def test_one_that_lies_is_told_and_others_are_listed(
    runtime: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    counters = dict.fromkeys(main._RATES + main._FLOWS, 5)
    info = {"pid": 5, "mode": "pasta", "uptime_s": 1.0, "command": ["sleep", "1"], "namespace": None,
            "limits": {"listeners": {"now": 3, "most": 9}}}  # fmt: skip
    liars = [info | {"pid": "5"}, info | {"limits": []}, info | {"command": 7}, info | {"command": [None]},
             info | {"uptime_s": 1e300}, {"pid": 5}]
    with contextlib.ExitStack() as stack:
        for i, told in enumerate([info, *liars]):
            bodies = json.dumps(told).encode(), json.dumps(counters).encode()
            stack.enter_context(answering(runtime, *bodies, name=f"{i}.sock"))
        bad = json.dumps(info).encode(), json.dumps(counters | {"flows_tcp": "x"}).encode()
        stack.enter_context(answering(runtime, *bad, name="9.sock"))
        assert run(Command("list", json=True)) == 0
    out, err = capfd.readouterr()
    assert [row["serves"] for row in json.loads(out)] == ["sleep 1"]
    assert [f"{i}.sock: what it answers makes no sense" in err for i in (*range(1, 7), 9)] == [True] * 7


def test_one_that_lies_and_is_named_is_an_error(tmp_path: Path) -> None:
    info = {"pid": 5, "mode": "pasta", "uptime_s": 1.0, "command": ["sleep", "1"], "namespace": None,
            "limits": []}  # fmt: skip
    with answering(tmp_path, json.dumps(info).encode(), b"{}") as instance, \
            pytest.raises(HostError, match="makes no sense"):
        run(Command("list", path=instance.path))


@pytest.mark.parametrize("kind", ["open to others", "link"])
def test_directory_that_others_may_change_is_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    directory = tmp_path / "passt"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    if kind == "link":
        (tmp_path / "other").mkdir()
        directory.symlink_to(tmp_path / "other")
    else:
        directory.mkdir()
    if kind == "open to others":
        directory.chmod(0o777)
    with answering(directory, b'{"pid":5}', name="5.sock"):
        assert instances.find_all() == []
        with pytest.raises(ConfigError, match="no instance"):
            instances.choose(5, None)


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

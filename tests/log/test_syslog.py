"""The system log: format, and a daemon that is late, slow, restarted, or gone."""

from __future__ import annotations

import os
import re
import resource
import socket
from typing import TYPE_CHECKING

import pytest

from passt.log import ERR, INFO, WARNING, Logger
from passt.log.syslog import Syslog
from tests.support.fakes import Clock
from tests.support.isolated import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Daemon:
    """A log daemon's socket at *path*."""

    def __init__(self, path: Path, kind: int = socket.SOCK_DGRAM) -> None:
        self.socket = socket.socket(socket.AF_UNIX, kind)
        path.unlink(missing_ok=True)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def messages(self) -> list[bytes]:
        found = []
        try:
            while True:
                found.append(self.socket.recv(9000))
        except BlockingIOError:
            return found

    def texts(self) -> list[str]:
        return [message.decode().partition(": ")[2] for message in self.messages()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def daemon(path: Path) -> Iterator[Daemon]:
    one = Daemon(path)
    yield one
    one.socket.close()


def test_message_is_as_of_syslog(daemon: Daemon, path: Path) -> None:
    Syslog("pasta", str(path)).send(WARNING, "some words")
    (message,) = daemon.messages()
    assert re.fullmatch(rb"<28>[A-Z][a-z]{2} [ 123]\d \d\d:\d\d:\d\d pasta\[%d\]: some words" % os.getpid(),
                        message)


def test_daemon_that_comes_later_is_told_what_it_missed(path: Path) -> None:
    clock = Clock(100.0)
    log = Syslog("pasta", str(path), clock)
    assert log.fileno() == -1
    for _ in range(3):
        log.send(INFO, "lost")
    daemon = Daemon(path)
    log.send(INFO, "lost too: too soon for another attempt")
    assert daemon.texts() == []
    clock.now_s += 1
    log.send(INFO, "here")
    assert daemon.texts() == ["4 messages before this one were lost", "here"]
    daemon.socket.close()


def test_restarted_daemon_is_found_at_once(daemon: Daemon, path: Path) -> None:
    log = Syslog("pasta", str(path), Clock(100.0))
    log.send(INFO, "one")
    assert daemon.texts() == ["one"]
    daemon.socket.close()
    second = Daemon(path)
    log.send(INFO, "two")
    assert second.texts() == ["two"]
    second.socket.close()


def test_gone_daemon_costs_one_attempt_a_second(daemon: Daemon, path: Path) -> None:
    clock = Clock(100.0)
    log = Syslog("pasta", str(path), clock)
    daemon.socket.close()
    path.unlink()
    for _ in range(10):
        log.send(INFO, "lost")
    assert log.fileno() == -1
    second = Daemon(path)
    clock.now_s += 1
    log.send(INFO, "back")
    assert second.texts() == ["10 messages before this one were lost", "back"]
    second.socket.close()


def test_slow_daemon_holds_nobody_up(daemon: Daemon, path: Path) -> None:
    log = Syslog("pasta", str(path), Clock(100.0))
    for _ in range(10000):
        log.send(INFO, "x" * 100)
    n = len(daemon.messages())
    assert 0 < n < 10000
    log.send(INFO, "after")
    assert daemon.texts() == [f"{10000 - n} messages before this one were lost", "after"]


def test_stream_socket_is_spoken_to_as_well(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        log = Syslog("pasta", str(path))
        log.send(INFO, "one")
        log.send(INFO, "two")
        peer, _ = listener.accept()
        with peer:
            parts = peer.recv(9000).split(b"\0")
        assert [part.partition(b": ")[2] for part in parts] == [b"one", b"two", b""]


@in_child
def test_descriptor_is_none_of_the_standard_ones(path: Path) -> None:
    one = Daemon(path)
    os.close(0)
    log = Syslog("pasta", str(path))
    assert log.fileno() > 2
    log.send(INFO, "word")
    assert one.texts() == ["word"]
    one.socket.close()


@in_child
def test_message_is_lost_where_no_socket_can_be_opened(path: Path) -> None:
    clock = Clock()
    one = Daemon(path)
    log = Syslog("pasta", str(path), clock)
    one.socket.close()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    log.send(INFO, "lost")
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    two = Daemon(path)
    clock.now_s += 2
    log.send(INFO, "word")
    assert two.texts() == ["1 messages before this one were lost", "word"]
    two.socket.close()


# Where messages go


def test_lines_go_to_the_system_log_besides_the_terminal_and_then_alone(
        daemon: Daemon, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = Logger()
    logger.open_syslog("pasta", str(path))
    assert len(logger.descriptors()) == 1
    logger.info("both\x1b[31m")
    logger.leave_terminal()
    logger.warning("one")
    logger.debug("none")
    assert daemon.texts() == [r"both\x1b[31m", "one"]
    assert capfd.readouterr().err == "both\\x1b[31m\n"


def test_file_takes_the_place_of_the_system_log(
        daemon: Daemon, path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logger = Logger()
    logger.configure(debug=True)
    logger.open_syslog("pasta", str(path))
    logger.open_file(str(tmp_path / "file"), 40960, "pasta")
    logger.err("error")
    logger.leave_terminal()
    logger.debug("detail")
    assert daemon.texts() == []
    assert capfd.readouterr().err == "error\n"  # the time is in the file
    lines = (tmp_path / "file").read_text().splitlines()[1:]
    assert [line.partition(": ")[2] for line in lines] == ["ERROR:   error", "         detail"]
    for fd in logger.descriptors():
        os.close(fd)


def test_command_has_the_terminal_but_for_warnings_and_answers(capfd: pytest.CaptureFixture[str]) -> None:
    logger = Logger()
    logger.share_terminal()
    logger.info("no")
    logger.message(ERR, "error")
    logger.warning("warning")
    logger.answer("answer")
    assert capfd.readouterr().err == "error\nwarning\nanswer\n"


def test_debug_that_is_asked_for_later_comes_to_a_shared_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a log file and in the foreground there is no other place for it."""
    logger = Logger()
    logger.share_terminal()
    logger.configure(debug=True)
    logger.debug("detail")
    logger.configure()
    logger.info("no")
    assert capfd.readouterr().err.endswith(": detail\n")


def test_answer_comes_even_to_a_quiet_user(capfd: pytest.CaptureFixture[str]) -> None:
    logger = Logger()
    logger.configure(quiet=True)
    logger.answer("answer")
    assert capfd.readouterr().err == "answer\n"

"""The socket for machines: which paths are taken, which are left alone, and what is said about the rest."""

from __future__ import annotations

import concurrent.futures
import fcntl
import os
import re
import shutil
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.host import unix_socket
from passt.host.unix_socket import Connection, ListeningSocket, adopt, connect, listen
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Iterator

UID = 54321


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give a directory whose paths are short enough for sockets, and make it the default one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unix_socket, "DEFAULT_PATH", "passt_{}.socket")
    return tmp_path


@pytest.fixture
def opened() -> Iterator[list[ListeningSocket | socket.socket | Connection]]:
    things: list[ListeningSocket | socket.socket | Connection] = []
    yield things
    for thing in things:
        thing.close()


def make_stale(path: str) -> str:
    """Leave a socket behind that nobody serves; returns *path*."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    return path


@pytest.mark.usefixtures("directory")
def test_free_path_is_bound_and_takes_clients() -> None:
    listener = listen("a.socket")
    assert stat.S_ISSOCK(os.lstat("a.socket").st_mode)
    assert not os.get_inheritable(listener.fd)
    assert listener.accept() is None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("a.socket")
        connection = listener.accept()
        assert connection is not None
        assert connection.peer_name() == f" (PID {os.getpid()})"
        fd = connection.detach()
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        os.write(fd, b"x")
        assert client.recv(1) == b"x"
        os.close(fd)
    listener.close()
    assert os.listdir() == ["a.socket"]  # others may wait for the file, and remove it when they see fit


@pytest.mark.usefixtures("directory")
def test_mode_of_the_file_is_the_caller_s_umask() -> None:
    before = os.umask(0o007)
    try:
        listener = listen("a.socket")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.lstat("a.socket").st_mode) == 0o770
    listener.close()


@pytest.mark.usefixtures("directory")
def test_stale_socket_is_replaced() -> None:
    make_stale("a.socket")
    listener = listen("a.socket")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("a.socket")
    assert os.listdir() == ["a.socket"]
    listener.close()


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
@pytest.mark.parametrize("backlog", [None, 0])
def test_live_socket_is_respected_and_does_not_notice(kind: socket.SocketKind, backlog: int | None) -> None:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind("a.socket")
        other.setblocking(False)
        if backlog is not None and kind != socket.SOCK_DGRAM:
            other.listen(backlog)
        inode = os.lstat("a.socket").st_ino
        with pytest.raises(ConfigError, match=r"^option '--socket' a\.socket: another process uses it"):
            listen("a.socket")
        assert os.lstat("a.socket").st_ino == inode
        if backlog is not None and kind != socket.SOCK_DGRAM:
            with pytest.raises(BlockingIOError):
                other.accept()


@pytest.mark.usefixtures("directory")
def test_live_socket_with_a_full_backlog_is_respected() -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind("a.socket")
        other.listen(0)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect("a.socket")
            with pytest.raises(ConfigError, match="another process uses it"):
                listen("a.socket")


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("make", [
    lambda: Path("x").write_text("mine", encoding="ascii"), lambda: os.mkdir("x"), lambda: os.mkfifo("x"),
    lambda: os.symlink("nowhere", "x"), lambda: os.symlink(make_stale("y"), "x"),
])
def test_anything_but_a_socket_stays(make: object) -> None:
    assert callable(make)
    make()
    before = os.lstat("x")
    with pytest.raises(ConfigError, match="something that is not a socket; remove it or give another path"):
        listen("x")
    assert os.lstat("x") == before


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize(("path", "reason"), [
    ("missing/a.socket", "the directory does not exist"),
    ("file/a.socket", "a part of the path is not a directory"),
    ("loop/a.socket", "too many symbolic links"),
    (".", "something that is not a socket"),
    ("x" * 108, "is too long; that of a socket has 107"),
    ("/proc/a.socket", "the directory does not exist|may not write"),
])
def test_wrong_paths_are_explained(path: str, reason: str) -> None:
    Path("file").touch()
    os.symlink("loop", "loop")
    with pytest.raises(ConfigError, match=rf"^option '--socket' {re.escape(path)}: .*({reason})"):
        listen(path)


def as_user(path: str) -> str:
    """Return what a plain user is told who wants *path*."""

    def start() -> str:
        os.setgroups([])
        os.setgid(UID)
        os.setuid(UID)
        with pytest.raises(ConfigError) as caught:
            listen(path)
        return str(caught.value)

    return isolated(start, flags=0)


@pytest.mark.needs_root
def test_directory_closed_to_the_user_is_explained() -> None:
    assert as_user("/etc/passt.socket").endswith("this user may not write to the directory")


@pytest.mark.needs_root
def test_socket_of_another_user_is_left_alone(shared: Path) -> None:
    path = str(shared / "a.socket")
    make_stale(path)
    assert as_user(path).endswith("it belongs to another user; give another path")
    os.chmod(path, 0o777)  # noqa: S103 - others may connect to it
    assert "a socket that no process serves is there and cannot be removed" in as_user(path)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(path)


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a directory like /tmp, where everybody can make files but not remove others'."""
    path = Path(f"/tmp/passt-socket-{os.getpid()}")  # noqa: S108 - those of pytest are closed to others
    path.mkdir()
    path.chmod(0o1777)
    yield path
    shutil.rmtree(path)


def test_first_free_default_path_is_taken(directory: Path,
                                          opened: list[ListeningSocket | socket.socket | Connection]) -> None:
    make_stale("passt_3.socket")
    (directory / "passt_2.socket").touch()
    paths = []
    for _ in range(3):
        listener = listen(None)
        opened.append(listener)
        paths.append(listener.path)
    assert paths == ["passt_1.socket", "passt_3.socket", "passt_4.socket"]


@pytest.mark.usefixtures("directory")
def test_no_free_default_path_is_an_error(monkeypatch: pytest.MonkeyPatch,
                                          opened: list[ListeningSocket | socket.socket | Connection]) -> None:
    monkeypatch.setattr(unix_socket, "N_DEFAULT_PATHS", 2)
    opened += [listen(None), listen(None)]
    with pytest.raises(HostError, match=r"^all of passt_1\.socket to passt_2\.socket are in use; "):
        listen(None)


@pytest.mark.usefixtures("directory")
def test_default_directory_that_is_missing_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_socket, "DEFAULT_PATH", "none/passt_{}.socket")
    with pytest.raises(HostError, match=r"^cannot make the socket none/passt_1\.socket: the directory "):
        listen(None)


@pytest.mark.usefixtures("directory")
def test_directory_that_somebody_keeps_locked_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unix_socket, "LOCK_TRIES", 2)
    make_stale("a.socket")
    fd = os.open(".", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    listen("a.socket").close()
    os.close(fd)


def take_default_paths(n: int, ready: int, end: tuple[int, int]) -> int:
    """Have a child take *n* default paths, tell of them on *ready*, and keep them until *end* is closed."""
    pid = os.fork()
    if pid == 0:
        try:
            os.close(end[1])
            listeners = [listen(None) for _ in range(n)]
            os.write(ready, "".join(f"{listener.path}\n" for listener in listeners).encode())
            os.read(end[0], 1)
        finally:
            os._exit(0)
    return pid


def test_starts_at_the_same_time_get_paths_of_their_own(directory: Path) -> None:
    for number in range(1, 33):
        make_stale(f"passt_{number}.socket")
    ready_read, ready_write = os.pipe()
    end = os.pipe()
    children = [take_default_paths(4, ready_write, end) for _ in range(8)]
    os.close(ready_write)
    paths: list[str] = []
    while len(paths) < 32 and (more := os.read(ready_read, 4096)):
        paths += map(os.fsdecode, more.split())
    assert len(set(paths)) == len(paths) == 32
    for path in paths:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
    os.close(end[0])
    os.close(end[1])
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    os.close(ready_read)
    assert all(re.fullmatch(r"passt_\d+\.socket", name) for name in os.listdir(directory))


@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_connected_stream_socket_is_adopted(family: int) -> None:
    if family == socket.AF_UNIX:
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            theirs = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    with theirs:
        number = os.dup(ours.fileno())
        ours.close()
        os.set_inheritable(number, True)
        connection = adopt(number)
        assert connection.peer_name() == (f" (PID {os.getpid()})" if family == socket.AF_UNIX else "")
        fd = connection.detach()
        assert fd == number
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        os.write(fd, b"x")
        assert theirs.recv(1) == b"x"
        os.close(fd)


def test_socket_that_passes_no_descriptors_is_no_way_to_share_memory() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        adopt(ours.detach(), passes_descriptors=True).close()
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        fd = server.accept()[0].detach()
        reason = r"that is not a UNIX domain socket, .* share its memory \(--vhost-user\)"
        with pytest.raises(ConfigError, match=rf"^option '--fd' {fd}: {reason}$"):
            adopt(fd, passes_descriptors=True)


def test_standard_input_can_be_the_connection() -> None:

    def start() -> tuple[bool, bool, bytes]:
        ours, theirs = socket.socketpair()
        os.dup2(ours.fileno(), 0)
        ours.close()
        fd = adopt(0).detach()
        os.write(fd, b"x")
        return fd > 2, os.path.samestat(os.fstat(0), os.stat(os.devnull)), theirs.recv(1)

    assert isolated(start, flags=0) == (True, True, b"x")


def _datagram() -> int:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    other.close()
    return one.detach()


def _listening() -> int:
    return socket.create_server(("127.0.0.1", 0)).detach()


@pytest.mark.parametrize(("make", "reason"), [
    (lambda: os.open(os.devnull, os.O_RDWR), "that descriptor is not a socket"),
    (_datagram, "that is not a stream socket"),
    (_listening, "that socket is listening"),
    (lambda: socket.socket(socket.AF_UNIX).detach(), "that socket is not connected"),
])
def test_what_cannot_be_the_connection_is_refused(make: object, reason: str) -> None:
    assert callable(make)
    fd = make()
    with pytest.raises(ConfigError, match=rf"^option '--fd' {fd}: {reason}"):
        adopt(fd)


def test_closed_descriptor_is_refused() -> None:
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(ConfigError, match=rf"^option '--fd' {fd}: there is no such open descriptor"):
        adopt(fd)


def test_who_connects_waits_while_the_queue_is_full(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen(0)
        with connect(path, 20.0) as first, concurrent.futures.ThreadPoolExecutor() as threads:
            assert first.gettimeout() == 20.0
            with pytest.raises(TimeoutError, match="timed out"):
                connect(path, 0.05)
            others = [threads.submit(connect, path, 20.0) for _ in range(20)]
            for _ in range(1 + len(others)):
                door.accept()[0].close()
            for other in others:
                other.result().close()

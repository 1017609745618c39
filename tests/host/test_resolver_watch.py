"""resolv.conf as programs change it: in place, by rename, behind links, through another mount."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from passt.host import resolver_watch, syscalls
from passt.host.resolver_watch import MAX_CONTENT, ResolverWatch, follow_links
from tests.support.isolated import isolated
from tests.support.processes import is_readable

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = b"nameserver 192.0.2.1\n", b"nameserver 192.0.2.2\n"


def changed(watch: ResolverWatch) -> bytes | None:
    """Wait for the change, and take it; several events may come of one."""
    assert is_readable(watch, 60)
    content = watch.look()
    while content is None and is_readable(watch):
        content = watch.look()
    return content


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run" / "resolve").mkdir(parents=True)
    return tmp_path / "etc"


def replaced(path: Path, content: bytes) -> None:
    """Do as systemd-resolved and NetworkManager do."""
    other = path.with_suffix(".new")
    other.write_bytes(content)
    other.rename(path)


def test_first_look_tells_the_content(etc: Path) -> None:
    (etc / "resolv.conf").write_bytes(ONE)
    watch = ResolverWatch(str(etc / "resolv.conf"))
    assert watch.look() == ONE
    assert watch.look() is None
    assert not is_readable(watch), "reading is no change"


def test_file_written_in_place(etc: Path) -> None:
    path = etc / "resolv.conf"
    path.write_bytes(ONE)
    watch = ResolverWatch(str(path))
    watch.look()
    with path.open("r+b") as file:
        file.write(TWO)
    assert changed(watch) == TWO


def test_file_replaced_by_rename(etc: Path) -> None:
    path = etc / "resolv.conf"
    path.write_bytes(ONE)
    watch = ResolverWatch(str(path))
    watch.look()
    for content in (TWO, ONE, TWO):
        replaced(path, content)
        assert changed(watch) == content


def test_file_behind_links_and_links_that_change(etc: Path) -> None:
    path, stub, full = etc / "resolv.conf", etc.parent / "run/resolve/stub", etc.parent / "run/resolve/full"
    stub.write_bytes(ONE)
    full.write_bytes(TWO)
    path.symlink_to("../run/resolve/stub")
    watch = ResolverWatch(str(path))
    assert watch.look() == ONE
    replaced(stub, b"# new stub\n")
    assert changed(watch) == b"# new stub\n"
    other = etc / "link"
    other.symlink_to(full)
    other.rename(path)
    assert changed(watch) == TWO
    replaced(full, ONE)
    assert changed(watch) == ONE


def test_file_that_comes_goes_and_comes_back(etc: Path) -> None:
    path = etc / "resolv.conf"
    watch = ResolverWatch(str(path))
    assert watch.look() == b""
    path.write_bytes(ONE)
    assert changed(watch) in {ONE, b""}
    path.unlink()
    assert changed(watch) == b""
    replaced(path, TWO)
    assert changed(watch) == TWO


def test_directory_that_is_not_there_yet(etc: Path) -> None:
    path = etc / "resolv.conf"
    path.symlink_to("../run/later/deep/file")
    watch = ResolverWatch(str(path))
    assert watch.look() == b""
    (etc.parent / "run/later").mkdir()
    while is_readable(watch):
        assert watch.look() is None
    (etc.parent / "run/later/deep").mkdir()
    while is_readable(watch):
        assert watch.look() is None
    replaced(etc.parent / "run/later/deep/file", ONE)
    assert changed(watch) == ONE


def test_other_names_in_the_directory_are_no_change(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = etc / "resolv.conf"
    path.write_bytes(ONE)
    watch = ResolverWatch(str(path))
    watch.look()
    monkeypatch.setattr(resolver_watch, "_read", lambda _: pytest.fail("read for nothing"))
    (etc / "passwd").write_bytes(b"x")
    assert is_readable(watch, 60)
    assert watch.look() is None


def test_content_is_bounded_and_odd_files_are_empty(etc: Path) -> None:
    path = etc / "resolv.conf"
    path.write_bytes(b"#" * (MAX_CONTENT - 1) + b"\n" + b"#" * 10)
    assert ResolverWatch(str(path)).look() == b"#" * (MAX_CONTENT - 1) + b"\n"
    # What is left of its last line names another server.
    path.write_bytes(b"\n" * (MAX_CONTENT - 20) + b"nameserver 192.0.2.53\n")
    assert ResolverWatch(str(path)).look() == b"\n" * (MAX_CONTENT - 20)
    path.write_bytes(b"#" * (MAX_CONTENT + 10))
    assert ResolverWatch(str(path)).look() == b""
    path.unlink()
    os.mkfifo(path)
    assert ResolverWatch(str(path)).look() == b""
    path.unlink()
    path.mkdir()
    assert ResolverWatch(str(path)).look() == b""
    path.rmdir()
    path.symlink_to("resolv.conf")
    assert ResolverWatch(str(path)).look() == b""
    assert len(follow_links(str(path))) == 40


def test_links_are_listed_up_to_the_file(etc: Path) -> None:
    (etc / "resolv.conf").symlink_to("../run/resolve/stub")
    (etc.parent / "run/resolve/stub").symlink_to("/nowhere/file")
    assert follow_links(str(etc / "resolv.conf")) == [
        (str(etc), "resolv.conf"), (f"{etc}/../run/resolve", "stub"), ("/nowhere", "file")]


def test_without_inotify_the_file_is_looked_at(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = etc / "resolv.conf"
    path.write_bytes(ONE)

    def refuse() -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(syscalls, "inotify_init", refuse)
    watch = ResolverWatch(str(path))
    assert watch.fileno() == -1
    assert (watch.look(), watch.look()) == (ONE, None)
    path.write_bytes(TWO)
    assert watch.look() == TWO


@pytest.mark.needs_root
def test_file_written_through_another_mount(etc: Path) -> None:
    """Container engines mount a file of theirs over the container's."""
    (etc / "resolv.conf").write_bytes(b"")
    (etc.parent / "engine").write_bytes(ONE)

    def look() -> bytes | None:
        path = etc / "resolv.conf"
        syscalls.mount(b"none", b"/", b"", syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount(os.fsencode(etc.parent / "engine"), os.fsencode(path), b"", syscalls.MS_BIND)
        watch = ResolverWatch(str(path))
        assert watch.look() == ONE
        (etc.parent / "engine").write_bytes(TWO)
        while (content := changed(watch)) == b"":
            pass
        return content

    assert isolated(look, flags=syscalls.CLONE_NEWNS) == TWO

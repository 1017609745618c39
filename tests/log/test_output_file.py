"""Files for us to write, where other users have been before: as root and as a user."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt.log.output_file import find_shared, open_output
from tests.support.isolated import in_child

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.needs_root,
              pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it takes several users")]

US, THEM = 54321, 54322
STICKY = 0o1777


@pytest.fixture
def place() -> Iterator[Path]:
    """Lend a directory that everybody reaches; root's, with nobody else's rights."""
    with tempfile.TemporaryDirectory(prefix="passt-output-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def make_directory(place: Path, owner: int, mode: int) -> Path:
    directory = place / "there"
    directory.mkdir()
    os.chown(directory, owner, owner)
    directory.chmod(mode)
    return directory


def own(path: Path, owner: int) -> Path:
    os.chown(path, owner, owner, follow_symlinks=False)
    return path


def opened(path: Path, user: int) -> str:
    """Open *path* as *user*, write a word; say what became of it: "made", "found", or the error."""
    os.seteuid(user)
    try:
        fd, made = open_output(str(path), os.O_WRONLY)
        os.write(fd, b"word")
        os.close(fd)
    except OSError as error:
        return str(error.strerror)
    finally:
        os.seteuid(0)
    return "made" if made else "found"


@pytest.mark.parametrize("user", [0, US])
@in_child
def test_file_is_made_for_us_alone_and_found_again(place: Path, user: int) -> None:
    path = make_directory(place, 0, STICKY) / "file"
    assert opened(path, user) == "made"
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_uid) == (0o600, user)
    assert opened(path, user) == "found"
    assert path.read_bytes() == b"word"


@pytest.mark.parametrize(("user", "link_owner", "directory_owner", "mode", "outcome"), [
    (0, 0, 0, STICKY, "found"),
    (0, THEM, 0, STICKY, "it is another user's symbolic link"),
    (0, THEM, THEM, 0o755, "it is another user's symbolic link"),
    (0, THEM, THEM, STICKY, "it is another user's symbolic link"),
    (US, US, 0, STICKY, "found"),
    (US, 0, 0, STICKY, "found"),
    (US, THEM, 0, STICKY, "it is another user's symbolic link"),
    (US, THEM, THEM, STICKY, "found"),
    (US, THEM, THEM, 0o755, "found"),
])
@in_child
def test_symbolic_link(place: Path, user: int, link_owner: int, directory_owner: int, mode: int,
                       outcome: str) -> None:
    target = place / "target"
    target.write_bytes(b"kept")
    own(target, user)
    link = make_directory(place, directory_owner, mode) / "file"
    link.symlink_to("../target")
    own(link, link_owner)
    assert opened(link, user) == outcome
    assert target.read_bytes() == (b"word" if outcome == "found" else b"kept")


@in_child
def test_chain_of_links_is_followed_only_as_far_as_it_is_ours(place: Path) -> None:
    directory = make_directory(place, 0, STICKY)
    (directory / "first").symlink_to("second")
    (directory / "second").symlink_to(place / "target")
    assert opened(directory / "first", 0) == "made"
    own(directory / "second", THEM)
    assert opened(directory / "first", 0) == "it is another user's symbolic link"
    (directory / "round").symlink_to("round")
    assert opened(directory / "round", 0) == os.strerror(errno.ELOOP)


@pytest.mark.parametrize(("user", "owner", "directory_owner", "mode", "outcome"), [
    (0, THEM, 0, STICKY, "it is another user's, in a directory open to all"),
    (0, THEM, THEM, 0o755, "found"),
    (US, THEM, 0, STICKY, "it is another user's, in a directory open to all"),
    (US, 0, 0, STICKY, "found"),
    (US, THEM, THEM, 0o755, "found"),
])
@in_child
def test_file_of_another_user(place: Path, user: int, owner: int, directory_owner: int, mode: int,
                              outcome: str) -> None:
    path = make_directory(place, directory_owner, mode) / "file"
    path.write_bytes(b"kept")
    own(path, owner).chmod(0o666)
    assert opened(path, user) == outcome
    assert path.read_bytes() == (b"word" if outcome == "found" else b"kept")


@in_child
def test_further_name_of_another_users_file_is_not_written_to_by_root(place: Path) -> None:
    path = make_directory(place, THEM, 0o755) / "file"
    path.write_bytes(b"kept")
    own(path, THEM)
    (place / "name").hardlink_to(path)
    assert opened(path, 0) == "it is another user's, and a further name of some file"
    assert path.read_bytes() == b"kept"


@pytest.mark.parametrize("user", [0, US])
@in_child
def test_pipe_without_a_reader_does_not_keep_us(place: Path, user: int) -> None:
    path = make_directory(place, user, 0o755) / "pipe"
    os.mkfifo(path)
    own(path, user)
    assert opened(path, user) == os.strerror(errno.ENXIO)
    own(path, THEM).chmod(0o666)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    path.parent.chmod(STICKY)
    own(path.parent, 0)
    assert opened(path, user) == "it is another user's, in a directory open to all"
    os.close(reader)


@in_child
def test_pipe_gets_time_for_its_reader(place: Path) -> None:
    path = place / "pipe"
    os.mkfifo(path)
    begin = time.monotonic()
    with pytest.raises(OSError, match="No such device"):
        open_output(str(path), os.O_WRONLY, 0.05)
    assert 0.05 <= time.monotonic() - begin < 60
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fd, made = open_output(str(path), os.O_WRONLY)
    assert not made
    assert not os.get_blocking(fd)
    os.close(fd)
    os.close(reader)


@in_child
def test_links_to_open_files_and_devices_are_the_kernels(place: Path) -> None:
    with (place / "open").open("wb") as file:
        fd, made = open_output(f"/proc/self/fd/{file.fileno()}", os.O_WRONLY)
        os.write(fd, b"word")
        os.close(fd)
        (place / "link").symlink_to(f"/proc/self/fd/{file.fileno()}")
        os.close(open_output(str(place / "link"), os.O_WRONLY)[0])
    assert (place / "open").read_bytes() == b"word"
    assert not made
    os.close(open_output("/dev/null", os.O_WRONLY)[0])


@in_child
def test_path_of_a_new_file_is_where_the_links_lead(place: Path) -> None:
    target = place / "target"
    (place / "second").symlink_to("target")
    (place / "first").symlink_to(place / "second")
    fd, made = open_output(str(place / "first"), os.O_WRONLY)
    os.close(fd)
    assert made == str(target)


@in_child
def test_one_file_under_two_names_is_found(place: Path) -> None:
    (place / "file").write_bytes(b"")
    (place / "hard").hardlink_to(place / "file")
    (place / "soft").symlink_to("file")
    (place / "dangling").symlink_to("new")
    (place / "here").symlink_to(".")
    os.mkfifo(place / "pipe")
    os.chdir(place)
    for one, other in (("file", "hard"), ("file", "soft"), ("soft", "hard"), ("file", f"{place}/file"),
                       ("new", "new"), ("new", "dangling"), ("here/new", "./new"), ("pipe", "pipe")):
        assert find_shared([one, other]) == (0, 1), (one, other)
    assert find_shared(["file", "new", "here/dangling"]) == (1, 2)
    assert find_shared(["file", "new", "pipe", "other"]) is None


@in_child
def test_devices_and_what_cannot_be_looked_up_are_no_shared_file(place: Path) -> None:
    assert find_shared(["/dev/null", "/dev/null"]) is None
    (place / "file").write_bytes(b"")
    for path in ("", f"{place}/none/file", f"{place}/a\0b", f"{place}/file/x"):
        assert find_shared([path, path]) is None, path

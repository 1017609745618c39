"""The log file: its first line, its bound at every moment, what stays after a cut, full disks."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from passt import __version__
from passt.errors import HostError
from passt.log import DEBUG, ERR, INFO, WARNING
from passt.log.file import LogFile
from tests.support.fakes import Clock
from tests.support.isolated import in_child

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 40960


def open_log(path: Path, size: int = SIZE) -> LogFile:
    return LogFile(str(path), size, "pasta", Clock(step_s=0.0007))


def stamps(lines: list[str]) -> list[float]:
    return [float(line.split(":")[0]) for line in lines]


def test_first_line_names_version_program_and_opener(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n" * 100)
    os.close(open_log(path).fd)
    assert path.read_text() == f"pasta {__version__}: {os.path.abspath(sys.argv[0])} ({os.getpid()})\n"


def test_first_line_names_what_was_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    # A launcher that was found on PATH gets no path; the second has one, and no working directory.
    for called in ("pasta", "./pasta"):
        monkeypatch.setattr(sys, "argv", [called])
        path = tmp_path / "log"
        os.close(open_log(path).fd)
        assert path.read_text() == f"pasta {__version__}: {called} ({os.getpid()})\n"


def test_lines_have_time_and_severity(tmp_path: Path) -> None:
    log = open_log(tmp_path / "log")
    for level, text in ((ERR, "one"), (WARNING, "two"), (INFO, "three"), (DEBUG, "four")):
        log.write(level, text)
    assert (tmp_path / "log").read_text().splitlines()[1:] == [
        "0.0007: ERROR:   one", "0.0014: WARNING: two", "0.0021: info:    three", "0.0028:          four"]
    os.close(log.fd)


def test_file_is_private_and_not_inherited(tmp_path: Path) -> None:
    old = os.umask(0)
    log = open_log(tmp_path / "log")
    os.umask(old)
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
    assert not os.get_inheritable(log.fd)
    os.close(log.fd)


@pytest.mark.parametrize(("size", "length"), [(SIZE, 10), (SIZE, 1999), (SIZE + 1, 333), (102400, 80)])
def test_size_stays_within_the_bound_and_lines_stay_whole(tmp_path: Path, size: int, length: int) -> None:
    path = tmp_path / "log"
    log = open_log(path, size)
    header = path.read_text().rstrip("\n")
    n_cuts, before, number = 0, 0, 0
    while n_cuts < 5:
        number += 1
        log.write(INFO, f"{number} ".ljust(length, "x"))
        now = path.stat().st_size
        assert now <= size
        if now < before:
            n_cuts += 1
            assert now >= size // 2
        before = now
    first, *lines = path.read_text().splitlines()
    assert re.fullmatch(re.escape(header) + r" - log truncated at \d+\.\d{4}", first)
    assert [int(line.split()[2]) for line in lines] == list(range(number - len(lines) + 1, number + 1))
    assert stamps(lines) == sorted(stamps(lines))
    os.close(log.fd)


def test_file_that_others_made_larger_is_cut_to_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(path)
    with path.open("a") as other:
        other.write("".join(f"{number} other\n" for number in range(50000)))
    log.write(INFO, "last")
    assert path.stat().st_size <= SIZE
    lines = path.read_text().splitlines()
    assert lines[-1].endswith("info:    last")
    assert lines[-2] == "49999 other"
    os.close(log.fd)


def test_one_endless_line_goes_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(path)
    with path.open("a") as other:
        other.write("x" * 200000)
    log.write(INFO, "last")
    assert path.stat().st_size < 200
    assert path.read_text().endswith("info:    last\n")
    os.close(log.fd)


def test_file_emptied_by_another_program_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(path)
    log.write(INFO, "gone")
    os.truncate(path, 0)
    log.write(INFO, "next")
    assert path.read_text() == "0.0014: info:    next\n"
    os.close(log.fd)


def test_removed_file_and_directory_do_not_matter(tmp_path: Path) -> None:
    directory = tmp_path / "there"
    directory.mkdir()
    log = open_log(directory / "log")
    (directory / "log").unlink()
    directory.rmdir()
    for _ in range(2000):
        log.write(INFO, "x" * 100)
    assert 0 < os.fstat(log.fd).st_size <= SIZE
    os.close(log.fd)


@in_child
def test_full_disk_loses_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(path)
    log.write(INFO, "kept")
    size = path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
    log.write(INFO, "too long for what is left")
    assert path.stat().st_size == size
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    log.write(INFO, "again")
    assert [line.split()[-1] for line in path.read_text().splitlines()[1:]] == ["kept", "again"]


def test_processes_of_a_start_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = open_log(path)
    child = os.fork()
    if child == 0:
        for _ in range(1000):
            log.write(INFO, "x" * 100)
        os._exit(0)
    os.waitpid(child, 0)
    log.write(INFO, "parent")
    assert path.stat().st_size <= SIZE
    assert path.read_text().splitlines()[-1].endswith("parent")
    os.close(log.fd)


@pytest.mark.parametrize(("name", "cause"), [
    ("none/log", "No such file or directory"), (".", "Is a directory"), ("a\0b", "not a path"),
])
def test_file_that_cannot_be_opened_is_one_clear_line(tmp_path: Path, name: str, cause: str) -> None:
    with pytest.raises(HostError) as caught:
        open_log(tmp_path / name)
    assert str(caught.value) == (f"option '--log-file': cannot write '{tmp_path / name}': {cause}; name"
                                 " another file, or leave the option out for the system log")


def test_failure_through_a_dangling_link_leaves_the_link_alone(tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    link, target = tmp_path / "log", tmp_path / "target"
    link.symlink_to("target")

    def refuse(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(HostError, match="cannot write"):
        open_log(link)
    assert link.is_symlink()
    assert not target.exists()


def test_device_is_no_file_to_be_cut() -> None:
    log = LogFile("/dev/null", SIZE, "pasta", Clock(step_s=0.0007))
    for _ in range(10):
        log.write(INFO, "x" * SIZE)
    os.close(log.fd)


@in_child
def test_descriptor_is_none_of_the_standard_ones(tmp_path: Path) -> None:
    os.close(0)
    os.close(1)
    assert open_log(tmp_path / "log").fd > 2

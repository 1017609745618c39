"""The file of a capture: header, rights, and what cannot be opened."""

from __future__ import annotations

import errno
import os
import stat
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from passt.errors import HostError
from passt.run import pcap_file
from tests.support.tshark import tshark

if TYPE_CHECKING:
    from pathlib import Path


def test_header_is_that_of_pcap_in_host_order() -> None:
    assert pcap_file.header() == struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)


def test_file_is_new_private_and_not_inherited(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(b"x" * 1000)
    path.chmod(0o644)
    path.unlink()
    old = os.umask(0)
    try:
        fd, created = pcap_file.create(str(path))
    finally:
        os.umask(old)
    assert created == str(path)
    assert path.read_bytes() == pcap_file.header()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not os.get_inheritable(fd)
    assert os.lseek(fd, 0, os.SEEK_CUR) == 24
    os.close(fd)
    assert tshark(path) == []


def test_older_file_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    path.write_bytes(b"x" * 1000)
    fd, created = pcap_file.create(str(path))
    os.close(fd)
    assert created is None
    assert path.read_bytes() == pcap_file.header()


@pytest.mark.parametrize(("name", "cause"), [
    ("none/capture", "No such file or directory"), (".", "Is a directory"), ("", "No such file or directory"),
])
def test_file_that_cannot_be_made_is_one_clear_line(tmp_path: Path, name: str, cause: str) -> None:
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(HostError) as caught:
        pcap_file.create(path)
    assert str(caught.value) == (
        f"option '--pcap': cannot write '{path}': {cause}; leave --pcap out, or name another file")


def test_full_file_system_is_named() -> None:
    with pytest.raises(HostError, match="No space left on device; make room"):
        pcap_file.create("/dev/full")


def test_failure_through_a_dangling_link_leaves_the_link_alone(tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    link, target = tmp_path / "capture", tmp_path / "target"
    link.symlink_to("target")

    def refuse(_fd: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", refuse)
    with pytest.raises(HostError, match="make room there"):
        pcap_file.create(str(link))
    assert link.is_symlink()
    assert not target.exists()


def test_pipe_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pcap_file, "READER_S", 60.0)        # for a busy machine
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.PIPE) as reader:
        fd, _ = pcap_file.create(str(path))
        assert not os.get_blocking(fd)
        os.close(fd)
        assert reader.stdout is not None
        assert reader.stdout.read() == pcap_file.header()

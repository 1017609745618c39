"""The tap interface: creation, offloads and each way in which it can be refused."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

import pytest

from passt.errors import HostError
from passt.host import syscalls, tap
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from pathlib import Path

CSUM, TSO4, TSO6 = tap.TUN_F_CSUM, tap.TUN_F_TSO4, tap.TUN_F_TSO6
ECN, USO4, USO6 = tap.TUN_F_TSO_ECN, tap.TUN_F_USO4, tap.TUN_F_USO6
BOTH_USO = USO4 | USO6


class Kernel:
    """Grants offloads as a kernel that knows the bits in *known*; keeps what it was asked."""

    def __init__(self, known: int) -> None:
        self.known = known
        self.asked: list[int] = []

    def ioctl(self, _fd: int, request: int, offloads: int) -> None:
        assert request == syscalls.TUNSETOFFLOAD
        self.asked.append(offloads)
        if offloads & ~self.known:
            raise OSError(errno.EINVAL, "Invalid argument")


@pytest.mark.parametrize(("known", "granted"), [
    (tap.ALL_OFFLOADS, tap.ALL_OFFLOADS),
    (tap.ALL_OFFLOADS & ~BOTH_USO, CSUM | TSO4 | TSO6 | ECN),
    (CSUM | TSO4 | TSO6, CSUM | TSO4 | TSO6),
    (CSUM | TSO4, CSUM | TSO4),
    (CSUM, CSUM),
    (0, 0),
])
def test_offloads_are_given_up_step_by_step(monkeypatch: pytest.MonkeyPatch, known: int,
                                            granted: int) -> None:
    kernel = Kernel(known)
    monkeypatch.setattr("fcntl.ioctl", kernel.ioctl)
    assert tap.negotiate_offloads(3, tap.ALL_OFFLOADS) == granted
    assert kernel.asked[0] == tap.ALL_OFFLOADS
    assert kernel.asked[-1] == granted


@pytest.mark.parametrize(("allow", "asked"), [
    (0, 0), (CSUM, CSUM), (TSO4, 0), (CSUM | ECN, CSUM), (CSUM | USO4, CSUM),
    (CSUM | BOTH_USO, CSUM | BOTH_USO), (CSUM | TSO6 | ECN, CSUM | TSO6 | ECN), (-1, tap.ALL_OFFLOADS),
])
def test_allowed_offloads_limit_the_request(monkeypatch: pytest.MonkeyPatch, allow: int, asked: int) -> None:
    kernel = Kernel(tap.ALL_OFFLOADS)
    monkeypatch.setattr("fcntl.ioctl", kernel.ioctl)
    assert tap.negotiate_offloads(3, allow) == asked
    assert kernel.asked == [asked]


def test_other_refusal_of_offloads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_fd: int, _request: int, _offloads: int) -> None:
        raise OSError(errno.EBADFD, "File descriptor in bad state")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    with pytest.raises(HostError, match=r"offloads .* bad state"):
        tap.negotiate_offloads(3, tap.ALL_OFFLOADS)


def test_missing_device_names_the_ways_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"modprobe tun.*--device /dev/net/tun"):
        tap.open_tap("t0", device=str(tmp_path / "tun"))


def test_device_that_is_no_tun_is_told_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "dir")
    with pytest.raises(HostError, match=r"cannot open .*: Not a directory"):
        tap.open_tap("t0", device=str(tmp_path / "dir" / "tun"))


def test_denied_device_shows_mode_and_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "tun"
    device.touch(0o600)

    def deny(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.open", deny)
    with pytest.raises(HostError, match="mode is 0600; 'chmod 0666 "):
        tap.open_tap("t0", device=str(device))
    device.chmod(0o666)
    with pytest.raises(HostError, match="a device policy"):
        tap.open_tap("t0", device=str(device))
    with pytest.raises(HostError, match="cannot be reached"):
        tap.open_tap("t0", device=str(tmp_path / "other"))


def open_twice(name: str, allow: int) -> tuple[int, bool, bool, int, str]:
    fd, offloads = tap.open_tap(name, allow=allow)
    size = bytearray(4)
    fcntl.ioctl(fd, 0x800454D7, size)  # TUNGETVNETHDRSZ
    try:
        tap.open_tap(name)
    except HostError as error:
        text = str(error)
    return offloads, os.get_inheritable(fd), os.get_blocking(fd), struct.unpack("i", size)[0], text


@pytest.mark.needs_root
@pytest.mark.parametrize("allow", [tap.ALL_OFFLOADS, CSUM | TSO4, 0])
def test_tap_has_a_header_and_is_taken_once(allow: int) -> None:
    offloads, inheritable, blocking, header_len, text = isolated(lambda: open_twice("lif0", allow))
    assert (inheritable, blocking, header_len) == (False, False, tap.VNET_HDR_LEN)
    assert offloads & ~allow == 0
    assert offloads & CSUM == allow & CSUM
    assert "'lif0' is taken" in text
    assert "--ns-ifname" in text


def refusal(name: str) -> str:
    try:
        tap.open_tap(name)
    except HostError as error:
        return str(error)
    return ""


@pytest.mark.needs_root
@pytest.mark.parametrize(("name", "expected"), [
    ("lo", "another kind"), ("a/b", "not valid"), ("..", "not valid"),
    ("", "1 to 15 bytes"), ("a" * 16, "1 to 15 bytes"), ("ä" * 8, "1 to 15 bytes"),
])
def test_bad_name_is_told_so(name: str, expected: str) -> None:
    assert expected in isolated(lambda: refusal(name))


@pytest.mark.needs_root
def test_name_of_15_bytes_is_good() -> None:
    assert isolated(lambda: refusal("a" * 15)) == ""


@pytest.mark.needs_root
def test_no_capability_is_told_so() -> None:
    def without() -> str:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNET)
        syscalls.capset(0, 0, 0)
        return refusal("lif0")

    assert "CAP_NET_ADMIN" in isolated(without, flags=0)

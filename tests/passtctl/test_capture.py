"""`passtctl capture` against the control socket of a real engine."""

from __future__ import annotations

import json
import os
import resource
import signal
import struct
import subprocess
import tempfile
import threading
from typing import TYPE_CHECKING

import pytest

from passt.errors import ConfigError, HostError
from passt.host.syscalls import CLONE_NEWNS, unshare
from passt.passtctl.capture import Output, ReaderGoneError, end_of_blocks, size
from passt.passtctl.command import Command
from passt.passtctl.main import run
from tests.support import pcapng
from tests.support.frames import ethernet
from tests.support.isolated import in_child
from tests.support.live_control import LiveControl
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ARP = ethernet(bytes(28), kind=0x0806)


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveControl]:
    directory = tmp_path / "passt"
    directory.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    made = LiveControl(directory)
    with made.turning():
        yield made
    made.close()


def counted(live: LiveControl, n: int) -> Callable[[], bool]:
    return lambda: [each["packets"] for each in live.ask("GET", "/v1/captures")[1]["captures"]] == [n]


def run_meanwhile(command: Command, *steps: Callable[[], object]) -> int:
    """Run *command* in this thread, and *steps* in another one."""

    def take() -> None:
        for step in steps:
            step()

    thread = threading.Thread(target=take)
    thread.start()
    try:
        return run(command)
    finally:
        thread.join()


def test_signal_ends_a_capture_and_says_what_it_came_to(
    live: LiveControl, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file.pcapng"
    before = signal.getsignal(signal.SIGINT)
    status = run_meanwhile(
        Command("capture", write=str(path), words=("arp",)),
        lambda: wait_until(counted(live, 0), "the capture runs"),
        lambda: wait_until(lambda: signal.getsignal(signal.SIGINT) != before, "signals are awaited"),
        lambda: live.bench.give(ARP),
        lambda: wait_until(counted(live, 1), "the frame is taken"),
        lambda: os.kill(os.getpid(), signal.SIGINT))
    assert status == 0
    assert capfd.readouterr() == ("", "1 packets, 0 lost\n")
    assert signal.getsignal(signal.SIGINT) == before
    data = path.read_bytes()
    assert [each.data for each in pcapng.packets(data)] == [ARP]
    assert pcapng.blocks(data)[-1][0] == pcapng.STATISTICS
    assert path.stat().st_mode & 0o777 == 0o600


def test_capture_that_somebody_else_stops_is_complete(live: LiveControl, tmp_path: Path) -> None:
    path = tmp_path / "file.pcapng"
    status = run_meanwhile(
        Command("capture", write=str(path)),
        lambda: wait_until(counted(live, 0), "the capture runs"),
        lambda: live.bench.give(ARP),
        lambda: wait_until(counted(live, 1), "the frame is taken"),
        lambda: live.ask("DELETE", "/v1/captures/1"))
    assert status == 0
    assert pcapng.blocks(path.read_bytes())[-1][0] == pcapng.STATISTICS


def test_full_disk_ends_the_capture_with_one_line(live: LiveControl) -> None:
    with pytest.raises(HostError, match=r"'/dev/full': No space left on device; the capture ends here"):
        run(Command("capture", write="/dev/full"))
    wait_until(lambda: live.ask("GET", "/v1/info")[1]["captures"] == 0, "the capture has ended")


def test_ring_is_started_fetched_and_stopped(live: LiveControl, tmp_path: Path,
                                             capfd: pytest.CaptureFixture[str]) -> None:
    assert run(Command("capture", ring="512K", words=("arp", "link"))) == 0
    name = capfd.readouterr().out.strip()
    assert name == "1"
    live.bench.give(ARP)
    wait_until(counted(live, 1), "the frame is taken")
    run(Command("capture", words=("list",)))
    heading, row = capfd.readouterr().out.splitlines()
    assert heading.split() == ["ID", "TO", "PACKETS", "LOST", "OVERWRITTEN", "HELD", "SIZE", "FILTER"]
    assert row.split() == ["1", "ring", "1", "0", "0", row.split()[5], "524K", "arp", "link"]
    path = tmp_path / "ring.pcapng"
    assert run(Command("capture", write=str(path), words=("get", name))) == 0
    assert [each.data for each in pcapng.packets(path.read_bytes())] == [ARP]
    run(Command("capture", words=("list",), json=True))
    assert json.loads(capfd.readouterr().out)[0]["id"] == "1"
    assert run(Command("capture", words=("stop", name))) == 0
    assert capfd.readouterr().err == "1 packets, 0 lost, 0 overwritten\n"
    assert live.ask("GET", "/v1/captures")[1] == {"captures": []}


@pytest.mark.parametrize("command", [
    Command("capture"), Command("capture", words=("tcp",)), Command("capture", words=("get", "1")),
    Command("capture", write="x", words=("get",)), Command("capture", write="x", words=("get", "a")),
    Command("capture", words=("stop",)), Command("capture", words=("list", "1")),
    Command("capture", write="x", ring="1M"), Command("capture", write="x", words=("list",)),
    Command("capture", ring="x"), Command("capture", ring="1G"), Command("capture", write="x", snaplen="-1"),
])  # fmt: skip
def test_mistakes_are_told(live: LiveControl, command: Command, tmp_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        run(command)
    assert not (tmp_path / "x").exists()
    assert live.api._captures.count() == 0


def test_refusals_of_the_instance_are_told(live: LiveControl, tmp_path: Path) -> None:
    for command in (Command("capture", ring="1M", words=("nonsense",)),
                    Command("capture", words=("stop", "9")),
                    Command("capture", write=str(tmp_path / "x"), words=("port", "x")),
                    Command("capture", write=str(tmp_path / "none" / "x"))):  # fmt: skip
        with pytest.raises(HostError):
            run(command)
    wait_until(lambda: live.api._captures.count() == 0, "what began has ended")
    assert list(tmp_path.iterdir()) == [tmp_path / "passt"]


@pytest.mark.parametrize(("text", "n"), [("65536", 65536), ("512K", 1 << 19), ("16M", 1 << 24), ("0", 0)])
def test_sizes(text: str, n: int) -> None:
    assert size(text, "--ring") == n


@in_child
def test_gone_reader_and_full_disk_are_told_apart() -> None:
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(writer)
    output = Output("-")
    output.write(b"12345678")
    assert os.read(reader, 100) == b"12345678"
    os.close(reader)
    with pytest.raises(ReaderGoneError):
        output.write(b"1234")


def blocks(*lengths: int) -> bytes:
    """Blocks of these lengths, whose content is nothing that a reader would look at."""
    return b"".join(struct.pack("=II", 6, n) + bytes(n - 12) + struct.pack("=I", n) for n in lengths)


def write_in_pieces(output: Output, data: bytes) -> None:
    """Write *data* in pieces that end anywhere, as they come out of a stream."""
    for start in range(0, len(data), 700):
        output.write(data[start:start + 700])


@pytest.mark.needs_root
@in_child
def test_full_file_system_keeps_whole_packets() -> None:
    unshare(CLONE_NEWNS)
    for words in ("--make-rprivate /", "-t tmpfs -o size=64k none /mnt"):
        subprocess.run(["mount", *words.split()], check=True)
    output, data = Output("/mnt/file"), blocks(28, *[1000] * 100)
    with pytest.raises(HostError, match="No space left"):
        write_in_pieces(output, data)
    output.close()
    with open("/mnt/file", "rb") as file:
        kept = file.read()
    assert kept == data[:len(kept)]
    assert ((len(kept) - 28) % 1000, len(kept) > 50_000) == (0, True)


@in_child
def test_file_that_may_not_grow_keeps_whole_packets() -> None:
    with tempfile.TemporaryDirectory() as directory:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, resource.RLIM_INFINITY))
        output = Output(f"{directory}/file")
        with pytest.raises(HostError, match="File too large"):
            write_in_pieces(output, blocks(28, *[1000] * 9))
        output.close()
        assert os.path.getsize(f"{directory}/file") == 2028


@pytest.mark.parametrize(("content", "end"), [
    (b"", 0), (blocks(12), 12), (blocks(28, 40) + bytes(7), 68), (blocks(28, 40)[:-1], 28),
    (blocks(28) + bytes(100), 28)])  # fmt: skip
def test_end_of_the_last_whole_packet(tmp_path: Path, content: bytes, end: int) -> None:
    (tmp_path / "file").write_bytes(content)
    assert end_of_blocks(str(tmp_path / "file")) == end

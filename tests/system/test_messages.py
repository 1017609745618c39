"""Log files, the system log, the trace and captures of real runs, and what full disks do to them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, Lab
from tests.support.processes import status_field, wait_until
from tests.support.tshark import tshark

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

LOG_SIZE = 102400
# A /dev of its own, in which /dev/log leads to the socket $1.
OWN_DEV = """
mount -t tmpfs none /dev
mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/urandom c 1 9
mkdir /dev/net; mknod -m 666 /dev/net/tun c 10 200; ln -s "$1" /dev/log
shift; exec "$@"
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Lend a directory in which everybody may write."""
    directory = Path(tempfile.mkdtemp(prefix="passt-messages-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(params=["/tmp", "/dev/shm"])  # noqa: S108 - two kinds of file systems, one of them a tmpfs
def anywhere(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Lend a directory on each kind of file system."""
    directory = Path(tempfile.mkdtemp(prefix="passt-messages-", dir=request.param))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def expected_line(frame: str) -> tuple[bool, str]:
    """Whether a frame goes to the guest, and how its trace line goes on, from fields of tshark."""
    source, length, *rest = frame.split("\t")
    ip4s, ip4d, ip6s, ip6d, tcps, tcpd, seq, n, udps, udpd, udp_len = rest
    ends = (ip4s, ip4d) if ip4s else (f"[{ip6s}]", f"[{ip6d}]")
    end = rf".*, frame {length}(,.*)?"
    if tcps:
        return source.startswith("9a:55"), (
            re.escape(f"TCP {ends[0]}:{tcps} > {ends[1]}:{tcpd} ") + rf"\S+ seq {seq} .*len {n}" + end)
    if udps:
        return source.startswith("9a:55"), (
            re.escape(f"UDP {ends[0]}:{udps} > {ends[1]}:{udpd} len {int(udp_len) - 8}") + end)
    return source.startswith("9a:55"), end


def test_trace_and_capture_are_of_the_same_frames(lab: Lab, user: bool, scratch: Path) -> None:
    log, capture = scratch / "log", scratch / "capture"
    client = " ".join(lab.client)
    script = (f"{client} tcp,udp {FAR4} 8000 30000 && {client} tcp,udp {FAR6} 8000 30000 && "
              f"ping -c 1 -W 20 {FAR4} >/dev/null")
    lab.run(["--config-net", "--trace", "-l", str(log), "--log-size", "10000000", "-p", str(capture)],
            ["sh", "-c", script], user=user)
    lines = re.findall(r"^\d+\.\d{4}: {10}(from|to) guest: (.*)$", log.read_text(), re.MULTILINE)
    fields = ["eth.src", "frame.len", "ip.src", "ip.dst", "ipv6.src", "ipv6.dst", "tcp.srcport",
              "tcp.dstport", "tcp.seq_raw", "tcp.len", "udp.srcport", "udp.dstport", "udp.length"]
    # The client's data are random: nothing is to be guessed of them.
    frames = tshark(capture, "-d", "tcp.port==8007,data", "-d", "udp.port==8007,data",
                    "-o", "tcp.desegment_tcp_streams:FALSE", "-E", "occurrence=f", "-T", "fields",
                    *[word for field in fields for word in ("-e", field)])
    assert len(frames) == len(lines) > 20
    for frame, (direction, line) in zip(frames, lines, strict=True):
        to_guest, pattern = expected_line(frame)
        assert (direction == "to") is to_guest
        assert re.fullmatch(pattern, line), (frame, line)
    assert any(", flow " in line for _, line in lines)
    assert any(line.startswith("ICMP ") and "echo reply" in line for _, line in lines)
    # No checksum is unfinished, whoever was to complete it.
    assert tshark(capture, "-d", "tcp.port==8007,data", "-d", "udp.port==8007,data",
                  "-o", "tcp.check_checksum:TRUE", "-Y",
                  "tcp.checksum.status == 0 || udp.checksum.status == 0 || ip.checksum.status == 0") == []


def test_log_file_is_made_and_made_anew(lab: Lab, user: bool, scratch: Path) -> None:
    log = scratch / "log"
    first = []
    for _ in range(2):
        lab.run(["--config-net", "-l", str(log)], ["/bin/true"], user=user)
        first.append(log.read_text().splitlines()[0])
        assert re.fullmatch(r"pasta \S+: /.* \(\d+\)", first[-1])
    assert first[0] != first[1]
    assert log.stat().st_mode & 0o777 == 0o600


def test_log_file_keeps_to_its_size(lab: Lab, plain: bool, anywhere: Path) -> None:
    log = anywhere / "log"
    sizes: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            if log.exists():
                sizes.append(log.stat().st_size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        lab.run(["--config-net", "--trace", "-m", "1500", "-l", str(log), "--log-size", str(LOG_SIZE)],
                ["ping", "-q", "-c", "1500", "-i", "0.002", FAR4], user=plain, timeout=250)
    finally:
        done.set()
        watcher.join()
    sizes.append(log.stat().st_size)   # who looks on may have had no time to
    assert max(sizes) <= LOG_SIZE
    full = sizes[next(index for index, size in enumerate(sizes) if size >= LOG_SIZE // 2):]
    assert min(full) >= LOG_SIZE // 2
    first, *lines = log.read_text().splitlines()
    assert re.fullmatch(r"pasta \S+: /.* \(\d+\) - log truncated at \d+\.\d{4}", first)
    stamps = [float(line.split(":")[0]) for line in lines]
    assert stamps == sorted(stamps)


@pytest.mark.parametrize(("option", "name"), [("-l", "--log-file"), ("-p", "--pcap")])
def test_file_that_cannot_be_written_is_one_line(lab: Lab, user: bool, option: str, name: str) -> None:
    result = lab.run(["--config-net", option, "/nowhere/file"], ["true"], user=user, check=False)
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    text = f"option '{name}': cannot write '/nowhere/file': No such file or directory"
    assert text in result.stderr.decode()


def test_full_disk_ends_the_capture_and_not_the_network(lab: Lab, scratch: Path) -> None:
    script = ('mount -t tmpfs -o size=400k none "$1"; dir=$1; shift; "$@"; status=$?; '
              'cp "$dir/capture" "$dir.copy"; exit $status')
    result = lab.host.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", str(scratch), lab.pasta, "--config-net", "-p",
         f"{scratch}/capture", "--", *lab.client, "tcp", FAR4, "8000", "3000000"], timeout=120)
    copy = Path(f"{scratch}.copy")
    text = result.stderr.decode()
    assert text.count("the packet capture") == 1
    assert "ends here: No space left on device; the network goes on without it" in text
    lengths = tshark(copy, "-T", "fields", "-e", "frame.len", "-e", "frame.cap_len")
    assert len(lengths) > 3
    assert copy.stat().st_size == 24 + sum(16 + int(line.split()[1]) for line in lengths)
    copy.unlink()


# Arguments: the path of the socket, the file for the messages.
LOG_DAEMON = """
import os, socket, sys
path, notes = sys.argv[1:]
if os.path.exists(path):
    os.unlink(path)
sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sock.bind(path)
os.chmod(path, 0o777)
with open(notes, "ab", buffering=0) as file:
    print("ready", flush=True)
    while True:
        file.write(sock.recv(9000) + b"\\n")
"""


class Daemon:
    """A log daemon on *path*."""

    def __init__(self, lab: Lab, path: Path) -> None:
        # Ten messages are the most that wait for a daemon by default: one that gets no time loses some.
        lab.host.run(["sh", "-c", "echo 1000 >/proc/sys/net/unix/max_dgram_qlen"])
        self._notes = path.with_suffix(".notes")
        self._notes.write_bytes(b"")
        self._n_seen = 0
        self._running = lab.host.spawn(["/usr/bin/python3", "-I", "-c", LOG_DAEMON, str(path),
                                        str(self._notes)])
        assert self._running.popen.stdout is not None
        assert self._running.popen.stdout.readline() == b"ready\n"

    @property
    def messages(self) -> list[str]:
        """Give the messages since the last `forget`."""
        return self._notes.read_text(encoding="utf-8").splitlines()[self._n_seen:]

    def until(self, word: str) -> list[str]:
        """Wait for a message that has *word*; return all since the last `forget`."""
        wait_until(lambda: any(word in message for message in self.messages), f"'{word}' is logged")
        return self.messages

    def forget(self) -> None:
        """Forget the messages so far."""
        self._n_seen += len(self.messages)

    def close(self) -> None:
        """End it."""
        self._running.kill()


def test_background_speaks_to_the_system_log_and_answers_there(lab: Lab, scratch: Path) -> None:
    path = scratch / "log"
    daemon = Daemon(lab, path)
    target = lab.host.spawn(["unshare", "--net", "sh", "-c", "echo ready; exec sleep 1000"])
    assert target.popen.stdout is not None
    assert target.popen.stdout.readline() == b"ready\n"
    pid = status_field(target.pid, "NSpid").split()[-1]
    pid_file = scratch / "pid"
    result = lab.host.run(["unshare", "--mount", "sh", "-c", OWN_DEV, "sh", str(path), lab.pasta,
                           "--runas", "0", "--config-net", "-P", str(pid_file), pid])
    assert b"Template interface: h0 (IPv4), h0 (IPv6)\nNamespace interface: h0\n" in result.stderr
    own = pid_file.read_text().strip()
    messages = daemon.until("our link-local")
    assert all(re.match(r"<30>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d pasta\[\d+\]: ", message)
               for message in messages)
    assert messages[0].endswith("Template interface: h0 (IPv4), h0 (IPv6)")
    for _ in range(2):
        lab.host.run(["kill", "-USR1", own])
        assert any(f"pasta[{own}]: Counters after " in message for message in daemon.until("drops:"))
        daemon.forget()
    # A daemon that makes a new socket is out of reach: that costs its messages, and nothing else.
    daemon.close()
    daemon = Daemon(lab, path)
    for _ in range(2):
        lab.host.run(["kill", "-USR1", own])
        lab.host.run(["kill", "-0", own])
    lab.host.run(["kill", own])
    wait_until(lambda: lab.host.run(["kill", "-0", own], check=False).returncode != 0, "pasta has ended")
    target.kill()
    daemon.close()


def test_quiet_start_says_nothing(lab: Lab, user: bool) -> None:
    result = lab.run(["-q", "--config-net"], ["echo", "word"], user=user)
    assert (result.stdout, result.stderr) == (b"word\n", b"")


def test_stats_are_rows_of_counters(lab: Lab, plain: bool) -> None:
    running = lab.start(["--config-net", "--stats", "1"],
                        ["sh", "-c", f"while :; do ping -c 1 -W 1 {FAR4} >/dev/null; sleep 0.6; done"],
                        user=plain)
    assert running.popen.stderr is not None
    heading, *rows = [running.popen.stderr.readline().decode() for _ in range(3)]
    running.send(signal.SIGTERM)
    rows += running.finish().stderr.decode().splitlines()
    assert heading.split()[0] == "seconds"
    assert len(rows) >= 2
    frames = [int(row.split()[1]) for row in rows]
    assert frames == sorted(frames)
    assert all(len(row.split()) == 9 for row in rows)


# A good ARP request, a truncated one, one of another kind of hardware; a DHCP message of 50 bytes.
SEND_MALFORMED = """
import socket
far = %r
name = next(name for _, name in socket.if_nameindex() if name != "lo")
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
link.bind((name, 0))
mac = link.getsockname()[4]
ethernet = b"\\xff" * 6 + mac + b"\\x08\\x06"
arp = bytes((0, 1, 8, 0, 6, 4, 0, 1))
link.send(ethernet + arp + mac + bytes(10) + socket.inet_aton(far))
link.send(ethernet + arp)
link.send(ethernet + bytes(46))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
udp.sendto(bytes(50), ("255.255.255.255", 67))
# The counters at the end are those of what was read by then: this goes the same way, after the others.
socket.create_connection((far, 8007), 20).close()
"""


def test_malformed_control_frames_are_counted_and_shown(lab: Lab, user: bool) -> None:
    result = lab.run(["-d", "--config-net"], ["/usr/bin/python3", "-c", SEND_MALFORMED % FAR4], user=user)
    drops, others = (re.search(rf"    {line}: (.*)$", result.stderr.decode(), re.MULTILINE)
                     for line in ("drops", "others"))
    assert drops, result.stderr
    assert others, result.stderr
    reasons = re.findall(r"(control_\w+) (\d+)", drops[1])
    assert dict(reasons) == {"control_arp_malformed": "2", "control_dhcp_malformed": "1"}
    counts = dict(re.findall(r"(control_\w+) (\d+)", others[1]))
    assert int(counts["control_arp_answered"]) >= 1
    assert int(counts["control_arp_received"]) >= 3
    assert counts["control_dhcp_received"] == "1"


@pytest.mark.parametrize("delay_s", [0, 0.02, 0.05, 0.1])
def test_question_at_any_moment_of_a_start_ends_nothing(lab: Lab, delay_s: float) -> None:
    running = lab.start(["--config-net"], ["sh", "-c", "read word; exit 7"], user=False,
                        stdin=subprocess.PIPE)

    def blocked() -> bool:
        return bool(int(status_field(running.pid, "SigBlk"), 16) >> (signal.SIGUSR1 - 1) & 1)

    wait_until(blocked, "pasta itself has begun")
    time.sleep(delay_s)
    running.send(signal.SIGUSR1)
    assert running.popen.stderr is not None
    assert running.popen.stderr.readline().startswith(b"Counters after ")
    assert running.finish().returncode == 7    # it ends the input, and so the command

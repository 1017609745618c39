"""Attacks by whoever is in the namespace: root there, of our user, with the host's processes in sight."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, UID, Lab, Running
from tests.support.processes import child_of, children, process_state, status_field, wait_until
from tests.system.machines import socket_path

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.needs_root

PYTHON = ("/usr/bin/python3", "-I", "-c")
NET = ("-q", "--config-net")
# Tries to get into every process named pasta, and prints how it could.
BREAK_IN = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PIDFD_GETFD = 0x4206, 438
seen = 0
def attempt(pid, how, function):
    try:
        if function() >= 0:
            print(pid, how, flush=True)
    except OSError:
        pass
def write_memory(pid):
    with open(f"/proc/{pid}/maps") as maps:
        places = [int(line.split("-")[0], 16) for line in maps if " rw-p " in line]
    if not places:
        return -1                            # it has ended, and its parent does not know yet
    start = places[0]
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as mem:
        mem.seek(start)
        data = mem.read(1)
        mem.seek(start)
        return mem.write(data)
def take_descriptor(pid):
    return libc.syscall(PIDFD_GETFD, os.pidfd_open(pid), 2, 0)
def search():
    global seen
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            with open(f"/proc/{pid}/comm") as file:
                name = file.read()
        except OSError:
            continue
        if name in ("pasta\\n", "passt\\n"):
            seen += 1
            attempt(pid, "memory", lambda: write_memory(pid))
            attempt(pid, "descriptor", lambda: take_descriptor(pid))
            attempt(pid, "environment", lambda: len(open(f"/proc/{pid}/environ").read()))
            attempt(pid, "root", lambda: os.open(f"/proc/{pid}/root/", os.O_RDONLY))
            attempt(pid, "network", lambda: os.open(f"/proc/{pid}/ns/net", os.O_RDONLY))
            attempt(pid, "control", lambda: libc.ptrace(PTRACE_SEIZE, pid, 0, 0))
search()                                     # PID 1 of our own namespaces
if libc.umount2(b"/proc", 2) == 0:           # below is the host's: all its processes
    search()
print("seen", seen)
"""


def break_in(result: bytes) -> tuple[list[str], int]:
    *found, last = result.decode().splitlines()
    return found, int(last.removeprefix("seen "))


def test_command_does_not_get_into_us(lab: Lab, user: bool) -> None:
    found, seen = break_in(lab.run(NET, [*PYTHON, BREAK_IN], user=user).stdout)
    assert found == []
    assert seen >= 2  # PID 1, and the main process below the mount of /proc


def test_command_in_a_user_namespace_that_exists_does_not_get_into_us(lab: Lab, user: bool) -> None:
    holder = lab.host.spawn(["unshare", "--user", "--map-root-user", "sh", "-c",
                             "echo ready; exec sleep 1000"], user=user)
    assert holder.popen.stdout is not None
    assert holder.popen.stdout.readline() == b"ready\n"
    pid = status_field(holder.pid, "NSpid").split()[-1]
    options = [*NET, "--userns", f"/proc/{pid}/ns/user", *([] if user else ["--runas", "0"])]
    found, seen = break_in(lab.run(options, [*PYTHON, BREAK_IN], user=user).stdout)
    holder.kill()
    assert found == []
    assert seen >= 2


class Attached:
    """A network namespace without a PID namespace of its own, and pasta or passt that serves it."""

    def __init__(self, lab: Lab, options: Sequence[str], *, user: bool) -> None:
        self.lab, self.user = lab, user
        self.target = lab.host.spawn(["unshare", "--user", "--map-root-user", "--net", "sh", "-c",
                                      "echo ready; exec sleep 1000"], user=user)
        assert self.target.popen.stdout is not None
        assert self.target.popen.stdout.readline() == b"ready\n"
        self.pid = status_field(self.target.pid, "NSpid").split()[-1]
        self.pasta: Running = lab.start(["-f", *NET, *options, self.pid], user=user)

        def is_connected() -> bool:
            assert self.pasta.popen.poll() is None, self.pasta.popen.communicate()
            return b" h0 " in self.run(["ip", "-o", "addr", "show", "scope", "global"])

        wait_until(is_connected, "the interface is configured")
        self.run([*lab.client, "tcp", FAR4])  # so the loop runs

    def run(self, argv: Sequence[str], *, check: bool = True) -> bytes:
        """Run a program in there, as root of it."""
        enter = ["nsenter", "-t", self.pid, "--user", "--preserve-credentials", "--net"]
        return self.lab.host.run([*enter, *argv], user=self.user, check=check).stdout

    def end(self) -> bytes:
        """End pasta, which must go well; return what it said."""
        self.pasta.send(signal.SIGTERM)
        result = self.pasta.finish()
        self.target.kill()
        assert result.returncode == 0
        return result.stderr


def test_attached_namespace_does_not_get_into_us(lab: Lab, user: bool) -> None:
    # All that reads /proc/self in the meantime still works: scans of ports, counters, the trace.
    one = Attached(lab, ["-d", "--trace"], user=user)
    found, seen = break_in(one.run([*PYTHON, BREAK_IN]))
    one.pasta.send(signal.SIGUSR1)
    text = one.end().decode()
    assert (found, seen) == ([], 1)
    assert "Counters after " in text
    assert "scan failed" not in text


def test_plain_user_does_not_get_into_passt_of_its_own(lab: Lab, user: bool) -> None:
    path = socket_path(lab, "hostile")
    before = lab.host.pids()
    lab.host.run([lab.passt, "-q", "-s", path, *([] if user else ["--runas", str(UID)])], user=user)
    wait_until(lambda: len(lab.host.programs() - before) == 1, "who started passt is gone")
    [own] = lab.host.programs() - before
    script = BREAK_IN.replace('libc.umount2(b"/proc", 2) == 0', "False")
    found, seen = break_in(lab.host.run([*PYTHON, script], user=True).stdout)
    os.kill(own, signal.SIGTERM)
    wait_until(lambda: lab.host.pids() <= before, "passt has ended")
    os.unlink(path)
    assert found == []
    assert seen == 1


PIDFD_GETFD = 438                 # pidfd_getfd(2); the number is the same on every architecture
READY = b"ready\n"


def start_command(lab: Lab, script: str, *, user: bool) -> tuple[Running, int]:
    """Start pasta with a shell that prints "ready"; return it and PID 1 of the namespaces."""
    # The channel of PID 1 is the only one then.
    running = lab.start(["--no-follow", *NET], ["sh", "-c", script], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == READY
    return running, pid_1_of(running)


def pid_1_of(running: Running) -> int:
    """Give PID 1 of the namespaces; helpers of the start end in their own time."""
    wait_until(lambda: len(children(running.pid)) == 1, "PID 1 is the only child")
    return child_of(running.pid)


def take_channel(pid: int) -> socket.socket:
    """Take a copy of the channel's end that process *pid* has: root of the machine may."""
    pidfd = os.pidfd_open(pid)
    for name in os.listdir(f"/proc/{pid}/fd"):
        fd = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pidfd, int(name), 0)
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            continue
        if (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_SEQPACKET):
            os.close(pidfd)
            return sock
        sock.close()
    raise AssertionError(f"process {pid} has no channel")


SLEEP = "echo ready; exec sleep 1000"
STOPPED_BY_9, TERMINATE = b"\x03\x09", b"\x11\x0f\x00"


FORGED = [b"\xff", b"\x00", b"\x03", b"\x05", b"\x05\xff\xff\xff\xff", b"\x01" + bytes(26), STOPPED_BY_9,
          b"\x03\x0f", TERMINATE]


@pytest.mark.parametrize("message", FORGED, ids=bytes.hex)
def test_forged_message_from_the_command_ends_it_only(lab: Lab, user: bool, message: bytes) -> None:
    running, pid_1 = start_command(lab, SLEEP, user=user)
    with take_channel(pid_1) as forged:
        forged.send(message)
    result = running.finish()
    assert result.returncode == 1
    assert result.stderr == b"the command sent messages that are not its to send, and is ended\n"


def count_descriptors(pid: int, target: str) -> int:
    """Count the descriptors of *pid* that lead to *target*; it may end meanwhile."""
    found = 0
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        try:
            found += str(link.readlink()).startswith(target)
        except FileNotFoundError:
            continue
    return found


def test_forged_descriptors_do_not_pile_up(lab: Lab, user: bool) -> None:
    running, pid_1 = start_command(lab, SLEEP, user=user)
    at_once = 6
    thing = os.memfd_create("forged")
    with take_channel(pid_1) as forged:
        for _ in range(20):
            try:
                socket.send_fds(forged, [b"\x04"], [thing] * at_once)
            except OSError:
                break
        assert count_descriptors(running.pid, "/memfd:forged") <= at_once  # of the message at hand
    os.close(thing)
    assert running.finish().returncode == 1


@pytest.mark.parametrize("message", [b"\xff", b"\x11", b"\x11\x00\x00", b"\x11\xff\x00", b"\x12", b"\x04"],
                         ids=bytes.hex)
def test_forged_message_to_the_namespaces_ends_them(lab: Lab, user: bool, message: bytes) -> None:
    running, _ = start_command(lab, SLEEP, user=user)
    with take_channel(running.pid) as forged:
        forged.send(message)
    result = running.finish()
    assert (result.returncode, result.stderr) == (1, b"")


def test_stolen_signal_does_not_block_the_next_one(lab: Lab, user: bool) -> None:
    running, pid_1 = start_command(lab, SLEEP, user=user)
    with take_channel(pid_1) as stolen:
        stolen.setblocking(False)
        os.kill(pid_1, signal.SIGSTOP)  # so that it is told of the message and then finds it gone
        wait_until(lambda: process_state(pid_1) == "T", "PID 1 is stopped")
        running.send(signal.SIGTERM)

        def is_stolen() -> bool:
            try:
                return stolen.recv(100) == TERMINATE
            except BlockingIOError:
                return False

        wait_until(is_stolen, "the message came")
        os.kill(pid_1, signal.SIGCONT)
        running.send(signal.SIGTERM)
        assert running.finish().returncode == 128 + signal.SIGTERM


def test_command_that_covers_its_status_is_asked_and_ended_all_the_same(lab: Lab, user: bool) -> None:
    script = """
mount -t tmpfs none /mnt && mkfifo /mnt/pipe && mount --bind /mnt/pipe /proc/$$/status &&
mount --bind /mnt/pipe /dev/tty && mount --bind /mnt/pipe /dev/null
trap 'echo asked' USR1
trap 'exit 42' TERM
echo ready
while :; do sleep 0.05; done
"""
    running, _ = start_command(lab, script, user=user)
    running.send(signal.SIGUSR1)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"asked\n"
    running.send(signal.SIGTERM)
    assert running.finish().returncode == 42


def test_pid_1_holds_nothing_of_the_host(lab: Lab, user: bool) -> None:
    running = lab.start([*NET, "-t", "9507", "-u", "9507"], ["sh", "-c", SLEEP], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == READY
    pid_1 = pid_1_of(running)
    # Standard error, the channel, the signals of its children, and the status of the command. What it needed
    # for the command it closes in its own time.
    wait_until(lambda: count_descriptors(pid_1, "socket:") == 1, "it has one socket")
    wait_until(lambda: count_descriptors(pid_1, "pipe:") <= 1, "it has one pipe at most")
    wait_until(lambda: count_descriptors(pid_1, "") - count_descriptors(pid_1, "/dev/null") <= 4,
               "it has four descriptors at most")
    running.kill()


# Sends to all netlink sockets of the namespace that are not its own, for some seconds: too short a message,
# one whose length is 0, which a reader that trusts it never gets past, and one that says that port 9999 is
# bound.
FORGE = """
import socket, struct, sys, time
PORT, OWN = 9999, set()
entry = struct.pack("=IHHII", 88, 20, 2, 0, 0) + bytes(4) + struct.pack("!H", PORT) + bytes(66)
messages = [b"abc", bytes(16), bytes(100), entry, entry + struct.pack("=IHHIIi", 20, 3, 2, 0, 0, 0),
            struct.pack("=IHHIIi", 20, 3, 2, 0, 0, -5)]
attackers = {}
for protocol in (0, 4):
    attackers[protocol] = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    attackers[protocol].bind((0, 0))
    OWN.add((protocol, attackers[protocol].getsockname()[0]))
print("ready", flush=True)
end, told = time.monotonic() + 3, set()
while time.monotonic() < end:
    # Columns of /proc/net/netlink: sk, Eth (the protocol), Pid (the port of the socket).
    for line in open("/proc/net/netlink").read().splitlines()[1:]:
        protocol, port = (int(word) for word in line.split()[1:3])
        if protocol in attackers and port and (protocol, port) not in OWN:
            for message in messages:
                try:
                    attackers[protocol].sendto(message, (port, 0))
                    told.add("taken")
                except OSError as error:
                    told.add(error.strerror)
print(sorted(told), flush=True)
listener = socket.create_server(("", 9508))
time.sleep(1000)
"""


def host_ports(lab: Lab) -> set[int]:
    lines = lab.host.run(["ss", "-Hltn"]).stdout.decode().splitlines()
    return {int(line.split()[3].rpartition(":")[2]) for line in lines}


def is_followed(lab: Lab) -> bool:
    assert 9999 not in host_ports(lab)
    return 9508 in host_ports(lab)


def test_command_cannot_forge_what_the_kernel_says(lab: Lab, user: bool) -> None:
    running = lab.start(NET, [*PYTHON, FORGE], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == READY
    assert running.popen.stdout.readline() == b"['Connection refused']\n"
    wait_until(lambda: is_followed(lab), "the port is followed all the same")
    running.send(signal.SIGTERM)
    assert running.finish().returncode == 128 + signal.SIGTERM


def test_attached_namespace_cannot_forge_what_the_kernel_says(lab: Lab, user: bool) -> None:
    one = Attached(lab, [], user=user)
    attacker = lab.host.spawn(["nsenter", "-t", one.pid, "--user", "--preserve-credentials", "--net", *PYTHON,
                               FORGE], user=user)
    assert attacker.popen.stdout is not None
    assert attacker.popen.stdout.readline() == READY
    assert attacker.popen.stdout.readline() == b"['Connection refused']\n"
    wait_until(lambda: is_followed(lab), "the port is followed all the same")
    attacker.kill()
    assert one.end() == b""

"""A virtual machine, emulated by QEMU in a place of the lab, whose guest carries out commands.

The processor is emulated (TCG), as a guest of a cloud machine may not be able to use KVM; with
PASST_TEST_KVM=1 it is the machine's own. The model qemu64 is chosen for its lack of string
instructions, which TCG carries out byte by byte.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import is_readable, wait_until
from tests.support.switches import KVM

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.lab import Lab, Place, Running

DEFAULT_PATH = "/tmp/passt_1.socket"  # noqa: S108 - where passt puts it
BOOT_S = 600.0
COMMAND_S = 200.0
MAC = "52:54:00:12:34:56"
QEMU = "qemu-system-x86_64"
MEMORY_MB = 256
# no_timer_check: an emulator that gets little of a busy machine's time fails the kernel's check of its timer.
APPEND = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check mitigations=off random.trust_cpu=1"


def stream_card(path: str, mac: str = MAC) -> list[str]:
    """Give the arguments for a card on passt's socket, as QEMU has them from 7.2 on."""
    return ["-netdev", f"stream,id=n,server=off,addr.type=unix,addr.path={path}",
            "-device", f"virtio-net-pci,netdev=n,mac={mac},romfile="]


def sharing_card(path: str, mac: str = MAC, *, more: str = "") -> list[str]:
    """Give the arguments for a card whose rings passt shares; *more* are properties of the connection.

    QEMU 7.2 that emulates the processor crashes with more than one interrupt vector for the card.
    """
    return ["-object", f"memory-backend-memfd,id=m,size={MEMORY_MB}M,share=on",
            "-machine", "memory-backend=m", "-chardev", f"socket,id=c,path={path}{more}",
            "-netdev", "vhost-user,id=n,chardev=c",
            "-device", f"virtio-net-pci,netdev=n,mac={mac},romfile=,vectors=0"]


# For each way to connect a machine: options of passt, and the card.
CARDS: dict[str, tuple[list[str], Callable[[str], list[str]]]] = {
    "stream": ([], stream_card),
    "vhost-user": (["--vhost-user"], sharing_card),
}


class Vm:
    """A running machine; *directory* holds `vmlinuz` and `initrd`, and gets the console as NAME.console.

    *before* is put in front of QEMU's command line. QEMU ends when the guest wants to boot again, unless
    *may_reboot*.
    """

    def __init__(self, place: Place, directory: Path, card: Sequence[str], *, name: str = "vm",
                 user: bool = False, before: Sequence[str] = (), may_reboot: bool = False) -> None:
        self._console = directory / f"{name}.console"
        once = [] if may_reboot else ["-no-reboot"]
        self.running = place.spawn([*before, QEMU, *self._arguments(directory), *once, *card], user=user,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._buffer = b""
        self._has_ended = False

    def _arguments(self, directory: Path) -> list[str]:
        machine = ["-machine", "q35,accel=kvm", "-cpu", "host"] if KVM else [
            "-machine", "q35,accel=tcg", "-cpu", "qemu64"]
        return [
            *machine, "-smp", "1", "-m", str(MEMORY_MB), "-nodefaults", "-no-user-config", "-display", "none",
            "-kernel", str(directory / "vmlinuz"), "-initrd", str(directory / "initrd"),
            "-append", APPEND, "-serial", f"file:{self._console}",
            "-chardev", "stdio,id=commands,signal=off", "-serial", "chardev:commands",
        ]

    def wait_for_boot(self) -> None:
        """Wait until the guest takes commands."""
        self._read_until(b"ready\n", BOOT_S)

    def run(self, command: str, *, timeout: float = COMMAND_S, check: bool = True) -> str:
        """Run a line of shell in the guest and return its output; with *check* a failure fails the test."""
        assert "\n" not in command
        assert self.running.popen.stdin is not None
        token = uuid.uuid4().hex
        self.running.popen.stdin.write(f"{token} {command}\n".encode())
        self.running.popen.stdin.flush()
        output = self._read_until(b"\n" + token.encode() + b" ", timeout)
        status = self._read_until(b"\n", timeout)
        text = output.decode(errors="replace")
        assert not check or status == b"0", f"{command}: status {status.decode()}\n{text}"
        return text

    def wait_for(self, command: str, what: str, limit_s: float = COMMAND_S) -> str:
        """Repeat a command of the guest until its status is 0; return its output."""
        found: list[str] = []

        def is_good() -> bool:
            output, _, status = self.run(f"{command}; echo status $?", check=False).rpartition("status ")
            found[:] = [output]
            return status.strip() == "0"

        wait_until(is_good, what, limit_s)
        return found[0]

    def configure4(self) -> dict[str, str]:
        """Set up IPv4 by DHCP; return what the client was told, by udhcpc's names."""
        self.run("ip link set eth0 up; udhcpc -i eth0 -f -q -n -t 30 -T 1 -O search -O mtu -s /etc/udhcpc.sh")
        return self._variables("/tmp/dhcp4")  # noqa: S108 - in the guest

    def configure6(self) -> dict[str, str]:
        """Set up IPv6 by advertisements, then by DHCPv6; return what dhclient was told, by its names."""
        self.wait_for_unique6("the addresses are found to be unique")
        self.run("dhclient -6 -1 -cf /etc/dhclient.conf -sf /etc/dhclient6.sh -lf /tmp/l -pf /tmp/p eth0")
        self.wait_for_unique6("the address is found to be unique")
        return self._variables("/tmp/dhcp6")  # noqa: S108 - in the guest

    def wait_for_unique6(self, what: str) -> None:
        """Wait until the guest's card has addresses of which all are known to be unique."""
        # No address is not a unique one: the kernel learns of the carrier a while after the link is set up.
        addresses = "ip -6 addr show dev eth0"
        self.wait_for(f"{addresses} | grep inet6 && ! {addresses} | grep tentative", what)

    def serve(self, protocol: str, family: int, port: int, action: str) -> None:
        """Have the guest serve *port* of one family; *action* is what socat does for each client."""
        kind = "LISTEN" if protocol == "TCP" else "RECVFROM"
        only = ",ipv6only=1" if family == 6 else ""
        # Where processes start slowly, answers would come after half a second, when socat waits no more.
        self._start(f"socat -t 20 {protocol}{family}-{kind}:{port},fork,reuseaddr{only} '{action}'")
        local = f" :::{port} " if family == 6 else f" 0.0.0.0:{port} "
        self.wait_for(f"netstat -{protocol[0].lower()}ln | grep -F '{local}'", "the guest listens")

    def reboot(self) -> None:
        """Have the guest boot again, and wait until it takes commands."""
        assert self.running.popen.stdin is not None
        self.running.popen.stdin.write(b"- reboot -f\n")
        self.running.popen.stdin.flush()
        self.wait_for_boot()

    def power_off(self) -> int:
        """Have the guest power off; return QEMU's status."""
        assert self.running.popen.stdin is not None
        self.running.popen.stdin.write(b"- poweroff -f\n")
        self.running.popen.stdin.flush()
        self._has_ended = True
        return self.running.finish(120).returncode

    def close(self) -> None:
        """Pull the plug."""
        if self._has_ended:
            return
        self._has_ended = True
        if self.running.popen.poll() is None:
            self.running.kill()
        else:
            self.running.finish()

    def _start(self, command: str) -> None:
        self.run(f"setsid sh -c {shlex.quote(command)} >/dev/null 2>&1 &")

    def _variables(self, path: str) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.run(f"cat {path}").splitlines() if "=" in line)

    def _read_until(self, mark: bytes, limit_s: float) -> bytes:
        """Return what comes before *mark*, which is thrown away."""
        assert self.running.popen.stdout is not None
        descriptor = self.running.popen.stdout.fileno()
        end = time.monotonic() + limit_s
        while mark not in self._buffer:
            if not is_readable(descriptor, end - time.monotonic()):
                raise AssertionError(f"nothing within {limit_s} s: {self._describe()}")
            data = os.read(descriptor, 65536)
            if not data:
                raise AssertionError(f"QEMU has ended: {self._describe()}")
            self._buffer += data
        found, _, self._buffer = self._buffer.partition(mark)
        return found

    def _describe(self) -> str:
        console = self._console.read_text(errors="replace") if self._console.exists() else ""
        status = self.running.popen.poll()
        return f"status {status}, said {self._buffer!r}; console:\n{console}"


class Passt:
    """passt, started with *options* on the host, that serves the socket *path*, or a default one."""

    def __init__(self, lab: Lab, path: Path | None, options: Sequence[str], *, user: bool) -> None:
        where = [] if path is None else ["-s", str(path)]
        self.path = DEFAULT_PATH if path is None else str(path)
        # As the host sees it, which may have a /tmp of its own.
        self._file = Path(f"/proc/{lab.host.init}/root{self.path}")
        self.running: Running = lab.host.spawn([lab.passt, "-f", *where, *options], user=user)

        def is_up() -> bool:
            if self.running.popen.poll() is not None:
                raise AssertionError(f"passt has ended: {self.running.popen.communicate()}")
            return self._file.exists()

        wait_until(is_up, "passt makes its socket", 30)
        self._has_ended = False

    def finish(self) -> None:
        """Wait for an end that must be a good one."""
        self._has_ended = True
        result = self.running.finish()
        assert result.returncode == 0, result.stderr.decode()
        assert b"Traceback" not in result.stderr, result.stderr.decode()

    def close(self) -> None:
        """End it, if it runs, and remove its socket."""
        if not self._has_ended:
            self._has_ended = True
            self.running.send(signal.SIGTERM)
            self.running.finish()
        self._file.unlink(missing_ok=True)

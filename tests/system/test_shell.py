"""An interactive shell behaves as on any terminal: Ctrl-C, Ctrl-Z, job control, the login shell."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import UID, Lab, Running
from tests.support.processes import descendants, is_readable, process_state, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.needs_root

ENV = {"TERM": "dumb", "HISTFILE": "/dev/null", "PS1": "% "}
BASH = ["bash", "--norc", "--noprofile", "-i"]


class Terminal:
    """A program on a pseudo-terminal of its own, that it has for its controlling terminal."""

    def __init__(
        self, lab: Lab, argv: Sequence[str], *, user: bool, env: dict[str, str] | None = None
    ) -> None:
        self.master, slave = pty.openpty()
        os.fchown(slave, UID if user else 0, -1)
        # nsenter stays outside the terminal's session, so that Ctrl-C is for the program alone.
        self.running: Running = lab.host.spawn(
            ["setsid", "--ctty", *argv],
            user=user,
            env={**ENV, **(env or {})},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self.master, text.encode())

    def expect(self, pattern: str, limit_s: float = 60.0) -> str:
        """Read until *pattern* appears; forget everything up to its end and return what it matched."""
        end = time.monotonic() + limit_s
        while not (match := re.search(pattern, self.seen)):
            if not is_readable(self.master, end - time.monotonic()):
                raise AssertionError(f"no {pattern!r} in {self.seen!r}")
            try:
                data = os.read(self.master, 65536)
            except OSError as error:  # EIO: the other end is closed
                raise AssertionError(f"ended without {pattern!r} after {self.seen!r}") from error
            self.seen += data.decode(errors="replace")
        self.seen = self.seen[match.end() :]
        return match[0]

    def run_sleep(self, seconds: int) -> None:
        """Start a sleeper in the foreground and wait until it sleeps."""
        self.type(f"sleep {seconds}\n")
        wait_until(lambda: self.sleeper(seconds) is not None, "the sleeper sleeps")

    def sleeper(self, seconds: int) -> int | None:
        """PID of the sleeper for *seconds*."""
        wanted = f"sleep\0{seconds}\0".encode()
        for pid in descendants(self.running.pid):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if file.read() == wanted and process_state(pid) == "S":
                        return pid
            except (FileNotFoundError, ProcessLookupError):
                continue
        return None

    def close(self) -> None:
        """End what still runs."""
        if self.running.popen.poll() is None:
            self.running.kill()
        os.close(self.master)


@pytest.fixture
def inner(lab: Lab, user: bool) -> Iterator[Terminal]:
    """Lend a shell in the namespace."""
    terminal = Terminal(lab, [lab.pasta, "--config-net", "--", *BASH], user=user)
    terminal.expect("% ")
    yield terminal
    terminal.close()


@pytest.fixture
def outer(lab: Lab, user: bool) -> Iterator[Terminal]:
    """Lend a shell on the host, in which pasta is started as a job."""
    terminal = Terminal(lab, BASH, user=user)
    terminal.expect("% ")
    yield terminal
    terminal.close()


def test_shell_has_job_control(inner: Terminal) -> None:
    inner.type("echo mode=$-\n")
    inner.expect(r"\nmode=\w*m")
    inner.type("echo tty=$(tty)\n")
    inner.expect(r"\ntty=/dev/pts/")


def test_ctrl_c_ends_the_foreground_program_not_the_shell(inner: Terminal) -> None:
    inner.run_sleep(1001)
    inner.type("\x03")
    inner.expect(r"% ")
    inner.type("echo status=$?\n")
    inner.expect(r"\nstatus=130")
    inner.type("exit 5\n")
    inner.expect("exit")
    assert inner.running.finish(60).returncode == 5


def test_ctrl_c_at_the_prompt_does_nothing(inner: Terminal) -> None:
    inner.type("half a line")
    inner.expect("half a line")
    # Readline acts late on a signal that comes before it reads again.
    wait_until(lambda: process_state(descendants(inner.running.pid)[-1]) == "S", "the shell waits for keys")
    inner.type("\x03")
    inner.expect("% ")
    inner.type("echo al''ive\n")
    inner.expect("alive")


def test_ctrl_z_stops_and_fg_goes_on(inner: Terminal) -> None:
    inner.run_sleep(1002)
    inner.type("\x1a")
    inner.expect(r"Stopped +sleep 1002")
    inner.type("fg\n")
    wait_until(lambda: inner.sleeper(1002) is not None, "the sleeper goes on")
    inner.type("\x03")
    inner.expect(r"% ")
    inner.type("echo status=$?\n")
    inner.expect(r"\nstatus=130")


def test_background_job_is_killed_by_its_number(inner: Terminal) -> None:
    inner.type("sleep 1003 &\n")
    inner.expect(r"\[1\] \d+")
    inner.type("kill %1; wait %1; echo status=$?\n")
    inner.expect(r"\nstatus=143")


def test_ctrl_backslash_quits_the_foreground_program(inner: Terminal) -> None:
    inner.type("ulimit -c 0\n")
    inner.run_sleep(1004)
    inner.type("\x1c")
    inner.expect(r"% ")
    inner.type("echo status=$?\n")
    inner.expect(r"\nstatus=131")


def test_hang_up_of_the_terminal_ends_everything(inner: Terminal, lab: Lab) -> None:
    inner.run_sleep(1005)
    os.close(inner.master)
    inner.master = os.open("/dev/null", os.O_RDONLY)
    inner.running.finish(60)
    wait_until(lambda: not any(process_state(pid) for pid in descendants(lab.host.init)), "all have ended")


def test_job_of_an_outer_shell_ends_by_ctrl_c(outer: Terminal, lab: Lab) -> None:
    outer.type(f"{lab.pasta} --config-net -- sleep 1006\n")
    wait_until(lambda: outer.sleeper(1006) is not None, "the command runs")
    outer.type("\x03")
    outer.expect(r"% ")
    outer.type("echo status=$?\n")
    outer.expect(r"\nstatus=130")


def test_job_of_an_outer_shell_stops_and_goes_on(outer: Terminal, lab: Lab) -> None:
    outer.type(f"{lab.pasta} --config-net -- sleep 1007\n")
    wait_until(lambda: outer.sleeper(1007) is not None, "the command runs")
    outer.type("\x1a")
    outer.expect(r"Stopped")
    wait_until(lambda: outer.sleeper(1007) is None, "the command has stopped, too")
    outer.type("fg\n")
    wait_until(lambda: outer.sleeper(1007) is not None, "the command goes on")
    outer.type("\x03")
    outer.expect(r"% ")
    outer.type("echo status=$?\n")
    outer.expect(r"\nstatus=130")


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash", None])
def test_no_command_means_a_login_shell(lab: Lab, user: bool, shell: str | None) -> None:
    terminal = Terminal(lab, [lab.pasta, "--config-net"], user=user, env={"SHELL": shell} if shell else {})
    terminal.type("echo name=$0\n")
    terminal.expect(rf"name=-{shell or '/bin/sh'}\s")
    terminal.type("exit 3\n")
    assert terminal.running.finish(60).returncode == 3
    terminal.close()


def test_sigwinch_reaches_the_foreground_program(inner: Terminal) -> None:
    inner.type("trap 'echo new si''ze' WINCH; echo rea''dy\n")
    inner.expect("ready")
    fcntl.ioctl(inner.master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 99, 0, 0))
    inner.type("\n")
    inner.expect("new size")

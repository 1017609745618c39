"""Job control on a pseudo-terminal: pasta must not be noticed between a shell and its command."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import time
from typing import TYPE_CHECKING

import pytest

from passt.namespace import terminal
from passt.namespace.child_channel import Channel, Kind
from passt.process import signals
from tests.support.isolated import isolated
from tests.support.life import DRIVER, PYTHON, TREE, Life
from tests.support.processes import LIMIT_S, is_readable, read, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PASTA = shlex.join([PYTHON, DRIVER])
BASH = ["bash", "--norc", "--noprofile", "-i"]
CTRL_C, CTRL_Z = "\x03", "\x1a"
# Tells when it gets the signal, and goes on.
HANDLER = ("import os, signal, time; signal.signal(signal.SIGTSTP, lambda *_: os.write(1, b'trapped')); "
           "os.write(1, b'\\nready')\nwhile True: time.sleep(0.01)")


class Screen:
    """A program that has a pseudo-terminal for its controlling terminal."""

    def __init__(self, argv: Sequence[str], life: Life, **more: str) -> None:
        self.life = life
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            more = {"PYTHONPATH": str(TREE / "src"), "PS1": "% ", "HISTFILE": "/dev/null", **more}
            os.execvpe(argv[0], list(argv), life.environment(HANDLER=HANDLER, **more))  # noqa: S606
        self._seen = ""
        self._status: int | None = None

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._fd, text.encode())

    def expect(self, pattern: str) -> str:
        """Wait for *pattern* and return what matched; forget all up to its end."""
        end = time.monotonic() + LIMIT_S
        while not (match := re.search(pattern, self._seen)):
            assert is_readable(self._fd, end - time.monotonic()), f"no {pattern!r} in {self._seen!r}"
            try:
                self._seen += os.read(self._fd, 65536).decode(errors="replace")
            except OSError as error:  # EIO: nobody has the terminal any more
                raise AssertionError(f"ended without {pattern!r} after {self._seen!r}") from error
        self._seen = self._seen[match.end():]
        return match[0]

    def prompt(self) -> None:
        """Wait until the shell waits for us."""
        self.expect("% $")

    def status(self) -> int:
        """Ask the shell for the last status."""
        self.prompt()
        self.type("echo status=$?\n")
        return int(self.expect(r"\nstatus=\d+").partition("=")[2])

    def await_sleeper(self, seconds: int, state: str) -> int:
        """Wait until `sleep SECONDS` is in *state* (S, T) and return its PID."""
        found: list[int] = []

        def is_there() -> bool:
            found[:] = [pid for pid in self.life.processes()
                        if read(f"/proc/{pid}/cmdline") == f"sleep\0{seconds}\0".encode()
                        and read(f"/proc/{pid}/stat").rpartition(b") ")[2][:1] == state.encode()]
            return bool(found)

        wait_until(is_there, f"sleep {seconds} in state {state}")
        return found[0]

    def await_foreground(self) -> None:
        """Wait until keys are no signals for the shell any more, as they are when it has just named a job."""
        wait_until(lambda: os.tcgetpgrp(self._fd) != self.pid, "the terminal is the job's")

    def end(self) -> int:
        """Wait for the program's end; exit status, or minus the signal."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            if is_readable(self._fd, 0.01):
                try:
                    self._seen += os.read(self._fd, 65536).decode(errors="replace")
                except OSError:
                    time.sleep(0.01)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = status
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"still running after {self._seen!r}")

    def close(self) -> None:
        """End all of it."""
        for pid in self.life.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._status is None:
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def screens() -> Iterator[list[Screen]]:
    found: list[Screen] = []
    yield found
    for screen in found:
        screen.close()
        screen.life.assert_nothing_left()


@pytest.fixture
def life() -> Life:
    return Life(False, TREE / "tests" / "support")


@pytest.fixture
def shell(life: Life, screens: list[Screen]) -> Screen:
    """Start an interactive shell, for pasta to be started in it."""
    screens.append(Screen(BASH, life))
    screens[0].prompt()
    return screens[0]


@pytest.mark.needs_root
@pytest.mark.parametrize("path", ["/bin/sh", "/bin/bash"])
def test_login_shell_has_the_terminal_and_gives_its_status(path: str, life: Life,
                                                           screens: list[Screen]) -> None:
    screens.append(Screen([PYTHON, DRIVER], life, SHELL=path))
    screens[0].expect("[%#] ")
    screens[0].type("echo $0 $-\n")
    flags = screens[0].expect(rf"-{path} \w+").split()[1]
    assert "m" in flags
    screens[0].type("exit 3\n")
    assert screens[0].end() == 3
    assert "process group" not in screens[0]._seen


@pytest.mark.needs_root
def test_ctrl_c_ends_the_command(shell: Screen) -> None:
    shell.type(f"{PASTA} -- sleep 1001\n")
    shell.await_sleeper(1001, "S")
    shell.type(CTRL_C)
    assert shell.status() == 130


@pytest.mark.needs_root
def test_ctrl_z_stops_and_fg_and_bg_go_on(shell: Screen) -> None:
    shell.type(f"{PASTA} -- sleep 1002\n")
    shell.await_sleeper(1002, "S")
    shell.type(CTRL_Z)
    shell.expect("Stopped")
    shell.await_sleeper(1002, "T")
    shell.type("bg\n")
    shell.await_sleeper(1002, "S")
    shell.prompt()
    shell.type("fg\n")
    shell.expect("sleep 1002\r\n")
    shell.await_foreground()
    shell.type(CTRL_Z)
    shell.expect("Stopped")
    shell.type("fg\n")
    shell.await_sleeper(1002, "S")
    shell.type(CTRL_C)
    assert shell.status() == 130


@pytest.mark.needs_root
def test_pipeline_is_one_job(shell: Screen) -> None:
    shell.type(f"{PASTA} -- sleep 1003 | cat\n")
    shell.await_sleeper(1003, "S")
    shell.type(CTRL_Z)
    shell.expect("Stopped")
    shell.type("fg\n")
    shell.await_sleeper(1003, "S")
    shell.type(CTRL_C)
    shell.prompt()
    shell.type("echo all=${PIPESTATUS[*]}\n")
    shell.expect(r"\nall=130")


@pytest.mark.needs_root
def test_command_that_handles_the_stop_goes_on(shell: Screen) -> None:
    shell.type(f'{PASTA} -- {PYTHON} -c "$HANDLER"\n')
    shell.expect("\nready")
    shell.type(CTRL_Z)
    shell.expect("trapped")
    shell.type(CTRL_C)
    assert shell.status() == 130


@pytest.mark.needs_root
def test_reading_in_the_background_stops_until_fg(shell: Screen) -> None:
    shell.type(f"{PASTA} -- sh -c 'read x; echo got=$x; exit 5' &\n")
    shell.expect(r"\[1\] \d+")
    wait_until(lambda: read(f"/proc/{shell.pid}/task/{shell.pid}/children") != b"", "the job is there")
    [job] = read(f"/proc/{shell.pid}/task/{shell.pid}/children").split()
    wait_until(lambda: b") T " in read(f"/proc/{job.decode()}/stat"), "the job stops")
    shell.type("\n")
    shell.expect("Stopped")
    shell.type("fg\n")
    shell.expect("exit 5'\r\n")
    shell.type("word\n")
    shell.expect("got=word")
    assert shell.status() == 5


@pytest.mark.needs_root
def test_inner_shell_suspends_and_comes_back(shell: Screen) -> None:
    shell.type(f"PS1='in> ' {PASTA} -- {shlex.join(BASH)}\n")
    shell.expect("in> ")
    shell.type("suspend\n")
    shell.expect("Stopped")
    shell.prompt()
    shell.type("fg\n")
    shell.type("echo $PPID\n")
    shell.expect("\n1\r\n")  # our init
    shell.type("exit 4\n")
    assert shell.status() == 4


@pytest.mark.needs_root
def test_death_of_a_stopped_command_is_our_end(shell: Screen) -> None:
    shell.type(f"{PASTA} -- sleep 1004\n")
    shell.await_sleeper(1004, "S")
    shell.type(CTRL_Z)
    shell.expect("Stopped")
    [job] = read(f"/proc/{shell.pid}/task/{shell.pid}/children").split()
    os.kill(shell.await_sleeper(1004, "T"), signal.SIGKILL)
    wait_until(lambda: not read(f"/proc/{job.decode()}/stat"), "pasta has ended")
    shell.prompt()
    shell.type("\n")
    shell.expect("Exit 137")


@pytest.mark.needs_root
def test_continued_command_continues_us(shell: Screen) -> None:
    shell.type(f"{PASTA} -- sleep 1005\n")
    shell.await_sleeper(1005, "S")
    shell.type(CTRL_Z)
    shell.expect("Stopped")
    os.kill(shell.await_sleeper(1005, "T"), signal.SIGCONT)
    [job] = read(f"/proc/{shell.pid}/task/{shell.pid}/children").split()
    wait_until(lambda: b") S " in read(f"/proc/{job.decode()}/stat"), "pasta goes on")


@pytest.mark.needs_root
def test_timeout_leads_its_group_as_at_a_prompt(shell: Screen) -> None:
    shell.type(f"{PASTA} -- timeout 1000 sleep 1006\n")
    shell.await_sleeper(1006, "S")
    shell.type(CTRL_C)
    assert shell.status() == 130


@pytest.mark.needs_root
@pytest.mark.parametrize("name", ["sh", "bash"])
def test_ctrl_c_ends_a_script_as_well(name: str, life: Life, screens: list[Screen]) -> None:
    screens.append(Screen([name, "-c", f"{PASTA} -- sleep 1007; echo went on"], life))
    screens[0].await_sleeper(1007, "S")
    screens[0].type(CTRL_C)
    assert screens[0].end() == -signal.SIGINT
    assert "went on" not in screens[0]._seen


@pytest.mark.needs_root
def test_status_130_does_not_end_a_script(life: Life, screens: list[Screen]) -> None:
    screens.append(Screen(["bash", "-c", f"{PASTA} -- sh -c 'kill -INT $$'; echo went on $?"], life))
    screens[0].expect("went on 130")
    assert screens[0].end() == 0


@pytest.mark.needs_root
def test_script_has_the_terminal_back_after_a_shell(life: Life, screens: list[Screen]) -> None:
    """The inner shell made a group of its own the foreground group, and nobody but us can change that."""
    script = f"PS1='in> ' {PASTA} -- {shlex.join(BASH)}; read word; echo read=$word"
    screens.append(Screen(["sh", "-c", script], life))
    screens[0].expect("in> ")
    screens[0].type("exit\n")
    screens[0].expect("exit\r\n")
    screens[0].type("some\n")
    screens[0].expect("read=some")
    assert screens[0].end() == 0


@pytest.mark.needs_root
def test_hang_up_ends_everything(life: Life, screens: list[Screen]) -> None:
    screens.append(Screen([PYTHON, DRIVER, "--", "sleep", "1008"], life))
    screens[0].await_sleeper(1008, "S")
    os.close(screens[0]._fd)
    screens[0]._fd = os.open(os.devnull, os.O_RDWR)
    wait_until(lambda: not read(f"/proc/{screens[0].pid}/cmdline"), "pasta has ended")
    assert screens[0].end() == 128 + signal.SIGHUP


def test_no_terminal_is_no_error() -> None:
    def without() -> tuple[int, bool]:
        os.setsid()
        found = terminal.Terminal()
        found.reclaim()
        answer = found.fd, found.is_ours()
        found.close()
        return answer

    assert isolated(without, flags=0) == (-1, False)


@pytest.mark.parametrize(("output", "alone"), [("null", True), ("pipe", False), ("socket", False)])
def test_leader_is_alone_unless_its_output_is_a_pipe(output: str, alone: bool) -> None:
    def look() -> tuple[bool, bool]:
        member = terminal.leads_alone()
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        os.dup2(null, 2)
        if output == "pipe":
            os.dup2(os.pipe()[1], 1)
        elif output == "socket":
            pair = Channel.pair()
            os.dup2(pair[0].fileno(), 2)
        return member, terminal.leads_alone()

    assert isolated(look, flags=0) == (False, alone)


def test_news_prevent_the_stop_and_end_it() -> None:
    """A message that came before is as good as one that comes while we are stopped."""
    ours, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:
        signals.block_all()
        theirs.send(Kind.CONTINUED)
        terminal.stop_like(signal.SIGSTOP, ours)
        ours.receive(Kind.CONTINUED, wait=True)
        theirs.send(Kind.CONTINUED)
        ours.receive(Kind.CONTINUED, wait=True)
        terminal.stop_like(signal.SIGSTOP, ours)
        os._exit(7 if ours.has_news() else 8)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    theirs.send(Kind.CONTINUED)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    ours.close()
    theirs.close()

"""Whatever signal ends pasta, at whatever stage: nothing is left behind (the `lab` fixture sees to that)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from passt.process.stages import OFF_VARIABLE
from tests.support.processes import status_field, wait_until
from tests.system.test_attach import Target

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.lab import Lab, Running

pytestmark = pytest.mark.needs_root

NET = ("--config-net",)
ENDING = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL]
# From before the interpreter runs to after the command does.
DELAYS_MS = (0, 2, 5, 10, 15, 20, 30, 40, 50, 60, 75, 90, 110, 130, 160, 200, 300)
# A command that does not go away by itself when it is asked to.
STUBBORN = "trap '' TERM INT HUP QUIT; echo ready; while :; do sleep 1000; done"


# Ignores and blocks signals, as daemons and scripts do, and becomes what its other arguments say.
UNUSUAL_CALLER = """
import os, signal, sys
for number in map(int, sys.argv[1].split(",")):
    signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
os.execv(sys.argv[2], sys.argv[2:])
"""
MASKS = ("grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status")
OF_LIBRARY = 3 << 31  # signals 32 and 33 are the C library's own: some of its versions leave them ignored


def unusual_caller(*numbers: int) -> list[str]:
    return ["/usr/bin/python3", "-I", "-c", UNUSUAL_CALLER, ",".join(map(str, numbers))]


def only_new(lab: Lab, before: set[int]) -> int:
    """Give the one process that has come; those of its start may take a moment to go."""
    wait_until(lambda: len(lab.host.programs() - before) == 1, "there is one process more")
    [own] = lab.host.programs() - before
    return own


def nobody_left(lab: Lab, before: set[int]) -> bool:
    return lab.host.pids() <= before


def again_if_still_running(running: Running) -> None:
    for _ in range(10):            # a start takes its time on a busy machine
        try:
            running.popen.wait(3)
        except subprocess.TimeoutExpired:
            running.send(signal.SIGINT)
        else:
            return


@pytest.mark.parametrize("signum", ENDING, ids=lambda one: signal.Signals(one).name)
def test_signal_at_any_stage_of_start_leaves_nothing(lab: Lab, user: bool, signum: int) -> None:
    before = lab.host.pids()
    for delay_ms in DELAYS_MS:
        running = lab.start(NET, ["sleep", "1000"], user=user)
        time.sleep(delay_ms / 1000)
        running.send(signum)
        if signum == signal.SIGINT:
            # The interpreter swallows a KeyboardInterrupt while it looks whether argv[0] is an archive
            # (pymain_run_python in CPython's Modules/main.c), before any of our code runs.
            again_if_still_running(running)
        running.finish(60)
        wait_until(lambda: nobody_left(lab, before), f"nothing left after {signum} at {delay_ms} ms", 60)


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "QUIT", "USR1", "USR2"])
def test_signal_is_passed_on_to_the_command(lab: Lab, user: bool, name: str) -> None:
    # As with sudo(8) and env(1): what the command does with it decides, and what comes of that is our status.
    script = f"trap 'exit 42' {name}; echo ready; while :; do sleep 0.05; done"
    running = lab.start(NET, ["sh", "-c", script], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    running.send(signal.Signals[f"SIG{name}"])
    assert running.finish(60).returncode == 42


def test_kill_ends_a_stubborn_command_too(lab: Lab, user: bool) -> None:
    before = lab.host.pids()
    running = lab.start(NET, ["sh", "-c", STUBBORN], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    running.send(signal.SIGKILL)
    running.finish(60)
    wait_until(lambda: nobody_left(lab, before), "nothing left", 60)


def test_kill_during_traffic_leaves_nothing(lab: Lab, user: bool) -> None:
    before = lab.host.pids()
    script = "curl -sS http://198.51.100.1:8000/100000000000 -o /dev/null & echo ready; wait"
    running = lab.start(NET, ["sh", "-c", script], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    running.send(signal.SIGKILL)
    running.finish(60)
    wait_until(lambda: nobody_left(lab, before), "nothing left", 60)


def test_closed_output_ends_the_command_by_sigpipe(lab: Lab, user: bool) -> None:
    running = lab.start(NET, ["sh", "-c", "while echo word; do :; done; sleep 60"], user=user)
    assert running.popen.stdout is not None
    running.popen.stdout.close()
    running.popen.stdout = None
    assert running.finish(60).returncode == 128 + signal.SIGPIPE


def test_output_of_the_command_is_ours_alone_after_the_end(lab: Lab, user: bool) -> None:
    # A reader that waits for the end of our output must see it: nothing left may hold the pipe.
    read_end, write_end = os.pipe()
    running = lab.start(NET, ["true"], user=user, stdout=write_end)
    os.close(write_end)
    running.finish(60)
    os.set_blocking(read_end, False)
    assert os.read(read_end, 1) == b""
    os.close(read_end)


ALL = [number for number in signal.valid_signals() if number not in {
    signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ}]


@pytest.mark.parametrize("numbers", [[signal.SIGCHLD], [signal.SIGTERM, signal.SIGUSR1], ALL],
                         ids=["child", "term", "all"])
def test_command_has_the_signals_of_the_caller_and_its_status_is_ours(
        lab: Lab, user: bool, numbers: list[int]) -> None:
    caller = unusual_caller(*numbers)
    pasta = [*caller, lab.pasta, "-q", *NET, "--"]
    command = lab.host.run([*pasta, "sh", "-c", "exit 7"], user=user, check=False)
    assert (command.returncode, command.stderr) == (7, b"")
    plain = lab.host.run([*caller, "/bin/grep", *MASKS[1:]], user=user)
    inside = lab.host.run([*pasta, *MASKS], user=user)
    masks = [[int(line.split()[1], 16) & ~OF_LIBRARY for line in one.stdout.splitlines()]
             for one in (plain, inside)]
    for name in (signal.SIGPIPE, signal.SIGXFSZ):  # the interpreter of the test's caller ignores them
        masks[0][1] &= ~(1 << (name - 1))
    assert masks[0] == masks[1]
    assert all(masks[1][0] >> (number - 1) & 1 for number in numbers)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda one: signal.Signals(one).name)
def test_background_starts_and_ends_whatever_the_caller_ignores(lab: Lab, user: bool, signum: int) -> None:
    pid_file = lab.directory / "home" / "pid"
    target = lab.host.spawn(["unshare", *(["--user", "--map-root-user"] if user else []), "--net",
                             "sh", "-c", "echo ready; exec sleep 1000"], user=user)
    assert target.popen.stdout is not None
    assert target.popen.stdout.readline() == b"ready\n"
    pid = status_field(target.pid, "NSpid").split()[-1]
    try:
        for argv in ([lab.pasta, "-q", *NET, "-P", str(pid_file), pid],
                     [lab.passt, "-q", "-s", str(lab.directory / "home" / "socket"), "-P", str(pid_file)]):
            # --runas 0: a directory of the plain user is no place for nobody's files.
            options = [] if user else ["--runas", "0"]
            before = lab.host.pids()
            lab.host.run([*unusual_caller(*ALL), argv[0], *options, *argv[1:]], user=user)
            own = only_new(lab, before)
            os.kill(own, signum)
            wait_until(partial(nobody_left, lab, before), "it has ended", 60)
            pid_file.unlink()
            (lab.directory / "home" / "socket").unlink(missing_ok=True)
    finally:
        target.kill()


def has_counters(log: Path) -> bool:
    return "Counters after" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("off", ["", "pid-namespace"])
def test_background_takes_no_notice_of_a_hangup(lab: Lab, user: bool, off: str) -> None:
    """With a PID namespace of its own or without."""
    pid_file, socket, log = (lab.directory / "home" / name for name in ("pid", "socket", "log"))
    target = Target(lab, user=user)
    # --runas 0: a directory of the plain user is no place for nobody's files.
    options = ["-q", "-P", str(pid_file), "-l", str(log), *([] if user else ["--runas", "0"])]
    try:
        for argv in ([lab.pasta, *NET, *options, target.pid], [lab.passt, *options, "-s", str(socket)]):
            before = lab.host.pids()
            lab.host.run(argv, user=user, env={OFF_VARIABLE: off})
            own = only_new(lab, before)
            assert (status_field(own, "NSpid").split()[-1] == "1") == (not off)
            for signum in (signal.SIGHUP, signal.SIGUSR2, signal.SIGALRM):
                os.kill(own, signum)
            os.kill(own, signal.SIGUSR1)
            wait_until(partial(has_counters, log), "it answers", 60)
            os.kill(own, signal.SIGTERM)
            wait_until(partial(nobody_left, lab, before), "it has ended", 60)
            pid_file.unlink()
            log.unlink()
            socket.unlink(missing_ok=True)
    finally:
        target.running.kill()


def test_failure_in_the_background_is_told_whatever_the_caller_ignores(lab: Lab, user: bool) -> None:
    for argv in ([lab.pasta, "-q", *NET, "-P", "/nowhere/pid", "4194000"],
                 [lab.pasta, "-q", *NET, "--netns", "/nowhere/netns"],
                 [lab.passt, "-q", "-s", "/nowhere/socket"]):
        result = lab.host.run([*unusual_caller(signal.SIGCHLD), *argv], user=user, check=False)
        assert (result.returncode, result.stderr.count(b"\n")) == (1, 1), result.stderr

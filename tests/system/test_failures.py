"""A mistake of ours that ends the loop in the background is told where messages go; the exit status is 1."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import TREE, UID, Lab, Running
from tests.support.processes import status_field, wait_until
from tests.system.test_attach import Target
from tests.system.test_messages import OWN_DEV, Daemon

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

# The installed program, but that its answer to SIGUSR1 fails: $1 is the place of the package, $2 the status
# file, the rest are the program and its arguments. What the background returns goes to the status file.
FAULTY = """
import os, sys
sys.path.insert(0, sys.argv[1])
status = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
from passt import cli
from passt.run import diagnostics
from passt.host import descriptors
tidy = descriptors.tidy_descriptors
descriptors.tidy_descriptors = lambda keep=(): tidy((*keep, status))
def describe(*_):
    raise ZeroDivisionError("a mistake\\nof ours")
diagnostics.describe = describe
os.write(status, f"{cli.main(sys.argv[3:])}\\n".encode())
"""
# The installed program, but that it cannot have a filter of system calls.
UNFILTERED = """
import sys
sys.path.insert(0, sys.argv[1])
from passt import cli
from passt.errors import HostError
from passt.run import isolation
def refuse(_):
    raise HostError("no filter")
isolation.CallFilter = refuse
sys.exit(cli.main(sys.argv[2:]))
"""
LINES = [
    r"ZeroDivisionError: a mistake\\nof ours",
    r"    line \d+ of .*, in describe",
    r"    line \d+ of .*/diagnostics\.py, in _print_counters",
]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """Lend a directory in which everybody may write."""
    directory = Path(tempfile.mkdtemp(prefix="passt-failures-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def library(lab: Lab) -> str:
    """Give the directory that the package is in: the lab's copy, else (PASST_TEST_PASTA) the tree's."""
    copy = lab.directory / "lib"
    return str(copy if copy.exists() else TREE / "src")


class Background:
    """The faulty *program* in the background; it reports its status to the file "status" in *scratch*."""

    def __init__(self, lab: Lab, program: str, scratch: Path, options: list[str], prefix: list[str],
                 *, user: bool) -> None:
        self.target: Running | None = None
        self.status = scratch / "status"
        self.lab = lab
        self.name = Path(program).name
        if self.name == "pasta":
            self.target = lab.host.spawn(
                ["unshare", *(["--user", "--map-root-user"] if user else []), "--net", "sh", "-c",
                 "echo ready; exec sleep 1000"], user=user)
            assert self.target.popen.stdout is not None
            assert self.target.popen.stdout.readline() == b"ready\n"
            last = ["--config-net", status_field(self.target.pid, "NSpid").split()[-1]]
        else:
            last = ["-s", str(scratch / "socket")]
        script = scratch / "faulty.py"
        script.write_text(FAULTY)
        self.pid_file = scratch / "pid"
        runas = [] if user else ["--runas", "0"]
        lab.host.run([*prefix, "/usr/bin/python3", str(script), library(lab), str(self.status), self.name,
                      "-q", *options, *runas, "-P", str(self.pid_file), *last], user=user)

    def ask(self) -> None:
        """Have it fail, and wait for its end."""
        self.lab.host.run(["kill", "-USR1", self.pid_file.read_text().strip()])
        wait_until(lambda: self.statuses()[-1:] == ["1"], "the background has ended with status 1")

    def statuses(self) -> list[str]:
        return self.status.read_text().split()

    def end(self) -> None:
        if self.target is not None:
            self.target.kill()


def assert_told(lines: list[str], name: str) -> None:
    found = [line.partition(f"{name}: ")[2] for line in lines]
    start = next(index for index, line in enumerate(found) if line.startswith("ZeroDivisionError"))
    for line, pattern in zip(found[start:], LINES, strict=False):
        assert re.fullmatch(pattern, line), line
    assert len(found) >= start + len(LINES)


@pytest.mark.parametrize("program", ["pasta", "passt"])
def test_mistake_in_the_background_goes_to_the_log_file(lab: Lab, user: bool, scratch: Path, program: str
                                                        ) -> None:
    log = scratch / "log"
    one = Background(lab, program, scratch, ["-l", str(log)], [], user=user)
    one.ask()
    one.end()
    lines = [line for line in log.read_text().splitlines() if "ERROR: " in line]
    assert_told(lines, program)


@pytest.mark.parametrize("program", ["pasta", "passt"])
def test_mistake_in_the_background_goes_to_the_system_log(lab: Lab, scratch: Path, program: str) -> None:
    daemon = Daemon(lab, scratch / "log")
    prefix = ["unshare", "--mount", "sh", "-c", OWN_DEV, "sh", str(scratch / "log")]
    one = Background(lab, program, scratch, [], prefix, user=False)
    one.ask()
    one.end()
    daemon.until("in describe")
    daemon.until("in _print_counters")
    lines = [message.partition("]: ")[2] for message in daemon.messages if message.startswith("<27>")]
    daemon.close()
    assert_told(lines, program)


def test_mistake_in_the_foreground_is_told_and_ends_the_command(lab: Lab, user: bool, scratch: Path) -> None:
    script = scratch / "faulty.py"
    script.write_text(FAULTY)
    running = lab.host.spawn(
        ["/usr/bin/python3", str(script), library(lab), str(scratch / "status"), "pasta", "-q",
         "--config-net", "--", "sh", "-c", "echo ready; exec sleep 1000"], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    running.send(signal.SIGUSR1)
    result = running.finish()
    assert (scratch / "status").read_text() == "1\n"
    assert_told(result.stderr.decode().splitlines(), "pasta")


@pytest.mark.parametrize("program", ["pasta", "passt"])
def test_late_failure_in_the_background_leaves_no_file(lab: Lab, user: bool, scratch: Path, program: str
                                                       ) -> None:
    """Root has become nobody by then, and the process that fails has lost its paths."""
    script, place = scratch / "unfiltered.py", scratch / "place"
    script.write_text(UNFILTERED)
    place.mkdir()
    place.chmod(0o1700)  # sticky, as /tmp is
    os.chown(place, *((UID, UID) if user else (0, 0)))
    target = Target(lab, user=user)
    what = [target.pid] if program == "pasta" else ["-s", str(place / "socket")]
    done = lab.host.run(["/usr/bin/python3", str(script), library(lab), program, "-q", "-P",
                         str(place / "pid"), "-p", str(place / "capture"), *what], user=user, check=False)
    target.running.kill()
    assert (done.returncode, done.stderr) == (1, f"{program}: no filter\n".encode())
    assert os.listdir(place) == []


@pytest.mark.parametrize("words", [["--config-net", "--", "true"], ["-f", "1"], ["1"]], ids=" ".join)
def test_place_without_proc_is_one_clear_line(lab: Lab, words: list[str]) -> None:
    script = 'mount -t tmpfs none /proc && exec "$@"'
    done = lab.host.run(["unshare", "--mount", "sh", "-c", script, "sh", lab.pasta, *words], check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"pasta: /proc is not mounted, or is that of another PID namespace")


FOREIGN_PROC = ["unshare", "--pid", "--fork", "--kill-child=KILL"]  # /proc stays that of the outer namespace


def test_users_are_mapped_where_proc_is_of_another_pid_namespace(lab: Lab, user: bool) -> None:
    # By /proc/1 another process would be meant, whose user namespace would get our map.
    argv = [lab.pasta, "-q", "--config-net", "--", "true"]
    as_user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all", "--"]
    opened = ["unshare", "--mount", "sh", "-c",
              'mount --bind /dev/net/tun.open /dev/net/tun && exec "$@"', "sh"]
    done = lab.host.run([*(opened if user else []), *FOREIGN_PROC, *(as_user if user else []), *argv],
                        check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_number_of_a_process_is_refused_where_proc_is_of_another_pid_namespace(lab: Lab) -> None:
    script = 'unshare --net sleep 1000 & sleep 0.2; "$@" $!'
    done = lab.host.run([*FOREIGN_PROC, "sh", "-c", script, "sh", lab.pasta, "-q", "-f"], check=False)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"pasta: /proc is that of another PID namespace" in done.stderr

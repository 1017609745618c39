"""What is loaded when: all that a start needs before it gives up rights, and nothing once the loop runs.

The program lies where only its owner and root look, as a clone does below a home of mode 0700. Its script
has an audit hook (PEP 578), which sees every import and every file of code that is opened. The hook notes in
memory shared by all processes of a run, as they close descriptors and change users.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from passt import log
from tests.support.lab import FAR4, FAR6, HOST4, OUTSIDE4, TREE, UID, Lab
from tests.support.processes import process_state, wait_until
from tests.system.machines import FORMS, Form, Machine, passt, socket_path
from tests.system.test_attach import Target
from tests.system.test_machine import QUESTION, daemon, is_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

pytestmark = pytest.mark.needs_root

NET = "--config-net"
NOTES_LEN = 1 << 16
# The loop is about to run when garbage collection begins (`assembly.run_loop`); from its fork on, PID 1 of a
# command's namespaces looks after the command.
PROGRAM = """\
#!{python} -IS
import gc, mmap, os, sys

with open({notes!r}, "r+b") as file:
    notes = mmap.mmap(file.fileno(), 0)
watching = []
CODE = (".py", ".pyc", ".so")

def note(text):
    data = f"{{text}}\\n".encode()
    end = notes.find(b"\\0")
    notes[end:end + len(data)] = data

def watch(what):
    note(f"{{what}} runs")
    watching.append(what)

def hook(event, arguments):
    if event == "os.fork":
        # The processes that bind low ports and answer queries are made while all may still be read.
        if sys._getframe(1).f_code.co_name not in ("start_helper", "_fork_forwarder"):
            watch("PID 1")
    elif event == "import" and getattr(sys.meta_path[0], "find_spec")(arguments[0]):
        pass                  # it is in memory
    elif watching and (event == "import" or event == "open" and str(arguments[0]).endswith(CODE)):
        note(f"late: {{event}} {{arguments[0]}}")

def freeze(of_gc=gc.freeze):
    watch("loop")
    of_gc()

gc.freeze = freeze
sys.addaudithook(hook)
sys.path.append({library!r})

from passt.cli import main

sys.exit(main())
"""
IN_BACKGROUND = [[], ["-q"], ["-d"], ["--trace"], ["--pcap", "CAPTURE"], ["--log-file", "LOG"]]
OPTIONS = [*IN_BACKGROUND, ["--stats", "1"], ["--control", "CONTROL"], ["-c", "CONF"],
           ["--dns-forward", "192.0.2.53", "--dns-cache", "9"]]


@dataclasses.dataclass
class Home:
    """A directory of the plain user's that is closed to others, with the program in it."""

    lab: Lab
    notes: Path
    scratch: Path

    def options(self, words: Sequence[str], *, user: bool) -> list[str]:
        """Give *words* with the paths that they mean; root stays who it is, so that it may write there."""
        paths = {"CAPTURE": str(self.scratch / "capture"), "LOG": str(self.scratch / "log"),
                 "CONTROL": str(self.scratch / "control"), "CONF": str(self.scratch / "conf")}  # fmt: skip
        as_root = ["--runas", "0"] if "CAPTURE" in words and not user else []
        return [*[paths.get(word, word) for word in words], *as_root]

    def assert_all_was_loaded(self, *what: str) -> None:
        """Fail if anything was loaded late, or nobody looked; *what* has run."""
        lines = self.notes.read_bytes().rstrip(b"\0").decode().splitlines()
        assert sorted(set(lines)) == sorted(f"{each} runs" for each in what)


@pytest.fixture(scope="module")
def closed(session_lab: Lab) -> Iterator[Path]:
    """Copy the package into a directory that is the plain user's alone."""
    home = session_lab.directory / "closed"
    library = home / "lib"
    ignored = shutil.ignore_patterns("*.c", "__pycache__")
    shutil.copytree(TREE / "src" / "passt", library / "passt", ignore=ignored)
    shutil.copytree(Path(session_lab.pasta).parent.parent / "lib" / "h11", library / "h11", ignore=ignored)
    for path in [home, *home.rglob("*")]:
        os.chown(path, UID, UID)
        path.chmod(0o700 if path.is_dir() else 0o600)
    yield home
    shutil.rmtree(home)


@pytest.fixture
def home(lab: Lab, closed: Path) -> Iterator[Home]:
    """Lend a lab whose programs are in the closed directory, and a directory where everybody may write."""
    scratch = Path(tempfile.mkdtemp(prefix="passt-loading-"))
    scratch.chmod(0o777)
    notes = scratch / "notes"
    notes.write_bytes(bytes(NOTES_LEN))
    notes.chmod(0o666)
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    for name in ("pasta", "passt"):
        program = closed / name
        program.unlink(missing_ok=True)
        program.write_text(PROGRAM.format(python=python, notes=str(notes), library=str(closed / "lib")),
                           encoding="utf-8")
        os.chown(program, UID, UID)
        program.chmod(0o700)
    yield Home(dataclasses.replace(lab, pasta=str(closed / "pasta")), notes, scratch)
    shutil.rmtree(scratch)


@pytest.fixture
def targets(lab: Lab) -> Iterator[Callable[[bool], Target]]:
    """Lend what makes namespaces to attach to."""
    made: list[Target] = []

    def make(user: bool) -> Target:
        made.append(Target(lab, user=user))
        return made[-1]

    yield make
    for target in made:
        target.running.kill()


def traffic(lab: Lab) -> str:
    """Give a script of the guest's: over the link with both families, past it, and what is refused."""
    client = " ".join(lab.client)
    return (f"{{ {client} tcp,udp,reset {FAR4} && {client} tcp,udp {FAR6} && ping -n -c 1 -W 3 {FAR4}"
            f" && {client} tcp,udp 127.0.0.1 && ! {client} tcp {OUTSIDE4} 1 2>&1; }} >/dev/null")


BYPASS = ["-T", "8007", "-U", "8007"]


@pytest.mark.parametrize("words", OPTIONS, ids=" ".join)
def test_command(home: Home, user: bool, words: list[str]) -> None:
    script = f"{traffic(home.lab)} && id -u && exec sleep 1000"
    running = home.lab.start([NET, *BYPASS, *home.options(words, user=user)], ["sh", "-c", script], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"0\n", running.finish().stderr.decode()
    running.send(signal.SIGUSR1)
    running.send(signal.SIGTERM)
    assert running.finish().returncode == 143
    home.assert_all_was_loaded("loop", "PID 1")


@pytest.mark.parametrize("words", [["--runas", "54000"], ["--runas", str(UID)], ["--netns-only"],
                                   ["--runas", "0"], ["--runas", "54000", "-d"]], ids=" ".join)
def test_command_of_another_user(home: Home, words: list[str]) -> None:
    script = f"{traffic(home.lab)} && id -u"
    # Another user than root opens the device itself.
    open_device = 'mount --bind /dev/net/tun.open /dev/net/tun && exec "$@"'
    result = home.lab.host.run(["unshare", "--mount", "sh", "-c", open_device, "sh",
                                home.lab.pasta, NET, *BYPASS, *words, "--", "sh", "-c", script])
    assert result.stdout == b"0\n", result.stderr.decode()
    home.assert_all_was_loaded("loop", "PID 1")


def test_command_in_a_user_namespace_that_exists(home: Home, user: bool,
                                                 targets: Callable[[bool], Target]) -> None:
    target = targets(user)
    home.lab.run([NET, *BYPASS, "-d", "--userns", f"/proc/{target.pid}/ns/user"],
                 ["sh", "-c", traffic(home.lab)], user=user)
    home.assert_all_was_loaded("loop", "PID 1")


def attach(home: Home, target: Target, *options: str) -> tuple[int, Path]:
    """Attach in the background, use the network in there; return the PID."""
    pid_file = home.scratch / "pid"
    home.lab.run([NET, *BYPASS, "-P", str(pid_file), *options], user=target.user)
    assert target.has_interface()
    target.run(["sh", "-c", traffic(home.lab)])
    return daemon(home.lab, pid_file), pid_file


@pytest.mark.parametrize("words", IN_BACKGROUND, ids=" ".join)
@pytest.mark.parametrize("by", ["pid", "netns"])
def test_attached(home: Home, user: bool, targets: Callable[[bool], Target], words: list[str],
                  by: str) -> None:
    target = targets(user)
    paths = ["--netns", f"/proc/{target.pid}/ns/net", "--userns", f"/proc/{target.pid}/ns/user"]
    pid, _ = attach(home, target, *home.options(words, user=user), *([target.pid] if by == "pid" else paths))
    os.kill(pid, signal.SIGUSR1)
    server = home.lab.host.spawn(["nsenter", "-t", target.pid, "--user", "--preserve-credentials", "--net",
                                  "busybox", "nc", "-l", "-p", "4444"], user=user)
    wait_until(lambda: b":4444 " in home.lab.host.run(["ss", "-Hltn"]).stdout, "the bound port is followed")
    server.kill()
    target.running.kill()
    wait_until(lambda: not process_state(pid), "pasta ends with its namespace")
    home.assert_all_was_loaded("loop")


@pytest.mark.parametrize("words", [["--runas", "54000"], ["--runas", "0"], ["--runas", str(UID), "-d"]],
                         ids=" ".join)
def test_attached_as_another_user(home: Home, targets: Callable[[bool], Target], words: list[str]) -> None:
    target = targets(False)
    pid, _ = attach(home, target, *words, target.pid)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not process_state(pid), "pasta ends")
    home.assert_all_was_loaded("loop")


def test_namespace_of_another_user_attached_by_root(home: Home, targets: Callable[[bool], Target]) -> None:
    target = targets(True)
    pid_file = home.scratch / "pid"
    home.lab.run([NET, *BYPASS, "-d", "-P", str(pid_file), target.pid], user=False)
    pid = daemon(home.lab, pid_file)
    target.run(["sh", "-c", traffic(home.lab)])
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not process_state(pid), "pasta ends")
    home.assert_all_was_loaded("loop")


EACH_FORM = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def ask(peer: Machine) -> None:
    peer.send(QUESTION)
    peer.receive(is_answer)


def be_clients(path: str, form: Form) -> None:
    """Come, be one too many, send nonsense, go, and come again."""
    with closing(form.connect(path)) as first, closing(FORMS["stream"].connect(path)) as second:
        ask(first)
        second.wait_for_end()
        first.send(b"\xff" * 60, QUESTION[:20])
        ask(first)
    with closing(form.connect(path)) as again:
        ask(again)
        again.sock.sendall(b"\xff" * 12)
        again.wait_for_end()
    with closing(form.connect(path)) as last:
        ask(last)


@pytest.mark.parametrize("words", [*OPTIONS, ["--runas", "54000"], ["--runas", "0", "-d"]], ids=" ".join)
@EACH_FORM
def test_machine(home: Home, user: bool, words: list[str], form: Form) -> None:
    if user and "--runas" in words:
        words = ["--runas", str(UID)]
    options = [*form.options, *home.options(words, user=user), "-t", "4445"]
    with passt(home.lab, *options, user=user) as (running, path):
        be_clients(path, form)
        with closing(form.connect(path)) as peer:
            running.send(signal.SIGUSR1)
            home.lab.host.run(["timeout", "0.3", "busybox", "nc", HOST4, "4445"], check=False)
            ask(peer)
    home.assert_all_was_loaded("loop")


@EACH_FORM
def test_machine_in_the_background(home: Home, user: bool, form: Form) -> None:
    path, pid_file = socket_path(home.lab, "loading"), home.scratch / "pid"
    home.lab.host.run([home.lab.passt, *form.options, "-s", path, "-P", str(pid_file)], user=user)
    pid = daemon(home.lab, pid_file)
    be_clients(path, form)
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not process_state(pid), "passt ends")
    os.unlink(path)
    home.assert_all_was_loaded("loop")


def test_late_import_is_noticed(home: Home) -> None:
    """The watch itself: a module that is loaded while the loop runs."""
    source = Path(home.lab.pasta).parent / "lib" / "passt" / "run" / "diagnostics.py"
    text = source.read_text(encoding="utf-8")
    head = "    def finish(self) -> None:\n"
    late = "        import passt.log.syslog\n"
    try:
        source.write_text(text.replace(head, head + late), encoding="utf-8")
        result = home.lab.run([NET], ["true"], user=False, check=False)
    finally:
        source.write_text(text, encoding="utf-8")
    lines = home.notes.read_bytes().rstrip(b"\0").decode().splitlines()
    assert "late: import passt.log.syslog" in lines
    # By then root cannot read the owner's files any more.
    assert b"cannot load a part of the program: No module named 'passt.log.syslog'" in result.stderr


def test_line_with_a_character_that_is_escaped_loads_nothing() -> None:
    program = ("import sys; from passt import log; before = {*sys.modules}; log.escape(sys.argv[1]);"
               "print({*sys.modules} - before)")
    line = "a\x1bb\u2028c\udcffd"
    result = subprocess.run([sys.executable, "-c", program, line], check=True, capture_output=True, text=True,
                            env={**os.environ, "PYTHONPATH": str(TREE / "src")})
    assert result.stdout == "set()\n"
    assert log.escape(line) == r"a\x1bb\u2028c\udcffd"

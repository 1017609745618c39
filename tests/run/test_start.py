"""The life of pasta and its command, with fakes for all that concerns traffic (support/life_driver.py)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.life import AS_USER, TREE, Life, Process, read_line
from tests.support.processes import LIMIT_S, child_of, namespace, read, status_field, wait_until
from tests.support.switches import LONG

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = pytest.mark.needs_root

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL)
STAGES = ("configure", "build", "loop")


@pytest.fixture(scope="session")
def installed() -> Iterator[Path]:
    """Copy the package and the driver to where a plain user can read them, with their bytecode."""
    base = Path("/tmp") / f"passt-life-{os.getpid()}"  # noqa: S108 - pytest's own are closed to others
    base.mkdir(mode=0o755)
    unwanted = shutil.ignore_patterns("*.c", "__pycache__")
    shutil.copytree(TREE / "src" / "passt", base / "passt", ignore=unwanted)
    shutil.copy(TREE / "tests" / "support" / "life_driver.py", base)
    subprocess.run(["/usr/bin/python3", "-m", "compileall", "-q", base], check=True)
    subprocess.run(["chmod", "-R", "a+rX", base], check=True)
    yield base
    shutil.rmtree(base)


@pytest.fixture(params=[False, True], ids=["root", "user"])
def life(request: pytest.FixtureRequest, installed: Path) -> Iterator[Life]:
    """Each test as root and as a plain user; nothing may be left after any."""
    life = Life(request.param, installed)
    yield life
    life.assert_nothing_left()


@pytest.mark.parametrize(("script", "status"), [
    ("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -KILL $$", 137), ("kill -TERM $$", 143),
    ("kill -INT $$", 130), ("kill -USR1 $$", 138),
])
def test_status_of_the_command_is_ours(life: Life, script: str, status: int) -> None:
    result = life.run("--", "sh", "-c", script)
    assert (result.returncode, result.stdout, result.stderr) == (status, "", "")


@pytest.mark.parametrize(("name", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_command_that_cannot_run(life: Life, name: str, status: int) -> None:
    result = life.run("--", name)
    assert result.returncode == status
    assert result.stderr.count("\n") == 1
    assert name in result.stderr


def test_command_starts_in_a_clean_state(life: Life) -> None:
    status = life.run("--", "cat", "/proc/self/status").stdout.splitlines()
    fields = {name: value.strip() for name, _, value in (line.partition(":") for line in status)}
    assert {int(fields[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt", "SigPnd", "ShdPnd")} == {0}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("0", "0")
    assert fields["Uid"].split() == fields["Gid"].split() == ["0"] * 4
    result = life.run("--", "sh", "-c", "ls /proc/self/fd; cat /proc/self/setgroups")
    assert result.stdout.split() == ["0", "1", "2", "3", "deny"]  # 3 is the directory that ls reads


def test_command_keeps_directory_environment_and_limits(life: Life) -> None:
    script = 'ulimit -Sn 123; cd /usr/share; exec "$@"'
    argv = ["sh", "-c", script, "sh", *life.argv(["--", "sh", "-c", "pwd; echo $WORD; ulimit -Sn"])]
    result = life.run_argv(argv, WORD="a  b")
    assert result.stdout == "/usr/share\na b\n123\n"


def test_own_file_limit_is_raised(life: Life) -> None:
    argv = ["sh", "-c", 'ulimit -Sn 123; exec "$@"', "sh", *life.argv(["--", "sh", "-c", "echo up; read x"])]
    with Process(argv, env=life.environment(), text=True, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:
        read_line(process)
        [line] = [line for line in read(f"/proc/{process.pid}/limits").splitlines() if b"open files" in line]
        soft, hard = line.split()[3:5]
        assert soft == hard
        process.communicate("\n")


def test_nohup_holds_for_the_command(life: Life) -> None:
    argv = ["nohup", *life.argv(["--", "cat", "/proc/self/status"])]
    result = life.run_argv(argv)
    assert f"SigIgn:\t{1:016x}\n" in result.stdout


def test_descriptors_of_the_caller_are_not_kept(life: Life) -> None:
    reader, writer = os.pipe()
    with Process(life.argv(["--", "sh", "-c", "ls /proc/self/fd; echo up; exec sleep 1000"]), text=True,
                          env=life.environment(), stdout=subprocess.PIPE, pass_fds=(writer,)) as process:
        os.close(writer)
        assert [read_line(process) for _ in range(5)] == ["0\n", "1\n", "2\n", "3\n", "up\n"]
        assert os.read(reader, 1) == b""  # nobody holds the other end
        os.close(reader)
        process.terminate()
        assert process.wait(LIMIT_S) == 143


def test_reader_of_the_output_sees_its_end(life: Life) -> None:
    with life.start("--", "sh", "-c", "echo word; exec >&-; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.read() == "word\n"
        process.terminate()
        assert process.wait(LIMIT_S) == 143


def test_closed_standard_descriptors_do_no_harm(life: Life) -> None:
    script = "import os; os.write(2, b'%d %d' % tuple(os.fstat(fd).st_rdev for fd in (0, 1)))"
    inner = life.argv(["--", "/usr/bin/python3", "-c", script])
    result = life.run_argv(["sh", "-c", 'exec <&- >&-; exec "$@"', "sh", *inner])
    assert result.returncode == 0
    # Not by its path, which it may have lost with the mount namespace that we left.
    null = os.stat("/dev/null").st_rdev
    assert result.stderr == f"{null} {null}"


def test_namespaces_are_new_and_ready(life: Life) -> None:
    script = ("hostname; cat /proc/sys/net/ipv4/ping_group_range; ip -o link; ls /proc | grep -c '^[0-9]'; "
              "cat /proc/1/cmdline | tr '\\0' ' '; echo; sleep 1000")
    with life.start("--", "sh", "-c", script) as process:
        host = socket.gethostname()
        assert read_line(process) == f"pasta-{host}"[:64] + "\n"
        assert read_line(process).split() == ["0", "0"]
        assert "lo: <LOOPBACK,UP,LOWER_UP>" in read_line(process)
        assert "tap0: <BROADCAST,MULTICAST>" in read_line(process)
        assert int(read_line(process)) < 8
        assert "life_driver.py" in read_line(process)
        init = child_of(process.pid)
        for kind in ("net", "pid", "ipc", "uts", "mnt"):
            assert namespace(init, kind) != namespace(process.pid, kind), kind
        assert namespace(init, "user") == namespace(process.pid, "user") != namespace(os.getpid(), "user")
        assert namespace(process.pid, "net") == namespace(os.getpid(), "net")
        process.terminate()
        assert process.wait(LIMIT_S) == 143


def test_privileges_are_gone_when_the_command_runs(life: Life) -> None:
    with life.start("--", "sh", "-c", "echo up; exec sleep 1000") as process:
        read_line(process)
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"):
            assert int(status_field(process.pid, name), 16) == 0, name
        assert status_field(process.pid, "NoNewPrivs") == "1"
        process.terminate()


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "CONT", "WINCH"])
def test_signal_is_passed_on_once(life: Life, name: str) -> None:
    # Short: a signal that comes just before a wait has its trap run after it only.
    wait = "echo up; while :; do sleep 0.05; done"
    script = f"trap 'echo got' {name}; trap 'exit 9' TERM; {wait}"
    if name == "TERM":
        script = f"trap 'echo got' TERM; {wait}"
    with life.start("--", "sh", "-c", script) as process:
        assert read_line(process) == "up\n"
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert read_line(process) == "got\n"
        process.kill()
        assert process.communicate(timeout=LIMIT_S)[0] == ""


def test_question_for_the_counters_spares_a_command_that_does_not_handle_it(life: Life) -> None:
    with life.start("--", "sh", "-c", "echo up; exec sleep 1000") as process:
        assert read_line(process) == "up\n"
        for _ in range(2):
            process.send_signal(signal.SIGUSR1)
            lines = [read_line(process, errors=True) for _ in range(6)]
            assert lines[0].startswith("Counters after ")
            assert lines[5] == "    drops: 0\n"
        process.terminate()
        assert process.wait(LIMIT_S) == 143


@pytest.mark.parametrize("stage", STAGES)
def test_processes_are_closed_to_others_at_every_stage(life: Life, stage: str) -> None:
    def commands() -> set[int]:
        return {pid for pid in life.processes() if read(f"/proc/{pid}/comm") == b"sleep\n"}

    with life.start("--hook", stage, "--", "sleep", "1000") as process:
        assert read_line(process, errors=True) == f"at {stage}\n"
        n_commands = 1 if stage == "loop" else 0
        wait_until(lambda: len(commands()) == n_commands, "the command runs if it is time for it")
        pids = set(life.processes()) - commands()
        assert len(pids) == 2
        # Files of a process that is not dumpable belong to root, not to its user: proc_pid(5).
        assert {os.stat(f"/proc/{pid}/status").st_uid for pid in pids} == {0}
        process.kill()
        process.wait(LIMIT_S)


@pytest.mark.parametrize("stage", STAGES)
def test_question_for_the_counters_during_the_start_ends_nothing(life: Life, stage: str) -> None:
    with life.start("--hook", stage, "--", "true") as process:
        assert read_line(process, errors=True) == f"at {stage}\n"
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
        assert process.poll() is None
        process.kill()
        process.wait(LIMIT_S)


def test_orphans_are_reaped(life: Life) -> None:
    # Counts without a process of its own: PID 1 and the shell are left, and no zombie.
    script = ("count() { set -- /proc/[0-9]*; n=$#; }; "
              "for i in 1 2 3 4 5 6 7 8; do (sleep 0.02 & ); done; "
              "count; while [ $n -gt 2 ]; do sleep 0.01; count; done; echo none is left; exit 4")
    result = life.run("--", "sh", "-c", script)
    assert (result.returncode, result.stdout) == (4, "none is left\n")


def test_end_of_the_command_ends_everything_in_there(life: Life) -> None:
    script = "setsid sh -c 'trap \"\" HUP TERM; sleep 1000' >/dev/null 2>&1 & exit 3"
    result = life.run("--", "sh", "-c", script)
    assert result.returncode == 3
    assert not life.processes()  # already when we have ended


def test_end_of_pid_1_from_outside_is_our_end(life: Life) -> None:
    with life.start("--", "sh", "-c", "echo up; exec sleep 1000") as process:
        read_line(process)
        os.kill(child_of(process.pid), signal.SIGKILL)
        assert process.wait(LIMIT_S) == 137


@pytest.mark.parametrize("signum", ENDING)
@pytest.mark.parametrize("stage", STAGES)
def test_signal_at_a_stage_of_start_leaves_nothing(life: Life, stage: str, signum: int) -> None:
    """In "loop" signals are blocked, for the loop to read: only SIGKILL counts."""
    def commands() -> set[int]:
        return {pid for pid in life.processes() if read(f"/proc/{pid}/comm") == b"sleep\n"}

    with life.start("--hook", stage, "--", "sleep", "1000") as process:
        assert read_line(process, errors=True) == f"at {stage}\n"
        process.send_signal(signum)
        if stage == "loop" and signum != signal.SIGKILL:
            process.kill()
            signum = signal.SIGKILL
        assert process.wait(LIMIT_S) == -signum
        life.assert_nothing_left()


@pytest.mark.parametrize("turn", range(len(ENDING)))
def test_signal_at_any_time_leaves_nothing(life: Life, turn: int) -> None:
    """Each signal at a fifth of the delays, PASST_TEST_LONG=1 tries all."""
    delays = range(0, 205, 5)
    for idx, delay_ms in enumerate(delays):
        signum = ENDING[turn]
        if not LONG and idx % len(ENDING) != turn:
            continue
        with life.start("--", "sleep", "1000") as process:
            time.sleep(delay_ms / 1000)
            process.send_signal(signum)
            # 1: the interpreter itself was interrupted while it started.
            expected = {-signum, 128 + signum} | ({1} if signum == signal.SIGINT else set())
            assert await_end(process, signum) in expected, delay_ms
        life.assert_nothing_left()


def await_end(process: Process, signum: int) -> int:
    """Wait for the end and return its status.

    A destructor of the driver's interpreter swallows the exception of a SIGINT that meets it, before the
    driver has the default action set; our launcher has it from the start. A user presses the key again.
    """
    for _ in range(int(LIMIT_S)):
        with suppress(subprocess.TimeoutExpired):
            return process.wait(1)
        if signum == signal.SIGINT:
            process.send_signal(signum)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("signum", ENDING)
def test_namespaces_go_away(life: Life, signum: int) -> None:
    with life.start("--", "sh", "-c", "echo up; exec sleep 1000") as process:
        read_line(process)
        init = child_of(process.pid)
        ours = {namespace(init, kind) for kind in ("net", "pid", "ipc", "uts", "mnt", "user")}
        inside = members(ours, (int(path.name) for path in Path("/proc").glob("[0-9]*")))
        assert init in inside
        process.send_signal(signum)
        process.wait(LIMIT_S)
    life.assert_nothing_left()
    # The kernel takes a moment: it ends processes of a PID namespace one by one. Others are not looked at:
    # the number of a namespace that has ended is given to the next one.
    wait_until(lambda: not members(ours, inside), "the namespaces are gone")


def members(namespaces: set[int], pids: Iterable[int]) -> set[int]:
    """Those of *pids* that live in one of *namespaces*."""
    found = set()
    for pid in pids:
        with suppress(OSError):
            if namespaces & {path.stat().st_ino for path in Path(f"/proc/{pid}/ns").iterdir()}:
                found.add(pid)
    return found


def test_idle_processes_do_not_wake_up(life: Life) -> None:
    with life.start("--", "sh", "-c", "echo up; exec sleep 1000") as process:
        read_line(process)
        pids = process.pid, child_of(process.pid)

        def n_switches() -> list[str]:
            return [status_field(pid, "voluntary_ctxt_switches") for pid in pids]

        def is_idle() -> bool:
            before = n_switches()
            time.sleep(0.5)
            return n_switches() == before

        # What the start leaves to be done takes its time.
        wait_until(is_idle, "both sleep, and nothing wakes them")
        process.terminate()


def test_listener_is_open_before_the_command_starts(life: Life) -> None:
    # In a network where nobody else can have the port.
    argv = life.argv(["--tcp", "8080", "--", "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"])
    result = life.run_argv(["unshare", "--net", *argv])
    assert result.stdout == "0 1 2 3 ", result.stderr


@pytest.mark.parametrize(("command", "expected"), [
    ("mount -t tmpfs none /dev/net", "modprobe tun"),
    ("mount -t tmpfs none /dev/net && mknod -m 000 /dev/net/tun c 10 254", "modprobe tun|may not be opened"),
])
def test_tun_device_that_cannot_be_had(life: Life, command: str, expected: str) -> None:
    if not life.user:
        argv = ["unshare", "--mount", "sh", "-c", f'{command} && exec "$@"', "sh"]
    else:
        script = f'{command} && exec setpriv --reuid="$0" --regid="$0" --clear-groups "$@"'
        argv = [*AS_USER[:4], script, AS_USER[-1]]
    driver = Life(False, life.directory, life.mark).argv(["--", "true"])
    result = life.run_argv([*argv, *driver])
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("pasta: /dev/net/tun ")
    assert any(part in result.stderr for part in expected.split("|"))


def test_closed_tun_device_is_no_matter_for_root_only(life: Life) -> None:
    argv = ["unshare", "--mount", "sh", "-c",
            "mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200 && exec "
            + ('setpriv --reuid=54321 --regid=54321 --clear-groups "$@"' if life.user else '"$@"'), "sh"]
    driver = Life(False, life.directory, life.mark).argv(["--", "true"])
    result = life.run_argv([*argv, *driver])
    if life.user:
        assert (result.returncode, result.stderr.count("\n")) == (1, 1)
        assert "its mode is 0600; 'chmod 0666 /dev/net/tun'" in result.stderr
    else:
        assert (result.returncode, result.stderr) == (0, "")


class Holder:
    """A process with namespaces to join."""

    def __init__(self, life: Life, *options: str) -> None:
        argv = ["unshare", *options, "sh", "-c", "echo up; exec sleep 1000"]
        if life.user:
            argv = [*AS_USER, *argv]
        self.process = subprocess.Popen(argv, env=life.environment(), stdout=subprocess.PIPE, text=True)
        assert read_line(self.process) == "up\n"
        self.pid = self.process.pid

    def links(self) -> str:
        """Interfaces in there."""
        argv = ["nsenter", "-t", str(self.pid), "--net", "ip", "-o", "link"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate(timeout=LIMIT_S)


@pytest.fixture
def open_directory(life: Life) -> Iterator[Path]:
    """Make a directory for everybody to write to."""
    path = life.directory / "open"
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def holder(life: Life) -> Iterator[Holder]:
    holder = Holder(life, "-Urn")
    yield holder
    holder.close()


def attach(life: Life, holder: Holder, *more: str) -> Process:
    process = life.start("--pid", str(holder.pid), *more)

    def is_ready() -> bool:
        # Its last steps before the loop: it has no rights any more, and takes signals itself.
        return process.poll() is not None or (
            status_field(process.pid, "NoNewPrivs") == "1"
            and int(status_field(process.pid, "CapPrm"), 16) == 0
            and bool(int(status_field(process.pid, "SigBlk"), 16) >> (signal.SIGTERM - 1) & 1))

    wait_until(is_ready, "it is attached")
    return process


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_attached_ends_with_0_and_takes_the_tap_along(life: Life, holder: Holder, signum: int) -> None:
    with attach(life, holder) as process:
        assert "lo: <LOOPBACK,UP" in holder.links()
        assert "tap0" in holder.links()
        for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
            assert int(status_field(process.pid, name), 16) == 0, name
        process.send_signal(signum)
        assert process.communicate(timeout=LIMIT_S) == ("", "")
        assert process.returncode == 0
        wait_until(lambda: "tap0" not in holder.links(), "the tap is gone")


def test_attached_ends_with_the_process(life: Life, holder: Holder) -> None:
    with attach(life, holder) as process:
        holder.close()
        assert process.wait(LIMIT_S) == 0


def test_attached_twice_needs_another_name(life: Life, holder: Holder) -> None:
    with attach(life, holder) as process:
        result = life.run("--pid", str(holder.pid))
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert "'tap0' is taken" in result.stderr
        with attach(life, holder, "--ifname", "tap1") as other:
            wait_until(lambda: "tap1" in holder.links(), "the other tap is there")
            other.kill()
        process.kill()


@pytest.mark.parametrize("signum", ENDING)
@pytest.mark.parametrize("stage", STAGES)
def test_signal_while_attaching_leaves_nothing(life: Life, holder: Holder, stage: str, signum: int) -> None:
    with life.start("--pid", str(holder.pid), "--hook", stage) as process:
        assert read_line(process, errors=True) == f"at {stage}\n"
        process.send_signal(signum)
        if stage == "loop" and signum in {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}:
            process.kill()  # blocked, for the loop to read
        process.wait(LIMIT_S)
    wait_until(lambda: "tap0" not in holder.links(), "the tap is gone")
    wait_until(lambda: len(life.processes()) == 1, "only the holder is left")


def test_background_is_ready_when_the_caller_has_its_exit(life: Life, holder: Holder,
                                                          open_directory: Path) -> None:
    pid_file = open_directory / "pid"
    result = life.run("--pid", str(holder.pid), "--no-foreground", "yes", "--pid-file", str(pid_file))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")  # communicate() saw the end
    assert "tap0" in holder.links()
    pid = int(pid_file.read_text(encoding="ascii").removesuffix("\n"))
    assert set(life.processes()) == {pid, holder.pid}
    assert os.getsid(pid) == pid
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert {os.stat(f"/proc/{pid}/fd/{fd}").st_rdev for fd in range(3)} == {os.stat("/dev/null").st_rdev}
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: "tap0" not in holder.links(), "the tap is gone")
    wait_until(lambda: life.processes() == [holder.pid], "the daemon has ended")
    assert pid_file.exists()


def test_failure_in_the_background_is_the_callers_to_see(life: Life, holder: Holder,
                                                         open_directory: Path) -> None:
    pid_file = open_directory / "pid"
    with attach(life, holder) as process:
        result = life.run("--pid", str(holder.pid), "--no-foreground", "yes", "--pid-file", str(pid_file))
        assert (result.returncode, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert "'tap0' is taken" in result.stderr
        assert not pid_file.exists()
        process.kill()


def test_pid_file_of_the_callers_is_emptied_only(life: Life, open_directory: Path) -> None:
    pid_file = open_directory / "pid"
    pid_file.write_text("1234567\n", encoding="ascii")
    pid_file.chmod(0o666)
    result = life.run("--pid", "4194303", "--no-foreground", "yes", "--pid-file", str(pid_file))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert pid_file.read_bytes() == b""


def test_pid_file_that_cannot_be_made(life: Life, open_directory: Path) -> None:
    path = open_directory / "none" / "pid"
    result = life.run("--pid-file", str(path), "--", "true")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (f"pasta: option '--pid' {path}: cannot open the file for writing: "
                             "No such file or directory\n")


def test_pid_file_in_the_foreground_holds_our_own_pid(life: Life, open_directory: Path) -> None:
    pid_file = open_directory / "pid"
    with life.start("--pid-file", str(pid_file), "--", "sh", "-c", "echo up; exec sleep 1000") as process:
        assert read_line(process) == "up\n"
        assert pid_file.read_bytes() == b"%d\n" % process.pid
        process.terminate()


@pytest.mark.parametrize("signum", ENDING)
@pytest.mark.parametrize("stage", ["configure", "build"])
def test_caller_that_is_killed_takes_the_start_along(life: Life, holder: Holder, stage: str,
                                                     signum: int) -> None:
    with life.start("--pid", str(holder.pid), "--no-foreground", "yes", "--hook", stage) as process:
        assert read_line(process, errors=True) == f"at {stage}\n"
        process.send_signal(signum)
        assert process.wait(LIMIT_S) == -signum
    wait_until(lambda: "tap0" not in holder.links(), "the tap is gone")
    wait_until(lambda: life.processes() == [holder.pid], "only the holder is left")


@pytest.mark.parametrize("signum", ENDING)
@pytest.mark.parametrize("stage", ["configure", "build"])
def test_daemon_that_is_killed_early_is_the_callers_failure(life: Life, holder: Holder, stage: str,
                                                            signum: int) -> None:
    with life.start("--pid", str(holder.pid), "--no-foreground", "yes", "--hook", stage) as process:
        assert read_line(process, errors=True) == f"at {stage}\n"
        os.kill(child_of(process.pid), signum)
        assert process.wait(LIMIT_S) == -signum
    wait_until(lambda: "tap0" not in holder.links(), "the tap is gone")
    wait_until(lambda: life.processes() == [holder.pid], "only the holder is left")


def test_root_joins_a_network_namespace_of_the_same_user_namespace(installed: Path) -> None:
    life = Life(False, installed)
    holder = Holder(life, "-n")
    with attach(life, holder) as process:
        process.terminate()
        assert process.wait(LIMIT_S) == 0
    holder.close()


def test_root_joins_the_namespaces_of_a_plain_user(installed: Path) -> None:
    holder = Holder(Life(True, installed), "-Urn")
    life = Life(False, installed)
    with attach(life, holder) as process:
        process.terminate()
        assert process.wait(LIMIT_S) == 0
    holder.close()


def test_plain_user_cannot_join_those_of_root(installed: Path) -> None:
    holder = Holder(Life(False, installed), "-Urn")
    result = Life(True, installed).run("--pid", str(holder.pid))
    assert (result.returncode, result.stderr.count("\n")) == (1, 1)
    assert "is closed to this user" in result.stderr
    holder.close()

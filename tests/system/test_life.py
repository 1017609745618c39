"""The command of a new namespace: how it starts, what it finds, how its end becomes ours."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes import descendants, process_state, status_field, wait_until

if TYPE_CHECKING:
    from tests.support.lab import Lab

pytestmark = pytest.mark.needs_root

NET = ("--config-net",)
# What a program can ask about how it was started; the user and the network are meant to differ.
CIRCUMSTANCES = """
import os, resource, signal
print(sorted(os.environ.items()), os.getcwd(), oct(os.umask(0)), os.getpriority(os.PRIO_PROCESS, 0))
print(sorted(fd for fd in range(1024) if os.path.exists(f"/proc/self/fd/{fd}")))
for line in open("/proc/self/status"):
    # Signals 32 and 33 are the C library's own: make leaves them ignored, we do not.
    if line.startswith(("SigBlk", "SigIgn", "SigCgt")):
        print(line[:6], hex(int(line[8:], 16) & ~(3 << 31)))
    if line.startswith("Cpus_allowed:"):
        print(line, end="")
for name in sorted(name for name in dir(resource) if name.startswith("RLIMIT_")):
    print(name, resource.getrlimit(getattr(resource, name)))
print(open("/proc/self/oom_score_adj").read(), open("/proc/self/timerslack_ns").read())
"""


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
        ("kill -INT $$", 130),
        ("kill -SEGV $$", 139),
        ("kill -PIPE $$", 141),
    ],
)
def test_status_of_the_command_is_ours(lab: Lab, user: bool, script: str, status: int) -> None:
    result = lab.run(NET, ["sh", "-c", script], user=user, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (status, b"", b"")


def test_command_not_found_is_one_line(lab: Lab, user: bool) -> None:
    result = lab.run(NET, ["no-such-program"], user=user, check=False)
    assert result.returncode in {1, 127}
    assert result.stdout == b""
    assert result.stderr.count(b"\n") == 1
    assert b"no-such-program" in result.stderr


def test_command_that_may_not_be_executed_is_one_line(lab: Lab, user: bool) -> None:
    result = lab.run(NET, ["/etc/passwd"], user=user, check=False)
    assert result.returncode in {1, 126}
    assert result.stderr.count(b"\n") == 1
    assert b"/etc/passwd" in result.stderr


def test_streams_pass_through_unchanged(lab: Lab, user: bool) -> None:
    data = os.urandom(1_000_000)
    result = lab.run(NET, ["sh", "-c", "echo aside >&2; exec cat"], user=user, feed=data)
    assert (result.stdout, result.stderr) == (data, b"aside\n")


def test_command_finds_what_it_would_find_without_us(lab: Lab, user: bool) -> None:
    argv = ["/usr/bin/python3", "-I", "-c", CIRCUMSTANCES]
    env = {"LAB_WORD": "a b\nc", "EMPTY": ""}
    plain = lab.host.run(argv, user=user, cwd="/usr/share", env=env)
    inside = lab.run(NET, argv, user=user, cwd="/usr/share", env=env)
    assert inside.stdout.decode() == plain.stdout.decode()
    assert inside.stderr == b""


@pytest.mark.parametrize("env", [{"LANG": "C"}, {"LC_CTYPE": "C"}, {"LC_CTYPE": "POSIX", "LANG": "C"},
                                 {"LC_ALL": "C"}, {"PYTHONINSPECT": "1"}], ids=str)
def test_command_has_the_callers_variables(lab: Lab, user: bool, env: dict[str, str]) -> None:
    # In the C locale Python sets LC_CTYPE (PEP 538).
    argv = ["env", "--unset=LANG", *(f"{name}={value}" for name, value in env.items())]
    plain = lab.host.run([*argv, "env"], user=user)
    inside = lab.host.run([*argv, lab.pasta, *NET, "--", "env"], user=user)
    assert sorted(inside.stdout.splitlines()) == sorted(plain.stdout.splitlines())


def test_command_of_the_module_has_the_callers_variables(lab: Lab, user: bool) -> None:
    library = Path(lab.pasta).parent.parent / "lib"
    argv = ["env", "--unset=LANG", f"PYTHONPATH={library}", "PYTHONINSPECT=1", "LC_CTYPE=C"]
    plain = lab.host.run([*argv, "env"], user=user)
    program = ["/usr/bin/python3", "-m", "passt", "pasta", *NET, "--"]
    inside = lab.host.run([*argv, *program, "env"], user=user)
    assert sorted(inside.stdout.splitlines()) == sorted(plain.stdout.splitlines())
    assert lab.host.run([*argv, *program, "cat", "/proc/1/comm"], user=user).stdout == b"pasta\n"


def test_process_bears_the_programs_name(lab: Lab, user: bool) -> None:
    argv = ["/usr/bin/python3", "-IS", lab.pasta, *NET, "cat", "/proc/1/comm"]
    assert lab.host.run(argv, user=user).stdout == b"pasta\n"


def test_command_keeps_lowered_limits_and_raised_umask(lab: Lab, user: bool) -> None:
    inner = f"{lab.pasta} --config-net -- sh -c 'ulimit -Sn; ulimit -c; umask'"
    script = f"ulimit -Sn 77; ulimit -c 0; umask 027; exec {inner}"
    assert lab.host.run(["bash", "-c", script], user=user).stdout.split() == [b"77", b"0", b"0027"]


def test_command_is_root_in_its_own_namespaces(lab: Lab, user: bool) -> None:
    result = lab.run(
        NET, ["sh", "-c", "id -u; id -g; cat /proc/self/setgroups; ls /proc | grep -c '^[0-9]'"], user=user
    )
    uid, gid, setgroups, n_processes = result.stdout.decode().split()
    assert (uid, gid, setgroups) == ("0", "0", "deny")
    assert int(n_processes) < 10  # a PID namespace of its own, with /proc mounted for it


@pytest.mark.parametrize("kind", ["user", "net", "pid", "mnt", "ipc", "uts"])
def test_namespace_is_new(lab: Lab, user: bool, kind: str) -> None:
    # Both at once: the number of a namespace that has ended is given to the next one.
    argv = ["readlink", f"/proc/self/ns/{kind}"]
    script = f'{" ".join(argv)}; "$@"; true'
    result = lab.host.run(["sh", "-c", script, "sh", lab.pasta, *NET, "--", *argv], user=user)
    ours, theirs = result.stdout.decode().split()
    assert ours.startswith(f"{kind}:[")
    assert theirs.startswith(f"{kind}:[")
    assert ours != theirs


def test_ping_sockets_are_allowed_in_the_namespace(lab: Lab, user: bool) -> None:
    assert lab.run(NET, ["cat", "/proc/sys/net/ipv4/ping_group_range"], user=user).stdout.split() == [
        b"0",
        b"0",
    ]


def test_network_is_ready_when_the_command_starts(lab: Lab, user: bool) -> None:
    for _ in range(5):
        result = lab.run(NET, ["ip", "-o", "link"], user=user)
        assert b" h0: " in result.stdout
        assert b"LOOPBACK,UP" in result.stdout
        lab.run(NET, [*lab.client, "tcp,udp", "2001:db8:2::1"], user=user)


def test_orphans_are_reaped(lab: Lab, user: bool) -> None:
    # PID 1 has the shell for a child, and each orphan until it is reaped, which takes its time.
    script = """
        n_children() { cat /proc/[0-9]*/status 2>/dev/null | grep -c '^PPid:.1$'; }
        for i in 1 2 3 4 5 6 7 8; do orphans="$orphans $(sleep 1000 >/dev/null 2>&1 & echo $!)"; done
        n_children
        kill $orphans
        until [ "$(n_children)" = 1 ]; do sleep 0.05; done
    """
    assert lab.run(NET, ["sh", "-c", script], user=user, timeout=120).stdout == b"9\n"


def test_end_of_the_command_ends_its_orphans(lab: Lab, user: bool) -> None:
    result = lab.run(
        NET,
        ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & (sleep 1000 >/dev/null 2>&1 &); exit 3"],
        user=user,
        check=False,
    )
    assert result.returncode == 3


def test_50_orphans_at_once(lab: Lab, user: bool) -> None:
    script = "for i in $(seq 50); do (sleep 0.1; exit 4) & done; wait; exit 6"
    assert lab.run(NET, ["sh", "-c", script], user=user, check=False).returncode == 6


def test_rights_are_given_up_and_none_can_be_gained(lab: Lab, user: bool) -> None:
    running = lab.start(NET, ["sh", "-c", "echo ready; exec sleep 60"], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status_field(running.pid, name), 16) == 0, name
    assert status_field(running.pid, "NoNewPrivs") == "1"
    running.kill()


def test_command_that_stops_itself_goes_on_when_continued(lab: Lab, user: bool) -> None:
    running = lab.start(NET, ["sh", "-c", "kill -STOP $$; exit 9"], user=user)

    def is_stopped() -> bool:
        return any(process_state(pid) == "T" for pid in descendants(running.pid))

    def is_ended_when_continued() -> bool:
        for pid in (running.popen.pid, running.pid):  # nsenter stops with what it waits for
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return running.popen.poll() is not None

    wait_until(is_stopped, "the command stops")
    wait_until(is_ended_when_continued, "the command goes on")
    assert running.finish().returncode == 9


def test_many_instances_at_once(lab: Lab, user: bool) -> None:
    argv = [*lab.client, "tcp,udp", "198.51.100.1", "8000", "1400"]
    started = [lab.start(NET, argv, user=user) for _ in range(12)]
    ended = [one.finish(120) for one in started]
    assert [(one.returncode, one.stderr) for one in ended] == [(0, b"")] * 12

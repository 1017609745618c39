"""Troubles of the machine, before the start and while it runs: one line, the right status, nothing left."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, UID, Place
from tests.support.processes import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from tests.support.lab import Lab

pytestmark = pytest.mark.needs_root

QUIET = ("-q", "--config-net")
THEM = UID + 1
# Interfaces of a host of its own, for `ip -batch`; its name is not UTF-8.
ODD = os.fsdecode(b"\xe9th")
UPLINK = "link add up0 type veth peer name peer0\nlink set peer0 up\nlink set up0 up\n"
IP4 = "addr add 192.0.2.2/24 dev up0\nroute add default via 192.0.2.1\n"


def in_own_mounts(script: str, argv: Sequence[str]) -> list[str]:
    """Give the command line of *argv* in mounts of its own, which *script* has changed."""
    return ["unshare", "--mount", "sh", "-c", f'{script} && exec "$@"', "sh", *argv]


def as_user_in_own_mounts(script: str, argv: Sequence[str]) -> list[str]:
    """Give the same for a plain user, who is root of a user namespace for that."""
    return ["unshare", "-Urm", "sh", "-c", f'{script} && exec "$@"', "sh", *argv]


def assert_one_line(result: subprocess.CompletedProcess[bytes], *words: str, program: str = "pasta") -> None:
    text = result.stderr.decode(errors="surrogateescape")
    assert (result.returncode, text.count("\n")) == (1, 1), (result.returncode, text)
    assert text.startswith(f"{program}: "), text
    assert all(word in text for word in words), text
    assert result.stdout == b""


@pytest.mark.parametrize("path", ["/dev/full", "home"])
def test_log_file_that_takes_nothing(lab: Lab, user: bool, path: str) -> None:
    log = path if path.startswith("/") else str(lab.directory / "home" / "log")
    script = "ulimit -f 0; " if path == "home" else ""
    argv = [lab.pasta, *QUIET, "-l", log, "--", "true"]
    result = lab.host.run(["bash", "-c", f'{script}exec "$@"', "bash", *argv], user=user, check=False)
    assert_one_line(result, "--log-file", log, "File too large" if script else "No space left on device")
    assert script == "" or not Path(log).exists()


@pytest.mark.parametrize("option", ["-P", "-p"])
def test_file_size_limit_of_other_files(lab: Lab, plain: bool, option: str) -> None:
    path = lab.directory / "home" / "file"
    argv = [lab.passt, "-q", "-s", str(lab.directory / "home" / "socket"), option, str(path)]
    result = lab.host.run(["bash", "-c", 'ulimit -f 0; exec "$@"', "bash", *argv], user=plain, check=False)
    assert_one_line(result, str(path), "File too large", program="passt")
    assert not path.exists()


@pytest.mark.parametrize(("node", "words"), [
    ("/dev/null", ["/dev/net/tun", "not the device of the tun driver"]),
    ("/dev/zero", ["/dev/net/tun", "not the device of the tun driver"]),
])
def test_tun_that_is_another_device(lab: Lab, user: bool, node: str, words: list[str]) -> None:
    argv = [lab.pasta, *QUIET, "--", "true"]
    script = f"mount --bind {node} /dev/net/tun"
    command = as_user_in_own_mounts(script, argv) if user else in_own_mounts(script, argv)
    assert_one_line(lab.host.run(command, user=user, check=False), *words)


@pytest.mark.parametrize("program", ["pasta", "passt"])
@pytest.mark.parametrize("stdio", ["", "<&- >&- 2>&-"])
def test_machine_without_a_null_device(lab: Lab, program: str, stdio: str) -> None:
    """A container's /dev may have nothing but what is asked for."""
    script = "mount -t tmpfs none /dev && mkdir /dev/net && mknod -m 666 /dev/net/tun c 10 200"
    mark, end = lab.directory / "mark", lab.directory / "pid"
    if program == "pasta":
        argv = [lab.pasta, "-q", "--config-net", "--", "sh", "-c",
                f"{' '.join(lab.client)} tcp {FAR4} 8000 1000 >{mark} 2>&1"]
    else:
        argv = [lab.passt, "-q", "-s", str(lab.directory / "socket"), "-P", str(end)]
    command = in_own_mounts(script, ["sh", "-c", f'exec "$@" {stdio}', "sh", *argv])
    try:
        result = lab.host.run(command, user=False, check=False)
        assert (result.returncode, result.stderr) == (0, b"")
        if program == "pasta":
            assert mark.read_text().strip()
            return
        pid = end.read_text(encoding="ascii").strip()
        lab.host.run(["kill", pid], user=False)
    finally:
        for path in (mark, end, lab.directory / "socket"):
            path.unlink(missing_ok=True)


def test_no_proc(lab: Lab, user: bool) -> None:
    argv = [lab.pasta, *QUIET, "--", "true"]
    command = (as_user_in_own_mounts if user else in_own_mounts)("mount -t tmpfs none /proc", argv)
    result = lab.host.run(command, user=user, check=False)
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
    assert result.stderr.count(b"\n") == 1, result.stderr


def make_odd(place: Place) -> None:
    place.run(["ip", "-batch", "-"], feed=(UPLINK + IP4).encode())
    place.run(["ip", "link", "set", "up0", "down"])
    place.run(["ip", "link", "set", "up0", "name", ODD])
    for words in (["link", "set", ODD, "up"], ["route", "add", "default", "via", "192.0.2.1"]):
        place.run(["ip", *words])


@pytest.mark.parametrize("options", [["-I", ODD], [], ["-i", ODD], ["--outbound-if4", ODD],
                                     ["-t", f"%{ODD}/8080"], ["-u", f"%{ODD}/8080"]],
                         ids=["I", "none", "i", "outbound", "t", "u"])
def test_interface_name_that_is_not_utf8(lab: Lab, user: bool, options: list[str]) -> None:
    place = lab.bare_place()
    make_odd(place)
    result = lab.run([*QUIET, *options], ["ip", "-o", "link"], user=user, place=place)
    assert result.stderr == b""
    assert b"\xe9th" in result.stdout
    attached = lab.run(["-q", "-4", *options, "-d", "--config-net"], ["true"], user=user, place=place)
    assert b"Traceback" not in attached.stderr


@pytest.mark.parametrize("option", ["-l", "-p", "-P", "-s", "--netns", "--userns", "--hostname"])
def test_path_that_is_not_utf8(lab: Lab, user: bool, option: str) -> None:
    home = lab.directory / "home"
    path = os.fsdecode(os.fsencode(str(home / "x")) + b"\xe9")
    if option == "--hostname":
        result = lab.run([*QUIET, option, "\udce9"], ["hostname"], user=user, check=False)
        assert b"Traceback" not in result.stderr
        return
    if option in {"--netns", "--userns"}:
        assert_one_line(lab.run([*QUIET, option, path], [], user=user, check=False), option, "no such file")
        return
    if option == "-s":
        argv = [lab.passt, "-q", "-P", str(home / "pid"), "-s", path]
        lab.host.run(argv, user=user)
        lab.host.run(["sh", "-c", f"kill $(cat {home}/pid)"])
        (home / "pid").unlink()
    elif option == "-P":
        lab.host.run([lab.passt, "-q", "-s", str(home / "socket"), "-P", path], user=user)
        lab.host.run(["kill", Path(path).read_text(encoding="ascii").strip()])
        (home / "socket").unlink()
    else:
        lab.run([*QUIET, option, path], ["true"], user=user)
    Path(path).unlink()


@pytest.mark.parametrize(("script", "status", "words"), [
    ("ip link del h0; sleep 1000", 1, ["the guest's interface is gone"]),
    ("ip link set h0 down; sleep 0.3; exit 3", 3, []),
    ("ip link set h0 down; ip link set h0 up; exit 4", 4, []),
    ("ip link set h0 down; ip link set h0 name other; ip link set other up; sleep 0.2; exit 5", 5, []),
    ("ip link set h0 mtu 68; ip link set h0 address 02:00:00:00:00:07; sleep 0.2; exit 6", 6, []),
    ("ip addr flush dev h0; ip route flush table main; sleep 0.2; exit 7", 7, []),
])
def test_interface_changes_under_traffic(lab: Lab, user: bool, script: str, status: int,
                                         words: list[str]) -> None:
    client = " ".join(lab.client)
    flood = f"(while :; do {client} tcp,udp {FAR4} 8000 300000 || sleep 0.05; done) >/dev/null 2>&1 &"
    result = lab.run(QUIET, ["sh", "-c", f"{flood} sleep 0.2; {script}"], user=user, check=False)
    lines = result.stderr.decode().splitlines()
    assert result.returncode == status, lines
    assert len(lines) == len(words), lines
    assert all(word in line for word, line in zip(words, lines, strict=True)), lines


def test_interface_of_an_attached_namespace_is_deleted(lab: Lab, user: bool) -> None:
    from tests.system.test_attach import Target

    target = Target(lab, user=user)
    log = lab.directory / "home" / "log"
    try:
        running = lab.start(["-f", *QUIET, "-l", str(log), target.pid], user=user)
        wait_until(target.has_interface, "it is configured")
        target.run([*lab.client, "tcp", FAR4])   # which it takes in its loop only
        target.run(["ip", "link", "del", "h0"])
        result = running.finish()
        assert_one_line(result, "the guest's interface is gone")
        assert "ERROR:   pasta: the guest's interface is gone" in log.read_text(encoding="utf-8")
    finally:
        target.running.kill()
        log.unlink(missing_ok=True)


@pytest.mark.parametrize(("lines", "address"), [
    ("addr add 239.1.2.3/32 dev up0 autojoin\n", "192.0.2.2"),
    ("addr add 0.1.2.3/32 dev up0\n", "192.0.2.2"),
    ("addr add 127.5.5.5/32 dev up0\n", "192.0.2.2"),
    ("addr add 198.51.100.255/25 dev up0\n", "192.0.2.2"),
])
def test_address_that_nobody_can_have_is_not_the_guests(lab: Lab, plain: bool, lines: str,
                                                        address: str) -> None:
    place = lab.bare_place()
    place.run(["ip", "-batch", "-"], feed=(UPLINK + IP4 + lines).encode())
    shown = place.run(["ip", "-o", "-4", "addr", "show", "dev", "up0"]).stdout.decode()
    assert len(re.findall("inet ", shown)) == 2, shown
    result = lab.run(QUIET, ["ip", "-o", "-4", "addr", "show", "scope", "global"], user=plain, place=place)
    found = re.findall(r"inet ([\d.]+)/", result.stdout.decode())
    assert found == [address]
    running = place.spawn([lab.passt, "-f", "-s", str(lab.directory / "home" / "socket")], user=plain)
    try:
        assert running.popen.stderr is not None
        line = b""
        while b"assign:" not in line:
            line = running.popen.stderr.readline()
            assert line
        assert line.strip() == f"assign: {address}".encode()
        running.send(signal.SIGTERM)
    finally:
        running.kill()
        # It is killed while it prints, maybe before its start is complete: then the file is gone already.
        (lab.directory / "home" / "socket").unlink(missing_ok=True)


def test_group_of_ip6_is_not_the_guests(lab: Lab, plain: bool) -> None:
    place = lab.bare_place()
    place.run(["ip", "-batch", "-"], feed=(
        UPLINK + "addr add 2001:db8::2/64 dev up0 nodad\naddr add ff0e::77/128 dev up0 autojoin\n"
        "route add default via 2001:db8::1\n").encode())
    result = lab.run(QUIET, ["ip", "-o", "-6", "addr", "show", "scope", "global"], user=plain, place=place)
    assert re.findall(r"inet6 ([\da-f:]+)/", result.stdout.decode()) == ["2001:db8::2"]


@pytest.mark.parametrize("option", ["-P", "-l", "-p"])
def test_root_does_not_follow_another_users_link(lab: Lab, option: str) -> None:
    """The kernel's protected_symlinks holds in sticky directories only, and not where it is switched off."""
    theirs, target = lab.directory / "theirs", lab.directory / "target"
    theirs.mkdir()
    target.write_bytes(b"kept")
    link = theirs / "link"
    link.symlink_to(target)
    for path in (theirs, link):
        os.chown(path, THEM, THEM, follow_symlinks=False)
    try:
        result = lab.run([*QUIET, option, str(link)], ["true"], user=False, check=False)
        assert_one_line(result, str(link), "another user's symbolic link")
        assert target.read_bytes() == b"kept"
    finally:
        link.unlink()
        theirs.rmdir()
        target.unlink()


@pytest.mark.parametrize("option", ["-P", "-p"])
def test_pipe_without_a_reader_ends_the_start(lab: Lab, user: bool, option: str) -> None:
    pipe = lab.directory / "home" / "pipe"
    os.mkfifo(pipe)
    os.chown(pipe, UID if user else 0, -1)
    try:
        result = lab.run([*QUIET, option, str(pipe)], ["true"], user=user, check=False, timeout=60)
        assert_one_line(result, str(pipe), "No such device or address")
    finally:
        pipe.unlink()

"""The forwarder of --dns-forward among servers that are dead, slow, lying, of the other family or few."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import PROGRAMS, Lab
from tests.support.processes import children, is_readable, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.lab import Running

pytestmark = pytest.mark.needs_root

NONE = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
FORWARD4, FORWARD6 = "198.51.100.53", "2001:db8:53::53"
FORWARD = ("--config-net", *NONE, "--dns-forward", FORWARD4, "--dns-forward", FORWARD6)
LAB_ANSWERS = ("192.0.2.80", "2001:db8::80")


@pytest.fixture
def resolv_conf(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Write the host's resolv.conf; it is as before in the end."""
    path: Path = lab.host.directory / "etc" / "resolv.conf"
    before = path.read_text()

    def write(text: str) -> None:
        path.write_text(text)

    yield write
    path.write_text(before)


@pytest.fixture
def serve(lab: Lab) -> Iterator[Callable[..., None]]:
    """Start a name server that behaves in a way; it is there when this returns."""
    running: list[Running] = []

    def start(address: str, way: str, answer: str = "192.0.2.99") -> None:
        argv = ["/usr/bin/python3", "-I", str(PROGRAMS / "name_server.py"), address, way, answer]
        running.append(lab.host.spawn(argv))
        output = running[-1].popen.stdout
        assert output is not None
        assert is_readable(output.fileno(), 60)
        assert output.readline() == b"ready\n"

    yield start
    for server in running:
        server.kill()


def dig(address: str, *words: str, time: int = 20) -> str:
    return f"dig +time={time} +tries=1 @{address} {' '.join(words)}"


def ask(lab: Lab, *scripts: str, options: tuple[str, ...] = (), user: bool = False) -> list[str]:
    """Run *scripts* in one namespace; return their lines."""
    result = lab.run([*FORWARD, *options], ["sh", "-c", "; ".join(scripts)], user=user, timeout=120)
    return result.stdout.decode().splitlines()


def server_of(lab: Lab) -> str:
    """Name the lab's own server."""
    text = (lab.host.directory / "etc" / "resolv.conf").read_text()
    return next(line.split()[1] for line in text.splitlines() if line.startswith("nameserver"))


@pytest.mark.parametrize("way", ["dead", "refuses", "lies", "garbage", "servfail"])
def test_next_server_answers_for_one_that_does_not(lab: Lab, user: bool, way: str,
                                                   serve: Callable[..., None],
                                                   resolv_conf: Callable[[str], None]) -> None:
    good = server_of(lab)
    if way != "refuses":
        serve("127.0.0.77", way)
    resolv_conf(f"nameserver 127.0.0.77\nnameserver {good}\noptions timeout:1\n")
    lines = ask(lab, dig(FORWARD4, "+short www.lab.example A"), dig(FORWARD4, "+short www.lab.example AAAA"),
                dig(FORWARD6, "+short +tcp www.lab.example A"), user=user)
    assert lines == [*LAB_ANSWERS, LAB_ANSWERS[0]]


@pytest.mark.parametrize("family", ["127.0.0.78", "::1"])
def test_servers_of_either_family_answer_queries_of_either(lab: Lab, user: bool, family: str,
                                                           serve: Callable[..., None],
                                                           resolv_conf: Callable[[str], None]) -> None:
    if family == "::1":
        # The lab's own server has ::1 already.
        resolv_conf("nameserver ::1\n")
        wanted = LAB_ANSWERS[0]
    else:
        serve(family, "good")
        resolv_conf(f"nameserver {family}\n")
        wanted = "192.0.2.99"
    lines = ask(lab, *(dig(address, transport, "+short www.lab.example")
                       for address in (FORWARD4, FORWARD6) for transport in ("+notcp", "+tcp")), user=user)
    assert lines == [wanted] * 4


def test_server_without_tcp_serves_clients_of_tcp(lab: Lab, serve: Callable[..., None],
                                                  resolv_conf: Callable[[str], None]) -> None:
    serve("127.0.0.78", "udp-only")
    resolv_conf("nameserver 127.0.0.78\n")
    assert ask(lab, dig(FORWARD4, "+short +tcp www.lab.example")) == ["192.0.2.99"]


@pytest.mark.parametrize("size", [512, 1232, 4096])
def test_oversized_answers_are_truncated_and_come_by_tcp(lab: Lab, size: int, serve: Callable[..., None],
                                                         resolv_conf: Callable[[str], None]) -> None:
    """The server sends 6 KiB by UDP, whatever the query offers."""
    serve("127.0.0.78", "oversized")
    resolv_conf("nameserver 127.0.0.78\n")
    lines = ask(lab, dig(FORWARD4, f"+bufsize={size} +ignore big.lab.example | grep -c 'flags.* tc '"),
                dig(FORWARD4, f"+short +bufsize={size} big.lab.example | wc -l"))
    assert lines == ["1", "384"]


def test_flood_of_forged_answers_is_survived(lab: Lab, serve: Callable[..., None],
                                             resolv_conf: Callable[[str], None]) -> None:
    serve("127.0.0.77", "floods")
    resolv_conf(f"nameserver 127.0.0.77\nnameserver {server_of(lab)}\noptions timeout:1\n")
    assert ask(lab, dig(FORWARD4, "+short www.lab.example")) == [LAB_ANSWERS[0]]


def test_programs_of_the_c_library_find_names(lab: Lab, user: bool) -> None:
    """By getent, which asks as programs do: by the resolv.conf inside, for both families."""
    script = (f"mount -t tmpfs none /mnt && echo nameserver {FORWARD4} > /mnt/resolv.conf &&"
              " mount --bind /mnt/resolv.conf $(realpath /etc/resolv.conf) &&"
              " getent ahosts www.lab.example | cut -d' ' -f1 | sort -u")
    result = lab.run([*FORWARD], ["unshare", "-m", "sh", "-c", script], user=user, timeout=120)
    assert result.stdout.decode().split() == sorted(LAB_ANSWERS)


def test_no_ipv6_address_without_ipv6(lab: Lab) -> None:
    options = ["--config-net", *NONE, "-4", "--dns-forward", FORWARD4]
    script = f"{dig(FORWARD4, '+short www.lab.example AAAA')}; {dig(FORWARD4, '+short www.lab.example A')}"
    result = lab.run(options, ["sh", "-c", script], user=False)
    assert result.stdout.decode().split() == [LAB_ANSWERS[0]]


def test_own_names_routes_and_cache(lab: Lab, user: bool, serve: Callable[..., None]) -> None:
    serve("127.0.0.78", "counts")
    options = ("--dns-hosts", "Box.lan=192.0.2.7", "--dns-hosts", "box.lan=2001:db8::7",
               "--dns-route", "corp.example=127.0.0.78", "--dns-cache", "10")
    lines = ask(lab, dig(FORWARD4, "+short box.lan A"), dig(FORWARD6, "+short +tcp BOX.lan AAAA"),
                *[dig(FORWARD4, "+short one.corp.example")] * 2, dig(FORWARD4, "+short two.corp.example"),
                dig(FORWARD4, "+short www.lab.example"), options=options, user=user)
    # The server's answers count its queries: the second was not one.
    assert lines == ["192.0.2.7", "2001:db8::7", "192.0.2.1", "192.0.2.1", "192.0.2.2", LAB_ANSWERS[0]]


def test_options_without_the_forwarder_are_refused(lab: Lab) -> None:
    for option in ("--dns-cache=1", "--dns-route=a=192.0.2.1", "--dns-hosts=a=192.0.2.1"):
        result = lab.run([option], ["true"], user=False, check=False)
        assert result.returncode == 1
        assert b"needs --dns-forward" in result.stderr


def test_doors_are_no_services_to_follow(lab: Lab) -> None:
    """With -T auto all ports of the host are there inside, but those of the forwarder are not."""
    options = ["--config-net", "-t", "none", "-u", "none", "-T", "auto", "-U", "auto"]
    options += ["--dns-forward", FORWARD4]
    script = ("until ss -Hltn | grep -q ':53 '; do sleep 0.1; done; ss -Hltun | awk '{print $5}' | sort -u;"
              f" {dig(FORWARD4, '+short www.lab.example A')}")
    inside = lab.run(options, ["sh", "-c", script], user=False, timeout=120).stdout.decode().split()
    assert inside[-1] == LAB_ANSWERS[0]
    ports = {place.rpartition(":")[2] for place in inside[:-1]}
    listening = {line.split()[4] for line in lab.host.run(["ss", "-Hltun"]).stdout.decode().splitlines()}
    assert ports <= {place.rpartition(":")[2] for place in listening}


def test_drops_are_told_where_all_others_are(lab: Lab, user: bool, scratch: Path,
                                            resolv_conf: Callable[[str], None]) -> None:
    """By `passtctl stats`, for Prometheus, and at SIGUSR1; nobody is at the server's address."""
    resolv_conf("nameserver 127.0.0.77\n")
    path = str(scratch / "control")
    questions = (dig(FORWARD4, "www.lab.example"), dig(FORWARD6, "+tcp www.lab.example AXFR"))
    script = f"{' >&2; '.join(questions)} >&2; echo asked; read line"
    pasta = lab.start([*FORWARD, "--control", path], ["sh", "-c", script], user=user, stdin=subprocess.PIPE)
    try:
        output = pasta.popen.stdout
        assert output is not None
        assert is_readable(output.fileno(), 60)
        assert output.readline() == b"asked\n"
        passtctl = [str(Path(lab.pasta).with_name("passtctl")), "-s", path]
        stats = lab.host.run([*passtctl, "stats"], user=user).stdout.decode().splitlines()
        told = {words[0]: words[1] for words in map(str.split, stats) if words and "names_" in words[0]}
        assert int(told.pop("names_server_failures")) > 0
        assert told == {"names_queries": "2", "names_asked": "1", "drop_names_no_answer": "1",
                        "drop_names_refused": "1"}
        metrics = lab.host.run([*passtctl, "metrics"], user=user).stdout.decode().splitlines()
        assert 'passt_drops_total{reason="names_refused"} 1' in metrics
        assert "passt_names_queries_total 2" in metrics
        pasta.send(signal.SIGUSR1)
        error = pasta.popen.stderr
        assert error is not None
        drops = next(line for line in error if line.strip().startswith(b"drops:"))
        assert b"names_refused 1, names_no_answer 1" in drops
    finally:
        pasta.kill()


def test_end_of_the_forwarder_leaves_the_first_server(lab: Lab) -> None:
    """Whoever kills it: the start goes on, names are found, and a warning says what has changed."""
    question = dig(FORWARD4, "+short www.lab.example")
    pasta = lab.start([*FORWARD], ["sh", "-c", f"{question}; read line; {question}"], user=False,
                      stdin=subprocess.PIPE)
    output, feed = pasta.popen.stdout, pasta.popen.stdin
    assert output is not None
    assert feed is not None
    assert is_readable(output.fileno(), 60)
    assert output.readline().decode().strip() == LAB_ANSWERS[0]
    (forwarder,) = forwarders(pasta.pid)
    os.kill(forwarder, signal.SIGKILL)
    error = pasta.popen.stderr
    assert error is not None
    told = b""
    while b"--dns-forward has ended" not in told:
        assert is_readable(error.fileno(), 60), told
        piece = os.read(error.fileno(), 4096)
        assert piece, told
        told += piece
    done = pasta.popen.communicate(b"go on\n", 60)
    assert done[0].decode().strip() == LAB_ANSWERS[0]


def forwarders(pid: int) -> list[int]:
    """Return the children of pasta that are under a filter: PID 1 of the command is not."""
    return [child for child in children(pid) if b"\nSeccomp:\t2\n" in read(f"/proc/{child}/status")]

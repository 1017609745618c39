"""What options around forwarding do: all ports, low ports, missing addresses, outbound binding, switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6, UID, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

NONE = ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
SECOND4, SECOND6 = "203.0.113.22", "2001:db8:1::22"
FILE_LIMIT = 20_000
# Prints the peer's address of one stream or one datagram, and answers, from the address that it came to.
SHOW_PEER = """
import socket, sys
kind = getattr(socket, "SOCK_" + sys.argv[1])
sock = socket.socket(socket.AF_INET6, kind)
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.bind(("::", 9900))
sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
sock.settimeout(60)
if kind == socket.SOCK_STREAM:
    sock.listen()
print("ready", flush=True)
if kind == socket.SOCK_STREAM:
    client, peer = sock.accept()
    client.sendall(client.recv(100))
else:
    data, ancillary, _, peer = sock.recvmsg(100, 256)
    sock.sendmsg([data], ancillary, 0, peer)
print(peer[0].removeprefix("::ffff:"), flush=True)
"""
# Waits for the answer: the program ends with it, and what was on its way would be lost.
SAY_HELLO = """
import socket, sys
kind, host = getattr(socket, "SOCK_" + sys.argv[1]), sys.argv[2]
with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as sock:
    sock.settimeout(60)
    sock.connect((host, 9900))
    sock.send(b"hello")
    assert sock.recv(100) == b"hello"
"""


def count_listeners(lab: Lab, kind: str) -> int:
    return lab.host.run(["ss", f"-Hln{kind}"]).stdout.count(b"\n")


@pytest.mark.parametrize(("option", "kind"), [("-t", "t"), ("-u", "u")])
def test_all_ports_are_as_many_as_descriptors_allow(lab: Lab, user: bool, option: str, kind: str) -> None:
    before = count_listeners(lab, kind)
    limit = ["prlimit", f"--nofile={FILE_LIMIT}:{FILE_LIMIT}"]
    argv = [lab.pasta, "--config-net", *NONE, option, "all", "--", "sh", "-c", "echo up; exec sleep 600"]
    running = lab.host.spawn([*limit, *argv], user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"up\n"
    found = count_listeners(lab, kind)
    running.kill()
    assert found - before >= 15_000


def test_listeners_cut_short_are_told_on_one_line(lab: Lab, user: bool) -> None:
    argv = ["prlimit", "--nofile=1000:1000", lab.pasta, "--config-net", *NONE[2:], "-t", "all", "--", "true"]
    result = lab.host.run(argv, user=user)
    assert result.stderr.count(b"\n") == 1
    assert result.stderr.startswith(b"-t all: only ")
    assert b"ulimit" in result.stderr


def test_ambient_capability_lets_a_plain_user_bind_a_low_port(lab: Lab, refusal: str) -> None:
    if refusal:
        pytest.skip(refusal)
    script = 'mount --bind /dev/net/tun.open /dev/net/tun && exec setpriv "$@"'
    identity = [f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    grant = ["--inh-caps=-all,+net_bind_service", "--ambient-caps=+net_bind_service"]
    pasta = [lab.pasta, "--config-net", "-t", "81", "--", "grep", "CapEff", "/proc/self/status"]
    result = lab.host.run(["unshare", "--mount", "sh", "-c", script, "sh", *identity, *grant, "--", *pasta])
    assert result.stderr == b""


def test_freebind_takes_an_address_that_comes_later(lab: Lab, user: bool) -> None:
    options = ["--config-net", *NONE[2:], "-t", f"{SECOND4}/9900"]
    result = lab.run(options, ["true"], user=user, check=False)
    assert result.returncode == 1
    assert b"does not have the address" in result.stderr
    command = ["/usr/bin/python3", "-I", "-c", SHOW_PEER, "STREAM"]
    running = lab.start(["--freebind", *options], command, user=user)
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    lab.host.run(["ip", "addr", "add", f"{SECOND4}/32", "dev", "lo"])
    try:
        lab.outside.run(["/usr/bin/python3", "-I", "-c", SAY_HELLO, "STREAM", SECOND4])
        assert running.popen.stdout.readline() != b""
    finally:
        lab.host.run(["ip", "addr", "del", f"{SECOND4}/32", "dev", "lo"])
        running.kill()


@pytest.fixture
def second_addresses(lab: Lab) -> Iterator[None]:
    for address in (f"{SECOND4}/24", f"{SECOND6}/64"):
        lab.host.run(["ip", "addr", "add", address, "dev", "h0"])
    yield
    for address in (f"{SECOND4}/24", f"{SECOND6}/64"):
        lab.host.run(["ip", "addr", "del", address, "dev", "h0"])


@pytest.mark.usefixtures("second_addresses")
@pytest.mark.parametrize("kind", ["STREAM", "DGRAM"])
@pytest.mark.parametrize(
    ("options", "target", "source"),
    [
        ([], FAR4, HOST4),
        (["-o", SECOND4], FAR4, SECOND4),
        (["-o", SECOND4, "-o", SECOND6], FAR6, SECOND6),
        (["--outbound-if4", "h0"], FAR4, HOST4),
        (["--outbound-if6", "h0", "-o", SECOND6], FAR6, SECOND6),
    ],
)
def test_outside_sees_the_address_that_is_bound_to(
    lab: Lab, user: bool, kind: str, options: list[str], target: str, source: str
) -> None:
    server = lab.outside.spawn(["/usr/bin/python3", "-I", "-c", SHOW_PEER, kind])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    arguments = ["-a", HOST4, "-a", HOST6, *options]
    lab.run(
        ["--config-net", *NONE, *arguments],
        ["/usr/bin/python3", "-I", "-c", SAY_HELLO, kind, target],
        user=user,
    )
    assert server.finish().stdout == f"{source}\n".encode()


@pytest.mark.usefixtures("second_addresses")
def test_outbound_binding_spares_the_host_s_loopback_and_pings_go_out_too(lab: Lab, user: bool) -> None:
    bound = ["-o", SECOND4, "-o", SECOND6, "--outbound-if4", "h0", "--outbound-if6", "h0"]
    # The gateways' addresses stand for the host.
    script = (
        f"set -e; {' '.join(lab.client)} tcp,udp {OUTSIDE4}; {' '.join(lab.client)} tcp,udp {OUTSIDE6};"
        f" ping -nc1 -W20 {FAR4}; ping -nc1 -W20 {FAR6}; ping -nc1 -W20 {OUTSIDE4}"
    )
    lab.run(["--config-net", *NONE, *bound], ["bash", "-c", script], user=user)


@pytest.mark.parametrize(
    ("switch", "works", "fails"),
    [
        ("--no-tcp", ["udp4", "udp6", "ping4", "ping6"], ["tcp4", "tcp6"]),
        ("--no-udp", ["tcp4", "tcp6", "ping4", "ping6"], ["udp4", "udp6"]),
        ("--no-icmp", ["tcp4", "tcp6", "udp4", "udp6"], ["ping4", "ping6"]),
        ("-4", ["tcp4", "udp4", "ping4"], ["tcp6", "udp6", "ping6"]),
        ("-6", ["tcp6", "udp6", "ping6"], ["tcp4", "udp4", "ping4"]),
    ],
)
def test_switch_takes_its_part_away_and_nothing_else(
    lab: Lab, user: bool, switch: str, works: list[str], fails: list[str]
) -> None:
    def check(what: str, patience_s: int) -> str:
        target = FAR6 if what.endswith("6") else FAR4
        if what.startswith("ping"):
            return f"ping -nc1 -W{patience_s} {target} >/dev/null"
        return f"timeout {patience_s} {' '.join(lab.client)} {what[:3]} {target} >/dev/null 2>&1"

    script = "; ".join(
        [f"{check(what, 20)} || echo {what} fails" for what in works]
        + [f"{check(what, 2)} && echo {what} works" for what in fails]
        + ["true"]
    )
    # Ports are switched off with their protocol: the defaults are no contradiction.
    result = lab.run(["--config-net", switch], ["bash", "-c", script], user=user)
    assert result.stdout == b""


@pytest.mark.parametrize(("switch", "option"), [("--no-tcp", "-t"), ("--no-udp", "-u"), ("--no-tcp", "-T")])
def test_port_option_against_a_protocol_that_is_off_is_one_line(
    lab: Lab, user: bool, switch: str, option: str
) -> None:
    result = lab.run([switch, option, "9900"], ["true"], user=user, check=False)
    assert result.returncode == 1
    assert result.stderr.count(b"\n") == 1
    assert switch.encode() in result.stderr


@pytest.mark.parametrize("mapped", [("198.51.100.77", "tcp,udp"), ("2001:db8:77::77", "tcp,udp")])
def test_mapped_addresses_lead_to_the_host(lab: Lab, user: bool, mapped: tuple[str, str]) -> None:
    address, checks = mapped
    for option in ("--map-host-loopback", "--map-guest-addr"):
        lab.run(["--config-net", *NONE, option, address], [*lab.client, checks, address], user=user)


def test_without_mapping_the_gateway_is_the_gateway(lab: Lab, user: bool) -> None:
    server = lab.outside.spawn(["/usr/bin/python3", "-I", "-c", SHOW_PEER, "STREAM"])
    assert server.popen.stdout is not None
    assert server.popen.stdout.readline() == b"ready\n"
    lab.run(
        ["--config-net", *NONE, "--no-map-gw"],
        ["/usr/bin/python3", "-I", "-c", SAY_HELLO, "STREAM", OUTSIDE4],
        user=user,
    )
    assert server.finish().stdout == f"{HOST4}\n".encode()

"""passt and a machine with a kernel of its own: real clients and servers, and machines that come and go."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, OUTSIDE6, Lab, Running
from tests.support.processes import wait_until
from tests.system.machines import Guest, passt, socket_path
from tests.system.servers import stream_sha256
from tests.system.test_bypass import ASK_BOTH, TELL_PEERS, python
from tests.system.transfer import content

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lab import Place

pytestmark = pytest.mark.needs_root

PORT = 10001
SMALL, MEDIUM, LARGE = 2048, 5120, 10 << 20
PROBE4 = f"http://{FAR4}:8000"


def receiver(lab: Lab, place: Place, *ports: int) -> Running:
    """Start transfer.py as a receiver and wait until it serves."""
    running = place.spawn(["/usr/bin/python3", "-I", str(lab.directory / "transfer.py"), "receive",
                           *map(str, ports)])
    assert running.popen.stdout is not None
    assert running.popen.stdout.readline() == b"ready\n"
    return running


def received(running: Running) -> list[str]:
    """Give the words of the next transfer that has come in."""
    assert running.popen.stdout is not None
    return running.popen.stdout.readline().decode().split()


def send(lab: Lab, place: Place, kind: str, host: str, port: int, size: int) -> None:
    place.run(["/usr/bin/python3", "-I", str(lab.directory / "transfer.py"), "send", kind, host, str(port),
               str(size), "seed"])


def wanted(kind: str, port: int, size: int, peer: str, sent_to: int | None = None) -> list[str]:
    """Words of a transfer that came in at *port* and was sent to *sent_to*."""
    digest = hashlib.sha256(content("seed", sent_to or port, size)).hexdigest()
    return [kind, str(port), str(size), digest, peer]


@pytest.fixture
def guest(lab: Lab, user: bool) -> Iterator[Guest]:
    """A configured machine behind a passt with two ports forwarded."""
    with passt(lab, "-t", f"{PORT},10002:10003", "-u", str(PORT), user=user) as (_, path):
        guest = Guest(lab, path)
        guest.configure()
        yield guest
        guest.close()


def test_guest_is_configured_like_the_host(guest: Guest) -> None:
    event, address, mask, router, mtu, dns, search, _, _ = guest.lease()
    assert (event, address, mask, router) == ("bound", HOST4, "255.255.255.0", OUTSIDE4)
    assert (mtu, dns, search) == ("65520", FAR4, "lab.example")
    text = guest.place.run(["ip", "-6", "address", "show", "dev", "eth0", "scope", "global"]).stdout.decode()
    assert re.search(r"inet6 2001:db8:1:0:5054:ff:fe12:3456/64 ", text)


@pytest.mark.parametrize("host", [OUTSIDE4, FAR4, FAR6])
def test_outward_connections(guest: Guest, lab: Lab, host: str) -> None:
    guest.place.run(["ping", "-c", "1", "-W", "20", host])
    checks = "tcp,end-first,end-last,reset,send-reset,refused"
    result = guest.place.run([*lab.client, checks, host, "8000", str(LARGE)])
    assert result.stdout == b"well\n"
    for size in (0, 1, 1472, 9000, 60000):
        assert guest.place.run([*lab.client, "udp", host, "8000", str(size)]).stdout == b"well\n"


def test_name_resolution_reaches_the_resolver(guest: Guest) -> None:
    for server in (FAR4, FAR6):
        result = guest.place.run(["dig", "+short", f"@{server}", "www.lab.example", "A"])
        assert result.stdout == b"192.0.2.80\n"


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_inward_connections_with_the_client_s_address(guest: Guest, lab: Lab, size: int) -> None:
    inside = receiver(lab, guest.place, PORT, 10003)
    guest.place.run(["ping", "-c", "1", "-W", "20", FAR6])   # shows the address that it chose itself
    for place, host, peer in ((lab.outside, HOST4, OUTSIDE4), (lab.outside, HOST6, OUTSIDE6),
                              (lab.host, "127.0.0.1", OUTSIDE4)):
        send(lab, place, "tcp", host, PORT, size)
        if peer == OUTSIDE4:
            assert received(inside) == wanted("tcp", PORT, size, OUTSIDE4)
        else:
            assert received(inside)[:4] == wanted("tcp", PORT, size, peer)[:4]
        if size == SMALL:
            send(lab, place, "udp", host, PORT, MEDIUM)
            assert received(inside)[:4] == wanted("udp", PORT, MEDIUM, peer)[:4]
    send(lab, lab.outside, "tcp", HOST4, 10002, size)
    assert received(inside) == wanted("tcp", 10003, size, OUTSIDE4, sent_to=10002)
    send(lab, lab.host, "tcp", "::1", PORT, size)
    assert received(inside)[:4] == wanted("tcp", PORT, size, "")[:4]
    inside.kill()


@pytest.mark.parametrize("option", [["--no-map-gw"], ["--map-host-loopback", "none"]], ids=" ".join)
def test_loopback_clients_without_an_address_for_the_host_come_from_our_address(
    lab: Lab, user: bool, option: list[str]
) -> None:
    with passt(lab, "-t", str(PORT), "-u", str(PORT), *option, user=user) as (_, path):
        guest = Guest(lab, path)
        guest.configure()
        guest.place.run(["ping", "-c", "1", "-W", "20", FAR6])   # shows the address that it chose itself
        inside = guest.place.spawn(python(TELL_PEERS, str(PORT)))
        assert inside.popen.stdout is not None
        assert inside.popen.stdout.readline() == b"ready\n"
        for address in ("127.0.0.1", "::1"):
            tcp, udp = lab.host.run(python(ASK_BOTH, address, str(PORT), "20")).stdout.decode().split()
            assert tcp == udp
            assert tcp == OUTSIDE4 if ":" not in address else tcp.startswith("fe80::")
        inside.kill()
        guest.close()


def test_gateway_leads_to_the_host_s_loopback(guest: Guest, lab: Lab) -> None:
    server = receiver(lab, lab.host, 10103)
    send(lab, guest.place, "tcp", OUTSIDE4, 10103, SMALL)
    assert received(server) == wanted("tcp", 10103, SMALL, "127.0.0.1")
    send(lab, guest.place, "udp", OUTSIDE4, 10103, MEDIUM)
    assert received(server) == wanted("udp", 10103, MEDIUM, "127.0.0.1")
    server.kill()


@pytest.mark.parametrize("host", [FAR4, f"[{FAR6}]"])
def test_reconnecting_in_the_middle_of_a_transfer_loses_nothing(guest: Guest, lab: Lab, host: str) -> None:
    size = 60 << 20
    # A rate that makes it last while the emulator comes and goes.
    curl = guest.place.spawn(["curl", "-s", "--limit-rate", "20M", "--max-time", "100",
                              f"http://{host}:8000/{size}"])
    digest, n_read, n_away = hashlib.sha256(), 0, 0
    assert curl.popen.stdout is not None
    while piece := curl.popen.stdout.read(1 << 20):
        digest.update(piece)
        n_read += len(piece)
        if n_read > (10 << 20) * (n_away + 1) and n_away < 2:
            guest.reconnect()
            n_away += 1
    assert (n_read, n_away, digest.hexdigest()) == (size, 2, stream_sha256(size))
    assert curl.finish().returncode == 0
    result = guest.place.run([*lab.client, "tcp", FAR4, "8000", "1000000"])
    assert result.stdout == b"well\n"


CONNECT = """
import socket, sys
sock = socket.socket()
sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
sock.settimeout(25)
sock.bind(("", 40404))
sock.connect((sys.argv[1], 8007))
sock.sendall(b"hello")
assert sock.recv(5) == b"hello"
print("well", flush=True)
if len(sys.argv) > 2:
    sys.stdin.read()
"""


def test_guest_that_reboots_takes_its_connections_anew(lab: Lab, plain: bool) -> None:
    with passt(lab, user=plain) as (_, path):
        first = Guest(lab, path)
        first.configure(HOST4)
        spans_s: list[float] = []
        program = ["/usr/bin/python3", "-I", "-c", CONNECT, FAR4]
        for _ in range(2):
            hanging = first.place.spawn([*program, "stay"], stdin=-1)
            assert hanging.popen.stdout is not None
            assert hanging.popen.stdout.readline() == b"well\n"
            # The power goes: neither FIN nor RST. The next life begins with the same source port.
            first.close()
            first = Guest(lab, path)
            first.configure(HOST4)
            begin = time.monotonic()
            assert first.place.run(program).stdout == b"well\n"
            spans_s.append(time.monotonic() - begin)
        first.close()
        assert min(spans_s) < 5, spans_s   # the machine may be busy once


def test_guest_that_reboots_with_other_addresses_is_reached(lab: Lab, plain: bool) -> None:
    with passt(lab, "-t", str(PORT), "-u", str(PORT), user=plain) as (_, path):
        first = Guest(lab, path)
        first.configure()
        first.place.run(["ping", "-c", "1", "-W", "20", FAR4])
        first.close()
        other = Guest(lab, path, mac="52:54:00:65:43:21")
        other.configure("203.0.113.77")
        other.place.run(["ping", "-c", "1", "-W", "20", FAR4])
        other.place.run(["ping", "-c", "1", "-W", "20", FAR6])
        inside = receiver(lab, other.place, PORT)
        for host in (HOST4, HOST6):
            send(lab, lab.outside, "tcp", host, PORT, SMALL)
            assert received(inside)[:4] == wanted("tcp", PORT, SMALL, "")[:4]
            send(lab, lab.outside, "udp", host, PORT, SMALL)
            assert received(inside)[:4] == wanted("udp", PORT, SMALL, "")[:4]
        inside.kill()
        other.close()


def test_inward_connection_to_a_guest_that_never_spoke(lab: Lab, plain: bool) -> None:
    with passt(lab, "-4", "-t", str(PORT), user=plain) as (_, path):
        guest = Guest(lab, path, silent=True)
        guest.place.run(["ip", "address", "add", f"{HOST4}/24", "dev", "eth0"])
        guest.place.run(["ip", "route", "add", "default", "via", OUTSIDE4])
        inside = receiver(lab, guest.place, PORT)
        send(lab, lab.outside, "tcp", HOST4, PORT, SMALL)
        assert received(inside) == wanted("tcp", PORT, SMALL, OUTSIDE4)
        inside.kill()
        guest.close()


def test_guests_talk_to_each_other_through_forwarded_ports(lab: Lab, plain: bool) -> None:
    with (passt(lab, "-t", "10004", "-u", "10004", user=plain, name="one") as (_, path1),
          passt(lab, "-t", "10005", "-u", "10005", user=plain, name="two") as (_, path2)):
        guests = [Guest(lab, path1), Guest(lab, path2, mac="52:54:00:00:00:02")]
        for guest in guests:
            guest.configure()
            assert guest.lease()[1] == HOST4
        routers = [guest.place.run(["ip", "-6", "route", "show", "default"]).stdout.decode().split()[2]
                   for guest in guests]
        for i, port in ((0, 10005), (1, 10004)):
            inside = receiver(lab, guests[1 - i].place, port)
            guests[1 - i].place.run(["ping", "-c", "1", "-W", "20", FAR6])
            for host in (OUTSIDE4, f"{routers[i]}%eth0"):
                send(lab, guests[i].place, "tcp", host, port, LARGE)
                assert received(inside)[:4] == wanted("tcp", port, LARGE, "")[:4]
                send(lab, guests[i].place, "udp", host, port, MEDIUM)
                assert received(inside)[:4] == wanted("udp", port, MEDIUM, "")[:4]
            inside.kill()
        for guest in guests:
            guest.close()


INSIDE4 = "192.0.2.2"      # means the loopback of the namespace that passt runs in
# Run in that namespace: SOCKET TRANSFER PASST OPTION...
BESIDE = """
path=$1 transfer=$2
shift 2
"$@" -s "$path" &
exec /usr/bin/python3 -I "$transfer" receive 10012
"""


def test_passt_in_a_namespace_of_pasta(lab: Lab, plain: bool) -> None:
    path = socket_path(lab, "inside")
    ports = f"{PORT},10012"
    pasta = lab.start(["--config-net", "-t", ports, "-u", ports, "-T", "none", "-U", "none"],
                      ["sh", "-c", BESIDE, "sh", path, str(lab.directory / "transfer.py"), lab.passt, "-f",
                       "-q", "-t", str(PORT), "-u", str(PORT), "--map-host-loopback", INSIDE4], user=plain)
    assert pasta.popen.stdout is not None
    assert pasta.popen.stdout.readline() == b"ready\n"
    wait_until(lambda: os.path.exists(path), "passt makes its socket")
    guest = Guest(lab, path)
    guest.configure()
    server, inside = receiver(lab, lab.host, 10103), receiver(lab, guest.place, PORT)
    try:
        # From the host into the machine, from the machine to the namespace around it, and on to the host.
        for source, host, port, target in (
                (lab.host, "127.0.0.1", PORT, inside), (lab.host, HOST4, PORT, inside),
                (lab.outside, HOST4, PORT, inside), (guest.place, INSIDE4, 10012, pasta),
                (guest.place, OUTSIDE4, 10103, server)):
            send(lab, source, "tcp", host, port, LARGE)
            assert received(target)[:4] == wanted("tcp", port, LARGE, "")[:4]
            send(lab, source, "udp", host, port, MEDIUM)
            assert received(target)[:4] == wanted("udp", port, MEDIUM, "")[:4]
    finally:
        for running in (inside, server, pasta):
            running.kill()
        guest.close()
        os.unlink(path)


def test_all_ports_are_forwarded(lab: Lab, plain: bool) -> None:
    with passt(lab, "-t", "all", "-u", "all", user=plain) as (_, path):
        guest = Guest(lab, path)
        guest.configure()
        inside = receiver(lab, guest.place, 3389)
        send(lab, lab.outside, "tcp", HOST4, 3389, SMALL)
        assert received(inside) == wanted("tcp", 3389, SMALL, OUTSIDE4)
        inside.kill()
        guest.close()


def test_stopped_machine_costs_the_others_nothing(lab: Lab, plain: bool) -> None:
    with passt(lab, "-t", str(PORT), user=plain) as (running, path):
        guest = Guest(lab, path)
        guest.configure()
        guest.place.spawn(["curl", "-s", "-o", "/dev/null", f"{PROBE4}/{1 << 40}"])

        def n_come() -> int:
            [link] = json.loads(guest.place.run(["ip", "-j", "-s", "link", "show", "dev", "eth0"]).stdout)
            return int(link["stats64"]["rx"]["bytes"])

        wait_until(lambda: n_come() > 1 << 20, "data come")
        guest.emulator.send(signal.SIGSTOP)

        def cpu_ticks() -> int:
            with open(f"/proc/{running.pid}/stat", encoding="ascii") as file:
                fields = file.read().rpartition(")")[2].split()
            return int(fields[11]) + int(fields[12])

        def is_quiet() -> bool:
            before = cpu_ticks()
            time.sleep(2)
            return cpu_ticks() - before <= 4

        # What was under way has to come to rest first.
        wait_until(is_quiet, "the program has nothing to do", 30)
        guest.emulator.popen.send_signal(signal.SIGCONT)   # nsenter stops with its child
        guest.emulator.send(signal.SIGCONT)
        ping = ["ping", "-c", "1", "-W", "20", FAR4]
        wait_until(lambda: guest.place.run(ping, check=False).returncode == 0,
                   "the machine goes on", 60)
        guest.close()

"""--follow with real programs: a host that is renumbered, unplugged, found late, and flapped about.

Each test has a host and an outside of its own, as it takes the host's network apart.
"""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPrefixInfo, IPv6
from scapy.layers.l2 import Ether

from tests.support.lab import FAR4, FAR6, HOST4, Lab, Place, Running, connect
from tests.support.processes import LIMIT_S, is_readable, read, status_field, wait_until
from tests.system.machines import FORMS, MAC, Form, Machine, passt
from tests.system.test_dhcp import DHCLIENT, PROLOGUE, UDHCPC
from tests.system.test_slow_descriptors import stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Places = tuple[Place, Place]

pytestmark = pytest.mark.needs_root

ECHO = "8007"
MAPPED, FORWARD = "169.254.1.2", "198.51.100.53"
NEW4, NEW6 = "192.0.2.2", "2001:db8:9::2"
# The host gets other addresses of other networks; the outside has one in each.
OUTSIDE_MOVES = """
addr add 192.0.2.1/24 dev o0
addr add 2001:db8:9::1/64 dev o0 nodad
"""
HOST_MOVES = f"""
addr del 203.0.113.2/24 dev h0
addr del 2001:db8:1::2/64 dev h0
addr add {NEW4}/24 dev h0
addr add {NEW6}/64 dev h0 nodad
route add default via 192.0.2.1
route replace default via 2001:db8:9::1
"""
HOST_MOVES_BACK = f"""
addr del {NEW4}/24 dev h0
addr del {NEW6}/64 dev h0
addr add 203.0.113.2/24 dev h0
addr add 2001:db8:1::2/64 dev h0 nodad
route add default via 203.0.113.1
route replace default via 2001:db8:1::1
"""
# Another address in the same subnet.
HOST_STAYS = """
addr del 203.0.113.2/24 dev h0
addr del 2001:db8:1::2/64 dev h0
addr add 203.0.113.9/24 dev h0
addr add 2001:db8:1::9/64 dev h0 nodad
route add default via 203.0.113.1
route replace default via 2001:db8:1::1
"""
AGENT = """
import errno, socket, subprocess, sys, threading
sockets = {}
def serve(port):
    door = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)
    def run():
        while True:
            client, _ = door.accept()
            client.sendall(b"inside")
            client.close()
    threading.Thread(target=run, daemon=True).start()
    return "ok"
def do(word, *rest):
    if word == "open":
        sockets[rest[0]] = socket.create_connection((rest[1], int(rest[2])), 20)
        return "ok"
    if word == "echo":
        sockets[rest[0]].sendall(b"hello")
        return sockets[rest[0]].recv(5).decode()
    if word == "name":
        return sockets[rest[0]].getsockname()[0]
    if word == "bulk":
        sent = bytes(range(256)) * 800
        threading.Thread(target=sockets[rest[0]].sendall, args=(sent,), daemon=True).start()
        got = b""
        while len(got) < len(sent):
            got += sockets[rest[0]].recv(65536) or b"the end"
        return "ok" if got == sent else "other"
    if word == "wait":
        sockets[rest[0]].settimeout(20)
        return repr(sockets[rest[0]].recv(1))
    if word == "again":
        try:
            sockets[rest[0]].settimeout(20)
            return "DATA " + repr(sockets[rest[0]].recv(1))
        except ConnectionResetError:
            sockets[rest[0]] = socket.create_connection((rest[1], int(rest[2])), 20)
        return sockets[rest[0]].getsockname()[0]
    if word == "ask":
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(float(rest[2]))
            sock.sendto(bytes.fromhex("123401000001000000000000 0161 00 0010 0001"), (rest[0], int(rest[1])))
            return sock.recv(100)[-3:].decode()
    if word == "serve":
        return serve(*rest)
    return repr(subprocess.run(rest, capture_output=True, text=True).stdout)
for line in sys.stdin:
    try:
        answer = do(*line.split())
    except TimeoutError:
        answer = "TIMEOUT"
    except OSError as error:
        answer = errno.errorcode[error.errno]
    print(answer, flush=True)
"""
CLIENT = """
import errno, socket, sys
try:
    print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 20).recv(100).decode())
except TimeoutError:
    print("TIMEOUT")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
# Answers each question of DNS with a text record, a word of three letters of its own.
NAME_SERVER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 53))
print("ready", flush=True)
while True:
    query, client = sock.recvfrom(100)
    record = bytes.fromhex("c00c 0010 0001 00000000 0004 03") + sys.argv[2].encode()
    sock.sendto(query[:2] + bytes.fromhex("8180 0001 0001 0000 0000") + query[12:] + record, client)
"""


class Guest:
    """pasta with a command that does what it is told, in a host of its own."""

    def __init__(self, lab: Lab, host: Place, *options: str, user: bool) -> None:
        self.running = lab.start(["--follow", *options], ["/usr/bin/python3", "-I", "-c", AGENT], user=user,
                                 place=host, stdin=subprocess.PIPE)
        assert self.ask("ip -o link"), "it runs"

    def ask(self, line: str) -> str:
        """Have one line done; return the answer."""
        popen = self.running.popen
        assert popen.stdin is not None
        assert popen.stdout is not None
        popen.stdin.write(f"{'run ' if line.startswith('ip') else ''}{line}\n".encode())
        popen.stdin.flush()
        assert is_readable(popen.stdout, 60), f"no answer to {line}"
        answer = popen.stdout.readline().decode().rstrip("\n")
        assert answer, popen.communicate()
        return answer

    def until(self, line: str, wanted: str) -> str:
        """Ask until the answer has *wanted* in it."""
        answers = [""]

        def has_come() -> bool:
            answers.append(self.ask(line))
            return wanted in answers[-1]

        wait_until(has_come, f"{wanted} in the answer to {line}")
        return answers[-1]

    def until_not(self, line: str, unwanted: str) -> None:
        """Ask until the answer does not have *unwanted* in it any more."""
        wait_until(lambda: unwanted not in self.ask(line), f"{unwanted} goes from the answer to {line}")

    def cpu_ticks(self) -> int:
        """Return the processor time of the main process."""
        return sum(map(int, read(f"/proc/{self.running.pid}/stat").rsplit(b")", 1)[1].split()[11:13]))


def batch(place: Place, lines: str) -> None:
    """Have ip(8) carry out *lines*; it tells the family by the address."""
    place.run(["ip", "-batch", "-"], feed=lines.strip().encode() + b"\n")


def at_a_stroke(running: Running, host: Place, lines: str) -> None:
    """Have ip(8) carry out *lines* while the program is stopped.

    It waits for a quiet moment before it looks, but a busy machine may hold up ip(8) for longer than that.
    """
    with stopped(running):
        batch(host, lines)


def start_server(place: Place, argv: list[str]) -> Running:
    """Start a server, and wait until it says that it is ready."""
    running = place.spawn(["/usr/bin/python3", "-I", *argv], stderr=subprocess.DEVNULL)
    assert running.popen.stdout is not None
    assert is_readable(running.popen.stdout, LIMIT_S)
    assert running.popen.stdout.readline() == b"ready\n"
    return running


@contextmanager
def host_and_outside(lab: Lab, *, connected: bool) -> Iterator[Places]:
    """Make a host and an outside, both with servers."""
    host, outside = lab.bare_place(), lab.bare_place()
    if connected:
        connect(host, outside)
    for place in (host, outside):
        start_server(place, [str(lab.directory / "servers.py")])
    yield host, outside
    for place in (host, outside):
        lab.extra.remove(place)
        place.close()


def ask_far_resolver(lab: Lab, host: Place, outside: Place) -> None:
    """Have *host* ask a name server of the outside's, which answers "one"."""
    start_server(outside, ["-c", NAME_SERVER, FAR4, "one"])
    file = lab.directory / "resolv-far.conf"
    file.write_text(f"nameserver {FAR4}\n", encoding="ascii")
    host.run(["sh", "-c", f"mount --bind {file} $(realpath /etc/resolv.conf)"])


@pytest.fixture
def places(lab: Lab) -> Iterator[Places]:
    """Make a host and an outside that are not connected yet; both have servers."""
    with host_and_outside(lab, connected=False) as made:
        yield made


def fetch(place: Place, address: str, port: int) -> str:
    """Return what a server says to a client in *place*, the name of the error if it says nothing."""
    return place.run(["/usr/bin/python3", "-I", "-c", CLIENT, address, str(port)]).stdout.decode().strip()


def test_renumbering_resets_what_hangs_and_all_else_works(lab: Lab, places: Places, plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    guest = Guest(lab, host, "--config-net", "--map-guest-addr", MAPPED, "-t", "9000", user=plain)
    assert guest.ask("serve 9000") == "ok"
    guest.ask("ip addr add 172.16.0.1/24 dev h0")
    guest.ask("ip route add 172.17.0.0/16 via 172.16.0.2")
    for name, address in (("old4", FAR4), ("old6", FAR6), ("host", MAPPED)):
        assert guest.ask(f"open {name} {address} {ECHO}") == "ok"
        assert guest.ask(f"echo {name}") == "hello"
    batch(outside, OUTSIDE_MOVES)
    batch(host, HOST_MOVES)
    for name in ("old4", "old6", "host"):
        assert guest.ask(f"wait {name}") == "ECONNRESET"
    for name, address in (("new4", FAR4), ("new6", FAR6), ("again", MAPPED)):
        assert guest.until(f"open {name} {address} {ECHO}", "ok")
        assert guest.ask(f"echo {name}") == "hello"
    guest.until("ip -o addr show dev h0", NEW6)
    guest.until("ip -o addr show dev h0", f"{NEW4}/24")
    for old in ("203.0.113.2/", "2001:db8:1:"):
        guest.until_not("ip -o addr show dev h0", old)
    guest.until("ip route", "default via 192.0.2.1 ")
    guest.until("ip -6 route", "default via 2001:db8:9::1 ")
    shown = guest.ask("ip -o addr show dev h0") + guest.ask("ip route")
    assert "172.16.0.1/24" in shown, "what the user set up stays"
    assert "172.17.0.0/16 via 172.16.0.2" in shown
    for address in (NEW4, NEW6):
        assert fetch(outside, address, 9000) == "inside"


@pytest.mark.parametrize(("moves", "new4", "new6"), [
    (HOST_MOVES, NEW4, NEW6),
    (HOST_STAYS, "203.0.113.9", "2001:db8:1::9"),
], ids=["another-subnet", "same-subnet"])
@pytest.mark.parametrize("far", [FAR4, FAR6, "203.0.113.1"], ids=["ip4", "ip6", "old-neighbour"])
def test_client_that_connects_anew_at_once_has_the_new_address(lab: Lab, places: Places, plain: bool,
                                                              far: str, moves: str, new4: str,
                                                              new6: str) -> None:
    host, outside = places
    connect(host, outside)
    batch(outside, OUTSIDE_MOVES)
    guest = Guest(lab, host, "--config-net", user=plain)
    assert guest.ask(f"open it {far} {ECHO}") == "ok"
    at_a_stroke(guest.running, host, moves)
    assert guest.ask(f"again it {far} {ECHO}") == (new6 if far == FAR6 else new4)
    assert guest.ask("echo it") == "hello"


def test_deprecated_address_stays_for_the_connections_that_have_it(lab: Lab, places: Places,
                                                                  plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    guest = Guest(lab, host, "--config-net", user=plain)
    assert guest.ask(f"open old {FAR6} {ECHO}") == "ok"
    batch(outside, OUTSIDE_MOVES)
    batch(host, f"addr add {NEW6}/64 dev h0 nodad\n"
                "addr change 2001:db8:1::2/64 dev h0 preferred_lft 0 valid_lft 1000")
    shown = guest.until("ip addr show dev h0 to 2001:db8:1::2", "deprecated")
    assert "preferred_lft 0sec" in shown
    assert "valid_lft forever" not in shown
    guest.until("ip -o addr show dev h0", NEW6)
    assert guest.ask("echo old") == "hello"
    assert guest.ask(f"open new {FAR6} {ECHO}") == "ok"
    assert guest.ask("name new") == NEW6
    batch(host, "addr del 2001:db8:1::2/64 dev h0")
    assert guest.ask("wait old") == "ECONNRESET"
    guest.until_not("ip -o addr show dev h0", "2001:db8:1::2/")


def test_smaller_mtu_of_the_host_is_none_of_the_guest_s_concern(lab: Lab, places: Places,
                                                               plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    guest = Guest(lab, host, "--config-net", user=plain)
    for name, address in (("4", FAR4), ("6", FAR6)):
        assert guest.ask(f"open {name} {address} {ECHO}") == "ok"
        assert guest.ask(f"bulk {name}") == "ok"
    batch(host, "link set h0 mtu 1300")
    batch(outside, "link set o0 mtu 1300")
    for name, address in (("4", FAR4), ("6", FAR6)):
        assert guest.ask(f"bulk {name}") == "ok", "it goes on"
        assert guest.ask(f"open new{name} {address} {ECHO}") == "ok"
        assert guest.ask(f"bulk new{name}") == "ok"
    assert "mtu 65520" in guest.ask("ip link show dev h0")


def test_guest_that_configures_itself_is_told_at_once(lab: Lab, places: Places, plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    guest = Guest(lab, host, user=plain)
    guest.ask("ip link set h0 up")
    guest.until("ip -6 addr show dev h0 scope global -tentative", "2001:db8:1:")
    batch(outside, OUTSIDE_MOVES)
    batch(host, HOST_MOVES)
    shown = guest.until("ip -6 addr show dev h0 scope global -tentative", "2001:db8:9:")
    old = next(line for line in shown.split("\\n") if "2001:db8:1:" in line)
    assert "deprecated" in old
    assert guest.until(f"open new {FAR6} {ECHO}", "ok")
    assert guest.ask("echo new") == "hello"


def test_network_that_is_there_after_the_start(lab: Lab, places: Places, plain: bool) -> None:
    host, outside = places
    guest = Guest(lab, host, user=plain)
    guest.ask("ip link set tap0 up")
    guest.until("ip -6 addr show dev tap0", "fe80:")
    connect(host, outside)
    guest.until("ip -6 addr show dev tap0 scope global -tentative", "2001:db8:1:")
    assert guest.until(f"open new {FAR6} {ECHO}", "ok")
    assert guest.ask("echo new") == "hello"


def test_start_waits_for_the_network_as_long_as_it_takes_or_as_it_may(lab: Lab, places: Places,
                                                                     plain: bool) -> None:
    host, outside = places
    show = ["ip", "-o", "addr", "show", "scope", "global"]
    done = lab.run(["--wait-online=1", "--config-net"], show, user=plain, place=host, check=False)
    assert b"option '--wait-online=1': the host has no network yet" in done.stderr
    assert b"169.254.2.1/16" in done.stdout
    running = lab.start(["--wait-online", "--config-net"], show, user=plain, place=host)
    assert running.popen.stdout is not None
    assert not is_readable(running.popen.stdout, 0.2), "nothing runs before there is a network"
    connect(host, outside)
    told, errors = running.popen.communicate(timeout=LIMIT_S)
    assert f"{HOST4}/24".encode() in told, errors


def test_namespace_that_was_set_up_before_there_was_a_network(lab: Lab, places: Places, plain: bool) -> None:
    host, outside = places
    guest = Guest(lab, host, "--config-net", user=plain)
    assert "169.254.2.1/16" in guest.ask("ip -o addr show dev tap0")
    connect(host, outside)
    guest.until("ip -o addr show dev tap0", "2001:db8:1::2/64")
    guest.until("ip -o addr show dev tap0", "203.0.113.2/24")
    for name, address in (("new4", FAR4), ("new6", FAR6)):
        assert guest.until(f"open {name} {address} {ECHO}", "ok")
        assert guest.ask(f"echo {name}") == "hello"
    guest.until_not("ip -o addr show dev tap0", "169.254.")
    guest.until("ip route", "via 203.0.113.1 ")


@pytest.mark.parametrize("spec", ["%h0/9000", "%h0/auto", "203.0.113.2%h0/9000"])
def test_port_of_an_interface_that_is_made_again(lab: Lab, places: Places, plain: bool, spec: str) -> None:
    host, outside = places
    connect(host, outside)
    guest = Guest(lab, host, "--config-net", "-t", spec, user=plain)
    assert guest.ask("serve 9000") == "ok"
    wait_until(lambda: fetch(outside, "203.0.113.2", 9000) == "inside", "the port is forwarded")
    batch(host, "link del h0")
    connect_again(host, outside)
    wait_until(lambda: fetch(outside, "203.0.113.2", 9000) == "inside", "the port is forwarded again")
    assert guest.until(f"open new {FAR4} {ECHO}", "ok")
    assert guest.ask("echo new") == "hello"


@pytest.mark.parametrize("spec", ["%h0/9000", "203.0.113.2%h0/9000"])
def test_port_of_an_interface_that_comes_after_the_start(lab: Lab, places: Places, plain: bool, spec: str
                                                         ) -> None:
    host, outside = places
    guest = Guest(lab, host, "--config-net", "-t", spec, user=plain)
    assert guest.ask("serve 9000") == "ok"
    connect(host, outside)
    wait_until(lambda: fetch(outside, "203.0.113.2", 9000) == "inside", "the port is forwarded")
    refused = lab.run(["--no-follow", "--config-net", "-t", spec.replace("h0", "none0")], ["true"],
                      user=plain, place=host, check=False)
    assert refused.returncode == 1
    assert b"on none0: No such device" in refused.stderr


def test_low_port_of_an_interface_that_is_made_again(lab: Lab, places: Places) -> None:
    host, outside = places
    connect(host, outside)
    guest = Guest(lab, host, "--config-net", "-t", "%h0/88:9000", user=False)
    assert guest.ask("serve 9000") == "ok"
    wait_until(lambda: fetch(outside, "203.0.113.2", 88) == "inside", "the port is forwarded")
    batch(host, "link del h0")
    connect_again(host, outside)
    wait_until(lambda: fetch(outside, "203.0.113.2", 88) == "inside", "the port is forwarded again")


def test_port_of_an_interface_that_gets_another_name_and_of_one_that_gets_its_name(
        lab: Lab, places: Places, plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    guest = Guest(lab, host, "--config-net", "-t", "%h0/9000", user=plain)
    assert guest.ask("serve 9000") == "ok"
    batch(host, "link set h0 down\nlink set h0 name lan0\nlink set lan0 up\n"
                "route replace default via 203.0.113.1\naddr replace 2001:db8:1::2/64 dev lan0 nodad")
    wait_until(lambda: fetch(outside, "203.0.113.2", 9000) == "inside", "it is the same interface")
    # Another one has the name from now on, and the rule means that.
    subprocess.run(["nsenter", "-t", str(host.init), "--net", "ip", "link", "add", "h0", "type", "veth",
                    "peer", "name", "o1", "netns", str(outside.init)], check=True)
    batch(outside, "addr add 192.0.2.1/24 dev o1\nlink set o1 up")
    batch(host, "addr add 192.0.2.2/24 dev h0\nlink set h0 up")
    wait_until(lambda: fetch(outside, "192.0.2.2", 9000) == "inside", "the port is that of the other one")
    wait_until(lambda: fetch(outside, "203.0.113.2", 9000) == "ECONNREFUSED", "the first one's is closed")


def test_port_of_a_link_local_address_whose_interface_is_made_again(lab: Lab, places: Places,
                                                                   plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    batch(host, "addr add fe80::88/64 dev h0 nodad")
    guest = Guest(lab, host, "--config-net", "-t", "fe80::88/9000", user=plain)
    assert guest.ask("serve 9000") == "ok"
    # The outside gets its own link-local address in a moment.
    wait_until(lambda: fetch(outside, "fe80::88%o0", 9000) == "inside", "the port is forwarded")
    batch(host, "link del h0")
    connect_again(host, outside)
    batch(host, "addr add fe80::88/64 dev h0 nodad")
    wait_until(lambda: fetch(outside, "fe80::88%o0", 9000) == "inside", "the port is forwarded again")


def test_port_that_the_kernel_chose_stays_when_its_interface_is_made_again(lab: Lab, places: Places,
                                                                           plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    file = (lab.directory / "home" if plain else lab.directory) / "ports"
    guest = Guest(lab, host, "--config-net", "-t", "%h0/0:9000", "--ports-file", str(file), user=plain)
    assert guest.ask("serve 9000") == "ok"
    [line] = file.read_text(encoding="ascii").splitlines()
    file.unlink()
    port = int(line.split()[2])
    assert fetch(outside, "203.0.113.2", port) == "inside"
    batch(host, "link del h0")
    connect_again(host, outside)
    wait_until(lambda: fetch(outside, "203.0.113.2", port) == "inside", f"port {port} is forwarded again")


def connect_again(host: Place, outside: Place) -> None:
    """Connect two places that were connected before, whose link is gone."""
    for address in (f"{FAR4}/32", f"{FAR6}/128"):
        outside.run(["ip", "addr", "del", address, "dev", "lo"])
    connect(host, outside)


def test_name_server_of_the_host_is_followed(lab: Lab, places: Places, plain: bool, tmp_path: Path) -> None:
    host, outside = places
    connect(host, outside)
    start_server(outside, ["-c", NAME_SERVER, FAR4, "one"])
    start_server(outside, ["-c", NAME_SERVER, "203.0.113.1", "two"])
    lab_file = tmp_path / "resolv.conf"
    lab_file.write_text(f"nameserver {FAR4}\n", encoding="ascii")
    for directory in (tmp_path, *list(tmp_path.parents)[:3]):
        if directory.name != "tmp":
            directory.chmod(0o755)
    host.run(["sh", "-c", f"mount --bind {lab_file} $(realpath /etc/resolv.conf)"])
    guest = Guest(lab, host, "--config-net", "--dns-forward", FORWARD, user=plain)
    assert guest.ask(f"ask {FORWARD} 53 10") == "one"
    lab_file.write_text("nameserver 203.0.113.1\n", encoding="ascii")
    guest.until(f"ask {FORWARD} 53 2", "two")
    lab_file.write_text("", encoding="ascii")
    assert guest.ask(f"ask {FORWARD} 53 10") == "two"


@pytest.mark.parametrize(("as_root", "own_user_namespace"), [(False, True), (True, True), (True, False)],
                         ids=["process-of-a-user", "process", "netns"])
def test_namespace_that_exists_follows_and_nothing_is_left(lab: Lab, places: Places, plain: bool,
                                                           as_root: bool, own_user_namespace: bool) -> None:
    user = plain and not as_root
    host, outside = places
    connect(host, outside)
    ways = ["--user", "--map-root-user"] if own_user_namespace else []
    target = host.spawn(["unshare", *ways, "--net", "sh", "-c", "echo ready; exec sleep 1000"], user=user)
    assert target.popen.stdout is not None
    assert target.popen.stdout.readline() == b"ready\n"
    pid = status_field(target.pid, "NSpid").split()[-1]
    before = host.pids()
    where = [pid] if own_user_namespace else ["--netns", f"/proc/{pid}/ns/net"]
    running = lab.start(["-f", "--follow", "--config-net", *where], user=user, place=host)

    def addresses() -> str:
        assert running.popen.poll() is None, running.popen.communicate()
        enter = ["--user", "--preserve-credentials"] if own_user_namespace else []
        argv = ["nsenter", "-t", pid, *enter, "--net", "ip", "-o", "addr"]
        return host.run(argv, user=user).stdout.decode()

    wait_until(lambda: f"{HOST4}/24" in addresses(), "the namespace is set up")
    batch(outside, OUTSIDE_MOVES)
    batch(host, HOST_MOVES)
    wait_until(lambda: f"{NEW4}/24" in addresses() and f"{NEW6}/64" in addresses(), "the new ones come")
    wait_until(lambda: f"{HOST4}/24" not in addresses(), "the old one goes")
    running.send(signal.SIGTERM)
    assert running.finish().returncode == 0
    wait_until(lambda: host.pids() == before, "all its processes have ended")
    target.kill()


def test_changes_are_lines_of_the_log_and_events(lab: Lab, places: Places, plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    path = str(lab.directory / "home" / "c.sock") if plain else str(lab.directory / "c.sock")
    guest = Guest(lab, host, "-d", "--config-net", "--map-guest-addr", MAPPED, "--control", path, user=plain)

    def explain() -> list[str]:
        """Say where a flow to the host comes from, and where it goes to, by the program's own explanation."""
        answer = host.run(["curl", "-s", "--unix-socket", path, f"http://passt/v1/explain?address={MAPPED}&port=80"],
                          user=plain).stdout
        [flow] = json.loads(answer)["flows"]
        return [flow["why"], flow["source"]["address"], flow["host"]["destination"]["address"]]

    assert explain() == ["guest map", HOST4, HOST4]
    curl = ["curl", "-sN", "--max-time", "280", "--unix-socket", path, "http://passt/v1/events?kinds=host_changed"]
    listener = host.spawn(curl, user=plain)
    wait_until(lambda: b'"listeners_of_events":1' in host.run(
        ["curl", "-s", "--unix-socket", path, "http://passt/v1/info"], user=plain).stdout.replace(b" ", b""),
        "somebody listens")
    batch(outside, OUTSIDE_MOVES)
    at_a_stroke(guest.running, host, HOST_MOVES)
    assert listener.popen.stdout is not None
    seen: set[tuple[str, str]] = set()
    while not {("address", "ip4"), ("address", "ip6"), ("gateway", "ip4")} <= seen:
        event = json.loads(listener.popen.stdout.readline())
        seen.add((event["what"], event["family"]))
        assert event["event"] == "host_changed"
    shown = json.loads(host.run(["curl", "-s", "--unix-socket", path, "http://passt/v1/info"],
                                user=plain).stdout)
    assert shown["guest"]["ip4"]["address"] == NEW4
    assert explain() == ["guest map", NEW4, NEW4]
    listener.kill()
    _, told = guest.running.popen.communicate(timeout=LIMIT_S)  # which ends its input
    assert b"the host's network has changed: IPv4 address 203.0.113.2/24 -> 192.0.2.2/24" in told
    assert b"has ended" not in told


def dhcp(peer: Machine, kind: str, *options: tuple[str, str]) -> tuple[str, dict[str, object]]:
    """Send one DHCP message; return the address and the options of the answer."""
    packet = (IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67)
              / BOOTP(chaddr=bytes.fromhex(MAC.replace(":", "")), xid=4711)
              / DHCP(options=[("message-type", kind), *options, "end"]))
    peer.send(bytes(Ether(src=MAC, dst="ff:ff:ff:ff:ff:ff") / packet))
    reply = Ether(peer.receive(lambda frame: DHCP in Ether(frame)))
    return reply[BOOTP].yiaddr, {option[0]: option[1] for option in reply[DHCP].options
                                 if isinstance(option, tuple)}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_machine_is_told_by_advertisement_and_dhcp(lab: Lab, places: Places, plain: bool, form: Form) -> None:
    host, outside = places
    connect(host, outside)
    with passt(lab, "--follow", *form.options, user=plain, place=host) as (running, path):
        peer = form.connect(path)
        try:
            address, options = dhcp(peer, "discover")
            assert (address, options["lease_time"]) == (HOST4, 120)
            batch(outside, OUTSIDE_MOVES)
            at_a_stroke(running, host, HOST_MOVES)

            def tells_of_new(frame: bytes) -> bool:
                packet = Ether(frame)
                return ICMPv6ND_RA in packet and b"\x20\x01\x0d\xb8\x00\x09" in bytes(packet)

            told = Ether(peer.receive(tells_of_new, 60))
            assert told[IPv6].dst == "ff02::1"
            prefixes = {}
            layer = told.getlayer(ICMPv6NDOptPrefixInfo)
            while layer is not None:
                prefixes[layer.prefix] = (layer.preferredlifetime, layer.validlifetime)
                layer = layer.payload.getlayer(ICMPv6NDOptPrefixInfo)
            assert prefixes == {"2001:db8:9::": (0xffffffff, 0xffffffff), "2001:db8:1::": (0, 0)}
            wait_until(lambda: dhcp(peer, "discover")[0] == NEW4, "the new address is offered")
            _, options = dhcp(peer, "request", ("requested_addr", HOST4))
            assert options["message-type"] == 6, "the old address is refused"
            address, options = dhcp(peer, "request", ("requested_addr", NEW4))
            assert (address, options["message-type"]) == (NEW4, 5)
        finally:
            peer.close()


DHCLIENT_RENEWS = f"""{DHCLIENT}
echo 'supersede dhcp-renewal-time 1; supersede dhcp-rebinding-time 100;' >>/run/dhcp/conf
client & wait_for BOUND 1; echo bound
wait_for BOUND 2
said 'DHCPREQUEST for {HOST4} on h0 to 203.0.113.1 port 67'
said 'DHCPNAK from 203.0.113.1'
"""
# It takes a refusal from the server that it knows, and from no other one.
UDHCPC_RENEWS = f"""{UDHCPC}
client & pid=$!; wait_for bound 1; echo bound
# Who asks it twice before there was an answer has it begin anew, without a refusal.
until [ "$(n_of nak)" -ge 1 ]; do
    n_before=$(n_of 'renew|nak')
    kill -USR1 $pid
    wait_for 'renew|nak' $((n_before + 1))
done
wait_for bound 2
"""


@pytest.mark.parametrize("client", [DHCLIENT_RENEWS, UDHCPC_RENEWS], ids=["dhclient", "udhcpc"])
def test_client_that_renews_at_the_former_gateway_is_told_of_the_new_address(lab: Lab, places: Places,
                                                                            plain: bool, client: str) -> None:
    host, outside = places
    connect(host, outside)
    script = f"HOOK={lab.directory}/dhcp_hook.sh\n{PROLOGUE}{client}cat /run/dhcp/log\nkill $(jobs -p)\n"
    options = ["--follow", "-t", "none", "-u", "none"]
    running = lab.start(options, ["sh", "-c", script], user=plain, place=host)
    output = running.popen.stdout
    assert output is not None
    assert is_readable(output, LIMIT_S)
    assert output.readline() == b"bound\n", running.popen.communicate()
    batch(outside, OUTSIDE_MOVES)
    at_a_stroke(running, host, HOST_MOVES)
    told, errors = running.popen.communicate(timeout=200)  # the script has limits of its own
    bound = [line.split("|")[1:4] for line in told.decode().splitlines() if line.lower().startswith("bound")]
    assert bound == [[HOST4, "255.255.255.0", "203.0.113.1"], [NEW4, "255.255.255.0", "192.0.2.1"]], errors


@pytest.mark.slow
def test_flapping_routes_hold_up_nobody_and_end(lab: Lab, places: Places, plain: bool) -> None:
    host, outside = places
    connect(host, outside)
    guest = Guest(lab, host, "--config-net", user=plain)
    routes = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(10_000)]
    for verb in ("add", "del", "add", "del"):
        batch(host, "\n".join(f"route {verb} {route} via 203.0.113.1" for route in routes))
        assert guest.ask(f"open {verb} {FAR4} {ECHO}") == "ok"
        assert guest.ask(f"echo {verb}") == "hello"
    seen = [-1]

    def is_idle() -> bool:
        seen.append(guest.cpu_ticks())
        outside.run(["true"])
        return seen[-1] == seen[-2] == guest.cpu_ticks()

    wait_until(is_idle, "pasta rests", 120)
    assert guest.ask("echo add") == "hello"

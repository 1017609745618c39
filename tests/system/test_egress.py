"""Rules of egress from inside, as a user and as root: what they leave open; the rest fails at once."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, Lab
from tests.support.processes import is_readable
from tests.system.machines import FORMS, MAC, passt
from tests.system.test_dns_forwarder import forwarders
from tests.system.test_machine import OUR_MAC, QUESTION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scapy.packet import Packet

    from tests.support.lab import Place, Running
    from tests.system.machines import Form

pytestmark = pytest.mark.needs_root

NONE = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
PORT, OTHER = 9700, 9702
# Says "ok" to each connection and each datagram, at each address and port that is given.
SERVER = """
import socket, sys, threading

def accept(sock):
    while True:
        connection, _ = sock.accept()
        connection.sendall(b"ok")
        connection.close()

def answer(sock):
    while True:
        sock.sendto(b"ok", sock.recvfrom(100)[1])

for address in sys.argv[1].split(","):
    for port in map(int, sys.argv[2].split(",")):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        stream = socket.socket(family, socket.SOCK_STREAM)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stream.bind((address, port))
        stream.listen()
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        datagrams.bind((address, port))
        threading.Thread(target=accept, args=(stream,)).start()
        threading.Thread(target=answer, args=(datagrams,)).start()
print("ready", flush=True)
"""
# Prints for each KIND,ADDRESS,PORT what came of it: ok, or the name of the error.
PROBE = """
import errno, socket, sys

for word in sys.argv[1:]:
    kind, address, port = word.split(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        try:
            sock.connect((address, int(port)))
            if kind == "udp":
                sock.send(b"hello")
            print(word, sock.recv(10).decode() or "end")
        except OSError as error:
            print(word, errno.errorcode.get(error.errno, type(error).__name__))
"""
# How a refusal by a rule shows: a reset, and ICMP's and ICMPv6's "administratively prohibited" (Linux:
# net/ipv4/icmp.c, icmp_err_convert; net/ipv6/icmp.c, tab_unreach).
REFUSED = {("tcp", 4): "ECONNREFUSED", ("tcp", 6): "ECONNREFUSED", ("udp", 4): "EHOSTUNREACH",
           ("udp", 6): "EACCES"}


def start_server(place: Place, addresses: tuple[str, ...]) -> Running:
    argv = ["/usr/bin/python3", "-I", "-c", SERVER, ",".join(addresses), f"{PORT},{OTHER}"]
    running = place.spawn(argv)
    assert running.popen.stdout is not None
    assert is_readable(running.popen.stdout.fileno(), 60)
    assert running.popen.stdout.readline() == b"ready\n"
    return running


@pytest.fixture
def servers(lab: Lab) -> Iterator[None]:
    """Serve far away, and on the host's addresses and loopback."""
    running = [start_server(lab.outside, (FAR4, FAR6)),
               start_server(lab.host, ("127.0.0.1", "::1", HOST4, HOST6))]
    yield
    for each in running:
        each.kill()


def probe(lab: Lab, options: tuple[str, ...], *words: str, user: bool) -> dict[str, str]:
    """Try *words* in one namespace; return what came of each."""
    result = lab.run(["--config-net", *NONE, *options], ["/usr/bin/python3", "-I", "-c", PROBE, *words],
                     user=user, timeout=300)
    return dict(line.split(" ", 1) for line in result.stdout.decode().splitlines())


def all_ways(*addresses: str, ports: tuple[int, ...] = (PORT, OTHER)) -> list[str]:
    return [f"{kind},{address},{port}" for kind in ("tcp", "udp") for address in addresses for port in ports]


def outcome(word: str, *, is_open: bool) -> str:
    kind, address, _ = word.split(",")
    return "ok" if is_open else REFUSED[kind, 6 if ":" in address else 4]


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize(("rules", "opened"), [
    ((), {*all_ways(FAR4, FAR6)}),
    (("--allow", f"{FAR4}"), {*all_ways(FAR4)}),
    (("--allow", f"[{FAR6}]:{PORT}"), {*all_ways(FAR6, ports=(PORT,))}),
    (("--allow", f"tcp:{FAR4}:{PORT}", "--allow", f"udp:{FAR6}"),
     {f"tcp,{FAR4},{PORT}", f"udp,{FAR6},{PORT}", f"udp,{FAR6},{OTHER}"}),
    (("--allow", "0.0.0.0/0", "--deny", f"tcp:{FAR4}/32"), {f"udp,{FAR4},{PORT}", f"udp,{FAR4},{OTHER}"}),
    (("--deny", f"{FAR6}"), {*all_ways(FAR4)}),
])
def test_rules_decide_by_address_protocol_and_port(lab: Lab, user: bool, rules: tuple[str, ...],
                                                   opened: set[str]) -> None:
    words = all_ways(FAR4, FAR6)
    assert probe(lab, rules, *words, user=user) == {
        word: outcome(word, is_open=word in opened) for word in words}


@pytest.mark.usefixtures("servers")
def test_gateway_and_mapped_address_lead_to_the_host_by_its_rule_alone(lab: Lab, user: bool) -> None:
    mapped = "192.0.2.77"
    words = all_ways(OUTSIDE4, mapped, ports=(PORT,))
    options = ("--map-guest-addr", mapped)
    for rules, is_open in (((), True), (("--deny", "host"), False), (("--allow", "host"), True),
                           (("--allow", OUTSIDE4, "--allow", mapped), False),
                           (("--deny", OUTSIDE4, "--deny", mapped), False)):
        assert probe(lab, (*options, *rules), *words, user=user) == {
            word: outcome(word, is_open=is_open) for word in words}, rules


@pytest.mark.usefixtures("servers")
def test_bypass_does_not_lead_past_the_rules(lab: Lab, user: bool) -> None:
    words = [f"tcp,{address},{PORT}" for address in ("127.0.0.1", "::1")]
    options = ("-T", str(PORT))
    assert set(probe(lab, options, *words, user=user).values()) == {"ok"}
    assert set(probe(lab, (*options, "--allow", "host"), *words, user=user).values()) == {"ok"}
    for rules in (("--deny", "host"), ("--allow", FAR4)):
        assert set(probe(lab, (*options, *rules), *words, user=user).values()) <= {"ECONNREFUSED",
                                                                                  "ECONNRESET", "end"}


def test_ping_is_answered_at_once_that_it_is_prohibited(lab: Lab, user: bool) -> None:
    script = "; ".join(f"ping -n -c 1 -W 60 {address} | grep -Eo '1 received|filtered|prohibited'"
                       for address in (FAR4, FAR6))
    for rules, wanted in (((), ["1 received"] * 2), (("--allow", f"tcp:{FAR4}"), ["filtered", "prohibited"]),
                          (("--allow", f"icmp:{FAR4}"), ["1 received", "prohibited"])):
        result = lab.run(["--config-net", *NONE, *rules], ["sh", "-c", script], user=user, timeout=300,
                         check=False)
        assert [line.lower() for line in result.stdout.decode().splitlines()] == wanted, rules


@pytest.mark.usefixtures("servers")
def test_refusal_is_told_with_its_rule(lab: Lab, user: bool) -> None:
    result = lab.run(["--config-net", *NONE, "--debug", "--deny", f"{FAR4}:{PORT}"],
                     ["/usr/bin/python3", "-I", "-c", PROBE, *[f"tcp,{FAR4},{PORT}"] * 3], user=user)
    lines = [line for line in result.stderr.decode().splitlines() if "refused: " in line]
    assert lines[0].endswith(f"refused: TCP to {FAR4}:{PORT}: rule 'deny {FAR4}:{PORT}'")


@pytest.mark.parametrize(("option", "message"), [
    ("--allow=x", "option '--allow': 'x' is not an IPv4 or IPv6 address, nor one of the words"),
    ("--deny=10.0.0.1/8", "option '--deny': 10.0.0.1/8 has bits behind its length"),
    ("--allow-from=host", "option '--allow-from': 'host' is not an IPv4 or IPv6 address"),
])
def test_mistake_is_one_line(lab: Lab, option: str, message: str) -> None:
    result = lab.run([option], ["true"], user=False, check=False)
    assert result.returncode == 1
    assert result.stderr.decode().startswith(f"pasta: {message}")
    assert result.stderr.count(b"\n") == 1


def test_file_that_allows_all_is_warned_of(lab: Lab) -> None:
    path = lab.directory / "policy.toml"
    path.write_text('default = "allow"\n[profile.base]\nrules = ["deny private"]\n')
    path.chmod(0o644)
    said = f"option '--policy' {path}: it has no rules, or uses none of its profiles: all is allowed\n"
    for options, is_said in (((), True), (("--deny", "host"), False)):
        result = lab.run(["--policy", str(path), *options], ["true"], user=False)
        assert (said in result.stderr.decode()) is is_said, options


@pytest.mark.usefixtures("servers")
def test_rules_of_a_file_come_after_those_of_the_command_line(lab: Lab, user: bool) -> None:
    path = lab.directory / "policy.toml"
    path.write_text(f'rules = ["deny tcp:{FAR4}", "allow 0.0.0.0/0"]\n')
    path.chmod(0o644)
    words = all_ways(FAR4, ports=(PORT,))
    assert probe(lab, ("--policy", str(path)), *words, user=user) == {
        word: outcome(word, is_open=word.startswith("udp")) for word in words}
    assert probe(lab, ("--policy", str(path), "--allow", f"tcp:{FAR4}"), *words, user=user) == {
        word: outcome(word, is_open=True) for word in words}


@pytest.mark.parametrize(("content", "message"), [
    (None, "No such file or directory"),
    ("rules = [\n'allow x'\n]", "line 2: 'x' is not an IPv4 or IPv6 address"),
    ("rules", "not TOML: "),
])
def test_file_with_a_mistake_starts_nothing(lab: Lab, user: bool, content: str | None, message: str) -> None:
    path = lab.directory / "wrong.toml"
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_text(content)
        path.chmod(0o644)
    result = lab.run(["--policy", str(path)], ["echo", "started"], user=user, check=False)
    assert result.returncode == 1
    assert result.stdout == b""
    assert result.stderr.decode().startswith(f"pasta: option '--policy' {path}: {message}")
    assert result.stderr.count(b"\n") == 1


# Rules by name

FORWARD4, FORWARD6 = "198.51.100.53", "2001:db8:53::53"
FORWARD = ("--dns-forward", FORWARD4, "--dns-forward", FORWARD6)
# Asks each server, as SERVER/NAME/TYPE/PROTOCOL, and prints what dig says is the status and the addresses.
ASK = """
import subprocess, sys
for word in sys.argv[1:]:
    server, name, kind, protocol = word.split("/")
    argv = ["dig", f"@{server}", f"+{protocol}", "+time=60", "+tries=1", "+noedns", name, kind]
    text = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    lines = text.splitlines()
    status = [line.split("status: ")[1].split(",")[0] for line in lines if "status: " in line] or ["none"]
    print(word, *status, *(line.split()[4] for line in lines if line[:1] not in {";", ""}))
"""
TOGETHER = """
import socket, subprocess, sys
ask, probe = sys.argv[1], sys.argv[2]
subprocess.run([sys.executable, "-I", "-c", ask, *sys.argv[3].split()], check=True)
sys.stdout.flush()
subprocess.run([sys.executable, "-I", "-c", probe, *sys.argv[4].split()], check=True)
"""


def ask_and_probe(lab: Lab, options: tuple[str, ...], questions: list[str], words: list[str], *, user: bool
                  ) -> tuple[dict[str, str], dict[str, str]]:
    """Ask, then try *words*, in one namespace; return what came of each."""
    result = lab.run(["--config-net", *NONE, *FORWARD, *options],
                     ["/usr/bin/python3", "-I", "-c", TOGETHER, ASK, PROBE, " ".join(questions),
                      " ".join(words)], user=user, timeout=300)
    lines = [line.partition(" ") for line in result.stdout.decode().splitlines()]
    found = {word: rest for word, _, rest in lines}
    return {word: found[word] for word in questions}, {word: found[word] for word in words}


def question(name: str, kind: str = "A", server: str = FORWARD4, protocol: str = "notcp") -> str:
    return f"{server}/{name}/{kind}/{protocol}"


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("way", ["good", "alias"])
def test_name_opens_its_addresses_and_nothing_else(lab: Lab, user: bool, way: str,
                                                   name_server: Callable[[str, str], Running]) -> None:
    name_server(way, FAR4)
    words = all_ways(FAR4, FAR6)
    rules = ("--allow", f"www.good.test:{PORT}")
    asked = question("www.good.test")
    # Who has not asked, or for another name, reaches nothing.
    others = [question("evil.test"), question("c2VjcmV0.tunnel.test", "TXT"),
              question("good.test", "A", FORWARD6),
              question("x.www.good.test", "A", FORWARD4, "tcp")]
    answers, found = ask_and_probe(lab, rules, others, words, user=user)
    assert answers == dict.fromkeys(others, "REFUSED")
    assert found == {word: outcome(word, is_open=False) for word in words}
    answers, found = ask_and_probe(lab, rules, [asked], words, user=user)
    assert answers[asked].split()[0] == "NOERROR"
    assert answers[asked].split()[-1] == FAR4
    assert found == {word: outcome(word, is_open=word in all_ways(FAR4, ports=(PORT,))) for word in words}


@pytest.mark.usefixtures("servers")
def test_answer_is_never_faster_than_its_pin(lab: Lab, user: bool,
                                             name_server: Callable[[str, str], Running]) -> None:
    """A program that connects as soon as it has an address is let."""
    name_server("good", FAR4)
    script = f"""
import socket, struct
def ask(number):
    name = b"".join(bytes((len(label),)) + label for label in (b"n%d" % number, b"good", b"test")) + b"\\0"
    query = struct.pack("!HHHHHH", number, 0x100, 1, 0, 0, 0) + name + struct.pack("!HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.connect(({FORWARD4!r}, 53))
        sock.send(query)
        return socket.inet_ntoa(sock.recv(512)[-4:])
for number in range(50):
    with socket.create_connection((ask(number), {PORT}), 60) as sock:
        assert sock.recv(2) == b"ok"
print("done")
"""
    result = lab.run(["--config-net", *NONE, *FORWARD, "--allow", "*.good.test"],
                     ["/usr/bin/python3", "-I", "-c", script], user=user, timeout=300)
    assert result.stdout == b"done\n"


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", HOST4, OUTSIDE4])
def test_no_name_leads_to_the_host_or_its_networks(lab: Lab, user: bool, address: str,
                                                   name_server: Callable[[str, str], Running]) -> None:
    """OUTSIDE4 is the gateway, which means the host's loopback."""
    name_server("good", address)
    asked = question("www.good.test")
    answers, found = ask_and_probe(lab, ("--allow", "www.good.test"), [asked], [f"tcp,{OUTSIDE4},{PORT}"],
                                   user=user)
    assert answers == {asked: "REFUSED"}
    assert set(found.values()) == {"ECONNREFUSED"}


@pytest.mark.usefixtures("servers")
def test_other_resolvers_are_closed(lab: Lab, user: bool) -> None:
    """Those of the host by their own addresses, too; FAR4 is one."""
    asked = [question("www.lab.example", server=server, protocol=protocol) for server in (FAR4, FAR6)
             for protocol in ("tcp", "notcp")]
    answers, _ = ask_and_probe(lab, ("--allow", "www.lab.example", "--allow", "0.0.0.0/0", "--allow", "::/0"),
                               [*asked, question("www.lab.example")], [], user=user)
    assert answers.pop(question("www.lab.example")) == "NOERROR 192.0.2.80"
    assert answers == dict.fromkeys(asked, "none")


@pytest.mark.usefixtures("servers")
def test_rules_by_name_take_the_place_of_the_hosts_server(lab: Lab, user: bool) -> None:
    """Programs inside have the host's resolv.conf, and ask there as they always do."""
    script = "getent ahostsv4 www.lab.example; getent ahostsv4 other.example || echo none"
    result = lab.run(["--config-net", *NONE, "--allow", "www.lab.example"], ["sh", "-c", script], user=user,
                     timeout=300)
    lines = result.stdout.decode().splitlines()
    assert lines[0].split()[0] == "192.0.2.80"
    assert lines[-1] == "none"


def test_rules_by_name_need_a_place_for_the_forwarder(lab: Lab) -> None:
    result = lab.run(["-D", "none", "--allow", "www.example"], ["true"], user=False, check=False)
    assert result.returncode == 1
    assert result.stderr.decode().startswith("pasta: rules of egress by name need --dns-forward")


@pytest.mark.usefixtures("servers")
def test_without_the_forwarder_nothing_new_passes(lab: Lab, user: bool,
                                                  name_server: Callable[[str, str], Running]) -> None:
    """Whoever kills it: no name is answered, the host's server is not asked, no address is opened."""
    name_server("good", FAR4)
    script = f"""
import socket, subprocess, sys
def ask(name):
    done = subprocess.run(["dig", "@{FORWARD4}", "+short", "+time=1", "+tries=1", name], capture_output=True,
                          text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else "none"
def reach():
    try:
        with socket.create_connection(({FAR4!r}, {PORT}), 60) as sock:
            return sock.recv(2).decode()
    except OSError as error:
        return type(error).__name__
print(reach(), ask("www.good.test"), reach(), flush=True)
sys.stdin.readline()
print(ask("www.good.test"), ask("x.good.test"), flush=True)
"""
    pasta = lab.start(["--config-net", *NONE, *FORWARD, "--allow", "www.good.test", "--allow", "x.good.test",
                       "--allow", "dns"],
                      ["/usr/bin/python3", "-I", "-c", script], user=user, stdin=subprocess.PIPE)
    output, error, feed = pasta.popen.stdout, pasta.popen.stderr, pasta.popen.stdin
    assert output is not None
    assert error is not None
    assert feed is not None
    assert is_readable(output.fileno(), 120)
    assert output.readline().decode().split() == ["ConnectionRefusedError", FAR4, "ok"]
    (forwarder,) = forwarders(pasta.pid)
    os.kill(forwarder, signal.SIGKILL)
    while b"--dns-forward has ended: they are refused" not in error.readline():
        continue
    feed.write(b"go on\n")
    feed.flush()
    assert is_readable(output.fileno(), 120)
    assert output.readline().decode().split() == ["none", "none"]
    pasta.kill()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_rules_hold_for_a_machine_too(lab: Lab, user: bool, form: Form) -> None:
    """Its datagrams and pings are answered by ICMP in both families, its connections reset."""
    rules = ("--allow", f"udp:{FAR4}:8007", "--allow", f"icmp:{FAR6}")
    with passt(lab, *form.options, *rules, user=user) as (_, path):
        peer = form.connect(path)

        def answer(packet: Packet, kind: type[Packet]) -> Packet:
            peer.send(bytes(Ether(src=MAC, dst=OUR_MAC) / packet))
            found: Packet = Ether(peer.receive(lambda frame: kind in Ether(frame), 60))[kind]
            return found

        peer.send(QUESTION)
        echo = answer(IP(src=HOST4, dst=FAR4) / UDP(sport=40000, dport=8007) / b"echo", UDP)
        assert (echo.sport, echo.load) == (8007, b"echo")
        for packet in (IP(src=HOST4, dst=FAR4) / UDP(sport=40000, dport=8008) / b"x",
                       IP(src=HOST4, dst=FAR4) / ICMP(id=7, seq=3) / b"payload"):
            found = answer(packet, ICMP)
            assert (found.type, found.code) == (3, 13)       # RFC 1812 5.2.7.1
        assert answer(IP(src=HOST4, dst=FAR4) / TCP(sport=40001, dport=8007, flags="S"), TCP).flags.R
        pong = answer(IPv6(src=HOST6, dst=FAR6) / ICMPv6EchoRequest(id=9, data=b"x"), ICMPv6EchoReply)
        assert pong.data == b"x"
        refusal = answer(IPv6(src=HOST6, dst=FAR6) / UDP(sport=40000, dport=8007) / b"x", ICMPv6DestUnreach)
        assert refusal.code == 1                              # RFC 4443 3.1
        peer.close()

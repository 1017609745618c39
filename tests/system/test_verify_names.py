"""--verify-names with real programs and servers: who says the name passes, who says another is reset."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from tests.support.client_hello import by_openssl, named
from tests.support.lab import FAR4, FAR6, HOST4, Lab, Running, next_line
from tests.support.processes import wait_until
from tests.system.machines import FORMS, MAC, passt
from tests.system.test_control import Asker
from tests.system.test_machine import OUR_MAC, QUESTION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.system.machines import Form

pytestmark = pytest.mark.needs_root

NONE = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
TLS = 9760
HTTP, GREETER, SILENT = TLS + 1, TLS + 2, TLS + 3
# Both names are at both addresses; one is allowed.
NAMES = [word for name in ("www.example", "evil.test") for address in (FAR4, FAR6)
         for word in ("--dns-hosts", f"{name}={address}")]
RULES = ("--allow", "www.example", "--verify-names", *NAMES)
# Runs each word of Python, a call of one of these, and prints what came of it.
CLIENT = f"""
import errno, socket, ssl, subprocess, sys
TLS, HTTP, GREETER, SILENT = {TLS}, {HTTP}, {GREETER}, {SILENT}
FAR4, FAR6 = {FAR4!r}, {FAR6!r}
HELLO = {by_openssl('www.example')!r}

def connect(port, address=FAR4):
    socket.getaddrinfo("www.example", port)
    sock = socket.create_connection((address, port), 120)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock

def outcome(sock, size=100):
    try:
        return sock.recv(size).decode("latin-1")[:12].split("\\r")[0] or "end"
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)

def tls(name, most="MAXIMUM_SUPPORTED", address=FAR4):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion[most]
    try:
        with context.wrap_socket(connect(TLS, address), server_hostname=name) as sock:
            sock.sendall(b"GET / HTTP/1.1\\r\\nHost: evil.test\\r\\nConnection: close\\r\\n\\r\\n")
            return outcome(sock)
    except OSError as error:
        return errno.errorcode.get(error.errno, type(error).__name__)

def say(data, port=HTTP, address=FAR4, at_once=True):
    with connect(port, address) as sock:
        try:
            for part in [data] if at_once else [data[at:at + 1] for at in range(len(data))]:
                sock.sendall(part)
        except OSError:
            pass
        return outcome(sock)

def http(host, **options):
    return say(f"GET / HTTP/1.1\\r\\nHost: {{host}}\\r\\nConnection: close\\r\\n\\r\\n".encode(), **options)

def end(port):
    with connect(port) as sock:
        sock.shutdown(socket.SHUT_WR)
        return outcome(sock)

def run(*argv):
    done = subprocess.run(argv, capture_output=True, timeout=200, input=b"")
    return f"{{done.returncode}} {{done.stdout.decode()[-200:].strip()}}"

def udp(port):
    socket.getaddrinfo("www.example", port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(120)
        sock.connect((FAR4, port))
        sock.send(b"x")
        return outcome(sock)

for word in sys.argv[1:]:
    try:
        found = eval(word)
    except ConnectionResetError:
        found = "ECONNRESET"           # before connect(2) had returned
    print(found, flush=True)
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.parent.chmod(0o755)
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", "/CN=www.example", "-days", "30", "-keyout", "-", "-out", "-"]
    path.write_bytes(subprocess.run(argv, check=True, capture_output=True).stdout)
    return path


@pytest.fixture
def servers(lab: Lab, certificate: Path) -> Iterator[Running]:
    running = lab.outside.spawn(["/usr/bin/python3", "-I", str(lab.directory / "first_bytes.py"),
                                 f"{TLS},{FAR4},{FAR6}", str(certificate)])
    assert next_line(running) == "ready"
    yield running
    running.kill()


def say(lab: Lab, words: dict[str, str], *options: str, user: bool) -> tuple[dict[str, str], str]:
    """Run the keys of *words* inside; return what came of each, and the log."""
    log = lab.directory / "verify.log"
    log.write_bytes(b"")
    log.chmod(0o666)
    result = lab.run(["--config-net", *NONE, "--log-file", str(log), *(options or RULES)],
                     ["/usr/bin/python3", "-I", "-c", CLIENT, *words], user=user, timeout=280)
    found = result.stdout.decode().splitlines()
    assert len(found) == len(words), result.stderr
    return dict(zip(words, found, strict=True)), log.read_text()


def test_who_says_the_name_passes_and_who_says_another_is_reset(lab: Lab, user: bool,
                                                                servers: Running) -> None:
    words = {
        'tls("www.example")': "HTTP/1.0 200",
        'tls("WWW.example", "TLSv1_2")': "HTTP/1.0 200",
        'tls("www.example", address=FAR6)': "HTTP/1.0 200",
        'tls("evil.test")': "ECONNRESET",
        'tls("evil.test", "TLSv1_2", FAR6)': "ECONNRESET",
        "tls(None)": "ECONNRESET",
        'http("www.example")': "HTTP/1.0 200",
        f'http("WWW.example.:{HTTP}", address=FAR6)': "HTTP/1.0 200",
        'http("evil.test")': "ECONNRESET",
        'http("evil.test", address=FAR6)': "ECONNRESET",
        f'http("{FAR4}")': "ECONNRESET",
        # One byte in a segment.
        'http("www.example", at_once=False)': "HTTP/1.0 200",
        "say(HELLO, TLS, at_once=False)[:1].encode()": r"b'\x16'",
        'http("evil.test", at_once=False)': "ECONNRESET",
        'say(b"SSH-2.0-x\\r\\n", SILENT)': "ECONNRESET",
        r'say(HELLO.replace(b"www.example", b"www.exampl\0"), SILENT)': "ECONNRESET",
        "connect(GREETER) and outcome(connect(GREETER))": "ECONNRESET",
        'say(b"GET / HTTP/1.1\\r\\n" + b"X: y\\r\\n" * 4000, SILENT)': "ECONNRESET",
        "end(SILENT)": "ECONNRESET",
    }
    found, log = say(lab, words, user=user)
    assert found == words
    assert "--verify-names: the guest says the name evil.test: no rule fits" in log
    # No server got a byte of those that were reset.
    assert [next_line(servers) for _ in range(4)] == ["got 0"] * 4


def test_without_the_option_all_pass(lab: Lab, user: bool, servers: Running) -> None:  # noqa: ARG001
    words = {'tls("evil.test")': "HTTP/1.0 200", 'http("evil.test")': "HTTP/1.0 200",
             "outcome(connect(GREETER))": "220 hello"}
    assert say(lab, words, "--allow", "www.example", *NAMES, user=user)[0] == words


def test_rule_about_the_address_is_not_about_what_is_said(lab: Lab, user: bool,
                                                          servers: Running) -> None:  # noqa: ARG001
    words = {'tls("evil.test")': "HTTP/1.0 200", "outcome(connect(GREETER))": "220 hello",
             "outcome(connect(GREETER, FAR6))": "ECONNRESET"}
    assert say(lab, words, *RULES, "--allow", FAR4, user=user)[0] == words


def test_programs(lab: Lab, user: bool, servers: Running) -> None:  # noqa: ARG001
    """TLS 1.2 and 1.3, HTTP/2 offered or known before, a large request by curl; another name by openssl."""
    curl = 'run("curl", "-sk", "--max-time", "100", "-o", "/dev/null", "-w", "%{http_code}", '
    client = 'run("openssl", "s_client", "-connect", "www.example:%d" % TLS'
    words = {
        f'{curl}"https://www.example:{TLS}/")': "0 200",
        f'{curl}"--tls-max", "1.2", "https://www.example:{TLS}/")': "0 200",
        f'{curl}"http://www.example:{HTTP}/")': "0 200",
        f'{curl}"-d", "x" * 100000, "http://www.example:{HTTP}/")': "0 200",
        f'{curl}"--http2-prior-knowledge", "http://www.example:{HTTP}/")[0]': "5",     # it sends and receives
        f'{curl}"-H", "Host: evil.test", "http://www.example:{HTTP}/")': "56 000",
        f'{curl}"--connect-to", "evil.test:{TLS}:www.example:{TLS}", "https://evil.test:{TLS}/")': "35 000",
        f'{client}, "-servername", "www.example")[0]': "0",
        f'{client}, "-servername", "evil.test")[0]': "1",
        f'{client}, "-noservername")[0]': "1",
    }
    assert say(lab, words, user=user)[0] == words


def test_datagrams_say_no_name(lab: Lab, user: bool, servers: Running) -> None:  # noqa: ARG001
    found, log = say(lab, {"udp(443)": "EHOSTUNREACH", "udp(8007)": "EHOSTUNREACH"}, user=user)
    assert found == {"udp(443)": "EHOSTUNREACH", "udp(8007)": "EHOSTUNREACH"}
    assert f"UDP to {FAR4}:443: no rule fits; UDP says no name that --verify-names could read" in log


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_machine_is_held_to_it_too(lab: Lab, user: bool, form: Form, servers: Running) -> None:  # noqa: ARG001
    """A machine that opens two connections: one hello goes to the server, the other nowhere."""
    rules = ("--allow", "www.example", "--verify-names", *NAMES, "--dns-forward", "198.51.100.53")
    with passt(lab, *form.options, *rules, user=user) as (_, path):
        peer = form.connect(path)
        peer.send(QUESTION)
        name = b"\3www\7example\0\0\1\0\1"
        query = b"\0\7\1\0\0\1\0\0\0\0\0\0" + name
        peer.send(bytes(Ether(src=MAC, dst=OUR_MAC) / IP(src=HOST4, dst="198.51.100.53")
                        / UDP(sport=40009, dport=53) / query))
        peer.receive(lambda frame: UDP in Ether(frame) and Ether(frame)[UDP].dport == 40009, 60)

        def ask(port: int, data: bytes) -> TCP:
            def send(flags: str, seq: int, ack: int, payload: bytes = b"") -> None:
                peer.send(bytes(Ether(src=MAC, dst=OUR_MAC) / IP(src=HOST4, dst=FAR4)
                                / TCP(sport=port, dport=TLS, flags=flags, seq=seq, ack=ack) / payload))

            def answer(wanted: str) -> TCP:
                found: TCP = Ether(peer.receive(
                    lambda frame: TCP in Ether(frame) and Ether(frame)[TCP].dport == port
                    and any(flag in str(Ether(frame)[TCP].flags) for flag in wanted), 60))[TCP]
                return found

            send("S", 100, 0)
            first = answer("S")
            send("A", 101, first.seq + 1)
            send("PA", 101, first.seq + 1, data)
            return answer("RP")

        assert "P" in str(ask(40010, named(b"www.example")).flags)
        assert "R" in str(ask(40011, named(b"evil.test")).flags)
        peer.close()


def test_connection_that_waits_is_seen_and_judged_by_the_rules_of_then(
        lab: Lab, user: bool, servers: Running, scratch: Path) -> None:  # noqa: ARG001
    """What ends it is an event with the name; a file that does not ask for it takes the option not back."""
    script = CLIENT + """
waiting = connect(HTTP)
waiting.sendall(b"GET / HTTP/1.1\\r\\nHost: www.example\\r\\n")
print("waits", flush=True)
sys.stdin.readline()
waiting.sendall(b"\\r\\n")
print(outcome(waiting), flush=True)
sys.stdin.readline()
"""
    asker = Asker(lab, str(scratch / "control"), user=user)
    pasta = lab.start(["--config-net", *NONE, "--control", asker.path, *RULES],
                      ["/usr/bin/python3", "-I", "-c", script], user=user, stdin=subprocess.PIPE)
    assert next_line(pasta) == "waits"
    wait_until(lambda: [flow["state"] for flow in asker.ask(f"/v1/flows?port={HTTP}")["flows"]] == ["HELD"],
               "the connection is held", 60)
    assert asker.ask("/v1/policy")["verify_names"]
    listener = lab.host.spawn(["curl", "-sSN", "--unix-socket", asker.path,
                               "http://passt/v1/events?kinds=flow_refused"], user=user)
    wait_until(lambda: asker.ask("/v1/info")["listeners_of_events"] == 1, "curl listens")
    change = json.dumps({"toml": "rules = ['allow other.example']"})
    assert asker.ask("/v1/policy", "-X", "PUT", "-H", "Content-Type: application/json", "-d", change
                     )["verify_names"]
    assert pasta.popen.stdin is not None
    pasta.popen.stdin.write(b"go on\n")
    pasta.popen.stdin.flush()
    # The pin was of a rule that is gone.
    assert next_line(pasta) == "ECONNRESET"
    event = json.loads(next_line(listener))
    assert event["reason"] == "--verify-names: the guest says the name www.example: no rule fits"
    listener.kill()
    pasta.kill()

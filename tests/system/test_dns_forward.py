"""DNS by --dns-forward: real name servers on the host, asked by dig from the namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lab import HOST4, HOST6, Lab
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.needs_root

NONE = ("-t", "none", "-u", "none", "-T", "none", "-U", "none")
# Addresses that nobody has: whatever answers from there was mapped both ways.
FORWARD4, FORWARD6 = "198.51.100.53", "2001:db8:53::53"
FORWARD = ("--dns-forward", FORWARD4, "--dns-forward", FORWARD6)
# The lab's own server has port 53 and answers 192.0.2.80 and 2001:db8::80.
OTHERS = {853: ("192.0.2.85", "2001:db8::85"), 5300: ("192.0.2.53", "2001:db8::53")}
ANSWERS = {53: ("192.0.2.80", "2001:db8::80"), 853: OTHERS[853]}
ENTRIES = 60


@pytest.fixture(scope="module")
def servers(session_lab: Lab) -> Iterator[None]:
    """Run a name server on each port of OTHERS; one of its answers is larger than a UDP datagram may be."""

    def is_listening(port: int) -> bool:
        return session_lab.host.run(["ss", "-Hlntu", f"sport = {port}"]).stdout.count(b"\n") >= 4

    running = []
    for port, addresses in OTHERS.items():
        big = [f"--txt-record=big.lab.example,{'x' * 200}{number}" for number in range(ENTRIES)]
        argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"]
        argv += ["--user=root", "--pid-file=", f"--port={port}", "--local=/example/", *big]
        argv += [f"--host-record=www.lab.example,{','.join(addresses)}"]
        running.append(session_lab.host.spawn(argv))
    wait_until(lambda: all(map(is_listening, OTHERS)), "the name servers listen")
    yield
    for server in running:
        server.kill()


def dig(address: str, *words: str) -> str:
    """Shell command that asks for the address of the lab's name."""
    return f"dig +short +time=20 +tries=2 @{address} {' '.join(words)} || echo no answer"


QUESTIONS = [
    (address, port, transport, kind)
    for address in (FORWARD4, FORWARD6)
    for port in ANSWERS
    for transport in ("+notcp", "+tcp")
    for kind in ("A", "AAAA")
]


def ask_all(lab: Lab, *options: str, user: bool) -> dict[tuple[str, int, str, str], str]:
    """Ask every question of QUESTIONS in one namespace."""
    script = "; ".join(
        dig(address, f"-p{port}", transport, "www.lab.example", kind)
        for address, port, transport, kind in QUESTIONS
    )
    result = lab.run(["--config-net", *NONE, *options], ["sh", "-c", script], user=user)
    return dict(zip(QUESTIONS, result.stdout.decode().splitlines(), strict=True))


@pytest.mark.usefixtures("servers")
@pytest.mark.parametrize("hosts", [("127.0.0.1", "::1"), (HOST4, HOST6)], ids=["loopback", "own-address"])
def test_both_ports_protocols_and_families_are_answered(lab: Lab, user: bool, hosts: tuple[str, str]) -> None:
    options = [*FORWARD, "--dns-host", hosts[0], "--dns-host", hosts[1]]
    # dig takes an answer only from the address that it has asked.
    assert ask_all(lab, *options, user=user) == {
        (address, port, transport, kind): ANSWERS[port][kind == "AAAA"]
        for address, port, transport, kind in QUESTIONS
    }


@pytest.mark.usefixtures("servers")
def test_large_answers_come_back_whole(lab: Lab, user: bool) -> None:
    options = ["--config-net", *NONE, *FORWARD, "--dns-host", "127.0.0.1", "--dns-host", "::1"]
    script = "; ".join(
        dig(address, "-p853", transport, "big.lab.example", "TXT", "| wc -l")
        for address in (FORWARD4, FORWARD6)
        for transport in ("+tcp", "+notcp +bufsize=4096")  # a truncated answer is asked for again by TCP
    )
    result = lab.run(options, ["sh", "-c", script], user=user)
    assert result.stdout.split() == [str(ENTRIES).encode()] * 4


@pytest.mark.usefixtures("servers")
def test_other_ports_of_the_address_are_not_mapped(lab: Lab, user: bool) -> None:
    options = ["--config-net", *NONE, *FORWARD, "--dns-host", "127.0.0.1", "--dns-host", "::1"]
    script = "; ".join(
        f"dig +short +time=1 +tries=1 -p5300 {transport} @{address} www.lab.example >/dev/null && echo mapped"
        for address in (FORWARD4, FORWARD6)
        for transport in ("+notcp", "+tcp")
    )
    assert lab.run(options, ["sh", "-c", f"{script}; true"], user=user).stdout == b""


def test_first_name_server_of_the_host_is_the_default(lab: Lab, user: bool) -> None:
    # The lab's resolv.conf names the outside, whose server is the lab's too; ports other than 53 are closed.
    script = "; ".join(dig(address, "www.lab.example", "A") for address in (FORWARD4, FORWARD6))
    result = lab.run(["--config-net", *NONE, *FORWARD], ["sh", "-c", script], user=user)
    assert result.stdout.split() == [b"192.0.2.80"] * 2


def test_it_works_without_the_gateway_s_mapping(lab: Lab, user: bool) -> None:
    options = [*FORWARD, "--dns-host", "127.0.0.1", "--dns-host", "::1", "--no-map-gw"]
    script = "; ".join(dig(address, "www.lab.example", "A") for address in (FORWARD4, FORWARD6))
    result = lab.run(["--config-net", *NONE, *options], ["sh", "-c", script], user=user)
    assert result.stdout.split() == [b"192.0.2.80"] * 2

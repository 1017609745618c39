"""A guest on a card of QEMU's stream back end, and one that shares its memory with passt (vhost-user).

One boot of each for all checks, in the order of this file.
"""

from __future__ import annotations

import hashlib
import re
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from tests.guest.conftest import TFTP_PORT
from tests.guest.vm import CARDS, MAC, Passt, Vm
from tests.support.lab import FAR4, FAR6, HOST4, HOST6, OUTSIDE4, Lab
from tests.system.servers import stream_sha256

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.needs_root, pytest.mark.slow]

SIZE = 10 << 20
BLOCK_LEN = 8192
ECHO_PORT, NAMED_PORT = 5000, 5001
FORWARDED = "5000-5001"
FAR = {4: FAR4, 6: FAR6}
HOST = {4: HOST4, 6: HOST6}
BOTH = pytest.mark.parametrize("family", [4, 6])
SLAAC6 = "2001:db8:1:0:5054:ff:fe12:3456"


def bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@pytest.fixture(scope="module", params=CARDS)
def card(request: pytest.FixtureRequest) -> str:
    """Name the way in which the guest is connected."""
    return str(request.param)


@pytest.fixture(scope="module")
def passt(lab: Lab, guest_files: Path, refusal: str, card: str) -> Iterator[Passt]:
    options = [*CARDS[card][0], "-1", "-t", FORWARDED, "-u", FORWARDED]
    running = Passt(lab, guest_files / f"{card}.socket", options, user=not refusal)
    yield running
    running.close()


@pytest.fixture(scope="module")
def guest(lab: Lab, guest_files: Path, passt: Passt, refusal: str, card: str) -> Iterator[Vm]:
    vm = Vm(lab.host, guest_files, CARDS[card][1](passt.path), name=card, user=not refusal)
    try:
        vm.wait_for_boot()
        yield vm
    finally:
        vm.close()


def test_dhcp_configures_the_guest(guest: Vm) -> None:
    told = guest.configure4()
    assert {key: told.get(key) for key in ("ip", "mask", "router", "mtu", "dns", "search")} == {
        "ip": HOST4, "mask": "24", "router": OUTSIDE4, "mtu": "65520", "dns": FAR4, "search": "lab.example"}
    assert "mtu 65520" in guest.run("ip link show dev eth0")
    assert guest.run("ip route show default").split()[:5] == ["default", "via", OUTSIDE4, "dev", "eth0"]


def test_advertisements_configure_the_guest(guest: Vm) -> None:
    guest.wait_for(f"ip -6 addr show dev eth0 scope global | grep {SLAAC6}/64", "SLAAC gives an address")
    guest.wait_for_unique6("the addresses are found to be unique")
    assert "default via fe80::" in guest.run("ip -6 route show default")
    assert guest.run("cat /proc/sys/net/ipv6/conf/eth0/mtu").strip() == "65520"


def test_router_is_discovered(guest: Vm) -> None:
    text = guest.run("rdisc6 -1 -w 20000 eth0")
    assert re.search(r"Prefix\s*: 2001:db8:1::/64", text), text
    assert re.search(r"MTU\s*: +65520 bytes", text), text
    assert re.search(r"Stateful address conf.\s*: +Yes", text), text


def test_dhcpv6_configures_the_guest(guest: Vm) -> None:
    told = guest.configure6()
    wanted = ("new_ip6_address", "new_dhcp6_name_servers", "new_dhcp6_domain_search")
    assert [told.get(key, "").rstrip(".") for key in wanted] == [HOST6, FAR6, "lab.example"]


def test_names_are_resolved(guest: Vm) -> None:
    text = guest.run("nslookup www.lab.example")
    assert "192.0.2.80" in text
    assert "2001:db8::80" in text


@BOTH
def test_ping(guest: Vm, family: int) -> None:
    assert "3 packets received" in guest.run(f"ping -{family} -c 3 -i 0.2 -W 10 {FAR[family]}")


@BOTH
def test_tcp_download(guest: Vm, family: int) -> None:
    found = guest.run(f"wget -q -O - http://{bracketed(FAR[family])}:8000/{SIZE} | sha256sum")
    assert found.split()[0] == stream_sha256(SIZE)


@BOTH
def test_tcp_both_ways(guest: Vm, family: int) -> None:
    guest.run(f"[ -e /tmp/data ] || head -c {SIZE} /dev/urandom >/tmp/data")
    echoed = guest.run(f"socat -t 60 - TCP:{bracketed(FAR[family])}:8007 </tmp/data | sha256sum")
    assert echoed == guest.run("sha256sum </tmp/data")


@BOTH
def test_udp_download(guest: Vm, tftp: subprocess.Popen[bytes], family: int) -> None:
    assert tftp.poll() is None
    guest.run(f"tftp -g -b {BLOCK_LEN} -r {SIZE} -l /tmp/got {FAR[family]} {TFTP_PORT}")
    assert guest.run("sha256sum </tmp/got; rm /tmp/got").split()[0] == stream_sha256(SIZE)


@BOTH
def test_udp_upload(guest: Vm, tftp: subprocess.Popen[bytes], family: int) -> None:
    guest.run(f"[ -e /tmp/data ] || head -c {SIZE} /dev/urandom >/tmp/data")
    guest.run(f"tftp -p -b {BLOCK_LEN} -l /tmp/data -r data {FAR[family]} {TFTP_PORT}")
    assert tftp.stdout is not None
    assert tftp.stdout.readline().decode().split() == [
        str(SIZE), guest.run("sha256sum </tmp/data").split()[0]]


@BOTH
def test_forwarded_tcp_port(lab: Lab, guest: Vm, family: int) -> None:
    guest.serve("TCP", family, ECHO_PORT, "PIPE")
    client = [*lab.client, "tcp", HOST[family], str(ECHO_PORT - 7), str(SIZE)]
    assert lab.outside.run(client, timeout=60).stdout


@BOTH
def test_forwarded_udp_port(lab: Lab, guest: Vm, family: int) -> None:
    guest.serve("UDP", family, ECHO_PORT, "PIPE")
    for size in (1, 5 << 10):
        client = [*lab.client, "udp", HOST[family], str(ECHO_PORT - 7), str(size)]
        assert lab.outside.run(client, timeout=30).stdout


# Arguments: STREAM or DGRAM, address and port of the server, our address.
ASK = """
import socket, sys
kind, host, port, source = sys.argv[1:]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
with socket.socket(family, getattr(socket, "SOCK_" + kind)) as sock:
    sock.settimeout(20)
    sock.bind((source, 0))
    sock.connect((host, int(port)))
    sock.send(b"?")
    print(sock.recv(100).decode(), end="")
"""


@BOTH
@pytest.mark.parametrize(("protocol", "kind"), [("TCP", "STREAM"), ("UDP", "DGRAM")])
def test_guest_sees_the_address_of_the_client(
        lab: Lab, guest: Vm, protocol: str, kind: str, family: int) -> None:
    guest.serve(protocol, family, NAMED_PORT, "SYSTEM:echo $SOCAT_PEERADDR")
    client = ["/usr/bin/python3", "-I", "-c", ASK, kind, HOST[family], str(NAMED_PORT), FAR[family]]
    seen = lab.outside.run(client).stdout.decode().strip().strip("[]")
    assert ip_address(seen) == ip_address(FAR[family])


def test_guest_is_still_what_it_was(guest: Vm) -> None:
    assert MAC in guest.run("cat /sys/class/net/eth0/address")
    assert hashlib.sha256(b"").hexdigest() == guest.run("true | sha256sum").split()[0]
    assert "Call Trace" not in guest.run("dmesg")


def test_power_off_ends_passt(guest: Vm, passt: Passt) -> None:
    assert guest.power_off() == 0
    passt.finish()

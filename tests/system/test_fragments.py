"""Fragments that scapy made, sent from inside the namespace in every order, overlapping and missing."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, fragment6
from scapy.packet import Packet, Raw

from tests.support.lab import FAR4, FAR6, HOST4, HOST6, Lab

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.needs_root

PORT, ECHO = 4000, 8007
GUEST = {4: HOST4, 6: HOST6}
TARGET = {4: FAR4, 6: FAR6}
both_families = pytest.mark.parametrize("family", [4, 6])

# Arguments: the guest's address, the target, the port. Standard input: for each exchange a line of JSON
# with the packets to send, in hexadecimal. Prints for each what came back, in hexadecimal, or "-".
SENDER = """
import json, select, socket, sys
guest, target, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in guest else socket.AF_INET
answers = socket.socket(family, socket.SOCK_DGRAM)
answers.bind((guest, port))
raw = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
for line in sys.stdin:
    exchange = json.loads(line)
    for packet in exchange["packets"]:
        raw.sendto(bytes.fromhex(packet), (target, 0))
    if select.select([answers], [], [], 20 if exchange["answered"] else 0.3)[0]:
        print(answers.recv(70000).hex() or "empty")
    else:
        print("-")
"""


class Exchanges:
    """What is sent, and what is to come back."""

    def __init__(self, family: int) -> None:
        self.family = family
        self.ident = 100
        self.lines: list[str] = []
        self.wanted: list[str] = []

    def pieces(self, payload: bytes, size: int = 800) -> list[Packet]:
        """Give a datagram of the guest's in fragments, with an identification of its own."""
        self.ident += 1
        udp = UDP(sport=PORT, dport=ECHO) / Raw(payload)
        if self.family == 4:
            whole = IP(src=HOST4, dst=FAR4, id=self.ident) / udp
            return list(fragment(whole, fragsize=size))  # type: ignore[no-untyped-call]
        packet = IPv6(src=HOST6, dst=FAR6) / IPv6ExtHdrFragment(id=self.ident) / udp
        return list(fragment6(packet, size + 48))  # type: ignore[no-untyped-call]

    def add(self, packets: Sequence[Packet], payload: bytes | None) -> None:
        """Send *packets*; *payload* is to be echoed, None: nothing."""
        self.lines.append(
            json.dumps({"packets": [bytes(one).hex() for one in packets], "answered": payload is not None})
        )
        self.wanted.append("-" if payload is None else payload.hex())

    def run(self, lab: Lab, *, user: bool) -> None:
        argv = ["python3", "-c", SENDER, GUEST[self.family], TARGET[self.family], str(PORT)]
        feed = "".join(line + "\n" for line in self.lines).encode()
        done = lab.run(("--config-net",), argv, user=user, feed=feed, timeout=280)
        found = done.stdout.decode().split()
        assert [text[:40] for text in found] == [text[:40] for text in self.wanted]
        assert found == self.wanted


def payload_of(length: int, number: int = 0) -> bytes:
    return bytes((n * 7 + n // 256 + number) & 0xFF for n in range(length))


@both_families
def test_every_order(lab: Lab, user: bool, family: int) -> None:
    exchanges = Exchanges(family)
    for number, order in enumerate(itertools.permutations(range(4))):
        payload = payload_of(2600, number)
        parts = exchanges.pieces(payload)
        assert len(parts) == 4
        exchanges.add([parts[n] for n in order], payload)
    exchanges.run(lab, user=user)


@both_families
def test_largest_repeated_and_interleaved(lab: Lab, user: bool, family: int) -> None:
    exchanges = Exchanges(family)
    payload = payload_of(65507)
    exchanges.add(exchanges.pieces(payload, 1440)[::-1], payload)
    parts = exchanges.pieces(payload_of(2600, 1))
    exchanges.add([parts[0], parts[0], parts[2], parts[2], parts[1], parts[3]], payload_of(2600, 1))
    one, two = exchanges.pieces(payload_of(1400, 2)), exchanges.pieces(payload_of(1400, 3))
    exchanges.add([one[0], two[1], one[1]], payload_of(1400, 2))
    exchanges.add([two[0]], payload_of(1400, 3))
    exchanges.run(lab, user=user)


@both_families
def test_missing_and_overlapping_ones_do_not_arrive(lab: Lab, user: bool, family: int) -> None:
    exchanges = Exchanges(family)
    for missing in range(4):
        parts = exchanges.pieces(payload_of(2600))
        exchanges.add(parts[:missing] + parts[missing + 1 :], None)
    for number, size, other in ((0, 600, 1), (1, 600, 2), (0, 1600, 0), (2, 1000, 2)):
        # Cut in other places, with the same identification: RFC 5722.
        parts = exchanges.pieces(payload_of(2600))
        exchanges.ident -= 1
        overlapping = exchanges.pieces(payload_of(2600), size)[other]
        exchanges.add([*parts[: number + 1], overlapping, *parts[number + 1 :]], None)
    parts = exchanges.pieces(payload_of(2600))
    changed = parts[1].copy()
    changed[Raw].load = changed[Raw].load[:-1] + b"?"
    exchanges.add([parts[0], parts[1], changed, *parts[2:]], None)
    exchanges.add(exchanges.pieces(payload_of(2600)), payload_of(2600))  # others are none the worse
    exchanges.run(lab, user=user)


def test_extension_headers(lab: Lab, user: bool) -> None:
    exchanges = Exchanges(6)
    payload = payload_of(1400)
    plain = IPv6(bytes(IPv6(src=HOST6, dst=FAR6) / UDP(sport=PORT, dport=ECHO) / Raw(payload)))
    # scapy wants to know the sum before the headers are apart.
    udp = UDP(sport=PORT, dport=ECHO, chksum=plain[UDP].chksum) / Raw(payload)
    base = IPv6(src=HOST6, dst=FAR6)
    exchanges.add([base / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / udp], payload)
    exchanges.add([base / IPv6ExtHdrFragment(id=1) / udp], payload)  # atomic, RFC 6946
    whole = base / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(id=2) / IPv6ExtHdrDestOpt() / udp
    exchanges.add(fragment6(whole, 700)[::-1], payload)  # type: ignore[no-untyped-call]
    exchanges.run(lab, user=user)

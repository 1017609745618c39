"""Lines about flows that rules refuse: each target once a second."""

from __future__ import annotations

from ipaddress import ip_address
from socket import IPPROTO_ICMP, IPPROTO_TCP, IPPROTO_UDP

from passt.forward.egress import Refused
from passt.forward.refusals import RefusalTeller
from passt.log.recent import INTERVAL_S

WHERE = ip_address("192.0.2.1").packed


class Bench:
    """A teller on virtual time, and what it told."""

    def __init__(self) -> None:
        self.now = 100.0
        self.lines: list[str] = []
        self.teller = RefusalTeller(self.lines.append, lambda: self.now)

    def refuse(self, proto: int = IPPROTO_TCP, port: int = 443, address: bytes = WHERE) -> None:
        self.teller.note(Refused(proto, address, port, "no rule fits"))


def test_target_is_told_once_a_second() -> None:
    bench = Bench()
    bench.refuse()
    bench.refuse()
    bench.now += INTERVAL_S / 2
    bench.refuse()
    assert bench.lines == ["refused: TCP to 192.0.2.1:443: no rule fits"]
    bench.now += INTERVAL_S / 2
    bench.refuse()
    assert bench.lines == ["refused: TCP to 192.0.2.1:443: no rule fits"] * 2


def test_targets_differ_by_protocol_address_and_port() -> None:
    bench = Bench()
    bench.refuse()
    bench.refuse(IPPROTO_UDP)
    bench.refuse(port=80)
    bench.refuse(address=ip_address("2001:db8::1").packed)
    # The identifiers of pings are no ports.
    bench.refuse(IPPROTO_ICMP, 1)
    bench.refuse(IPPROTO_ICMP, 2)
    assert [line.split(": ")[1] for line in bench.lines] == [
        "TCP to 192.0.2.1:443", "UDP to 192.0.2.1:443", "TCP to 192.0.2.1:80",
        "TCP to [2001:db8::1]:443", "ping to 192.0.2.1"]


def test_answer_is_told_once_a_second_for_its_address() -> None:
    bench = Bench()
    bench.refuse()
    for _ in range(2):
        bench.teller.note_answer(WHERE, "it may not be")
    assert bench.lines[1:] == ["refused: an answer with 192.0.2.1: it may not be"]
    bench.now += INTERVAL_S
    bench.teller.note_answer(WHERE, "it may not be")
    assert len(bench.lines) == 3


def test_names_have_lines_of_their_own() -> None:
    bench = Bench()
    names: list[str] = []
    RefusalTeller(bench.lines.append, lambda: bench.now, names.append).note_name("ads.example", "rule 'x'")
    bench.teller.note_name("ads.example", "no rule allows it")
    assert names == ["refused: the name ads.example: rule 'x'"]
    assert bench.lines == ["refused: the name ads.example: no rule allows it"]

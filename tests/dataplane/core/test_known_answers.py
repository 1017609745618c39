"""Control frames asked again: answered as before, whatever else is asked, and without Python."""

import pytest

from tests.dataplane.probes.world import World
from tests.support.fakes import Events, Policy, Responder
from tests.support.frames import GUEST_MAC, ICMP6, OUR_MAC, ethernet, ip, packed, udp, with_checksum

GUEST, GATEWAY = "192.0.2.2", "192.0.2.1"
GUEST6, GATEWAY6 = "2001:db8::2", "2001:db8::1"
BURST = 256
MINUTE_NS = 60 * 10**9


def arp(target: str, sender: str = GUEST, op: int = 1) -> bytes:
    body = b"\0\1\x08\0\6\4" + op.to_bytes(2, "big") + GUEST_MAC + packed(sender) + bytes(6) + packed(target)
    return ethernet(body, kind=0x0806)


def solicitation(target: str, sender: str = GUEST6, kind: int = 135) -> bytes:
    message = bytes([kind, 0, 0, 0, 0, 0, 0, 0]) + packed(target) + b"\1\1" + GUEST_MAC
    return ethernet(ip(sender, target, ICMP6, with_checksum(sender, target, ICMP6, message, 2), ttl=255))


def is_at(target: bytes) -> bytes:
    """Give some answer of the right size."""
    return GUEST_MAC + OUR_MAC + b"\x08\x06" + target.ljust(46, b"\0")


RIVAL = bytes.fromhex("020000000077")


class Line(World):
    """A guest's end of the link, with a responder that answers all."""

    def __init__(self) -> None:
        self.responder = Responder()
        super().__init__(Policy(), self.responder, Events(), our_mac=OUR_MAC, our_ip4=packed(GATEWAY),
                         scripted=True)  # fmt: skip
        self.now = 1000 * 10**9

    def ask(self, frame: bytes) -> list[bytes]:
        """Give a frame; return the answers."""
        self.responder.replies = [is_at(frame[-20:])]
        self.inject(frame)
        return [sent.frame for sent in self.take_sent()]


QUESTIONS = [arp(GATEWAY), solicitation(GATEWAY6)]
questions = pytest.mark.parametrize("question", QUESTIONS, ids=["arp", "ndp"])


@questions
def test_question_asked_again_is_answered_without_python(question: bytes) -> None:
    line = Line()
    first = line.ask(question)
    assert first
    for _ in range(1000):
        assert line.ask(question) == first
    assert len(line.responder.frames) == line.counters()["control_frames"] == 1
    assert line.counters()["control_repeats"] == 1000
    assert line.counters()["drop_control_rate"] == 0


@pytest.mark.parametrize("flood", ["arp", "ndp"])
def test_flood_of_other_questions_takes_no_place(flood: str) -> None:
    line = Line()
    answers = [line.ask(question) for question in QUESTIONS]
    for number in range(5000):
        other = (arp(f"10.0.{number // 256}.{number % 256}") if flood == "arp"
                 else solicitation(f"2001:db8::1:{number + 1:x}"))  # fmt: skip
        line.ask(other)
        line.now += 10**5
    assert line.counters()["drop_control_rate"] > 4000
    assert [line.ask(question) for question in QUESTIONS] == answers
    # What the flood asked once its limit was far gone is not known.
    last = len(line.responder.frames)
    line.now += MINUTE_NS
    line.ask(other)
    assert len(line.responder.frames) == last + 1


def test_flood_of_arp_leaves_the_first_question_for_the_gateway_an_answer() -> None:
    line = Line()
    for number in range(5000):
        line.ask(arp(f"10.0.{number // 256}.{number % 256}"))
    assert line.counters()["drop_control_rate"] > 4000
    assert line.ask(arp("10.1.1.1")) == []
    assert line.ask(arp(GATEWAY)) != []


@pytest.mark.parametrize("question", [arp(GATEWAY, "0.0.0.0"), QUESTIONS[1]], ids=["arp", "ndp"])
def test_question_for_an_address_that_the_guest_uses_now_goes_to_the_responder(question: bytes) -> None:
    line = Line()
    line.ask(question)
    # The guest itself has the address now.
    line.ask(arp("192.0.2.77", GATEWAY))
    line.inject(udp(GATEWAY6, 1000, "2001:db8:1::1", 53, b"query"))
    before = len(line.responder.frames)
    line.ask(question)
    assert len(line.responder.frames) == before + 1


OTHERS = {
    "dhcp": udp("0.0.0.0", 68, "255.255.255.255", 67, bytes(8)),
    "router": solicitation(GATEWAY6, kind=133),
    "advertisement": solicitation(GATEWAY6, kind=136),
    "arp reply": arp(GATEWAY, op=2),
    "long": arp(GATEWAY) + bytes(60),
    "short": arp(GATEWAY)[:41],
}


@pytest.mark.parametrize("frame", OTHERS.values(), ids=OTHERS)
def test_other_frames_are_not_remembered(frame: bytes) -> None:
    line = Line()
    for _ in range(3):
        line.ask(frame)
    assert len(line.responder.frames) == 3
    assert line.counters()["control_repeats"] == 0


@pytest.mark.parametrize("replies", [[], [b"\x11" * 60] * 2, [b"\x11" * 97]], ids=["none", "two", "long"])
def test_answers_that_are_not_one_frame_are_not_remembered(replies: list[bytes]) -> None:
    line = Line()
    for _ in range(3):
        line.responder.replies = replies
        line.inject(QUESTIONS[0])
    assert len(line.responder.frames) == 3


@questions
def test_question_that_differs_in_one_byte_is_another(question: bytes) -> None:
    line = Line()
    line.ask(question)
    for at in range(6, 12):  # the sender's MAC
        changed = bytearray(question)
        changed[at] ^= 2
        before = len(line.responder.frames)
        line.ask(bytes(changed))
        assert len(line.responder.frames) == before + 1


@questions
def test_answer_that_has_the_mac_address_of_the_guest_by_now_is_not_given_again(question: bytes) -> None:
    line = Line()
    line.responder.replies = [GUEST_MAC + RIVAL + question[12:14] + bytes(46)]
    line.inject(question, question)
    assert len(line.responder.frames) == 1
    other = udp(GUEST, 1, GATEWAY, 2)
    line.now += MINUTE_NS
    for _ in range(6):
        line.inject(other[:6] + RIVAL + other[12:])
        line.now += 10**9
    assert line.guest_mac == RIVAL
    line.inject(question)
    assert len(line.responder.frames) == 2

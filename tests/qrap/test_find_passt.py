"""The search for a free passt, against stand-ins."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from passt.errors import HostError
from passt.qrap import find_passt
from passt.wire.arp import ArpOp, ArpPacket
from passt.wire.ethernet import EthernetFrame, EtherType
from passt.wire.icmp6 import Icmp6Message
from passt.wire.ip6 import Ip6Packet
from passt.wire.ndp import NeighbourSolicitation, parse_message
from tests.qrap.fake_passt import ANSWER, FakePasst

if TYPE_CHECKING:
    from pathlib import Path

QUESTIONS = bytes.fromhex(
    # 42 bytes: Ethernet to all, ARP request, sender and target zero
    "0000002a ffffffffffff 020000000001 0806"
    " 0001 0800 06 04 0001 000000000000 00000000 000000000000 00000000"
    # 78 bytes: Ethernet to all, IPv6 with hop limit 255 (RFC 4861, 7.1.1), neighbour solicitation
    " 0000004e ffffffffffff 020000000001 86dd"
    " 60000000 0018 3a ff fe80000000000000000000fffe000001 ff0200000000000000000001ff000001"
    " 87 00 7ea3 00000000 fe800000000000000000000000000001")


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"passt_{number}.socket" for number in (1, 2, 3)]


def connect(paths: list[Path], answer_s: float = 60.0) -> socket.socket:
    return find_passt.connect([str(path) for path in paths], answer_s=answer_s, pause_s=0)


def test_questions_are_these_bytes() -> None:
    assert find_passt.questions() == QUESTIONS


def test_questions_are_valid_messages() -> None:
    data = find_passt.questions()
    first = EthernetFrame.parse(data[4:46])
    assert (first.ether_type, ArpPacket.parse(first.payload).op) == (EtherType.ARP, ArpOp.REQUEST)
    packet = Ip6Packet.parse(EthernetFrame.parse(data[50:]).payload)
    icmp = Icmp6Message.parse(packet.payload, packet.source, packet.destination)
    assert isinstance(parse_message(icmp, packet), NeighbourSolicitation)


def test_answer_is_left_in_a_blocking_socket(
        paths: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    with FakePasst(paths[1]) as passt, connect(paths) as sock:
        assert passt.received == QUESTIONS
        assert sock.getblocking()
        assert sock.recv(len(ANSWER), socket.MSG_WAITALL) == ANSWER
    assert capfd.readouterr().err == f"Connected to {paths[1]}\n"


def test_no_timeout_is_left_on_the_socket(paths: list[Path]) -> None:
    with FakePasst(paths[0]), connect(paths) as sock:
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            assert not any(sock.getsockopt(socket.SOL_SOCKET, option, 16))


def test_busy_one_is_waited_for(paths: list[Path]) -> None:
    with FakePasst(paths[0], n_refused=7) as passt, FakePasst(paths[1]) as other, connect(paths):
        assert (passt.n_clients, other.n_clients) == (8, 0)


def test_one_that_stays_busy_is_passed_over(paths: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    with FakePasst(paths[0], n_refused=1000) as passt, FakePasst(paths[1]), connect(paths):
        assert passt.n_clients == find_passt.MAX_RETRIES + 1
    assert capfd.readouterr().err.splitlines() == [
        f"qrap: {paths[0]}: passt is busy with another client", f"Connected to {paths[1]}"]


def test_silent_and_stale_ones_are_passed_over(paths: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(paths[0]))
    stale.close()
    with FakePasst(paths[1], mute=True), FakePasst(paths[2]), connect(paths, 2.0):
        pass       # the third has that time, too
    assert capfd.readouterr().err.splitlines() == [
        f"qrap: {paths[0]}: no process listens there any more",
        f"qrap: {paths[1]}: no answer within 2 s; this is no passt, or it is stuck",
        f"Connected to {paths[2]}"]


def test_nobody_there_is_an_error_that_names_the_paths(
        paths: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(HostError) as caught:
        connect(paths)
    span = f"{paths[0]} to {paths[2]}"
    assert str(caught.value) == f"no passt is free on any socket from {span}; start one first"
    assert capfd.readouterr().err == ""


def test_default_paths_are_those_of_passt() -> None:
    assert (find_passt.PATHS[0], find_passt.PATHS[-1], len(find_passt.PATHS)) == (
        "/tmp/passt_1.socket", "/tmp/passt_99.socket", 99)  # noqa: S108

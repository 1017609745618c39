"""The rtnetlink socket against a scripted kernel, and reads from the real one."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING

import pytest

from passt.errors import HostError
from passt.host.rtnetlink import messages
from passt.host.rtnetlink.messages import AF_INET, MessageFlag, MessageType
from passt.host.rtnetlink.socket import (
    STEP,
    KernelRefusalError,
    Request,
    RtnlSocket,
    filter_in_pieces,
    finish,
    map_in_pieces,
)
from tests.support.isolated import isolated

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPBACK = messages.build_address(1, bytes([127, 0, 0, 1]), 8)
OTHER_FAMILY = messages.build_address(1, bytes(15) + b"\1", 128)


class ScriptedKernel:
    """Stands in for the socket: *answer* makes the datagrams for the requests of one datagram."""

    def __init__(self, answer: Callable[[list[messages.Message]], list[bytes]]) -> None:
        self.answer = answer
        self.waiting: list[bytes] = []
        self.requests: list[messages.Message] = []
        self.sender = 0
        self.flags = 0

    def send(self, datagram: bytes) -> int:
        """Take requests and answer them."""
        requests = messages.parse_messages(datagram)
        self.requests += requests
        self.waiting += self.answer(requests)
        return len(datagram)

    def recvmsg(self, _length: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        """Hand out one datagram; with none left the real socket would block for ever."""
        if not self.waiting:
            raise OSError(errno.EAGAIN, "nothing more to read")
        return self.waiting.pop(0), [], self.flags, (self.sender, 0)

    def close(self) -> None:
        """Forget what was not read."""
        self.waiting.clear()


def scripted(monkeypatch: pytest.MonkeyPatch,
             answer: Callable[[list[messages.Message]], list[bytes]]) -> tuple[RtnlSocket, ScriptedKernel]:
    rtnetlink = RtnlSocket()
    rtnetlink.close()
    kernel = ScriptedKernel(answer)
    monkeypatch.setattr(rtnetlink, "_socket", kernel)
    return rtnetlink, kernel


def refusal(sequence: int, number: int) -> bytes:
    payload = messages._I32.pack(-number) + messages.build_message(0, 0, sequence, b"")
    return messages.build_message(MessageType.ERROR, MessageFlag.CAPPED, sequence, payload)


def done(sequence: int, number: int = 0) -> bytes:
    return messages.build_message(MessageType.DONE, 2, sequence, messages._I32.pack(-number))


def dump(rtnetlink: RtnlSocket) -> list[bytes]:
    return rtnetlink.dump("addresses", MessageType.GETADDR, messages.build_addresses_query(AF_INET, 1))


def test_dump_joins_datagrams_and_leaves_other_families_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(requests: list[messages.Message]) -> list[bytes]:
        entry, other = (messages.build_message(MessageType.NEWADDR, 2, requests[0].sequence, payload)
                        for payload in (LOOPBACK, OTHER_FAMILY))
        return [entry + other, entry, done(requests[0].sequence)]
    rtnetlink, kernel = scripted(monkeypatch, answer)
    assert dump(rtnetlink) == [LOOPBACK, LOOPBACK]
    assert kernel.requests[0].flags == MessageFlag.REQUEST | MessageFlag.DUMP


def test_interrupted_dump_is_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(requests: list[messages.Message]) -> list[bytes]:
        sequence = requests[0].sequence
        flags = 2 | (MessageFlag.DUMP_INTERRUPTED if sequence < 3 else 0)
        return [messages.build_message(MessageType.NEWADDR, flags, sequence, LOOPBACK) * 2, done(sequence)]
    rtnetlink, kernel = scripted(monkeypatch, answer)
    assert dump(rtnetlink) == [LOOPBACK, LOOPBACK]
    assert len(kernel.requests) == 3


def test_dump_always_interrupted_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rtnetlink, kernel = scripted(monkeypatch, lambda requests: [
        messages.build_message(MessageType.DONE, MessageFlag.DUMP_INTERRUPTED, requests[0].sequence,
                               bytes(4))])
    with pytest.raises(HostError, match=r"^cannot read addresses: it changed during each of 16 attempts$"):
        dump(rtnetlink)
    assert len(kernel.requests) == 16


def test_dump_of_a_table_that_does_not_exist_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    rtnetlink, _ = scripted(monkeypatch, lambda requests: [done(requests[0].sequence, errno.ENOENT)])
    assert dump(rtnetlink) == []


@pytest.mark.parametrize("end", [done, refusal])
def test_refused_dump_names_it(monkeypatch: pytest.MonkeyPatch, end: Callable[[int, int], bytes]) -> None:
    rtnetlink, _ = scripted(monkeypatch, lambda requests: [end(requests[0].sequence, errno.EPERM)])
    with pytest.raises(KernelRefusalError, match=r"^cannot read addresses: Operation not permitted$"):
        dump(rtnetlink)


def test_late_replies_to_an_earlier_request_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    rtnetlink, _ = scripted(monkeypatch, lambda requests: [
        done(requests[0].sequence + 9, errno.EPERM), done(requests[0].sequence)])
    assert dump(rtnetlink) == []


def test_messages_of_other_senders_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    rtnetlink, kernel = scripted(monkeypatch, lambda requests: [done(requests[0].sequence)])
    kernel.sender = 4711
    with pytest.raises(HostError, match=r"^cannot read addresses: nothing more to read$"):
        dump(rtnetlink)


def test_cut_datagram_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rtnetlink, kernel = scripted(monkeypatch, lambda requests: [done(requests[0].sequence)])
    kernel.flags = socket.MSG_TRUNC
    with pytest.raises(HostError, match="a message of more than 65536 bytes"):
        dump(rtnetlink)


def test_many_requests_come_in_batches_with_one_acknowledgement_each(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(requests: list[messages.Message]) -> list[bytes]:
        # Every tenth request is refused; only those and the last are answered, as by the kernel.
        return [refusal(request.sequence, 0 if request.sequence % 10 else errno.EEXIST)
                for request in requests
                if request.flags & MessageFlag.ACK or request.sequence % 10 == 0]
    rtnetlink, kernel = scripted(monkeypatch, answer)
    refused = rtnetlink.request_all("cannot try", [Request(MessageType.NEWROUTE, 0, bytes(12))] * 1000)
    assert {place: outcome.errno for place, outcome in refused.items()} == dict.fromkeys(
        range(9, 1000, 10), errno.EEXIST)
    assert sum(bool(request.flags & MessageFlag.ACK) for request in kernel.requests) == 16
    assert kernel.waiting == []
    assert rtnetlink.request_all("cannot try", []) == {}


def test_long_requests_make_short_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def answer(requests: list[messages.Message]) -> list[bytes]:
        lengths.append(len(requests))
        return [refusal(requests[-1].sequence, 0)]
    rtnetlink, _ = scripted(monkeypatch, answer)
    rtnetlink.request_all("cannot try", [Request(MessageType.NEWROUTE, 0, bytes(15_000))] * 5)
    assert lengths == [2, 2, 1]


def test_request_refused_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rtnetlink, _ = scripted(monkeypatch, lambda requests: [refusal(requests[0].sequence, errno.EEXIST)])
    with pytest.raises(KernelRefusalError, match=r"^cannot try: File exists$") as caught:
        rtnetlink.request("cannot try", MessageType.NEWROUTE, bytes(12))
    assert caught.value.errno == errno.EEXIST


def test_request_answered_by_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    rtnetlink, _ = scripted(monkeypatch, lambda requests: [
        messages.build_message(MessageType.NEWADDR, 0, requests[0].sequence, LOOPBACK)])
    with pytest.raises(HostError, match=r"^cannot try: unexpected answer of type 20$"):
        rtnetlink.request("cannot try", MessageType.NEWROUTE, bytes(12))


@pytest.mark.parametrize("strict", [True, False])
def test_real_kernel_shows_lo(strict: bool) -> None:
    with RtnlSocket(strict=strict) as rtnetlink:
        link = rtnetlink.get_link("lo")
        assert (link.ifindex, link.name) == (1, "lo")
        for address, payload in rtnetlink.get_addresses(AF_INET, 1):
            assert address == messages.AddressMessage.parse(payload)
            assert address.ifindex == 1
            assert address.address[0] == 127


def test_real_kernel_explains_a_refusal() -> None:
    with RtnlSocket() as rtnetlink, pytest.raises(KernelRefusalError) as caught:
        rtnetlink.dump("addresses", MessageType.GETADDR, messages.build_addresses_query(AF_INET, 2**31 - 1))
    assert caught.value.errno == errno.ENODEV


def test_missing_interface_is_an_error() -> None:
    with RtnlSocket() as rtnetlink, pytest.raises(HostError, match=r"^there is no interface nothere0 in "):
        rtnetlink.get_link("nothere0")


@pytest.mark.needs_root
def test_socket_takes_nothing_from_others_in_the_namespace() -> None:
    def attack() -> tuple[int, int]:
        with RtnlSocket() as rtnetlink:
            port = rtnetlink._socket.getsockname()[0]
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as attacker:
                try:
                    attacker.sendto(b"abc", (port, 0))
                    number = 0
                except OSError as error:
                    number = error.errno or 0
            return number, len(dump(rtnetlink))

    # In a new namespace the loopback interface has no address.
    assert isolated(attack) == (errno.ECONNREFUSED, 0)


def test_work_in_pieces_makes_what_it_would_make_at_once() -> None:
    numbers = list(range(10 * STEP))
    assert finish(map_in_pieces(str, numbers)) == list(map(str, numbers))
    assert finish(filter_in_pieces(lambda number: number % 3, numbers)) == [n for n in numbers if n % 3]
    assert finish(map_in_pieces(str, [])) == finish(filter_in_pieces(bool, [])) == []


def test_no_more_than_a_step_between_two_yields() -> None:
    seen: list[int] = []
    assert sum(1 for _ in map_in_pieces(seen.append, range(10 * STEP + 1))) == 10
    work = filter_in_pieces(seen.append, range(10 * STEP))
    for number in range(1, 11):
        seen.clear()
        next(work)
        assert len(seen) == STEP, number

"""What each request tells the device and is answered; what is wrong ends the session, in one line."""

from __future__ import annotations

import errno
import fcntl
import os
import socket

import pytest

from passt.facts.contracts import MemoryRegion
from passt.vhost_user import messages
from passt.vhost_user.messages import (
    ConfigPart,
    InflightArea,
    LogArea,
    ProtocolFeature,
    Request,
    RingAddresses,
    RingFile,
    RingState,
    build_u64,
)
from tests.support.processes import is_readable
from tests.vhost_user.front_end import BACKEND, FEATURES, NEED_REPLY, REGION, FrontEnd

OTHER = MemoryRegion(0x10_0000, 0x1000, 0x7f00_0100_0000, 0, -1)
ALL = BACKEND.protocol_features
MEM_SLOTS = ProtocolFeature.CONFIGURE_MEM_SLOTS
REPLY_ACK = ProtocolFeature.REPLY_ACK
F_GET_SEALS = 1034


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def agree_on_all(front_end: FrontEnd) -> None:
    front_end.send(Request.SET_PROTOCOL_FEATURES, build_u64(ALL))
    assert front_end.why is None


# Questions, with a payload that is right.
QUESTIONS = {
    Request.GET_FEATURES: b"", Request.GET_PROTOCOL_FEATURES: b"", Request.GET_QUEUE_NUM: b"",
    Request.GET_VRING_BASE: RingState(0, 0).build(), Request.GET_CONFIG: ConfigPart(0, 0, bytes(6)).build(),
    Request.GET_INFLIGHT_FD: InflightArea(0, 0, 2, 256).build(), Request.GET_MAX_MEM_SLOTS: b"",
}
# Requests that take no descriptor and have no answer, and what the device is told.
COMMANDS: dict[Request, tuple[bytes, list[tuple[object, ...]]]] = {
    Request.SET_FEATURES: (build_u64(FEATURES), [("features", FEATURES)]),
    Request.SET_OWNER: (b"", []), Request.RESET_OWNER: (b"", []),
    Request.SET_MEM_TABLE: (messages.build_table([]), [("memory", [])]),
    Request.SET_VRING_NUM: (RingState(3, 1024).build(), [("size", 3, 1024)]),
    Request.SET_VRING_ADDR: (RingAddresses(2, 0, 1 << 40, 3, 2, 9).build(),
                             [("addresses", 2, 1 << 40, 3, 2, None)]),
    Request.SET_VRING_BASE: (RingState(1, 0xffff).build(), [("base", 1, 0xffff)]),
    Request.SET_VRING_KICK: (RingFile(0, has_fd=False).build(), [("kick", 0, -1)]),
    Request.SET_VRING_CALL: (RingFile(3, has_fd=False).build(), [("call", 3, -1)]),
    Request.SET_VRING_ERR: (RingFile(1, has_fd=False).build(), []),
    Request.SET_PROTOCOL_FEATURES: (build_u64(ALL), []),
    Request.SET_VRING_ENABLE: (RingState(1, 1).build(), [("enable", 1, True)]),
    Request.SEND_RARP: (build_u64(0x5634_1200_5452), []),
    Request.NET_SET_MTU: (build_u64(1500), []),
    Request.SET_CONFIG: (ConfigPart(0, 1, bytes(6)).build(), []),
    Request.RESET_DEVICE: (b"", [("reset",)]),
    Request.REM_MEM_REG: (messages.build_region(REGION), [("remove", REGION)]),
}
# Requests that take one descriptor: an eventfd, or a file.
WITH_EVENT: dict[Request, tuple[bytes, tuple[object, ...] | None]] = {
    Request.SET_VRING_KICK: (RingFile(2, has_fd=True).build(), ("kick", 2)),
    Request.SET_VRING_CALL: (RingFile(1, has_fd=True).build(), ("call", 1)),
    Request.SET_VRING_ERR: (RingFile(0, has_fd=True).build(), None),
    Request.SET_LOG_FD: (b"", ("log call",)),
}
WITH_FILE: dict[Request, bytes] = {
    Request.SET_MEM_TABLE: messages.build_table([REGION]),
    Request.ADD_MEM_REG: messages.build_region(REGION),
    Request.SET_LOG_BASE: LogArea(0x8000, 0x1000).build(),
    Request.SET_INFLIGHT_FD: InflightArea(0x3000, 0x1000, 2, 256).build(),
}
KNOWN = {*QUESTIONS, *COMMANDS, *WITH_EVENT, *WITH_FILE}
OF_A_RING = (Request.SET_VRING_NUM, Request.SET_VRING_ADDR, Request.SET_VRING_BASE, Request.GET_VRING_BASE,
             Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR, Request.SET_VRING_ENABLE)


# Answers

def test_features_are_asked_for(front_end: FrontEnd) -> None:
    assert front_end.ask(Request.GET_FEATURES) == build_u64(FEATURES)
    assert front_end.ask(Request.GET_PROTOCOL_FEATURES) == build_u64(ALL)
    assert front_end.ask(Request.GET_QUEUE_NUM) == build_u64(2)


def test_ring_is_stopped_and_its_index_told(front_end: FrontEnd) -> None:
    front_end.device.base = 0xfffe
    assert front_end.ask(Request.GET_VRING_BASE, RingState(3, 0).build()) == RingState(3, 0xfffe).build()
    assert front_end.told == [("stop", 3)]


def test_number_of_regions_is_told(front_end: FrontEnd) -> None:
    front_end.agree(MEM_SLOTS)
    assert front_end.ask(Request.GET_MAX_MEM_SLOTS) == build_u64(64)


@pytest.mark.parametrize(("offset", "length", "data"), [
    (0, 12, "000000000000 0100 0200 dc05"),
    (10, 2, "dc05"), (6, 2, "0100"), (0, 0, ""), (24, 0, ""),
    (0, 24, "000000000000 0100 0200 dc05 ffffffff ff 00 0000 00000000"),
])
def test_configuration_is_told(front_end: FrontEnd, offset: int, length: int, data: str) -> None:
    asked = ConfigPart(offset, 5, b"\xaa" * length)
    told = ConfigPart.parse(front_end.ask(Request.GET_CONFIG, asked.build()))
    assert told == ConfigPart(offset, 5, bytes.fromhex(data))


@pytest.mark.parametrize(("offset", "length"), [(0, 25), (24, 1), (20, 8), (0xffffffff, 1), (0, 256)])
def test_configuration_has_an_end(front_end: FrontEnd, offset: int, length: int) -> None:
    """An empty answer means an error, which does not end the session."""
    assert front_end.ask(Request.GET_CONFIG, ConfigPart(offset, 0, bytes(length)).build()) == b""
    assert front_end.why is None


@pytest.mark.parametrize("length", [20, 24])
def test_record_of_use_is_a_file_that_keeps_its_size(front_end: FrontEnd, length: int) -> None:
    front_end.agree(ProtocolFeature.INFLIGHT_SHMFD)
    front_end.send(Request.GET_INFLIGHT_FD, InflightArea(9, 9, 4, 128).build(length))
    answer, [fd] = front_end.reply(Request.GET_INFLIGHT_FD)
    size = 4 * (16 + 16 * 128)
    assert answer == InflightArea(size, 0, 4, 128).build(length)
    assert os.fstat(fd).st_size == size
    assert fcntl.fcntl(fd, F_GET_SEALS) == 1 | 2 | 4
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    assert os.pread(fd, size, 0) == bytes(size)  # version 0: nobody has used it
    front_end.send(Request.SET_INFLIGHT_FD, answer, [fd])
    assert (front_end.told, front_end.why) == ([], None)
    os.close(fd)


def test_record_of_use_has_a_place_for_each_descriptor(front_end: FrontEnd, file: int) -> None:
    front_end.agree(ProtocolFeature.INFLIGHT_SHMFD)
    front_end.send(Request.SET_INFLIGHT_FD, InflightArea(2 * (16 + 16 * 256) - 1, 0, 2, 256).build(), [file])
    assert front_end.why == "SET_INFLIGHT_FD: a record of 8223 bytes; it takes 8224"


def test_log_has_an_answer_of_its_own(front_end: FrontEnd, file: int) -> None:
    front_end.agree(ProtocolFeature.LOG_SHMFD, REPLY_ACK)
    area = LogArea(0x8000, 0x1000).build()
    assert front_end.ask(Request.SET_LOG_BASE, area, [file], flags=NEED_REPLY) == build_u64(0)
    assert front_end.told == [("log", inode(file), 0x8000, 0x1000)]
    assert not front_end.has_reply()


# Commands

@pytest.mark.parametrize("request_", COMMANDS, ids=lambda one: one.name)
def test_device_is_told(front_end: FrontEnd, request_: Request) -> None:
    front_end.agree(MEM_SLOTS)
    payload, told = COMMANDS[request_]
    front_end.send(request_, payload, flags=NEED_REPLY)  # which nobody has agreed upon yet
    assert (front_end.told, front_end.why) == (told, None)
    assert front_end.has_reply() == (request_ == Request.SET_PROTOCOL_FEATURES)


@pytest.mark.parametrize("request_", COMMANDS, ids=lambda one: one.name)
def test_outcome_is_told_to_who_wants_it(front_end: FrontEnd, request_: Request) -> None:
    front_end.agree(MEM_SLOTS, REPLY_ACK)
    payload, told = COMMANDS[request_]
    assert front_end.ask(request_, payload, flags=NEED_REPLY) == build_u64(0)
    front_end.send(request_, payload)
    assert not front_end.has_reply()
    assert (front_end.told, front_end.why) == (told * 2, None)


@pytest.mark.parametrize("request_", WITH_EVENT, ids=lambda one: one.name)
def test_eventfd_is_handed_over(front_end: FrontEnd, event: int, request_: Request) -> None:
    payload, told = WITH_EVENT[request_]
    front_end.send(request_, payload, [event])
    assert (front_end.told, front_end.why) == ([(*told, inode(event))] if told else [], None)


def test_memory_is_shared(front_end: FrontEnd, file: int, event: int) -> None:
    """The files are those of the regions, in their order; nothing of them stays open here."""
    n_before = len(os.listdir("/proc/self/fd"))
    front_end.send(Request.SET_MEM_TABLE, messages.build_table([REGION, OTHER]), [file, event])
    assert front_end.told == [("memory", [REGION._replace(fd=inode(file)), OTHER._replace(fd=inode(event))])]
    assert len(os.listdir("/proc/self/fd")) == n_before


def test_regions_come_and_go(front_end: FrontEnd, file: int) -> None:
    front_end.agree(MEM_SLOTS)
    n_before = len(os.listdir("/proc/self/fd"))
    front_end.send(Request.ADD_MEM_REG, messages.build_region(REGION), [file])
    front_end.send(Request.REM_MEM_REG, messages.build_region(REGION))
    front_end.send(Request.REM_MEM_REG, messages.build_region(OTHER), [file])  # as older QEMUs do
    assert front_end.told == [("add", REGION._replace(fd=inode(file))), ("remove", REGION), ("remove", OTHER)]
    assert front_end.why is None
    assert len(os.listdir("/proc/self/fd")) == n_before


def test_used_ring_is_logged_if_that_is_asked_for(front_end: FrontEnd) -> None:
    front_end.send(Request.SET_VRING_ADDR, RingAddresses(0, 1, 1, 3, 2, 0x9000).build())
    assert front_end.told == [("addresses", 0, 1, 3, 2, 0x9000)]


def test_ring_is_disabled(front_end: FrontEnd) -> None:
    front_end.send(Request.SET_VRING_ENABLE, RingState(0, 0).build())
    assert front_end.told == [("enable", 0, False)]


def test_eventfd_never_keeps_us_waiting(front_end: FrontEnd, event: int) -> None:
    assert os.get_blocking(event)
    front_end.send(Request.SET_VRING_ERR, RingFile(0, has_fd=True).build(), [event])
    assert not os.get_blocking(event)


# Errors of rings

def is_signalled(fd: int) -> bool:
    return is_readable(fd)


def test_error_of_the_device_is_signalled(front_end: FrontEnd, event: int) -> None:
    other = os.eventfd(0)
    front_end.send(Request.SET_VRING_ERR, RingFile(0, has_fd=True).build(), [other])
    front_end.send(Request.SET_VRING_ERR, RingFile(0, has_fd=True).build(), [event])  # in its place
    front_end.device.end("the guest's ring is wrong")
    front_end.loop.turn()
    assert front_end.why == "the guest's ring is wrong"
    assert (is_signalled(event), is_signalled(other)) == (True, False)
    os.close(other)


def test_end_of_the_front_end_is_no_error_of_a_ring(front_end: FrontEnd, event: int) -> None:
    front_end.send(Request.SET_VRING_ERR, RingFile(0, has_fd=True).build(), [event])
    front_end.sock.close()
    front_end.loop.turn()
    assert front_end.why == "it closed the connection"
    assert not is_signalled(event)


def test_full_eventfd_does_not_matter(front_end: FrontEnd, event: int) -> None:
    os.write(event, (0xffff_ffff_ffff_fffe).to_bytes(8, "little"))
    front_end.send(Request.SET_VRING_ERR, RingFile(0, has_fd=True).build(), [event])
    front_end.device.end("wrong")
    front_end.loop.turn()
    assert front_end.why == "wrong"


# Refusals, after which the session goes on

@pytest.mark.parametrize("mtu", [0, 67, 68, 1499, 65536, 1 << 63])
def test_mtu_that_is_less_than_what_we_send_is_refused(front_end: FrontEnd, mtu: int) -> None:
    front_end.agree(REPLY_ACK)
    assert front_end.ask(Request.NET_SET_MTU, build_u64(mtu), flags=NEED_REPLY) == build_u64(1)
    front_end.send(Request.NET_SET_MTU, build_u64(mtu))
    assert (front_end.told, front_end.why) == ([], None)
    assert not front_end.has_reply()


@pytest.mark.parametrize("mtu", [1500, 9000, 65535])
def test_mtu_that_is_enough_is_taken(front_end: FrontEnd, mtu: int) -> None:
    front_end.agree(REPLY_ACK)
    assert front_end.ask(Request.NET_SET_MTU, build_u64(mtu), flags=NEED_REPLY) == build_u64(0)


def test_mtu_of_a_guest_that_is_told_none() -> None:
    assert [BACKEND._replace(mtu=0).may_have_mtu(mtu) for mtu in (65519, 65520)] == [False, True]


def test_configuration_cannot_be_written_by_a_driver(front_end: FrontEnd) -> None:
    front_end.agree(REPLY_ACK)
    part = ConfigPart(0, 0, bytes(6)).build()
    assert front_end.ask(Request.SET_CONFIG, part, flags=NEED_REPLY) == build_u64(1)
    assert front_end.why is None


@pytest.mark.parametrize("number", [0, 44, 999, 0xffffffff])
def test_unknown_request_fails_for_who_waits(front_end: FrontEnd, number: int) -> None:
    front_end.agree(REPLY_ACK)
    assert front_end.ask(number, b"anything", flags=NEED_REPLY) == build_u64(1)
    assert front_end.why is None
    front_end.send(number, b"anything")
    assert front_end.why == f"request {number}: that was not offered"


NOT_OFFERED = sorted({*Request} - KNOWN)


@pytest.mark.parametrize("request_", NOT_OFFERED, ids=lambda one: one.name)
def test_request_of_a_feature_that_was_not_offered_ends(front_end: FrontEnd, file: int, request_: Request
                                                        ) -> None:
    agree_on_all(front_end)
    front_end.send(request_, bytes(8), [file])
    assert front_end.why == f"{request_.name}: that was not offered"


def test_every_request_is_met_here() -> None:
    assert {one.name for one in NOT_OFFERED} == {
        "SET_BACKEND_REQ_FD", "IOTLB_MSG", "SET_VRING_ENDIAN", "CREATE_CRYPTO_SESSION",
        "CLOSE_CRYPTO_SESSION", "POSTCOPY_ADVISE", "POSTCOPY_LISTEN", "POSTCOPY_END", "GPU_SET_SOCKET",
        "VRING_KICK", "SET_STATUS", "GET_STATUS", "GET_SHARED_OBJECT", "SET_DEVICE_STATE_FD",
        "CHECK_DEVICE_STATE"}


# Violations

def spoil(front_end: FrontEnd, request: Request, payload: bytes, n_fds: int, fd: int) -> str:
    """Send a request that is wrong, and return why the session ended."""
    front_end.send(request, payload, [fd] * n_fds)
    assert front_end.why is not None
    assert front_end.told == [] if front_end.loop.device else True
    # It sees the end and no reply.
    assert front_end.sock.recv(1) == b""
    return front_end.why


PAYLOADS = [*QUESTIONS.items(), *((request, payload) for request, (payload, _) in COMMANDS.items()),
            *((request, payload) for request, (payload, _) in WITH_EVENT.items()), *WITH_FILE.items()]
ANY_PAYLOAD = {Request.SET_OWNER, Request.RESET_OWNER}


@pytest.mark.parametrize("n_fds", range(1, 9))
@pytest.mark.parametrize("request_", [one for one in {**QUESTIONS, **COMMANDS} if one not in WITH_EVENT],
                         ids=lambda one: one.name)
def test_descriptors_that_a_request_does_not_take(front_end: FrontEnd, file: int, request_: Request,
                                                  n_fds: int) -> None:
    if (request_, n_fds) == (Request.REM_MEM_REG, 1):
        n_fds = 2                  # one is borne
    agree_on_all(front_end)
    payload = dict(PAYLOADS)[request_] if request_ != Request.SET_MEM_TABLE else messages.build_table([])
    why = spoil(front_end, request_, payload, n_fds, file)
    assert why == f"{request_.name}: {n_fds} descriptors; 0 would be right"


@pytest.mark.parametrize("n_fds", [0, *range(2, 9)])
@pytest.mark.parametrize("request_", [*WITH_EVENT, *WITH_FILE], ids=lambda one: one.name)
def test_descriptors_that_are_too_few_or_too_many(front_end: FrontEnd, event: int, request_: Request,
                                                  n_fds: int) -> None:
    agree_on_all(front_end)
    payload = WITH_FILE.get(request_) or WITH_EVENT[request_][0]
    why = spoil(front_end, request_, payload, n_fds, event)
    assert why == f"{request_.name}: {n_fds} descriptors; 1 would be right"


@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR],
                         ids=lambda one: one.name)
def test_descriptor_beside_the_word_that_there_is_none(front_end: FrontEnd, event: int, request_: Request
                                                       ) -> None:
    why = spoil(front_end, request_, RingFile(0, has_fd=False).build(), 1, event)
    assert why == f"{request_.name}: 1 descriptors; 0 would be right"


@pytest.mark.parametrize("n_fds", [0, 1, 3])
def test_regions_and_files_are_as_many(front_end: FrontEnd, file: int, n_fds: int) -> None:
    why = spoil(front_end, Request.SET_MEM_TABLE, messages.build_table([REGION, OTHER]), n_fds, file)
    assert why == f"SET_MEM_TABLE: {n_fds} descriptors; 2 would be right"


@pytest.mark.parametrize(("request_", "payload"), PAYLOADS,
                         ids=[f"{request.name}-{n}" for n, (request, _) in enumerate(PAYLOADS)])
def test_every_payload_that_is_too_short_or_long(file: int, request_: Request, payload: bytes) -> None:
    """A byte more or less is enough; the rest is in test_messages.py."""
    if request_ in ANY_PAYLOAD:
        return
    n_fds = len(messages.parse_table(payload)) if request_ == Request.SET_MEM_TABLE else int(
        request_ in WITH_FILE or payload == WITH_EVENT.get(request_, (None,))[0])
    for wrong in {payload[:-1], payload + b"\0"} - {payload}:
        front_end = FrontEnd()
        agree_on_all(front_end)
        why = spoil(front_end, request_, wrong, n_fds, file)
        assert why.startswith(f"{request_.name}: a payload of {len(wrong)} bytes"), why
        front_end.close()


@pytest.mark.parametrize("request_", OF_A_RING, ids=lambda one: one.name)
@pytest.mark.parametrize("ring", [4, 127, 255])
def test_ring_that_there_is_not(front_end: FrontEnd, request_: Request, ring: int) -> None:
    payload = {**dict(PAYLOADS), **{request: payload for request, (payload, _) in COMMANDS.items()}}[request_]
    why = spoil(front_end, request_, bytes([ring]) + payload[1:], 0, -1)
    assert why == f"{request_.name}: ring {ring}; 3 is the last one"


@pytest.mark.parametrize(("request_", "payload", "reason"), [
    (Request.SET_VRING_NUM, RingState(0, 0), "a ring of 0 descriptors; a power of two up to 32768"),
    (Request.SET_VRING_NUM, RingState(0, 3), "a ring of 3 descriptors"),
    (Request.SET_VRING_NUM, RingState(0, 65536), "a ring of 65536 descriptors"),
    (Request.SET_VRING_NUM, RingState(0xffffffff, 256), "ring 4294967295"),
    (Request.SET_VRING_BASE, RingState(0, 0x10000), "index 65536; 65535 is the last one"),
    (Request.SET_VRING_ENABLE, RingState(0, 2), "2 is neither on nor off"),
    (Request.GET_INFLIGHT_FD, InflightArea(0, 0, 0, 256), "0 rings; there are 1 to 4"),
    (Request.GET_INFLIGHT_FD, InflightArea(0, 0, 5, 256), "5 rings; there are 1 to 4"),
    (Request.GET_INFLIGHT_FD, InflightArea(0, 0, 2, 0), "a ring of 0 descriptors"),
    (Request.GET_INFLIGHT_FD, InflightArea(0, 0, 2, 300), "a ring of 300 descriptors"),
    (Request.GET_INFLIGHT_FD, InflightArea(0, 0, 2, 65535), "a ring of 65535 descriptors"),
])
def test_number_that_is_wrong(front_end: FrontEnd, request_: Request, payload: RingState | InflightArea,
                              reason: str) -> None:
    agree_on_all(front_end)
    assert spoil(front_end, request_, payload.build(), 0, -1).startswith(f"{request_.name}: {reason}")


@pytest.mark.parametrize("bit", [5, 9, 40, 63])
@pytest.mark.parametrize("request_", [Request.SET_FEATURES, Request.SET_PROTOCOL_FEATURES],
                         ids=lambda one: one.name)
def test_feature_that_was_not_offered(front_end: FrontEnd, request_: Request, bit: int) -> None:
    assert spoil(front_end, request_, build_u64(1 << bit), 0, -1) == (
        f"{request_.name}: features {1 << bit:#x} were not offered")


@pytest.mark.parametrize(("request_", "feature"), [
    (Request.SET_LOG_BASE, "LOG_SHMFD"), (Request.GET_INFLIGHT_FD, "INFLIGHT_SHMFD"),
    (Request.SET_INFLIGHT_FD, "INFLIGHT_SHMFD"), (Request.GET_MAX_MEM_SLOTS, "CONFIGURE_MEM_SLOTS"),
    (Request.ADD_MEM_REG, "CONFIGURE_MEM_SLOTS"), (Request.REM_MEM_REG, "CONFIGURE_MEM_SLOTS"),
])
def test_feature_that_was_not_agreed_upon(front_end: FrontEnd, file: int, request_: Request, feature: str
                                          ) -> None:
    n_fds = int(request_ in WITH_FILE)
    assert spoil(front_end, request_, dict(PAYLOADS)[request_], n_fds, file) == (
        f"{request_.name}: that needs protocol feature {feature}, which was not agreed upon")


def not_events() -> list[int]:
    """Make descriptors of all that is no eventfd."""
    ours, theirs = socket.socketpair()
    return [os.memfd_create("file"), *os.pipe(), os.open("/dev/null", os.O_RDWR), os.open("/", os.O_RDONLY),
            ours.detach(), theirs.detach()]


@pytest.mark.parametrize("request_", WITH_EVENT, ids=lambda one: one.name)
def test_what_could_keep_us_waiting_is_no_eventfd(request_: Request) -> None:
    for fd in not_events():
        front_end = FrontEnd()
        why = spoil(front_end, request_, WITH_EVENT[request_][0], 1, fd)
        assert why == f"{request_.name}: the descriptor is no eventfd"
        front_end.close()
        os.close(fd)


@pytest.mark.parametrize("error", [
    (ValueError("region 1 overlaps region 0"), "region 1 overlaps region 0"),
    (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "Cannot allocate memory"),
    (OSError("too many mappings"), "too many mappings"),
], ids=["must not", "cannot", "cannot, says who"])
@pytest.mark.parametrize("is_waiting", [False, True])
def test_device_refuses(front_end: FrontEnd, file: int, error: tuple[Exception, str], is_waiting: bool
                        ) -> None:
    agree_on_all(front_end)
    front_end.device.error = error[0]
    front_end.send(Request.SET_MEM_TABLE, messages.build_table([REGION]), [file],
                   flags=NEED_REPLY if is_waiting else 1)
    assert front_end.why == f"SET_MEM_TABLE: {error[1]}"
    assert front_end.has_reply() == is_waiting
    if is_waiting:
        assert front_end.reply(Request.SET_MEM_TABLE) == (build_u64(1), [])
    assert front_end.sock.recv(1) == b""


def test_question_that_fails_has_no_answer(front_end: FrontEnd) -> None:
    agree_on_all(front_end)
    front_end.device.error = ValueError("it was not started")
    front_end.send(Request.GET_VRING_BASE, RingState(0, 0).build(), flags=NEED_REPLY)
    assert front_end.why == "GET_VRING_BASE: it was not started"
    assert front_end.sock.recv(1) == b""

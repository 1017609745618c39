"""What each request of a front end means, carried out on the device of its session.

WireError and ValueError mean that the front end must not ask that, OSError that the kernel refuses it; either
is the end of the session. After a `RefusalError` it goes on: the protocol has an answer for these.
"""

from __future__ import annotations

import fcntl
import os
import stat

from passt.errors import WireError
from passt.light.values import NamedTuple
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
)

TYPE_CHECKING = False  # typing itself is not needed at run time
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar

    from passt.facts.contracts import VhostDevice
    from passt.vhost_user.backend import Backend
    from passt.vhost_user.connection import Message

MAX_RING_SIZE = 32768              # virtio 1.2, 2.7
MAX_RING_INDEX = 0xffff
_SUCCESS = messages.build_u64(0)
_EVENT = messages.build_u64(1)     # eventfd(2)
# linux/fcntl.h; a file that a front end gets from us keeps its size.
_F_ADD_SEALS, _F_SEAL_SEAL, _F_SEAL_SHRINK, _F_SEAL_GROW = 1033, 1, 2, 4
_CONFIG_OF_MIGRATION = 1           # flag of SET_CONFIG


class RefusalError(Exception):
    """The request is not carried out, and the session goes on; the text says why."""


class Answer(NamedTuple):
    """What a request is answered, if it has an answer of its own; *fd*, if any, goes with it and is ours."""

    payload: bytes
    fd: int = -1


class _Entry(NamedTuple):
    """How a request is met: *n_fds* descriptors (None: the handler looks), a *feature* agreed upon."""

    handler: Callable[[Any, Message], Answer | None]
    n_fds: int | None = 0
    feature: ProtocolFeature | None = None
    has_answer: bool = False


class Requests:
    """Carries out the requests of one session on *device*, as *backend* offers them.

    Owns the eventfds by which the front end wants to hear of errors.
    """

    def __init__(self, device: VhostDevice, backend: Backend) -> None:
        self._device = device
        self._backend = backend
        self._agreed = 0           # protocol features
        self._error_fds: dict[int, int] = {}  # by ring

    def carry_out(self, message: Message) -> Answer | None:
        """Carry out one request. Raises RefusalError, WireError, ValueError, OSError.

        What is left of the message's descriptors is not needed.
        """
        entry = self._ENTRIES.get(message.header.request)
        if entry is None:
            if self.is_outcome_wanted(message):
                raise RefusalError("that was not offered")
            raise WireError("that was not offered")
        if entry.n_fds is not None:
            message.require_fds(entry.n_fds)
        if entry.feature is not None and not self._has_agreed(entry.feature):
            raise WireError(f"that needs protocol feature {entry.feature.name}, which was not agreed upon")
        return entry.handler(self, message)

    def is_outcome_wanted(self, message: Message) -> bool:
        """Tell whether the front end waits for the outcome of a request that has no answer of its own."""
        entry = self._ENTRIES.get(message.header.request)
        return (message.header.needs_reply and self._has_agreed(ProtocolFeature.REPLY_ACK)
                and (entry is None or not entry.has_answer))

    def signal_errors(self) -> None:
        """Tell the front end, where it wants to hear it, that something is wrong with a ring."""
        for fd in self._error_fds.values():
            try:
                os.write(fd, _EVENT)
            except OSError:
                continue           # it does not take it, or is no eventfd

    def close(self) -> None:
        """Close what it owns."""
        while self._error_fds:
            os.close(self._error_fds.popitem()[1])

    def _has_agreed(self, feature: ProtocolFeature) -> bool:
        return bool(self._agreed >> feature & 1)

    def _ignore(self, _message: Message) -> None:
        """Do nothing: see the table for the reason."""

    # Features

    def _get_features(self, message: Message) -> Answer:
        messages.parse_nothing(message.payload)
        return Answer(messages.build_u64(self._backend.features))

    def _set_features(self, message: Message) -> None:
        features = messages.parse_u64(message.payload)
        _require_offered(features, self._backend.features)
        self._device.set_features(features)

    def _get_protocol_features(self, message: Message) -> Answer:
        messages.parse_nothing(message.payload)
        return Answer(messages.build_u64(self._backend.protocol_features))

    def _set_protocol_features(self, message: Message) -> None:
        features = messages.parse_u64(message.payload)
        _require_offered(features, self._backend.protocol_features)
        self._agreed = features

    def _get_queue_num(self, message: Message) -> Answer:
        messages.parse_nothing(message.payload)
        return Answer(messages.build_u64(self._backend.max_pairs))

    def _reset_device(self, message: Message) -> None:
        messages.parse_nothing(message.payload)
        self._device.reset()

    # Memory

    def _set_mem_table(self, message: Message) -> None:
        regions = messages.parse_table(message.payload)
        message.require_fds(len(regions))
        self._device.set_memory([region._replace(fd=fd)
                                 for region, fd in zip(regions, message.fds, strict=True)])

    def _get_max_mem_slots(self, message: Message) -> Answer:
        messages.parse_nothing(message.payload)
        return Answer(messages.build_u64(self._backend.max_regions))

    def _add_mem_reg(self, message: Message) -> None:
        region = messages.parse_region(message.payload)
        self._device.add_region(region._replace(fd=message.fds[0]))

    def _rem_mem_reg(self, message: Message) -> None:
        if len(message.fds) > 1:   # one is a mistake of some front ends that has to be borne
            message.require_fds(0)
        self._device.remove_region(messages.parse_region(message.payload))

    def _set_log_base(self, message: Message) -> Answer:
        area = LogArea.parse(message.payload)
        self._device.set_log(message.fds[0], area.size, area.offset)
        return Answer(_SUCCESS)

    def _set_log_fd(self, message: Message) -> None:
        messages.parse_nothing(message.payload)
        self._device.set_log_call(_take_event(message))

    # Rings

    def _require_ring(self, ring: int) -> int:
        """Return *ring*, if there may be such a one. Raises WireError."""
        if ring >= self._backend.n_rings:
            raise WireError(f"ring {ring}; {self._backend.n_rings - 1} is the last one")
        return ring

    def _ring_state(self, message: Message) -> RingState:
        state = RingState.parse(message.payload)
        self._require_ring(state.ring)
        return state

    def _ring_fd(self, message: Message) -> tuple[int, int]:
        """Take a ring's eventfd, which the caller owns then, -1 for none."""
        file = RingFile.parse(message.payload)
        self._require_ring(file.ring)
        if file.has_fd:
            return file.ring, _take_event(message)
        message.require_fds(0)
        return file.ring, -1

    def _set_vring_num(self, message: Message) -> None:
        state = self._ring_state(message)
        self._device.set_ring_size(state.ring, _require_size(state.number))

    def _set_vring_addr(self, message: Message) -> None:
        where = RingAddresses.parse(message.payload)
        self._device.set_ring_addresses(self._require_ring(where.ring), where.descriptors, where.used,
                                        where.available, where.log if where.is_logged else None)

    def _set_vring_base(self, message: Message) -> None:
        state = self._ring_state(message)
        if state.number > MAX_RING_INDEX:
            raise WireError(f"index {state.number}; {MAX_RING_INDEX} is the last one")
        self._device.set_ring_base(state.ring, state.number)

    def _get_vring_base(self, message: Message) -> Answer:
        ring = self._ring_state(message).ring
        return Answer(RingState(ring, self._device.stop_ring(ring)).build())

    def _set_vring_kick(self, message: Message) -> None:
        self._device.set_kick(*self._ring_fd(message))

    def _set_vring_call(self, message: Message) -> None:
        self._device.set_call(*self._ring_fd(message))

    def _set_vring_err(self, message: Message) -> None:
        ring, fd = self._ring_fd(message)
        before = self._error_fds.pop(ring, -1)
        if before >= 0:
            os.close(before)
        if fd >= 0:
            self._error_fds[ring] = fd

    def _set_vring_enable(self, message: Message) -> None:
        state = self._ring_state(message)
        if state.number > 1:
            raise WireError(f"{state.number} is neither on nor off")
        self._device.enable_ring(state.ring, state.number == 1)

    # Descriptors in use

    def _get_inflight_fd(self, message: Message) -> Answer:
        """Make the file for a record of descriptors in use, which a front end keeps for the next back end.

        The record stays empty, and its version 0, "an uninitialized buffer": we use descriptors in order, so
        the used ring alone says where to go on ("Inflight I/O tracking").
        """
        wanted = self._inflight(message)
        size = wanted.needed_size()
        made = InflightArea(size, 0, wanted.n_rings, wanted.ring_size)
        fd = os.memfd_create("inflight", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SEAL | _F_SEAL_SHRINK | _F_SEAL_GROW)
        except OSError:
            os.close(fd)
            raise
        return Answer(made.build(len(message.payload)), fd)

    def _set_inflight_fd(self, message: Message) -> None:
        """Take the record back, and leave it alone: a ring starts behind the last descriptor used."""
        area = self._inflight(message)
        if area.size < area.needed_size():
            raise WireError(f"a record of {area.size} bytes; it takes {area.needed_size()}")

    def _inflight(self, message: Message) -> InflightArea:
        area = InflightArea.parse(message.payload)
        if not 1 <= area.n_rings <= self._backend.n_rings:
            raise WireError(f"{area.n_rings} rings; there are 1 to {self._backend.n_rings}")
        _require_size(area.ring_size)
        return area

    # Of network cards

    def _send_rarp(self, message: Message) -> None:
        """Do nothing: we are the only one on the guest's network, and have no table of ports to renew."""
        messages.parse_u64(message.payload)

    def _net_set_mtu(self, message: Message) -> None:
        mtu = messages.parse_u64(message.payload)
        if not self._backend.may_have_mtu(mtu):
            raise RefusalError(f"MTU {mtu} is less than what the guest is sent, or no MTU; see --mtu")

    def _get_config(self, message: Message) -> Answer:
        asked, config = ConfigPart.parse(message.payload), self._backend.config()
        end = asked.offset + len(asked.data)
        if end > len(config):
            return Answer(b"")     # which means an error
        return Answer(ConfigPart(asked.offset, asked.flags, config[asked.offset:end]).build())

    def _set_config(self, message: Message) -> None:
        """Take nothing but what a migration says again: a driver may write to no field of ours."""
        part = ConfigPart.parse(message.payload)
        if not part.flags & _CONFIG_OF_MIGRATION:
            raise RefusalError("the device has no field that can be written")

    _ENTRIES: ClassVar[dict[int, _Entry]] = {
        Request.GET_FEATURES: _Entry(_get_features, has_answer=True),
        Request.SET_FEATURES: _Entry(_set_features),
        # A session belongs to who has connected; RESET_OWNER is deprecated, and best ignored.
        Request.SET_OWNER: _Entry(_ignore),
        Request.RESET_OWNER: _Entry(_ignore),
        Request.SET_MEM_TABLE: _Entry(_set_mem_table, None),
        Request.SET_LOG_BASE: _Entry(_set_log_base, 1, ProtocolFeature.LOG_SHMFD, has_answer=True),
        Request.SET_LOG_FD: _Entry(_set_log_fd, 1),
        Request.SET_VRING_NUM: _Entry(_set_vring_num),
        Request.SET_VRING_ADDR: _Entry(_set_vring_addr),
        Request.SET_VRING_BASE: _Entry(_set_vring_base),
        Request.GET_VRING_BASE: _Entry(_get_vring_base, has_answer=True),
        Request.SET_VRING_KICK: _Entry(_set_vring_kick, None),
        Request.SET_VRING_CALL: _Entry(_set_vring_call, None),
        Request.SET_VRING_ERR: _Entry(_set_vring_err, None),
        Request.GET_PROTOCOL_FEATURES: _Entry(_get_protocol_features, has_answer=True),
        Request.SET_PROTOCOL_FEATURES: _Entry(_set_protocol_features),
        Request.GET_QUEUE_NUM: _Entry(_get_queue_num, has_answer=True),
        Request.SET_VRING_ENABLE: _Entry(_set_vring_enable),
        Request.SEND_RARP: _Entry(_send_rarp),
        Request.NET_SET_MTU: _Entry(_net_set_mtu),
        Request.GET_CONFIG: _Entry(_get_config, has_answer=True),
        Request.SET_CONFIG: _Entry(_set_config),
        Request.GET_INFLIGHT_FD: _Entry(_get_inflight_fd, 0, ProtocolFeature.INFLIGHT_SHMFD,
                                        has_answer=True),
        Request.SET_INFLIGHT_FD: _Entry(_set_inflight_fd, 1, ProtocolFeature.INFLIGHT_SHMFD),
        Request.RESET_DEVICE: _Entry(_reset_device),
        Request.GET_MAX_MEM_SLOTS: _Entry(_get_max_mem_slots, 0, ProtocolFeature.CONFIGURE_MEM_SLOTS,
                                          has_answer=True),
        Request.ADD_MEM_REG: _Entry(_add_mem_reg, 1, ProtocolFeature.CONFIGURE_MEM_SLOTS),
        Request.REM_MEM_REG: _Entry(_rem_mem_reg, None, ProtocolFeature.CONFIGURE_MEM_SLOTS),
    }


def _require_offered(features: int, offered: int) -> None:
    if features & ~offered:
        raise WireError(f"features {features & ~offered:#x} were not offered")


def _require_size(size: int) -> int:
    """Return *size*, if a split ring may have it (virtio 1.2, 2.7). Raises WireError."""
    if not 0 < size <= MAX_RING_SIZE or size & (size - 1):
        raise WireError(f"a ring of {size} descriptors; a power of two up to {MAX_RING_SIZE} would be right")
    return size


def _take_event(message: Message) -> int:
    """Take the only descriptor, an eventfd, which the caller owns then. Raises WireError.

    Files, pipes and sockets are refused, as it is written to: a pipe, or a file that a process serves (FUSE),
    might keep us waiting. What is left are anonymous inodes, which have no type (stat(2)); these do not wait
    while O_NONBLOCK is set, which a front end can take back (docs/security.md).
    """
    message.require_fds(1)
    if stat.S_IFMT(os.fstat(message.fds[0]).st_mode):
        raise WireError("the descriptor is no eventfd")
    os.set_blocking(message.fds[0], False)
    return message.take_fd()

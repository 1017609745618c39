"""UDP flows that bypass the guest's link."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core cimport Core, Seen
from passt.dataplane.flow cimport SPLICE_CONTROL, Flow, FlowKey
from passt.dataplane.sys cimport iovec, mmsghdr, msghdr, sockaddr_in6

cdef enum:
    SPLICE_MESSAGES = 32          # datagrams per system call
    SPLICE_ROOM = 65536           # octets for each


cdef struct SpliceBatch:
    # Datagrams on their way from one socket to another; the payload stays where it was received.
    mmsghdr heads_in[SPLICE_MESSAGES]
    mmsghdr heads_out[SPLICE_MESSAGES]
    iovec pieces_in[SPLICE_MESSAGES]
    iovec pieces_out[SPLICE_MESSAGES]
    sockaddr_in6 names[SPLICE_MESSAGES]
    uint8_t control[SPLICE_MESSAGES][SPLICE_CONTROL]
    uint8_t payload[SPLICE_MESSAGES][SPLICE_ROOM]


cdef Flow *open_splice_udp(Core core, uint32_t listener, int fd, const FlowKey *key, const msghdr *message,
                           const Seen *seen) noexcept nogil
cdef void forward_one(Core core, Flow *flow, const uint8_t *payload, size_t n) noexcept nogil
cdef void on_splice_listener(Core core, uint32_t listener, int fd) noexcept nogil
cdef void on_splice_socket(Core core, Flow *flow) noexcept nogil
cdef void on_splice_timer(Core core, Flow *flow) noexcept nogil
cdef void end_splice_udp(Core core, Flow *flow) noexcept nogil

"""Data on its way between the link and the host's sockets, much of it per system call.

The structures only; what happens to them is said in `tcp.from_guest`, `udp.from_guest` and `udp.to_guest`.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.record cimport Flow
from passt.dataplane.base.externs cimport iovec, mmsghdr, sockaddr_storage

cdef enum:
    OUT_MESSAGES = 64             # per system call
    OUT_PIECES = 128              # datagrams of them all, or joined datagrams as they came from the guest
    IN_MESSAGES = 64
    MAX_SEGMENTS = 64             # of one message: UDP_MAX_SEGMENTS before Linux 6.9 (include/linux/udp.h)
    CONTROL_SIZE = 128            # of a message
    MAX_GATHER = 256              # pieces of one connection's data


cdef struct OutMessage:
    # One or more datagrams of one flow and size; only the last may be shorter, which *ended* tells.
    Flow *flow
    uint32_t first                # piece
    uint32_t n_pieces
    uint32_t n_datagrams
    uint32_t total                # bytes of payload
    uint16_t segment              # size of the datagrams
    uint8_t ttl                   # as the guest sent them: equal in all datagrams of a message
    uint8_t tos
    bint ended


cdef struct OutBatch:
    # Messages for one socket, all or none of them *dont_fragment* (see IpView). The payload lies where
    # the link received it.
    int fd
    bint dont_fragment
    uint32_t n_messages
    uint32_t n_pieces
    iovec pieces[OUT_PIECES]
    OutMessage messages[OUT_MESSAGES]
    mmsghdr headers[OUT_MESSAGES]
    uint8_t control[OUT_MESSAGES][CONTROL_SIZE]


cdef struct InBatch:
    # What one call received: payload in *memory*, a stride each.
    uint8_t *memory
    iovec pieces[IN_MESSAGES]
    mmsghdr headers[IN_MESSAGES]
    sockaddr_storage names[IN_MESSAGES]
    uint8_t control[IN_MESSAGES][CONTROL_SIZE]
    uint32_t longest              # datagram of the last batch of a listener


cdef struct Gather:
    # The TCP segment at hand, and the data of those before it that goes out by one call.
    Flow *flow                    # whose data it is, NULL: nothing is gathered
    uint32_t n
    uint32_t ts_val               # timestamps of the segment at hand, where its connection has them
    uint32_t ts_ecr
    const uint8_t *head           # where the frame begins of which only the headers lie in one
    const iovec *in_pieces        # all of that frame; NULL: the segment at hand lies in one
    uint8_t *joined               # room to put its payload together, allocated with first use
    iovec pieces[MAX_GATHER]      # where the link received them

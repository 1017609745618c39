"""A packet as observers see it: its bytes, and what a filter can ask of it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport Flow

cdef enum SeenKind:
    # What a packet is, as bits; the numbers are those of `facts.contracts.PacketFilter`.
    SEEN_TCP = 1
    SEEN_UDP = 2
    SEEN_ICMP = 4
    SEEN_ICMP6 = 8
    SEEN_ARP = 16
    SEEN_IP4 = 32
    SEEN_IP6 = 64

cdef enum SeenInterface:
    # Where a packet passes; these are numbers of interfaces in a pcapng, too.
    SEEN_ON_LINK = 0
    SEEN_ON_BYPASS = 1
    N_SEEN_INTERFACES


cdef struct SeenPacket:
    # A frame in two pieces, headers and what is behind them; of a frame that lies in one, *rest* is empty.
    const uint8_t *head
    size_t head_len
    const uint8_t *rest
    size_t rest_len
    size_t csum_at                # where in *head* the checksum *csum* belongs instead of what is there,
    uint16_t csum                 # 0: nowhere
    uint8_t interface             # SeenInterface
    bint to_guest
    uint32_t kinds                # SeenKind
    bint has_ends                 # *key* has addresses
    bint has_ports                # and ports of TCP or UDP
    bint is_whole                 # no fragment, and of a protocol whose flows are found by *key*
    FlowKey key                   # of the flow, as the guest sees it; ports of an echo are its identification
    const Flow *flow              # NULL: of none, or it is not known


cdef void look_at(SeenPacket *seen, const uint8_t *frame, size_t n, bint to_guest) noexcept nogil
cdef void complete(SeenPacket *seen, uint16_t csum_start, uint16_t csum_offset) noexcept nogil

"""Time to live, TOS and DF of datagrams, carried between the guest's packets and the host's sockets."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.udp cimport SocketMarks
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.base.externs cimport msghdr

cdef enum:
    # What a socket does with a datagram that is larger than the path's MTU.
    FRAGMENTING_UNSAID = 0
    FRAGMENTING_ALLOWED
    FRAGMENTING_FORBIDDEN
    USUAL_TTL = 64                # what hosts send with; sockets of ours do so by themselves
    TRACING_TTL = 32              # a guest that sends with less wants to know about the way


cdef struct Marks:
    uint8_t tos
    uint8_t ttl                   # 0: not told
    uint32_t segment              # size of the datagrams that the kernel joined, 0: it is one


cdef void set_fragmenting(Core core, int fd, bint is_ip4, bint dont_fragment, uint8_t *known) noexcept nogil
cdef SocketMarks *marks_of(Core core, const Flow *flow) noexcept nogil
cdef int socket_of(Core core, const Flow *flow) noexcept nogil
cdef void ask_ttl(Core core, const Flow *flow) noexcept nogil
cdef void set_ping_marks(Core core, Flow *flow, const IpView *ip) noexcept nogil
cdef void read_marks(msghdr *message, Marks *out) noexcept nogil

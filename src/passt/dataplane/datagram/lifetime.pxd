"""What UDP and echo translation have in common."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.base.externs cimport msghdr
from passt.dataplane.flow.decision cimport HostRoute
from passt.dataplane.packet.parse cimport IpView


cdef enum:
    # What `receive` and `take_datagram` return beside lengths.
    NOTHING = -1                  # nothing there, or not to be taken now
    DROPPED = -2                  # one less, and counted


cdef Flow *start_datagram(Core core, const IpView *ip, const FlowKey *key, uint8_t kind,
                          HostRoute *route) noexcept nogil
cdef void end_datagram(Core core, Flow *flow) noexcept nogil
cdef void refuse_datagram(Core core, Flow *flow, int result) noexcept nogil
cdef int open_bound(Core core, const HostRoute *route, int protocol, const FlowKey *key) noexcept nogil
cdef bint watch_datagram(Core core, Flow *flow) noexcept nogil
cdef ssize_t receive(Core core, Flow *flow, uint32_t l4_hdr_len) noexcept nogil
cdef ssize_t take_datagram(Core core, int fd, msghdr *message) noexcept nogil
cdef void touch(Core core, Flow *flow, int64_t *last_used, int64_t lifetime) noexcept nogil
cdef bint still_used(Core core, Flow *flow, int64_t last_used, int64_t lifetime) noexcept nogil

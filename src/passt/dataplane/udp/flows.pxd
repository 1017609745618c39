"""UDP flows: where they go, the sockets that they share, how long they live."""

from libc.stdint cimport int64_t, uint32_t

from passt.dataplane.base.externs cimport msghdr, sockaddr_storage
from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.link.meta cimport RxFrame
from passt.dataplane.packet.parse cimport IpView


cdef void on_datagram(Core core, const IpView *ip, const RxFrame *frame) noexcept nogil
cdef Flow *flow_from(Core core, Flow *port, const sockaddr_storage *peer) noexcept nogil
cdef Flow *inbound_flow(Core core, uint32_t listener, int fd, msghdr *message) noexcept nogil
cdef void note_received(Core core, Flow *flow, uint32_t n) noexcept nogil
cdef int64_t udp_lifetime(Core core, const Flow *flow) noexcept nogil
cdef void on_udp_timer(Core core, Flow *flow) noexcept nogil
cdef void end_udp(Core core, Flow *flow) noexcept nogil

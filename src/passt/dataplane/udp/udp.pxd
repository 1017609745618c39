"""UDP translation: what the turn calls."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow
from passt.dataplane.link.link cimport RxFrame
from passt.dataplane.packet.parse cimport IpView


cdef void on_datagram(Core core, const IpView *ip, const RxFrame *frame) noexcept nogil
cdef void on_udp_socket(Core core, Flow *port) noexcept nogil
cdef void on_udp_listener(Core core, uint32_t listener, int fd, bint in_namespace) noexcept nogil
cdef void on_udp_timer(Core core, Flow *flow) noexcept nogil

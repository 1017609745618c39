"""UDP translation."""

from libc.stdint cimport uint32_t

from passt.dataplane.core cimport Core
from passt.dataplane.flow cimport Flow
from passt.dataplane.link cimport RxFrame
from passt.dataplane.parse cimport IpView
from passt.dataplane.sys cimport msghdr, sockaddr_storage


cdef void on_datagram(Core core, const IpView *ip, const RxFrame *frame) noexcept nogil
cdef void on_udp_socket(Core core, Flow *flow) noexcept nogil
cdef void on_udp_listener(Core core, uint32_t listener, int fd) noexcept nogil
cdef void local_address(msghdr *message, sockaddr_storage *out, uint32_t *ifindex) noexcept nogil
cdef void on_udp_timer(Core core, Flow *flow) noexcept nogil

"""UDP from the guest to the host's sockets, in batches."""

from libc.stdint cimport uint16_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.parse cimport IpView, UdpView


cdef void send_out(Core core, Flow *flow, const IpView *ip, const UdpView *udp,
                   uint16_t segment) noexcept nogil
cdef void flush_out(Core core) noexcept nogil

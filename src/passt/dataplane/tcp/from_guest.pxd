"""TCP segments from the guest."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow
from passt.dataplane.packet.parse cimport IpView


cdef void on_segment(Core core, const IpView *ip) noexcept nogil
cdef void flush_gather(Core core) noexcept nogil
cdef void accept_fin(Core core, Flow *flow) noexcept nogil

"""TCP segments from the guest."""


from passt.dataplane.core.core cimport Core
from passt.dataplane.packet.parse cimport IpView


cdef void on_segment(Core core, const IpView *ip) noexcept nogil
cdef void flush_gather(Core core) noexcept nogil

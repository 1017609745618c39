"""Records and descriptors for new flows, if need be those of others."""

from libc.stdint cimport uint8_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow


cdef bint lacks_descriptor(int result) noexcept nogil
cdef Flow *admit(Core core, uint8_t kind) noexcept nogil
cdef Flow *admit_datagram(Core core, uint8_t kind) noexcept nogil
cdef Flow *take_record(Core core, uint8_t kind) noexcept nogil
cdef bint evict_half_open(Core core) noexcept nogil
cdef bint crowd_out(Core core) noexcept nogil

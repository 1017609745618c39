"""Records and descriptors for new flows, if need be those of others."""

from libc.stdint cimport uint8_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport Flow


cdef bint lacks_descriptor(int result) noexcept nogil
cdef Flow *admit(Core core, uint8_t kind) noexcept nogil
cdef Flow *admit_datagram(Core core, uint8_t kind) noexcept nogil
cdef Flow *take_record(Core core, uint8_t kind) noexcept nogil
cdef bint spare_for_connection(Core core) noexcept nogil
cdef bint spare_for_datagrams(Core core) noexcept nogil
cdef void limit_datagram_sockets(Core core) noexcept nogil
cdef bint join_crowd(Core core, Flow *flow, int *fd) noexcept nogil
cdef bint is_full(Core core, const FlowKey *key) noexcept nogil
cdef bint is_early(Core core, const FlowKey *key) noexcept nogil

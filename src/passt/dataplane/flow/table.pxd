"""The flow table: records, look-up by either side, life cycle."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport sockaddr_storage
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport N_CLASSES, Flow


cdef class FlowTable:
    cdef Flow *flows
    cdef uint32_t *heads
    cdef uint32_t mask
    cdef uint32_t max_flows
    cdef uint32_t top             # flows below have been used
    cdef uint32_t first_free
    cdef uint32_t first_work
    cdef uint32_t last_work
    cdef uint32_t first_waiting   # flows that wait for the link; linked by next_work as well
    cdef uint32_t oldest[N_CLASSES]
    cdef uint32_t newest[N_CLASSES]
    cdef uint64_t secret[2]
    cdef readonly uint32_t n_active
    cdef uint32_t n_in_class[N_CLASSES]   # flows; not kept for CLASS_KEPT
    cdef public uint32_t max_datagram   # flows of CLASS_DATAGRAM, which `lifetime` keeps to

    cdef Flow *alloc(self, uint8_t kind) noexcept nogil
    cdef void release(self, Flow *flow) noexcept nogil
    cdef bint insert(self, Flow *flow, int side) noexcept nogil
    cdef Flow *find(self, const FlowKey *key, int side) noexcept nogil
    cdef Flow *at_tag(self, uint64_t tag) noexcept nogil
    cdef uint64_t hash(self, const FlowKey *key) noexcept nogil
    cdef void add_work(self, Flow *flow) noexcept nogil
    cdef void add_waiting(self, Flow *flow) noexcept nogil
    cdef void wake_waiting(self) noexcept nogil
    cdef uint32_t take_work(self) noexcept nogil
    cdef void move_newest(self, Flow *flow, uint8_t flow_class) noexcept nogil
    cdef void classify(self, Flow *flow, uint8_t flow_class) noexcept nogil
    cdef void unhash(self, Flow *flow, int side) noexcept nogil
    cdef void put_free(self, Flow *flow) noexcept nogil


cdef void fill_host_key(FlowKey *key, const Flow *port, const sockaddr_storage *peer) noexcept nogil

"""The flow table: records, look-up by either side, life cycle."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport sockaddr_storage
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport N_CLASSES, Flow, FlowOrder


cdef enum:
    # Crowds that flows are put into by a hash of their remote: so many that two remotes seldom share one, so
    # few that the largest is found in less time than a system call takes.
    N_CROWDS = 512


cdef struct FlowQueue:
    # Flows in the order in which they came.
    uint32_t oldest
    uint32_t newest


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
    cdef FlowQueue classes[N_CLASSES]
    cdef FlowQueue crowds[N_CLASSES][N_CROWDS]   # the same flows by their crowd
    cdef uint32_t n_in_crowd[N_CLASSES][N_CROWDS]   # not kept for CLASS_KEPT
    cdef uint32_t n_connections[N_CROWDS]   # with a descriptor, in whatever class
    cdef int64_t full_until[N_CROWDS]   # ns: a crowd takes no newcomers that `make_room` has not seen before
    cdef uint64_t secret[2]
    cdef readonly uint32_t n_active
    cdef uint32_t n_in_class[N_CLASSES]   # flows; not kept for CLASS_KEPT
    cdef public uint32_t max_datagram   # flows of CLASS_DATAGRAM, which `make_room` keeps to

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
    cdef void move_oldest(self, Flow *flow) noexcept nogil
    cdef void leave_class(self, Flow *flow) noexcept nogil
    cdef void prepend(self, Flow *flow, FlowQueue *queue, FlowOrder order) noexcept nogil
    cdef void append(self, Flow *flow, FlowQueue *queue, FlowOrder order) noexcept nogil
    cdef void link_between(self, Flow *flow, FlowQueue *queue, FlowOrder order, uint32_t older,
                           uint32_t newer) noexcept nogil
    cdef void unlink(self, Flow *flow, FlowQueue *queue, FlowOrder order) noexcept nogil
    cdef uint16_t crowd_of(self, const FlowKey *key, bint inbound) noexcept nogil
    cdef uint32_t expendable(self, uint8_t flow_class) noexcept nogil
    cdef uint16_t largest_crowd(self, uint8_t flow_class) noexcept nogil
    cdef void count_connection(self, Flow *flow) noexcept nogil
    cdef void uncount_connection(self, Flow *flow) noexcept nogil
    cdef void classify(self, Flow *flow, uint8_t flow_class) noexcept nogil
    cdef void unhash(self, Flow *flow, int side) noexcept nogil
    cdef void put_free(self, Flow *flow) noexcept nogil


cdef void fill_host_key(FlowKey *key, const Flow *port, const sockaddr_storage *peer) noexcept nogil

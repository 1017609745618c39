"""TCP connections that bypass the guest's link."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow
from passt.dataplane.base.externs cimport sockaddr_storage
from passt.dataplane.flow.decision cimport InboundView


cdef void open_splice(Core core, int fd, const sockaddr_storage *peer, const InboundView *view) noexcept nogil
cdef void on_splice_event(Core core, Flow *flow, int side, uint32_t events) noexcept nogil
cdef void finish_splice(Core core, Flow *flow) noexcept nogil
cdef void abort_splice(Core core, Flow *flow) noexcept nogil
cdef void end_splice(Core core, Flow *flow, bint reset) noexcept nogil
cdef int open_far(Core core, const InboundView *view, bint is_tcp) noexcept nogil
cdef void fill_keys(Flow *flow, const sockaddr_storage *peer, const InboundView *view) noexcept nogil
cdef const char *splice_state(const Flow *flow) noexcept nogil

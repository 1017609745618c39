"""UDP flows that bypass the guest's link."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow, FlowKey
from passt.dataplane.base.externs cimport mmsghdr, msghdr
from passt.dataplane.flow.decision cimport InboundView


cdef Flow *open_splice_udp(Core core, uint32_t listener, int fd, const FlowKey *key, const msghdr *message,
                           const InboundView *view) noexcept nogil
cdef void add_spliced(Core core, Flow *flow, const mmsghdr *message, uint32_t segment,
                      bint to_client) noexcept nogil
cdef void flush_spliced(Core core) noexcept nogil
cdef void on_splice_timer(Core core, Flow *flow) noexcept nogil
cdef void end_splice_udp(Core core, Flow *flow) noexcept nogil
cdef const char *splice_udp_state(const Flow *flow) noexcept nogil

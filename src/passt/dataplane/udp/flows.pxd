"""UDP flows: where they go, the sockets that they share, how long they live."""

from libc.stdint cimport int64_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow, FlowKey
from passt.dataplane.base.externs cimport msghdr, sockaddr_storage


cdef Flow *open_outbound(Core core, const FlowKey *key) noexcept nogil
cdef Flow *flow_from(Core core, Flow *port, const sockaddr_storage *peer) noexcept nogil
cdef Flow *inbound_flow(Core core, uint32_t listener, int fd, msghdr *message) noexcept nogil
cdef void fill_host_key(FlowKey *key, const Flow *port, const sockaddr_storage *peer) noexcept nogil
cdef void local_address(msghdr *message, sockaddr_storage *out, uint32_t *ifindex) noexcept nogil
cdef void note_sent(Core core, Flow *flow) noexcept nogil
cdef void note_received(Core core, Flow *flow, uint32_t n) noexcept nogil
cdef int64_t lifetime(Core core, const Flow *flow) noexcept nogil

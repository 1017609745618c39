"""UDP from the host's sockets to the guest, in batches."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow


cdef void read_port(Core core, Flow *port) noexcept nogil
cdef void read_listener(Core core, uint32_t listener, int fd, bint in_namespace) noexcept nogil
cdef void read_spliced(Core core, Flow *flow) noexcept nogil

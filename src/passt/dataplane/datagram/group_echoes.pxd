"""What the guest sent to groups and broadcast addresses, and the host hands back to its own sockets."""

from libc.stdint cimport uint8_t, uint16_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.base.externs cimport msghdr


cdef bint goes_to_many(Core core, const Flow *flow) noexcept nogil
cdef void note_sending(Core core, const uint8_t *payload, size_t n, uint16_t segment) noexcept nogil
cdef bint is_own_echo(Core core, int fd, const msghdr *message, size_t n) noexcept nogil

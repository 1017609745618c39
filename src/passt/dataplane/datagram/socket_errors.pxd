"""Errors of the host's datagram sockets, told to the guest."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow


cdef uint32_t drain_errors(Core core, Flow *owner, uint32_t listener, int fd, uint32_t *mtu) noexcept nogil
cdef bint settle_send_error(Core core, Flow *flow, int error, const uint8_t *payload, size_t n) noexcept nogil

"""The states of a TCP connection towards the guest, and their one writer."""

from libc.stdint cimport uint8_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow


cdef const char *state_name(uint8_t state) noexcept nogil
cdef const char *tcp_state(const Flow *flow) noexcept nogil
cdef void set_state(Core core, Flow *flow, uint8_t state) noexcept nogil

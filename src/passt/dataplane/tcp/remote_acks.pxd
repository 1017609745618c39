"""Acknowledging to the guest what the remote has acknowledged."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow


cdef void count_write(Core core, Flow *flow, uint32_t due) noexcept nogil
cdef bint follow(Core core, Flow *flow) noexcept nogil
cdef void on_remote_ack(Core core, Flow *flow) noexcept nogil
cdef void on_lag_timeout(Core core, Flow *flow) noexcept nogil
cdef void on_repeated(Core core, Flow *flow) noexcept nogil

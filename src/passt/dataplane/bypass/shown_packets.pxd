"""Packets made of what bypasses the link, for captures."""

from libc.stdint cimport uint8_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow


cdef bint is_wanted(Core core, const Flow *flow) noexcept nogil
cdef void show_handshake(Core core, Flow *flow) noexcept nogil
cdef void show_data(Core core, Flow *flow, int side, const uint8_t *data, size_t n) noexcept nogil
cdef void show_fin(Core core, Flow *flow, int side) noexcept nogil
cdef void show_reset(Core core, Flow *flow) noexcept nogil
cdef void show_datagram(Core core, const Flow *flow, bint to_guest, const uint8_t *data,
                        size_t n) noexcept nogil

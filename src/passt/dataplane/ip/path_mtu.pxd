"""MTUs of paths in the guest's network."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core


cdef uint32_t known_mtu(Core core, const uint8_t *address) noexcept nogil
cdef uint32_t limit_towards(Core core, const uint8_t *address) noexcept nogil
cdef void note_mtu(Core core, const uint8_t *address, uint32_t mtu) noexcept nogil

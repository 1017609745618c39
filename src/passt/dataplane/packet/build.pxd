"""IP headers of packets to the guest."""

from libc.stdint cimport uint8_t


cdef void mark_packet(uint8_t *ip, bint is_ip4, uint8_t tos, uint8_t ttl) noexcept nogil

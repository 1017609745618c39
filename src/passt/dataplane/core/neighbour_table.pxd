"""MAC addresses of hosts on the host's own link, by the address that the guest sees."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    MAX_NEIGHBOURS = 512
    N_NEIGHBOUR_PLACES = 1024     # a power of two, half of them free at least: probing ends soon


cdef struct Neighbour:
    uint8_t address[16]           # zeroed behind its end
    uint8_t mac[6]
    uint8_t addr_len              # 0: the place is free


cdef class NeighbourTable:
    cdef Neighbour *places        # NULL: there are none
    cdef readonly uint32_t n
    cdef uint64_t secret[2]

    cdef uint32_t place_of(self, const uint8_t *address, size_t n) noexcept nogil
    cdef const uint8_t *find(self, const uint8_t *address, size_t n) noexcept nogil
    cdef bint has_mac(self, const uint8_t *mac) noexcept nogil

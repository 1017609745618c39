"""The memory of a machine, as a front end shares it: regions, and where addresses lie in ours."""

from libc.stdint cimport uint8_t, uint64_t

cdef enum:
    MAX_REGIONS = 64              # more than the memory slots of any machine that is usual


cdef struct Region:
    # *size* bytes that the guest has at *guest_address*, the front end at *user_address* and we at *start*.
    #
    # The mapping, *map_size* bytes from *map*, may be larger: it begins and ends at pages of the file.
    uint64_t guest_address
    uint64_t user_address
    uint64_t size
    uint8_t *start
    void *map
    size_t map_size


cdef int prepare_memory() except -1


cdef class GuestMemory:
    cdef Region regions[MAX_REGIONS]
    cdef int n_regions
    cdef int last                 # region that was found last
    cdef uint8_t *log             # one bit for each page that we wrote, NULL: nobody asks
    cdef size_t log_size          # bytes
    cdef void *log_map
    cdef size_t log_map_size
    cdef int log_call             # eventfd to the front end, -1: it looks by itself
    cdef bint has_marked          # since `tell_marked`

    cdef uint8_t *at_guest(self, uint64_t address, uint64_t *n) noexcept nogil
    cdef uint8_t *at_user(self, uint64_t address, uint64_t n) noexcept nogil
    cdef void mark(self, uint64_t address, uint64_t n) noexcept nogil
    cdef void mark_ours(self, const uint8_t *place, size_t n) noexcept nogil
    cdef void tell_marked(self) noexcept nogil
    cdef void take_log(self, GuestMemory other) noexcept
    cdef bint is_lost(self) noexcept nogil
    cdef void unmap_region(self, int index) noexcept nogil
    cdef void forget_log(self) noexcept nogil
    cdef void check(self, const Region *wanted) except *

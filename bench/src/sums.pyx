"""How fast the data plane's checksum is: a tool of the benchmark, built by bench/build_sums.py."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from time import monotonic

from passt.dataplane.packet.checksum cimport csum_add, csum_fold

cdef enum:
    ROUNDS = 10000


def rate(size_t n, double seconds):
    """Sum messages of *n* bytes that lie in the cache, and return GB/s."""
    cdef unsigned char *data = <unsigned char *>malloc(n)
    cdef uint64_t total = 0
    cdef uint64_t done = 0
    cdef int _
    if data == NULL:
        raise MemoryError
    memset(data, 0xa5, n)
    started = monotonic()
    while monotonic() - started < seconds:
        for _ in range(<int>ROUNDS):
            total += csum_fold(csum_add(data, n, total & 1))
        done += ROUNDS * n
    free(data)
    return done / (monotonic() - started) / 1e9

"""Errors of memory and arithmetic, made on purpose: a sanitized build ends the process in each function.

In any other build only `is_sanitized` may be called. Sizes and places are arguments, and memory is the
interpreter's (malloc(3) in the end), else the compiler would find the errors by itself.
"""

from cpython.mem cimport PyMem_RawFree as free, PyMem_RawMalloc as malloc
from libc.stdint cimport int32_t, uint8_t, uint32_t

from passt.dataplane.base.externs cimport memcpy, memset
from passt.dataplane.flow.record cimport FLOW_TCP, Flow
from passt.dataplane.flow.table cimport FlowTable

cdef extern from *:
    """
    #ifdef __SANITIZE_ADDRESS__
    #define PASST_SANITIZED 1
    #else
    #define PASST_SANITIZED 0
    #endif
    """
    enum: PASST_SANITIZED


def is_sanitized():
    return bool(PASST_SANITIZED)


def write_behind_heap(size_t n):
    """Write one byte behind *n*."""
    cdef uint8_t *place = <uint8_t *>malloc(n)
    place[n] = 1
    value = place[n - 1]
    free(place)
    return value


def read_freed(size_t n):
    """Read from memory that was given back."""
    cdef uint8_t *place = <uint8_t *>malloc(n)
    free(place)
    return place[n // 2]


def read_behind_stack(size_t n):
    """Read byte *n* of eight."""
    cdef uint8_t place[8]
    cdef uint8_t *elsewhere = <uint8_t *>malloc(n)
    cdef uint8_t *start = place
    if n >= 100:
        start = elsewhere         # never, but the compiler cannot tell the size any more
    memset(place, 1, 8)
    value = start[n]
    free(elsewhere)
    return value


def read_behind_bytes(bytes data not None):
    """Read behind the end of an object of the interpreter's, its final zero included."""
    cdef const uint8_t *place = <const uint8_t *><const char *>data
    return place[len(data) + 1]


def read_released_flow():
    """Read from a record of the flow table that was given back."""
    cdef FlowTable table = FlowTable(8, bytes(16))
    cdef Flow *flow = table.alloc(FLOW_TCP)
    table.release(flow)
    return flow.body.tcp.iss


def overflow(int32_t value):
    """Add 1 to *value*, the largest that there is."""
    return value + <int32_t>1


def misalign(bytes data not None):
    """Read a number of four bytes at an odd address."""
    return (<const uint32_t *>(<const char *>data + 1))[0]


def shift(uint32_t value, int n):
    """Shift by more bits than there are."""
    return value << n


def copy_from_nowhere(size_t n):
    """Copy *n* bytes from NULL: an error even if they are none."""
    cdef uint8_t place[8]
    cdef uint8_t *source = NULL if n < 8 else place
    memcpy(place, source, n)

"""Datagrams that left for a group or a broadcast address a moment ago; `group_echoes` uses them."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    N_ECHOES = 16                 # datagrams remembered


cdef struct Echo:
    uint64_t content              # hash
    int64_t until                 # ns, when it is forgotten


cdef struct EchoMemory:
    Echo echoes[N_ECHOES]
    uint32_t next
    int64_t until                 # ns, when the last of them is forgotten

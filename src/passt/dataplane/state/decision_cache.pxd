"""Answers of the policy that hold for later connections too."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.base.externs cimport sockaddr_storage
from passt.dataplane.flow.decision cimport HostRoute, InboundView

cdef enum:
    N_DECISIONS = 64              # a power of two


cdef struct CachedDecision:
    # What the policy said of a bypassed connection, which holds for all others between these addresses.
    uint32_t listener             # index + 1, 0: none
    size_t addr_len
    uint8_t peer[16]
    uint8_t local[16]
    bint from_namespace
    HostRoute route


cdef class DecisionCache:
    cdef CachedDecision *decisions
    cdef bint any                 # one was kept since the last `forget`

    cdef bint find(self, uint32_t listener, const sockaddr_storage *peer, const sockaddr_storage *local,
                   InboundView *view) noexcept nogil
    cdef void keep(self, uint32_t listener, const uint8_t *peer, const uint8_t *local, size_t n,
                   const InboundView *view) noexcept nogil
    cdef void forget(self) noexcept nogil

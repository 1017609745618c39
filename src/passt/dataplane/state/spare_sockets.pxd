"""Sockets of the host that are opened before they are needed."""

from passt.dataplane.sockets.sockets cimport Sockets

cdef enum:
    MAX_SPARE = 4                 # of each family


cdef class SpareSockets:
    cdef Sockets sockets
    cdef int fds[2][MAX_SPARE]    # IPv4, IPv6
    cdef int n[2]
    cdef bint wanted[2]
    cdef int limit                # how many are kept of each family

    cdef int take(self, int family) noexcept nogil
    cdef bint fill(self) noexcept nogil
    cdef void close(self) noexcept nogil
    cdef int open_relay(self, int family) noexcept nogil

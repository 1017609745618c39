"""Sockets of the host that are opened before they are needed.

Theory of operation. A client on the namespace's loopback waits while its connection is carried on from a
socket of the host. To open one and set its options takes a tenth of that time, so a few of each family
that was asked for are kept; the loop opens one when it would otherwise go to sleep. Sockets of the
namespace are kept by its thread (`sockets.namespace_thread`).
"""

from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.base.externs cimport AF_INET, AF_INET6, IPPROTO_TCP, SOCK_STREAM
from passt.dataplane.sockets.sockets cimport Sockets


cdef class SpareSockets:
    """TCP sockets for data to this host, at most `limit` of each family."""

    def __cinit__(self, Sockets sockets not None):
        self.sockets = sockets
        self.limit = MAX_SPARE

    cdef int open_relay(self, int family) noexcept nogil:
        """A new socket; fd or a negative errno."""
        cdef int fd = self.sockets.open(family, SOCK_STREAM, IPPROTO_TCP)
        if fd >= 0:
            self.sockets.prepare_relay(fd)
            self.sockets.prepare_bulk(fd)
        return fd

    cdef int take(self, int family) noexcept nogil:
        """A socket, kept or new; fd or a negative errno."""
        cdef int kind = family == AF_INET6
        self.wanted[kind] = True
        if self.n[kind]:
            self.n[kind] -= 1
            return self.fds[kind][self.n[kind]]
        return self.open_relay(family)

    cdef bint fill(self) noexcept nogil:
        """Open one socket if one is missing; False: there is nothing to do."""
        cdef int kind
        cdef int fd
        for kind in range(2):
            if self.wanted[kind]:
                fd = self.open_relay(AF_INET6 if kind else AF_INET)
                if fd >= 0:
                    PASST_ASSERT(self.n[kind] < MAX_SPARE)
                    self.fds[kind][self.n[kind]] = fd
                    self.n[kind] += 1
                # What cannot be had now is tried again when the next one is taken.
                self.wanted[kind] = fd >= 0 and self.n[kind] < self.limit
                return True
        return False

    cdef void close(self) noexcept nogil:
        """Close all."""
        cdef int kind
        for kind in range(2):
            while self.n[kind]:
                self.n[kind] -= 1
                self.sockets.close(self.fds[kind][self.n[kind]])

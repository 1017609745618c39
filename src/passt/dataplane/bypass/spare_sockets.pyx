"""Sockets of the host's that are opened before they are needed.

Theory of operation. A client on the namespace's loopback waits while its connection is carried on from a
socket of the host's. To open one and set its options takes a tenth of that time, so a few of each family
that was asked for are kept; the loop opens one when it would otherwise go to sleep. Sockets of the
namespace are kept by its thread (`namespace_thread`).
"""

from passt.dataplane.core.core cimport READY_SOCKETS, Core
from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.base.externs cimport AF_INET, AF_INET6, IPPROTO_TCP, SOCK_STREAM


cdef int open_relay(Core core, int family) noexcept nogil:
    """A TCP socket for data to this host; fd or a negative errno."""
    cdef int fd = core.sockets.open(family, SOCK_STREAM, IPPROTO_TCP)
    if fd >= 0:
        core.sockets.prepare_relay(fd)
        core.sockets.prepare_bulk(fd)
    return fd


cdef int take_ready(Core core, int family) noexcept nogil:
    """A TCP socket for data to this host, kept or new; fd or a negative errno."""
    cdef int kind = family == AF_INET6
    core.wants_ready[kind] = True
    if core.n_ready[kind]:
        core.n_ready[kind] -= 1
        return core.ready[kind][core.n_ready[kind]]
    return open_relay(core, family)


cdef bint fill_ready(Core core) noexcept nogil:
    """Open one socket if one is missing; False: there is nothing to do."""
    cdef int kind
    cdef int fd
    for kind in range(2):
        if core.wants_ready[kind]:
            fd = open_relay(core, AF_INET6 if kind else AF_INET)
            if fd >= 0:
                PASST_ASSERT(core.n_ready[kind] < READY_SOCKETS)
                core.ready[kind][core.n_ready[kind]] = fd
                core.n_ready[kind] += 1
            # What cannot be had now is tried again when the next one is taken.
            core.wants_ready[kind] = fd >= 0 and core.n_ready[kind] < core.ready_size
            return True
    return False


cdef void close_ready(Core core) noexcept nogil:
    """Close all."""
    cdef int kind
    for kind in range(2):
        while core.n_ready[kind]:
            core.n_ready[kind] -= 1
            core.sockets.close(core.ready[kind][core.n_ready[kind]])

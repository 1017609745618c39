"""Sockets of the host's that are opened before they are needed."""

from passt.dataplane.core.core cimport Core


cdef int take_ready(Core core, int family) noexcept nogil
cdef bint fill_ready(Core core) noexcept nogil
cdef void close_ready(Core core) noexcept nogil

"""Connections that come to a listener."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core


cdef void on_listener(Core core, uint32_t listener, int fd) noexcept nogil

"""Guests and remotes that vanish without a word."""

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.parse cimport TcpView


cdef void start_keep_alive(Core core, Flow *flow) noexcept nogil
cdef void note_guest_alive(Core core, Flow *flow, const TcpView *tcp) noexcept nogil
cdef void on_keep_alive(Core core, Flow *flow) noexcept nogil

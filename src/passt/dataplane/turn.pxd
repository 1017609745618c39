"""The parts of a turn that concern flows: which translator gets an event, a timer, the end of the turn."""

from libc.stdint cimport uint32_t, uint64_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.core.listeners cimport Listener
from passt.dataplane.link.meta cimport RxFrame


cdef void set_handlers(Core core)
cdef void end_flows(Core core) noexcept nogil
cdef int read_frames(Core core, int room) noexcept nogil
cdef bint may_stay_in_pieces(Core core, RxFrame *frame) noexcept nogil
cdef void hand_on(Core core) noexcept nogil
cdef void on_flow_event(Core core, uint64_t tag, uint32_t events) noexcept nogil
cdef void on_flow_timer(Core core, uint32_t index) noexcept nogil
cdef void on_listener_event(Core core, uint32_t index) except *
cdef void change_rule(Core core, Listener listener, object rule) except *
cdef void end_listener(Core core, Listener listener) except *
cdef void finish_flows(Core core) noexcept nogil

"""Frame observers: packet captures and --trace."""

from libc.stdint cimport int32_t, uint8_t, uint16_t

from passt.dataplane.observe.capture cimport Capture
from passt.dataplane.observe.recorder cimport Recorder
from passt.dataplane.observe.seen_packet cimport SeenPacket
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.table cimport FlowTable

cdef enum:
    NO_TRACED_FLOW = -1


cdef class Watch:
    cdef bint active              # somebody looks on
    cdef bint sees_bypass         # somebody looks at what bypasses the link
    cdef FlowTable flows
    cdef Recorder recorder        # the first one; others are behind it
    cdef Capture capture
    cdef object tracer
    cdef object fail              # takes exceptions of the tracer

    cdef void on_frame(self, const uint8_t *frame, size_t n, bint to_guest, uint16_t csum_start,
                       uint16_t csum_offset, uint8_t gso_type, uint16_t gso_size) noexcept nogil
    cdef void end_turn(self) noexcept nogil
    cdef void show(self, const SeenPacket *seen) noexcept nogil
    cdef bint wants(self, const SeenPacket *seen) noexcept nogil
    cdef void refresh(self)
    cdef const Flow *flow_of(self, const SeenPacket *seen) noexcept nogil
    cdef void trace(self, const uint8_t *frame, size_t n, bint to_guest, uint8_t gso_type,
                    uint16_t gso_size, int32_t flow) noexcept with gil

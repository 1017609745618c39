"""Frame observers: packet captures and --trace.

Every frame comes by here once, whatever link it travels by: from the guest where it is received
(`demux.on_frame`), to the guest where a link has taken it (`Link.put`). Nobody looking on costs
one branch for each frame. Of what bypasses the link there are no frames; packets that it could have been are
made for those who want them (`bypass.shown_packets`).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t

from passt.dataplane.flow.key cimport SIDE_GUEST
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.observe.seen_packet cimport SEEN_ON_BYPASS, SeenPacket, complete, look_at

cdef enum:
    # What a tracer gets of a frame: all headers, unless there are many IPv6 extensions.
    HEAD_LEN = 256


cdef class Watch:
    """Shows frames, and which of *flows* they belong to."""

    def __init__(self, FlowTable flows not None):
        self.flows = flows

    def set_capture(self, Capture capture):
        """Write the capture, or none."""
        self.capture = capture
        self.refresh()

    def add_recorder(self, Recorder recorder not None):
        """Show *recorder* all packets from now on."""
        recorder.next = self.recorder
        self.recorder = recorder
        self.refresh()

    def remove_recorder(self, Recorder recorder not None):
        """Show *recorder* nothing any more."""
        cdef Recorder before = self.recorder
        if before is recorder:
            self.recorder = recorder.next
        else:
            while before is not None and before.next is not recorder:
                before = before.next
            if before is not None:
                before.next = recorder.next
        recorder.next = None
        self.refresh()

    def recorders(self):
        """Return all recorders."""
        cdef list found = []
        cdef Recorder recorder = self.recorder
        while recorder is not None:
            found.append(recorder)
            recorder = recorder.next
        return found

    cdef void refresh(self):
        """See who looks on now."""
        cdef Recorder recorder = self.recorder
        self.active = self.capture is not None or self.tracer is not None or recorder is not None
        self.sees_bypass = False
        while recorder is not None:
            if not recorder.wanted.interfaces or recorder.wanted.interfaces >> SEEN_ON_BYPASS & 1:
                self.sees_bypass = True
            recorder = recorder.next

    def set_tracer(self, tracer, fail=None):
        """Call *tracer* (see `Engine.set_trace`), or nobody; *fail* takes exceptions that it raises."""
        self.tracer = tracer
        # Mostly the core's own method, which holds the core.
        self.fail = None if tracer is None else fail
        self.refresh()

    cdef void on_frame(self, const uint8_t *frame, size_t n, bint to_guest, uint16_t csum_start,
                       uint16_t csum_offset, uint8_t gso_type, uint16_t gso_size) noexcept nogil:
        """A frame of at least an Ethernet header passes."""
        cdef SeenPacket seen
        if self.capture is not None:
            self.capture.add(frame, n, csum_start, csum_offset)
        if self.recorder is None and self.tracer is None:
            return
        look_at(&seen, frame, n, to_guest)
        seen.flow = self.flow_of(&seen)
        if self.recorder is not None:
            complete(&seen, csum_start, csum_offset)
            self.recorder.offer(&seen)
        if self.tracer is not None:
            self.trace(frame, n, to_guest, gso_type, gso_size,
                       NO_TRACED_FLOW if seen.flow == NULL else <int32_t>seen.flow.index)

    cdef void show(self, const SeenPacket *seen) noexcept nogil:
        """A packet passes that is no frame of the link."""
        if self.recorder is not None:
            self.recorder.offer(seen)

    cdef bint wants(self, const SeenPacket *seen) noexcept nogil:
        """Whether anybody takes packets like *seen*, of which the bytes need not be known."""
        return self.recorder is not None and self.recorder.wants(seen)

    cdef void end_turn(self) noexcept nogil:
        """The loop may sleep now."""
        if self.capture is not None and self.capture.end:
            self.capture.flush()
        if self.recorder is not None:
            self.recorder.end_turn()

    cdef const Flow *flow_of(self, const SeenPacket *seen) noexcept nogil:
        """The flow that a packet belongs to; NULL if there is none (yet, or any more)."""
        return self.flows.find(&seen.key, SIDE_GUEST) if seen.is_whole else NULL

    cdef void trace(self, const uint8_t *frame, size_t n, bint to_guest, uint8_t gso_type,
                    uint16_t gso_size, int32_t flow) noexcept with gil:
        cdef object error
        try:
            self.tracer((<const char *>frame)[:min(n, <size_t>HEAD_LEN)], n, to_guest, gso_type, gso_size,
                        flow)
        except BaseException as error:
            self.fail(error)

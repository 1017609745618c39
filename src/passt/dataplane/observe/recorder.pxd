"""Packets in memory as pcapng, on their way to a pipe or a client, or kept until somebody asks for them."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from passt.dataplane.observe.packet_filter cimport PacketFilter
from passt.dataplane.observe.seen_packet cimport N_SEEN_INTERFACES, SeenPacket


cdef struct RecordCounts:
    # Of one interface.
    uint64_t packets              # that were taken
    uint64_t lost                 # for which there was no room
    uint64_t forgotten            # that were taken, and made room for later ones


cdef class Recorder:
    cdef Recorder next            # of those that the frame observers know
    cdef PacketFilter wanted
    cdef RecordCounts counts_of[N_SEEN_INTERFACES]
    cdef uint8_t *blocks          # *room* bytes, used round and round; places count on without end
    cdef uint64_t room
    cdef uint64_t first           # place of the oldest block
    cdef uint64_t sent            # place of the first byte that the pipe has not taken
    cdef uint64_t last            # place behind the newest block
    cdef uint32_t snap_len        # bytes of a frame that are kept
    cdef uint64_t n_untold        # packets lost since the last one that was taken
    cdef bint keeps_newest        # else a packet for which there is no room is lost
    cdef readonly int fd          # of the pipe, negative: there is none
    cdef bint is_awaited          # *on_change* is to be called when there is something to read
    cdef readonly bint is_full    # the pipe took less than there was
    cdef readonly int error       # errno that ended the writing to the pipe, 0 while it goes on
    cdef object on_change
    cdef object fail              # takes exceptions of *on_change*

    cdef bint wants(self, const SeenPacket *seen) noexcept nogil
    cdef void offer(self, const SeenPacket *seen) noexcept nogil
    cdef void end_turn(self) noexcept nogil
    cdef void take(self, const SeenPacket *seen) noexcept nogil
    cdef bint make_room(self, uint64_t need) noexcept nogil
    cdef void append(self, const void *data, size_t n) noexcept nogil
    cdef void append_frame(self, const SeenPacket *seen, size_t n) noexcept nogil
    cdef uint32_t word_at(self, uint64_t place) noexcept nogil
    cdef void write_pipe(self) noexcept nogil
    cdef void tell(self) noexcept with gil

"""Packets in memory as pcapng, on their way to a pipe or a client, or kept until somebody asks for them.

Theory of operation. Each packet becomes an Enhanced Packet Block (draft-ietf-opsawg-pcapng 4.3) in one piece
of memory that is used round and round. What reads there, reads whole blocks and at its own pace: a pipe, at
the end of each turn of the loop, or Python for a client (`control.captures`). When no room is left, the
new packet is lost, and the next one that is taken says how many were (epb_dropcount); or, where the newest
are to be kept, the oldest blocks are forgotten. So nothing ever waits for a reader.

Places in that memory count on without end and are multiples of 4, as all blocks are, and so is the size of
the memory: the length in front of a block lies in one piece.

A pipe belongs to somebody else. Writes to it do not wait (O_NONBLOCK), and as its other holders can take
that back, a signal would end a wait (`base.wait_limit`): EINTR, as any other error, is the end of the
capture.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from passt.dataplane.base.externs cimport (
    CLOCK_REALTIME, EAGAIN, clock_gettime, close, errno, free, malloc, memcpy, memset, timespec, write,
)
from passt.dataplane.base.wait_limit cimport begin_limit, end_limit
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.observe.packet_filter cimport compile_filter, fits
from passt.dataplane.observe.seen_packet cimport N_SEEN_INTERFACES, SeenPacket

cdef enum:
    PACKET_BLOCK = 6              # Enhanced Packet Block
    OPT_END = 0
    OPT_COMMENT = 1
    EPB_FLAGS = 2
    EPB_DROPCOUNT = 4
    # Of epb_flags: which way the packet went at the guest's interface.
    INBOUND = 1
    OUTBOUND = 2
    MAX_OPTIONS = 80              # bytes of all options of a packet
    MIN_ROOM = 1 << 17            # the largest frame and its block fit in
    END_ROOM = 256                # bytes that packets leave for the statistics at the end


cdef struct PacketHead:
    uint32_t type
    uint32_t block_len
    uint32_t interface
    uint32_t time_high            # ns since 1970
    uint32_t time_low
    uint32_t captured_len
    uint32_t packet_len


cdef class Recorder:
    """Keeps packets that *wanted* describes in *room* bytes; *header* comes first unless *keeps_newest*.

    Owns *fd*, a pipe, if it is not negative. *on_change* is called when the pipe is full or has an error, and
    once when there is something to read after `ask`. Raises ValueError and MemoryError, and leaves *fd* to
    the caller.
    """

    def __cinit__(self, object wanted, bytes header not None, uint64_t room, uint32_t snap_len, *,
                  bint keeps_newest, int fd, on_change, fail):
        self.fd = -1
        compile_filter(wanted, &self.wanted)
        if room < MIN_ROOM or room % 4 or not snap_len:
            raise ValueError(f"{MIN_ROOM} bytes and more, a multiple of 4, are room for packets")
        self.blocks = <uint8_t *>malloc(room)
        if self.blocks == NULL:
            raise MemoryError
        self.room = room
        self.snap_len = snap_len
        self.keeps_newest = keeps_newest
        self.on_change = on_change
        self.fail = fail
        if not keeps_newest:
            self.put(header)
        self.fd = fd

    def __dealloc__(self):
        free(self.blocks)
        if self.fd >= 0:
            close(self.fd)

    @property
    def start(self):
        return self.first

    @property
    def end(self):
        return self.last

    def counts(self):
        cdef int i
        cdef list found = []
        for i in range(<int>N_SEEN_INTERFACES):
            found.append((self.counts_of[i].packets, self.counts_of[i].lost, self.counts_of[i].forgotten))
        return tuple(found)

    def put(self, bytes block not None):
        if len(block) % 4 or self.room - (self.last - self.first) < <uint64_t>len(block):
            return False
        self.append(<const char *>block, len(block))
        return True

    def read(self, uint64_t place, uint64_t until, uint64_t limit):
        cdef uint64_t begin = max(place, self.first)
        cdef uint64_t after = begin
        cdef uint64_t offset, part
        cdef uint32_t length
        cdef bytes found
        until = min(until, self.last)
        while after < until:
            length = self.word_at(after + 4)
            if after > begin and after + length - begin > limit:
                break
            after += length
        if after == begin:
            return begin, b""
        found = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(after - begin))
        offset = begin % self.room
        part = min(after - begin, self.room - offset)
        memcpy(PyBytes_AS_STRING(found), self.blocks + offset, part)
        memcpy(PyBytes_AS_STRING(found) + part, self.blocks, after - begin - part)
        return after, found

    def forget(self, uint64_t place):
        self.first = min(max(place, self.first), self.last)

    def flush(self):
        if self.fd >= 0 and not self.error:
            self.write_pipe()

    def ask(self):
        self.is_awaited = True

    def close(self):
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        self.on_change = None

    cdef bint wants(self, const SeenPacket *seen) noexcept nogil:
        """Whether this recorder or one behind it takes such packets."""
        return fits(&self.wanted, seen) or (self.next is not None and self.next.wants(seen))

    cdef void offer(self, const SeenPacket *seen) noexcept nogil:
        """A packet passes: take it, and show it to the next recorder."""
        if fits(&self.wanted, seen):
            self.take(seen)
        if self.next is not None:
            self.next.offer(seen)

    cdef void end_turn(self) noexcept nogil:
        """The loop may sleep now."""
        # First the others: who is told something may remove this one from among them.
        if self.next is not None:
            self.next.end_turn()
        if self.fd >= 0:
            # A full pipe says itself when it has room.
            if self.sent < self.last and not self.is_full and not self.error:
                self.write_pipe()
                if self.is_full or self.error:
                    self.tell()
        elif self.is_awaited and self.first < self.last:
            self.is_awaited = False
            self.tell()

    cdef void take(self, const SeenPacket *seen) noexcept nogil:
        """Keep a packet of at most MAX_FRAME bytes."""
        cdef RecordCounts *counts = &self.counts_of[seen.interface]
        cdef size_t length = seen.head_len + seen.rest_len
        cdef uint8_t options[MAX_OPTIONS]
        cdef size_t options_len
        cdef PacketHead head
        cdef timespec now
        cdef uint64_t time
        head.captured_len = <uint32_t>min(length, <size_t>self.snap_len)
        options_len = write_options(options, seen, self.n_untold)
        head.block_len = <uint32_t>(sizeof(PacketHead) + padded(head.captured_len) + options_len + 4)
        if not self.make_room(head.block_len):
            counts.lost += 1
            self.n_untold += 1
            return
        clock_gettime(CLOCK_REALTIME, &now)
        time = <uint64_t>now.tv_sec * 1000000000 + <uint64_t>now.tv_nsec
        head.type = PACKET_BLOCK
        head.interface = seen.interface
        head.time_high = <uint32_t>(time >> 32)
        head.time_low = <uint32_t>time
        head.packet_len = <uint32_t>length
        self.append(&head, sizeof(PacketHead))
        self.append_frame(seen, head.captured_len)
        self.append(options, options_len)
        self.append(&head.block_len, 4)
        self.n_untold = 0
        counts.packets += 1

    cdef bint make_room(self, uint64_t need) noexcept nogil:
        """See that *need* bytes, and those of the end, are free; False if they are not."""
        while self.room - (self.last - self.first) < need + END_ROOM:
            if not self.keeps_newest or self.first == self.last:
                return False
            self.counts_of[self.word_at(self.first + 8)].forgotten += 1
            self.first += self.word_at(self.first + 4)
        return True

    cdef uint32_t word_at(self, uint64_t place) noexcept nogil:
        cdef uint32_t word = 0
        memcpy(&word, self.blocks + place % self.room, 4)
        return word

    cdef void append(self, const void *data, size_t n) noexcept nogil:
        """Write *n* bytes for which there is room."""
        cdef uint64_t offset = self.last % self.room
        cdef size_t part = <size_t>min(<uint64_t>n, self.room - offset)
        memcpy(self.blocks + offset, data, part)
        memcpy(self.blocks, <const uint8_t *>data + part, n - part)
        self.last += n

    cdef void append_frame(self, const SeenPacket *seen, size_t n) noexcept nogil:
        """Write the first *n* bytes of a frame, with its checksum completed, and padding."""
        cdef size_t from_head = min(n, seen.head_len)
        cdef uint64_t start = self.last
        cdef uint32_t zero = 0
        cdef const uint8_t *csum = <const uint8_t *>&seen.csum
        cdef size_t i
        self.append(seen.head, from_head)
        if n > from_head:
            self.append(seen.rest, n - from_head)
        if seen.csum_at and seen.csum_at + 2 <= n:
            for i in range(2):
                self.blocks[(start + seen.csum_at + i) % self.room] = csum[i]
        self.append(&zero, padded(n) - n)

    cdef void write_pipe(self) noexcept nogil:
        """Write what the pipe has not taken yet, as far as it does now."""
        cdef uint64_t offset
        cdef ssize_t n
        self.is_full = False
        while self.sent < self.last:
            offset = self.sent % self.room
            begin_limit()
            n = write(self.fd, self.blocks + offset, min(self.last - self.sent, self.room - offset))
            end_limit()
            if n < 0:
                if errno == EAGAIN:
                    self.is_full = True
                else:
                    self.error = errno
                break
            self.sent += <uint64_t>n
        while self.first < self.sent and self.first + self.word_at(self.first + 4) <= self.sent:
            self.first += self.word_at(self.first + 4)

    cdef void tell(self) noexcept with gil:
        cdef Recorder alive = self    # until this is over, whatever is forgotten meanwhile
        cdef object error
        try:
            if alive.on_change is not None:
                alive.on_change()
        except BaseException as error:
            alive.fail(error)


cdef size_t padded(size_t n) noexcept nogil:
    return (n + 3) & ~<size_t>3


cdef size_t write_options(uint8_t *out, const SeenPacket *seen, uint64_t n_lost) noexcept nogil:
    """Write the options of a packet: where it went, how many were lost before it, its flow; their length."""
    cdef uint32_t flags = INBOUND if seen.to_guest else OUTBOUND
    cdef size_t n = write_option(out, EPB_FLAGS, &flags, sizeof(flags))
    cdef uint8_t name[32]
    if n_lost:
        n += write_option(out + n, EPB_DROPCOUNT, &n_lost, sizeof(n_lost))
    if seen.flow != NULL:
        n += write_option(out + n, OPT_COMMENT, name, write_name(name, seen.flow))
    return n + write_option(out + n, OPT_END, NULL, 0)


cdef size_t write_option(uint8_t *out, uint16_t code, const void *value, size_t n) noexcept nogil:
    cdef uint16_t head[2]
    head[0] = code
    head[1] = <uint16_t>n
    memcpy(out, head, 4)
    memset(out + 4, 0, padded(n))
    if n:
        memcpy(out + 4, value, n)
    return 4 + padded(n)


cdef size_t write_name(uint8_t *out, const Flow *flow) noexcept nogil:
    """Write "flow 17.0", at most 26 bytes, as all who look at flows name it; its length."""
    cdef size_t n = 5
    memcpy(out, <const char *>b"flow ", 5)
    n += write_number(out + n, flow.index)
    out[n] = c"."
    return n + 1 + write_number(out + n + 1, flow.generation)


cdef size_t write_number(uint8_t *out, uint32_t number) noexcept nogil:
    """Write *number* in decimal digits, at most ten; how many."""
    cdef uint8_t digits[10]
    cdef size_t n = 0
    cdef size_t i
    while True:
        digits[n] = <uint8_t>(c"0" + number % 10)
        n += 1
        number //= 10
        if not number:
            break
    for i in range(n):
        out[i] = digits[n - 1 - i]
    return n

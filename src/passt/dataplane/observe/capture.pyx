"""A packet capture: frames as they pass, into a file in pcap format.

Records are gathered in a buffer, written when it is full and at the end of each turn of the loop, so
that the file is complete whenever the loop sleeps. What cannot be written ends the capture and nothing
else: the file is cut back to its last whole record, one message is given, the network goes on. A pipe
whose reader is slow loses whole records, never parts of one.

A checksum that was left to the device (virtio-net's NEEDS_CSUM) is filled in on the copy: a reader of the
file could not tell an unfinished checksum from a wrong one. Segmented frames stay as they
travelled, with the headers of the whole; their checksum is right for that.

The layout is that of libpcap's savefiles, pcap-savefile(5), in host byte order with microseconds.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.packet.checksum cimport csum_add, csum_fold
from passt.dataplane.packet.headers cimport MAX_FRAME
from passt.dataplane.base.externs cimport (
    CLOCK_REALTIME, EAGAIN, EINTR, POLLOUT, SEEK_CUR, clock_gettime, close, errno, free, ftruncate, lseek,
    malloc, memcpy, memmove, poll, pollfd, timespec, write,
)

cdef enum:
    # Some full turns of the loop; a turn that fills it costs one more call.
    BUFFER_SIZE = 8 * 65664
    LAST_WAIT_MS = 1000


cdef packed struct Record:
    uint32_t seconds
    uint32_t microseconds
    uint32_t captured_len
    uint32_t len


cdef class Capture:
    """Takes ownership of *fd*, which stands behind a file header; *on_end* is called with an errno."""

    def __cinit__(self, int fd, on_end):
        self.fd = fd
        self.on_end = on_end
        self.buffer = <uint8_t *>malloc(BUFFER_SIZE)
        if self.buffer == NULL:
            raise MemoryError
        self.offset = lseek(fd, 0, SEEK_CUR)

    def __dealloc__(self):
        free(self.buffer)
        if self.fd >= 0:
            close(self.fd)

    cdef void add(self, const uint8_t *frame, size_t n, uint16_t csum_start, uint16_t csum_offset) \
            noexcept nogil:
        """Note a frame of at most MAX_FRAME bytes; *csum_start* 0: its checksum is complete."""
        cdef Record record
        cdef timespec now
        cdef uint8_t *copy
        cdef uint16_t total
        if self.error or n > MAX_FRAME:
            return
        if self.end + sizeof(Record) + n > BUFFER_SIZE:
            self.flush()
            if self.end + sizeof(Record) + n > BUFFER_SIZE:
                self.n_lost += not self.error
                return
        clock_gettime(CLOCK_REALTIME, &now)
        record.seconds = <uint32_t>now.tv_sec
        record.microseconds = <uint32_t>(now.tv_nsec // 1000)
        record.captured_len = record.len = <uint32_t>n
        copy = self.buffer + self.end + sizeof(Record)
        memcpy(self.buffer + self.end, &record, sizeof(Record))
        memcpy(copy, frame, n)
        if csum_start and <size_t>csum_start + csum_offset + 2 <= n:
            total = csum_fold(csum_add(copy + csum_start, n - csum_start, 0)) or 0xffff
            memcpy(copy + csum_start + csum_offset, &total, 2)
        self.end += sizeof(Record) + n
        self.n_frames += 1

    cdef void flush(self) noexcept nogil:
        """Write what is gathered; what a slow pipe does not take stays."""
        cdef ssize_t n
        while self.start < self.end and not self.error:
            n = write(self.fd, self.buffer + self.start, self.end - self.start)
            if n < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    break
                self.give_up(errno)
                return
            self.start += n
        if not self.start:
            return
        while self.head < self.start:
            self.head = self.next_record(self.head)
        self.head -= self.start
        memmove(self.buffer, self.buffer + self.start, self.end - self.start)
        self.end -= self.start
        if self.offset >= 0:
            self.offset += self.start
        self.start = 0

    cdef size_t next_record(self, size_t place) noexcept nogil:
        """Where the record ends that begins at *place* of the buffer."""
        cdef Record record
        memcpy(&record, self.buffer + place, sizeof(Record))
        return place + sizeof(Record) + record.captured_len

    cdef void give_up(self, int error) noexcept with gil:
        """End the capture with its last whole record."""
        cdef size_t whole = self.head
        cdef size_t place
        self.error = error
        while whole < self.start and self.next_record(whole) <= self.start:
            whole = self.next_record(whole)
        place = whole
        self.n_frames -= self.head > self.start
        while place < self.end:
            place = self.next_record(place)
            self.n_frames -= 1
        if self.offset >= 0:
            ftruncate(self.fd, self.offset + <int64_t>whole)
        close(self.fd)
        self.fd = -1
        self.start = self.end = self.head = 0
        self.on_end(error)

    def finish(self):
        """Write the rest and close the file; a reader that takes nothing for a second does not get it."""
        cdef pollfd ready
        self.flush()
        while self.end and not self.error:
            ready.fd, ready.events = self.fd, POLLOUT
            if poll(&ready, 1, LAST_WAIT_MS) <= 0:
                break
            self.flush()
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        self.error = self.error or -1

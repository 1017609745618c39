"""A link as vhost-user's would be, for `Engine.attach_link`: two eventfds, frames in pieces, its own end.

The guest is the test: it gives frames as lists of pieces and kicks; it takes frames while it has buffers.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memset

from passt.dataplane.base.externs cimport EFD_CLOEXEC, EFD_NONBLOCK, EPOLLIN, eventfd, iovec, read
from passt.dataplane.base.stats cimport DROP_LINK_FULL, count
from passt.dataplane.link.link cimport MAX_BATCH, Link
from passt.dataplane.link.meta cimport RxFrame, TxMeta

cdef enum:
    KICK_SENT = 0                 # the guest has sent frames
    KICK_BUFFERS = 1              # the guest has buffers to receive into
    PIECES_OF_FRAME = 8
    PROTOCOL_ERROR = -1


cdef class ChainLink(Link):
    """Frames from the guest wait in `give`'s list, frames to it in *sent*; *buffers* left, -1: any number."""

    cdef list waiting             # frames as lists of pieces
    cdef list in_use              # those of the last batch
    cdef iovec pieces[MAX_BATCH][PIECES_OF_FRAME]
    cdef str reason               # why the link ends once nothing waits
    cdef readonly list sent
    cdef readonly int detached
    cdef readonly int released
    cdef public int buffers

    def __init__(self):
        self.fds[KICK_SENT] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.fds[KICK_BUFFERS] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        self.n_fds = 2
        self.waiting = []
        self.in_use = []
        self.sent = []
        self.buffers = -1

    @property
    def kicks(self):
        """The descriptors by which the guest kicks."""
        return self.fds[KICK_SENT], self.fds[KICK_BUFFERS]

    @property
    def is_blocked(self):
        return bool(self.blocked)

    def give(self, *frames):
        """Have frames come, each a list of pieces; the guest kicks by itself."""
        self.waiting.extend(frames)

    def end(self, str reason):
        """Have the link end with the next batch that finds nothing."""
        self.reason = reason

    cdef uint32_t wanted_events(self, int which) noexcept nogil:
        return EPOLLIN

    cdef bint on_event(self, int which, uint32_t events) noexcept nogil:
        cdef uint8_t number[8]
        read(self.fds[which], number, 8)
        if which == KICK_BUFFERS:
            self.blocked = False
        return which == KICK_SENT

    cdef int read_batch(self, RxFrame *frames, int room) noexcept with gil:
        cdef int found = 0
        cdef int i
        cdef bytes piece
        self.in_use = self.waiting[:room]
        self.waiting = self.waiting[room:]
        self.drained = self.more = False
        for frame in self.in_use:
            memset(&frames[found], 0, sizeof(RxFrame))
            for i, piece in enumerate(frame):
                self.pieces[found][i].iov_base = <void *><const char *>piece
                self.pieces[found][i].iov_len = len(piece)
            frames[found].data = <const uint8_t *>self.pieces[found][0].iov_base
            frames[found].len = <uint32_t>self.pieces[found][0].iov_len
            if len(frame) > 1:
                frames[found].pieces = self.pieces[found]
                frames[found].n_pieces = <uint32_t>len(frame)
            found += 1
        self.more = len(self.waiting) > 0
        self.drained = not self.more
        if not found and self.reason is not None:
            self.error = PROTOCOL_ERROR
        return found

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept with gil:
        if self.buffers == 0:
            self.blocked = True
            count(self.stats, DROP_LINK_FULL)
            return False
        self.buffers -= self.buffers > 0
        self.sent.append((<const char *>frame)[:n])
        return True

    cdef str end_reason(self):
        return self.reason

    cdef void release(self) noexcept nogil:
        Link.release(self)
        self.released += 1

    cdef void detach(self) noexcept nogil:
        Link.detach(self)
        self.detached += 1

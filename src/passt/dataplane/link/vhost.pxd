"""The link to a virtual machine whose memory is shared: vhost-user, virtio-net rings."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport iovec
from passt.dataplane.link.link cimport MAX_BATCH, MAX_LINK_FDS, Link
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.virtio.guest_memory cimport GuestMemory
from passt.dataplane.virtio.ring cimport Chain, Ring

cdef enum:
    N_RINGS = MAX_LINK_FDS        # two for each pair of queues


cdef enum VhostEnd:
    # Values of `Link.error` that are no errno.
    VHOST_ENDED = -1              # the session is over, `reason` says why
    VHOST_VIOLATION = -2          # of a ring, which says which
    VHOST_MEMORY_LOST = -3        # the front end has cut off memory that it shares


cdef struct TakenChain:
    # A chain of the guest's that is read, and has to be given back.
    uint16_t ring
    uint16_t head


cdef class VhostLink(Link):
    cdef Reactor reactor
    cdef GuestMemory memory
    cdef uint64_t acknowledged    # features
    cdef Ring rings[N_RINGS]
    cdef str reason
    cdef TakenChain taken[MAX_BATCH]
    cdef int n_taken
    cdef iovec *sent              # pieces of the frames of a batch
    cdef int rounds               # batches of this turn
    cdef bint again               # frames wait for the next turn
    cdef int next_pair            # whose frames come first
    cdef Chain *chains            # buffers for one frame to the guest
    cdef uint32_t n_chains
    cdef uint32_t n_places        # pieces of theirs, at `places`
    cdef size_t n_collected       # bytes
    cdef iovec *places
    cdef uint32_t first_placed    # of `places`, of which `skipped` bytes are the headers' room
    cdef size_t skipped
    cdef int n_small              # reads from sockets since the last large one, SMALL_READS at most
    cdef uint8_t *kept            # frames that wait for buffers: KeptFrame, frame
    cdef size_t kept_start
    cdef size_t kept_end

    cdef Ring *ring_at(self, unsigned int number) except NULL
    cdef Ring *ring_for(self, unsigned int number, int fd) except NULL
    cdef void watch_kick(self, int number, int op) noexcept nogil
    cdef void drop_ring(self, int number) noexcept nogil
    cdef void note_rings(self) noexcept nogil
    cdef bint may_receive(self) noexcept nogil
    cdef int take_frame(self, int number, RxFrame *frame, uint32_t *used) noexcept nogil
    cdef bint read_header(self, Chain *chain, iovec *pieces, RxFrame *frame) noexcept nogil
    cdef bint listen_to_all(self) noexcept nogil
    cdef void give_back(self) noexcept nogil
    cdef int collect(self, size_t n) noexcept nogil
    cdef int find_room(self, size_t n) noexcept nogil
    cdef void scatter(self, size_t place, const uint8_t *data, size_t n) noexcept nogil
    cdef void commit(self, size_t n) noexcept nogil
    cdef void uncollect(self, uint32_t n) noexcept nogil
    cdef void push_header(self, uint8_t *out, const TxMeta *meta) noexcept nogil
    cdef bint put_frame(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint keep(self, const uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
    cdef void put_kept(self) noexcept nogil
    cdef void check_rings(self) noexcept nogil

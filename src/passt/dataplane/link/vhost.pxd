"""The link to a virtual machine whose memory is shared: vhost-user, virtio-net rings."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport iovec
from passt.dataplane.link.link cimport MAX_BATCH
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from passt.dataplane.link.vhost_rings cimport VhostRings
from passt.dataplane.virtio.ring cimport Chain, Ring


cdef struct TakenChain:
    # A chain of the guest's that is read, and has to be given back.
    uint16_t ring
    uint16_t head


cdef class VhostLink(VhostRings):
    cdef TakenChain taken[MAX_BATCH]
    cdef int n_taken
    cdef iovec *sent              # pieces of the frames of a batch
    cdef uint32_t cost            # of this turn's frames, as TURN_COST says
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

    cdef int take_frame(self, int number, RxFrame *frame, uint32_t *used) noexcept nogil
    cdef bint read_header(self, Chain *chain, iovec *pieces, RxFrame *frame) noexcept nogil
    cdef bint listen_to_all(self) noexcept nogil
    cdef int collect(self, size_t n) noexcept nogil
    cdef int find_room(self, size_t n) noexcept nogil
    cdef void scatter(self, size_t place, const uint8_t *data, size_t n) noexcept nogil
    cdef void commit(self, size_t n) noexcept nogil
    cdef void uncollect(self, uint32_t n) noexcept nogil
    cdef void push_header(self, uint8_t *out, const TxMeta *meta) noexcept nogil
    cdef bint put_frame(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint keep(self, const uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
    cdef void put_kept(self) noexcept nogil

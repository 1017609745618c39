"""A split virtqueue as the device sees it: chains taken, used entries given, notifications."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport iovec
from passt.dataplane.virtio.guest_memory cimport GuestMemory

cdef enum:
    MAX_RING_SIZE = 32768         # virtio 1.2, 2.7: the maximum queue size


cdef struct Chain:
    # Buffers made available together: *n_pieces*, *size* bytes in all; *head* names the chain.
    uint32_t n_pieces
    uint32_t size
    uint32_t n_steps              # descriptors read to find them; one may be empty
    uint16_t head


cdef struct Ring:
    uint64_t descriptors_at  # front-end virtual addresses, as SET_VRING_ADDR has them
    uint64_t available_at
    uint64_t used_at
    uint64_t log_at          # guest address of the used ring, for the log of dirty pages
    uint8_t *descriptors     # where these lie in ours, NULL: nowhere
    uint8_t *available
    uint8_t *used
    const char *violation    # what the driver did that ends the session, NULL: nothing
    int kick                 # eventfd of the driver, -1: none
    int call                 # eventfd to the driver, -1: it looks by itself
    uint16_t size            # entries
    uint16_t next_available  # index of the next chain to take
    uint16_t known_available  # the driver's index as last read
    uint16_t next_used       # index of the next used entry
    uint16_t published       # the index that the driver sees
    uint16_t called          # that index when we last thought of a call
    bint has_address
    bint logs_used
    bint is_started
    bint is_enabled
    bint has_event_index     # VIRTIO_F_EVENT_IDX
    bint has_indirect        # VIRTIO_F_INDIRECT_DESC
    bint is_listening        # the driver was asked to kick


cdef void find(Ring *ring, GuestMemory memory) noexcept nogil
cdef void start(Ring *ring) noexcept nogil
cdef bint is_ready(Ring *ring) noexcept nogil
cdef uint16_t count_available(Ring *ring) noexcept nogil
cdef int take(Ring *ring, GuestMemory memory, Chain *chain, iovec *pieces, uint32_t room,
              bint writable) noexcept nogil
cdef void give(Ring *ring, GuestMemory memory, uint16_t head, uint32_t n) noexcept nogil
cdef void publish(Ring *ring, GuestMemory memory) noexcept nogil
cdef void signal(Ring *ring) noexcept nogil
cdef void listen(Ring *ring) noexcept nogil
cdef void listen_no_more(Ring *ring) noexcept nogil
cdef int walk(Ring *ring, GuestMemory memory, const uint8_t *table, uint32_t table_size, uint32_t index,
              Chain *chain, iovec *pieces, uint32_t room, bint writable, bint nested) noexcept nogil
cdef int add_buffer(Ring *ring, GuestMemory memory, uint64_t address, uint32_t length, Chain *chain,
                    iovec *pieces, uint32_t room) noexcept nogil
cdef int fail(Ring *ring, const char *violation) noexcept nogil

"""A split virtqueue as the device sees it: chains taken, used entries given, notifications (virtio 1.2, 2.7).

Theory of operation. Three areas lie in the guest's memory. The driver writes descriptors (address, length,
flags, next), and into the *available* ring the number of the first descriptor of each chain that it hands
over; we write into the *used* ring the number of each chain that we have done, with the bytes written to it.
Both rings have an index that only grows, modulo 2^16. Each side tells the other of news by an eventfd: the
driver kicks, we call.

All of that memory may change at any time. Each field is read once, into memory of ours, and checked there; a
chain is walked at most as many steps as its table has entries, so one that goes round ends as a `violation`.
After that nothing of the ring is touched any more, and the session ends.

Whoever is busy does not want to be told. While we read a queue anyway its driver need not kick
(`listen_no_more`), and before we wait it has to (`listen`), after which the ring must be looked at once more:
what was added between is not told. A call is spared where the driver says so. With VIRTIO_F_EVENT_IDX each
side writes behind its ring the index from which on it wants to be told (2.7.10); without, a flag (2.7.7).
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.atomics cimport acquire16, copy_once, full_barrier, load16, release16, store16
from passt.dataplane.base.externs cimport iovec, memcpy
from passt.dataplane.base.wait_limit cimport tell_event
from passt.dataplane.virtio.guest_memory cimport GuestMemory

cdef enum:
    DESCRIPTOR_SIZE = 16          # struct virtq_desc
    F_NEXT = 1
    F_WRITE = 2
    F_INDIRECT = 4
    F_NO_INTERRUPT = 1            # of the available ring
    F_NO_NOTIFY = 1               # of the used ring
    RING_HEADER = 4               # flags, index
    USED_ENTRY = 8


cdef struct Descriptor:
    # struct virtq_desc, little-endian as this machine (VIRTIO_F_VERSION_1).
    uint64_t address
    uint32_t length
    uint16_t flags
    uint16_t next


cdef void find(Ring *ring, GuestMemory memory) noexcept nogil:
    """Look the three areas up in memory, of which regions came or went."""
    cdef uint64_t n = ring.size
    ring.descriptors = ring.available = ring.used = NULL
    if not ring.has_address or not n:
        return
    ring.descriptors = memory.at_user(ring.descriptors_at, n * DESCRIPTOR_SIZE)
    ring.available = memory.at_user(ring.available_at, RING_HEADER + n * 2 + 2)
    ring.used = memory.at_user(ring.used_at, RING_HEADER + n * USED_ENTRY + 2)
    if <size_t>ring.descriptors & 15 or <size_t>ring.available & 1 or <size_t>ring.used & 3:
        ring.used = NULL          # the file is mapped at an odd place: nothing there can be read as a whole


cdef void start(Ring *ring) noexcept nogil:
    """Begin behind what is used already, whoever did it: chains that were not given back come again."""
    ring.next_used = load16(ring.used + 2)
    ring.published = ring.called = ring.next_used
    ring.next_available = ring.known_available = ring.next_used
    ring.is_started = True
    ring.is_listening = False


cdef bint is_ready(Ring *ring) noexcept nogil:
    """Whether chains can be taken."""
    return (ring.is_started and ring.descriptors != NULL and ring.available != NULL and ring.used != NULL
            and ring.violation == NULL)


cdef int fail(Ring *ring, const char *violation) noexcept nogil:
    """Note a *violation*, the first one; returns -1."""
    if ring.violation == NULL:
        ring.violation = violation
    return -1


cdef uint16_t count_available(Ring *ring) noexcept nogil:
    """How many chains wait."""
    cdef uint16_t n
    ring.known_available = acquire16(ring.available + 2)
    n = ring.known_available - ring.next_available
    if n > ring.size:
        fail(ring, "the available index jumps")
        return 0
    return n


cdef int take(Ring *ring, GuestMemory memory, Chain *chain, iovec *pieces, uint32_t room,
              bint writable) noexcept nogil:
    """Take the next chain; 1: its *pieces* are there, 0: there is none, -1: `violation`.

    *room* is that of *pieces*; MAX_RING_SIZE is enough for any chain that lies in regions as a whole.
    *writable*: buffers for us to write to; what is mixed is a violation (virtio 1.2, 5.1.6.2, 5.1.6.3).
    """
    cdef uint16_t head
    if ring.known_available == ring.next_available and not count_available(ring):
        return -1 if ring.violation != NULL else 0
    head = load16(ring.available + RING_HEADER + 2 * (ring.next_available & (ring.size - 1)))
    if head >= ring.size:
        return fail(ring, "a chain begins outside of the ring")
    chain.head = head
    chain.n_pieces = 0
    chain.size = 0
    chain.n_steps = 0
    if walk(ring, memory, ring.descriptors, ring.size, head, chain, pieces, room, writable, False) < 0:
        return -1
    ring.next_available += 1
    return 1


cdef int walk(Ring *ring, GuestMemory memory, const uint8_t *table, uint32_t table_size, uint32_t index,
              Chain *chain, iovec *pieces, uint32_t room, bint writable, bint nested) noexcept nogil:
    """Follow a chain from *index* of *table* on; *nested*: the table is an indirect one (2.7.5.3)."""
    cdef Descriptor one
    cdef uint32_t left = table_size
    cdef uint64_t n
    cdef uint8_t *inner
    while left:
        left -= 1
        chain.n_steps += 1
        copy_once(&one, table + index * DESCRIPTOR_SIZE, DESCRIPTOR_SIZE)
        if one.flags & F_INDIRECT:
            if nested or not ring.has_indirect or one.flags & F_NEXT:
                return fail(ring, "a descriptor is indirect where none may be")
            n = one.length
            inner = memory.at_guest(one.address, &n)
            if inner == NULL or n < one.length or not n or n % DESCRIPTOR_SIZE or n > (
                    <uint64_t>MAX_RING_SIZE * DESCRIPTOR_SIZE):
                return fail(ring, "an indirect table lies nowhere, or has no whole entries")
            return walk(ring, memory, inner, <uint32_t>(n // DESCRIPTOR_SIZE), 0, chain, pieces, room,
                        writable, True)
        if (one.flags & F_WRITE != 0) != writable:
            return fail(ring, "a buffer is for the wrong direction")
        if add_buffer(ring, memory, one.address, one.length, chain, pieces, room) < 0:
            return -1
        if not one.flags & F_NEXT:
            return 0
        index = one.next
        if index >= table_size:
            return fail(ring, "a chain goes on outside of its table")
    return fail(ring, "a chain has no end")


cdef int add_buffer(Ring *ring, GuestMemory memory, uint64_t address, uint32_t length, Chain *chain,
                    iovec *pieces, uint32_t room) noexcept nogil:
    """Add the *length* bytes that the guest has at *address*."""
    cdef uint64_t n
    cdef uint8_t *place
    cdef iovec *piece
    if length > <uint32_t>0x7fffffff - chain.size:
        return fail(ring, "a chain is longer than 2 GiB")
    chain.size += length
    while length:
        n = length
        place = memory.at_guest(address, &n)
        if place == NULL:
            return fail(ring, "a buffer lies outside of all memory")
        piece = &pieces[chain.n_pieces - 1]
        if chain.n_pieces and <uint8_t *>piece.iov_base + piece.iov_len == place:
            piece.iov_len += n
        elif chain.n_pieces == room:
            return fail(ring, "a chain lies in too many pieces")
        else:
            pieces[chain.n_pieces].iov_base = place
            pieces[chain.n_pieces].iov_len = n
            chain.n_pieces += 1
        address += n
        length -= <uint32_t>n
    return 0


cdef void give(Ring *ring, GuestMemory memory, uint16_t head, uint32_t n) noexcept nogil:
    """Note the chain *head* as used, *n* bytes written; the driver sees it with `publish`."""
    cdef uint64_t offset = RING_HEADER + <uint64_t>USED_ENTRY * (ring.next_used & (ring.size - 1))
    cdef uint32_t entry[2]
    entry[0] = head
    entry[1] = n
    memcpy(ring.used + offset, entry, USED_ENTRY)
    if memory.log != NULL and ring.logs_used:
        memory.mark(ring.log_at + offset, USED_ENTRY)
    ring.next_used += 1


cdef void publish(Ring *ring, GuestMemory memory) noexcept nogil:
    """Show the driver what is used."""
    if ring.published == ring.next_used:
        return
    release16(ring.used + 2, ring.next_used)
    ring.published = ring.next_used
    if memory.log != NULL and ring.logs_used:
        memory.mark(ring.log_at + 2, 2)


cdef void signal(Ring *ring) noexcept nogil:
    """Call the driver if something was published since the last time, and it wants to know."""
    cdef uint16_t before = ring.called
    cdef uint16_t wanted
    if ring.published == before:
        return
    ring.called = ring.published
    full_barrier()            # our index is seen before its wish is read
    if ring.has_event_index:
        wanted = load16(ring.available + RING_HEADER + 2 * <uint64_t>ring.size)
        if <uint16_t>(ring.published - wanted - 1) >= <uint16_t>(ring.published - before):
            return
    elif load16(ring.available) & F_NO_INTERRUPT:
        return
    if ring.call >= 0 and not tell_event(ring.call):
        fail(ring, "its call descriptor keeps us waiting")


cdef void listen(Ring *ring) noexcept nogil:
    """Have the driver kick when it adds a chain; look at the ring again after this.

    There may be chains already, too few for a frame: it is the next one that is to be told of.
    """
    if ring.has_event_index:
        # Not logged: after a migration all rings are kicked anyway.
        store16(ring.used + RING_HEADER + <uint64_t>USED_ENTRY * ring.size, load16(ring.available + 2))
    elif not ring.is_listening:
        store16(ring.used, 0)
    ring.is_listening = True
    full_barrier()            # our wish is seen before its index is read


cdef void listen_no_more(Ring *ring) noexcept nogil:
    """Spare the driver its kicks; with the event index it is enough not to move ours."""
    if ring.is_listening and not ring.has_event_index:
        store16(ring.used, F_NO_NOTIFY)
    ring.is_listening = False

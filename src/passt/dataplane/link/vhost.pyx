"""The link to a virtual machine whose memory is shared: vhost-user, virtio-net rings.

Theory of operation. A front end (QEMU) shares the machine's memory and tells where the rings of virtio-net
lie in it (virtio 1.2, 5.1): for each pair of queues one that the guest receives by (2k) and one that it
transmits by (2k + 1). `link.vhost_rings` is told; this file moves frames between the rings and the
translators. There is no system call per frame.

From the guest: a batch is taken of all transmit rings; a chain of descriptors is a virtio-net header of 12
bytes and a frame, in pieces wherever they lie. Frames are put together in memory of ours (`Link.join`) before
anybody looks at them, so the guest cannot change what was checked; of a large one with data for TCP only the
headers are, as its payload goes to the socket from where it lies. While frames come we look again without
being kicked, and sleep only when there are none. A turn takes about TURN_COST: its end gives the chains back
and acknowledges the data, so that a guest that has to wait for either gets on while we work.

To the guest: a frame is written into the buffers that the guest has made available, as many as it takes
(VIRTIO_NET_F_MRG_RXBUF) or one chain. Payload of TCP can be read from its socket to where it belongs in the
guest (`place_payload`). Published at once, told by one call at the end of the turn. No buffer left is a full
link: `blocked`, and the guest has to kick when it adds some; KEPT_SIZE bytes of frames that come nevertheless
wait. Buffers are taken and given in the order of the rings, and nothing is held between turns.

What the guest acknowledged decides what it is given: without GUEST_TSO or GUEST_CSUM it is served like a
stream link.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport (
    VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_ECN, VIRTIO_NET_HDR_GSO_NONE, free, iovec, malloc,
    memcpy, memmove, memset, virtio_net_hdr,
)
from passt.dataplane.base.stats cimport DROP_LINK_DOWN, DROP_LINK_FULL, DROP_OVERSIZE, DROP_SHORT, count
from passt.dataplane.link.link cimport LINK_CSUM, LINK_TSO4, LINK_TSO6, LINK_USO4, LINK_USO6, Link
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from passt.dataplane.link.vhost_rings cimport F_MRG_RXBUF, N_RINGS, RECEIVE, VHOST_MEMORY_LOST, VhostRings
from passt.dataplane.packet.headers cimport ETH_MIN_FRAME, MAX_FRAME
from passt.dataplane.sockets.sockets cimport MAX_PEEK_PIECES
from passt.dataplane.virtio.guest_memory cimport prepare_memory
from passt.dataplane.virtio.ring cimport (
    MAX_RING_SIZE, Chain, Ring, count_available, fail, give, is_ready, listen, listen_no_more, publish,
    signal, take,
)

cdef enum:
    VNET_HLEN = 12                # struct virtio_net_hdr_v1, with num_buffers
    NUM_BUFFERS_AT = 10
    DATA_VALID = 2                # VIRTIO_NET_HDR_F_DATA_VALID: the checksum is known to be right
    # Of a turn's frames: bytes that we read, of a frame that is verified already COUNTED at most, as the rest
    # of a large one stays in its place and is the kernel's to read; and PER_STEP for each descriptor.
    TURN_COST = 256 << 10
    COUNTED = 4096
    PER_STEP = 128
    SENT_PIECES = 2 * MAX_RING_SIZE
    # Before the last chain of a frame to the guest there is a piece for each byte at most.
    MAX_PLACES = VNET_HLEN + MAX_FRAME + MAX_RING_SIZE
    # Descriptors read at once, about, as most of them can be empty: more wait, or are a violation.
    MAX_WALK = 2 * MAX_RING_SIZE
    # Payload is read straight into the guest's buffers if one of the last few was large: for a small one it
    # costs more to look the buffers up than to copy.
    DIRECT_FROM = 8192
    SMALL_READS = 4
    KEPT_SIZE = 256 << 10


cdef struct KeptFrame:
    TxMeta meta
    uint32_t length


def prepare():
    """Do what a filter of system calls may forbid later. Raises OSError."""
    prepare_memory()


cdef class VhostLink(VhostRings):
    """One session's device, as `facts.contracts.VhostDevice` says."""

    def __cinit__(self, *_):
        self.sent = <iovec *>malloc(SENT_PIECES * sizeof(iovec))
        self.places = <iovec *>malloc(MAX_PLACES * sizeof(iovec))
        self.chains = <Chain *>malloc(MAX_RING_SIZE * sizeof(Chain))
        if self.sent == NULL or self.places == NULL or self.chains == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.sent)
        free(self.places)
        free(self.chains)
        free(self.kept)

    cdef bint on_event(self, int which, uint32_t events) noexcept nogil:
        if which & 1:
            return True
        if which == RECEIVE and self.blocked:
            self.on_writable()
        return False

    cdef void on_writable(self) noexcept nogil:
        """There may be buffers, or a ring that was not there."""
        if self.may_receive() and count_available(&self.rings[RECEIVE]):
            self.blocked = False
            listen_no_more(&self.rings[RECEIVE])
            self.put_kept()
        self.check_rings()

    cdef void detach(self) noexcept nogil:
        self.n_taken = 0
        self.forget_kept()
        VhostRings.detach(self)

    # From the guest

    cdef int read_batch(self, RxFrame *frames, int room) noexcept nogil:
        cdef uint32_t used = 0
        cdef int found = 0
        cdef int i, pair, result
        self.give_back()
        self.more = self.again = False
        self.drained = True
        if self.error or not self.n_fds:
            return 0
        for i in range(<int>N_RINGS // 2):
            pair = (self.next_pair + i) % (<int>N_RINGS // 2)
            if not is_ready(&self.rings[2 * pair + 1]):
                continue
            listen_no_more(&self.rings[2 * pair + 1])
            result = 1
            while (result > 0 and self.n_taken < room and used + MAX_RING_SIZE <= SENT_PIECES
                    and self.cost < TURN_COST):
                result = self.take_frame(2 * pair + 1, &frames[found], &used)
                found += result == 2
        self.next_pair = (self.next_pair + 1) % (<int>N_RINGS // 2)
        self.check_rings()
        if self.error:
            self.n_taken = 0
            return 0
        if self.n_taken == 0 and not self.listen_to_all():
            return 0
        self.drained = False
        self.more = self.cost < TURN_COST
        self.again = not self.more
        return found

    cdef bint listen_to_all(self) noexcept nogil:
        """Have the guest kick when it transmits; whether it has done so just before."""
        cdef bint found = False
        cdef int i
        for i in range(1, <int>N_RINGS, 2):
            if is_ready(&self.rings[i]):
                listen(&self.rings[i])
                found = found or count_available(&self.rings[i]) > 0
        return found

    cdef int take_frame(self, int number, RxFrame *frame, uint32_t *used) noexcept nogil:
        """Take a chain of a ring; 2: *frame* is filled, 1: it is no frame, 0: nothing there, or a violation.

        What is transmitted by a ring that is not enabled is thrown away ("Ring states").
        """
        cdef Chain chain
        cdef iovec *pieces = self.sent + used[0]
        if take(&self.rings[number], self.memory, &chain, pieces, MAX_RING_SIZE, False) <= 0:
            return 0
        self.cost += PER_STEP * chain.n_steps
        self.taken[self.n_taken].ring = <uint16_t>number
        self.taken[self.n_taken].head = chain.head
        self.n_taken += 1
        if not self.rings[number].is_enabled:
            count(self.stats, DROP_LINK_DOWN)
            return 1
        if not self.read_header(&chain, pieces, frame):
            return 1
        used[0] += chain.n_pieces
        return 2

    cdef bint read_header(self, Chain *chain, iovec *pieces, RxFrame *frame) noexcept nogil:
        """Take the header off the *pieces* of a chain: they become *frame*'s; False is a counted drop."""
        cdef uint8_t bytes[VNET_HLEN]
        cdef virtio_net_hdr header
        cdef size_t have = 0
        cdef size_t part
        cdef uint32_t i = 0
        if chain.size <= VNET_HLEN or chain.size > VNET_HLEN + MAX_FRAME:
            count(self.stats, DROP_SHORT if chain.size <= VNET_HLEN else DROP_OVERSIZE)
            return False
        while have < VNET_HLEN:
            part = min(VNET_HLEN - have, pieces[i].iov_len)
            memcpy(bytes + have, pieces[i].iov_base, part)
            have += part
            pieces[i].iov_base = <uint8_t *>pieces[i].iov_base + part
            pieces[i].iov_len -= part
            i += pieces[i].iov_len == 0
        memcpy(&header, bytes, sizeof(header))
        memset(frame, 0, sizeof(RxFrame))
        frame.pieces = pieces + i
        frame.n_pieces = chain.n_pieces - i
        frame.len = chain.size - VNET_HLEN
        frame.gso_type = header.gso_type & <uint8_t>~VIRTIO_NET_HDR_GSO_ECN
        frame.gso_size = header.gso_size
        if header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
            frame.csum_start = header.csum_start
            frame.csum_offset = header.csum_offset
            self.cost += min(frame.len, <uint32_t>COUNTED)
        else:
            frame.unverified = True
            self.cost += frame.len
        return True

    cdef void give_back(self) noexcept nogil:
        cdef int i
        for i in range(self.n_taken):
            give(&self.rings[self.taken[i].ring], self.memory, self.taken[i].head, 0)
        self.n_taken = 0
        for i in range(1, <int>N_RINGS, 2):
            if self.rings[i].published != self.rings[i].next_used:
                publish(&self.rings[i], self.memory)

    # To the guest

    cdef bint emit(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        if not self.may_receive() or self.error:
            count(self.stats, DROP_LINK_DOWN)
            return False
        if self.blocked or self.kept_start != self.kept_end:
            return self.keep(frame, n, meta)
        return self.put_frame(frame, n, meta)

    cdef bint put_frame(self, uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        """Write a frame into the guest's buffers, or keep it if there are none."""
        cdef int result = self.find_room(VNET_HLEN + n)
        if result < 0:
            count(self.stats, DROP_OVERSIZE)
            return False
        if not result:
            return not self.error and self.keep(frame, n, meta)
        self.push_header(frame - VNET_HLEN, meta)
        self.scatter(0, frame - VNET_HLEN, VNET_HLEN + n)
        self.commit(VNET_HLEN + n)
        if n >= DIRECT_FROM:
            self.n_small = 0
        return True

    cdef int find_room(self, size_t n) noexcept nogil:
        """Collect buffers for *n* bytes; 0: too few, and the link is blocked, -1: it never fits."""
        cdef Ring *ring = &self.rings[RECEIVE]
        cdef int result = self.collect(n)
        if result:
            return result
        listen(ring)
        result = self.collect(n)
        self.check_rings()
        if result == 0 and <uint16_t>(ring.known_available - ring.next_available) == ring.size:
            result = -1           # all that the guest can add is there
        if result == 0:
            self.stats.link_stalls += not self.blocked
            self.blocked = True
        elif not self.error:
            listen_no_more(ring)
        return 0 if self.error else result

    cdef int collect(self, size_t n) noexcept nogil:
        """Take chains for *n* bytes; 1: `chains` has them, 0: too few, -1: the one to be used is too small.

        In the last two cases they are there to be taken again.
        """
        cdef Ring *ring = &self.rings[RECEIVE]
        cdef bint mergeable = self.acknowledged >> F_MRG_RXBUF & 1
        cdef uint32_t n_walked = 0
        cdef Chain *chain
        self.n_chains = 0
        self.n_places = 0
        self.n_collected = 0
        while self.n_collected < n and self.n_chains < MAX_RING_SIZE:
            chain = &self.chains[self.n_chains]
            if take(ring, self.memory, chain, self.places + self.n_places, MAX_PLACES - self.n_places,
                    True) <= 0:
                self.uncollect(self.n_chains)
                return 0
            self.n_chains += 1
            self.n_places += chain.n_pieces
            self.n_collected += chain.size
            n_walked += chain.n_steps
            if n_walked > n + MAX_WALK:
                fail(ring, "its buffers are empty")
                return 0
            if self.n_chains == 1 and chain.size < VNET_HLEN:
                fail(ring, "a buffer is too small for a header")
                return 0
            if not mergeable:
                break
        if self.n_collected < n:
            self.uncollect(self.n_chains)
            return -1
        return 1

    cdef void uncollect(self, uint32_t n) noexcept nogil:
        """Leave the last *n* chains to be taken again."""
        self.rings[RECEIVE].next_available -= <uint16_t>n
        self.n_chains -= n

    cdef void scatter(self, size_t place, const uint8_t *data, size_t n) noexcept nogil:
        """Write *n* bytes from byte *place* of the collected buffers on."""
        cdef iovec *piece = self.places
        cdef size_t part
        while place >= piece.iov_len:
            place -= piece.iov_len
            piece += 1
        while n:
            part = min(n, piece.iov_len - place)
            memcpy(<uint8_t *>piece.iov_base + place, data, part)
            data += part
            n -= part
            place = 0
            piece += 1

    cdef void commit(self, size_t n) noexcept nogil:
        """Give the guest the first *n* bytes of the collected buffers; what is not needed stays available."""
        cdef Ring *ring = &self.rings[RECEIVE]
        cdef uint32_t needed = 0
        cdef size_t left = n
        cdef size_t part
        cdef uint32_t i
        cdef uint16_t number
        while left:
            left -= min(left, <size_t>self.chains[needed].size)
            needed += 1
        self.uncollect(self.n_chains - needed)
        number = <uint16_t>needed
        self.scatter(NUM_BUFFERS_AT, <uint8_t *>&number, sizeof(number))
        if self.memory.log != NULL:
            left = n
            for i in range(self.n_places):
                part = min(left, self.places[i].iov_len)
                self.memory.mark_ours(<uint8_t *>self.places[i].iov_base, part)
                left -= part
        left = n
        for i in range(needed):
            part = min(left, <size_t>self.chains[i].size)
            give(ring, self.memory, self.chains[i].head, <uint32_t>part)
            left -= part
        publish(ring, self.memory)
        self.stats.frames_to_guest += 1
        self.stats.bytes_to_guest += n - VNET_HLEN

    cdef void push_header(self, uint8_t *out, const TxMeta *meta) noexcept nogil:
        """Write the virtio-net header of a frame; `commit` writes the number of buffers."""
        cdef virtio_net_hdr header
        memset(&header, 0, sizeof(header))
        header.gso_type = meta.gso_type
        header.gso_size = meta.gso_size
        if meta.csum_start:
            header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM
            header.hdr_len = meta.hdr_len
            header.csum_start = meta.csum_start
            header.csum_offset = meta.csum_offset
        elif self.features & LINK_CSUM:
            header.flags = DATA_VALID
        memcpy(out, &header, sizeof(header))
        memset(out + NUM_BUFFERS_AT, 0, VNET_HLEN - NUM_BUFFERS_AT)

    cdef bint keep(self, const uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil:
        """Keep a frame until there are buffers; False is a counted drop."""
        cdef KeptFrame head
        if self.kept == NULL:
            self.kept = <uint8_t *>malloc(KEPT_SIZE)
        if self.kept_start and self.kept_end + sizeof(KeptFrame) + n > KEPT_SIZE:
            self.kept_end -= self.kept_start
            memmove(self.kept, self.kept + self.kept_start, self.kept_end)
            self.kept_start = 0
        if self.kept == NULL or self.kept_end + sizeof(KeptFrame) + n > KEPT_SIZE:
            count(self.stats, DROP_LINK_FULL)
            return False
        head.meta = meta[0]
        head.length = <uint32_t>n
        memcpy(self.kept + self.kept_end, &head, sizeof(head))
        memcpy(self.kept + self.kept_end + sizeof(head), frame, n)
        self.kept_end += sizeof(head) + n
        return True

    cdef void forget_kept(self) noexcept nogil:
        self.kept_start = self.kept_end = 0

    cdef void put_kept(self) noexcept nogil:
        """Put out what was kept, as far as there are buffers."""
        cdef uint8_t header[VNET_HLEN]
        cdef KeptFrame head
        cdef int result
        while self.kept_start != self.kept_end and not self.blocked:
            memcpy(&head, self.kept + self.kept_start, sizeof(head))
            result = self.find_room(VNET_HLEN + head.length)
            if not result:
                return
            if result > 0:
                self.push_header(header, &head.meta)
                self.scatter(0, header, VNET_HLEN)
                self.scatter(VNET_HLEN, self.kept + self.kept_start + sizeof(head), head.length)
                self.commit(VNET_HLEN + head.length)
            else:
                count(self.stats, DROP_OVERSIZE)
            self.kept_start += sizeof(head) + head.length
        if self.kept_start == self.kept_end:
            self.kept_start = self.kept_end = 0

    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil:
        cdef uint32_t need = LINK_CSUM if meta.gso_type == VIRTIO_NET_HDR_GSO_NONE else LINK_USO4 | LINK_USO6
        cdef size_t length = meta.hdr_len
        cdef size_t i
        for i in range(n):
            length += pieces[i].iov_len
        if (~self.features & need or not self.may_receive() or self.error or self.blocked
                or self.kept_start != self.kept_end or self.find_room(VNET_HLEN + length) <= 0):
            return Link.send_pieces(self, pieces, n, meta)
        self.push_header(self.slot - VNET_HLEN, meta)
        self.scatter(0, self.slot - VNET_HLEN, VNET_HLEN + meta.hdr_len)
        length = VNET_HLEN + meta.hdr_len
        for i in range(n):
            self.scatter(length, <uint8_t *>pieces[i].iov_base, pieces[i].iov_len)
            length += pieces[i].iov_len
        self.commit(length)
        return True

    cdef int place_payload(self, size_t place, uint32_t n) noexcept nogil:
        cdef uint32_t i = 0
        cdef size_t skip = VNET_HLEN + place
        cdef size_t excess, part
        cdef iovec *last
        self.n_placed = 0
        if (self.n_small >= SMALL_READS or n < DIRECT_FROM or self.blocked or self.kept_start != self.kept_end
                or (self.watch is not None and self.watch.active)
                or ~self.features & (LINK_CSUM | LINK_TSO4 | LINK_TSO6)):
            return 0
        if not self.may_receive() or self.error or self.collect(skip + n) <= 0:
            return 0
        while skip >= self.places[i].iov_len:
            skip -= self.places[i].iov_len
            i += 1
        if self.n_places - i > MAX_PEEK_PIECES:
            self.uncollect(self.n_chains)
            return 0
        excess = self.n_collected - (VNET_HLEN + place + n)
        while excess:
            last = &self.places[self.n_places - 1]
            part = min(excess, last.iov_len)
            last.iov_len -= part
            excess -= part
            self.n_places -= last.iov_len == 0
        self.skipped = skip
        self.first_placed = i
        self.places[i].iov_base = <uint8_t *>self.places[i].iov_base + skip
        self.places[i].iov_len -= skip
        self.placed = self.places + i
        self.n_placed = <int>(self.n_places - i)
        return self.n_placed

    cdef void unplace(self) noexcept nogil:
        self.uncollect(self.n_chains)
        self.n_placed = 0

    cdef bint send_placed(self, size_t n, const TxMeta *meta) noexcept nogil:
        cdef uint8_t *slot = self.slot
        cdef iovec *first = &self.places[self.first_placed]
        first.iov_base = <uint8_t *>first.iov_base - self.skipped
        first.iov_len += self.skipped
        self.n_placed = 0
        self.n_small = 0 if n >= DIRECT_FROM else self.n_small + 1
        self.push_header(slot - VNET_HLEN, meta)
        self.scatter(0, slot - VNET_HLEN, VNET_HLEN + meta.hdr_len)
        if n < ETH_MIN_FRAME:
            memset(slot, 0, ETH_MIN_FRAME)
            self.scatter(VNET_HLEN + n, slot, ETH_MIN_FRAME - n)
            n = ETH_MIN_FRAME
        self.commit(VNET_HLEN + n)
        return True

    cdef void on_fault(self) noexcept nogil:
        if not self.error:
            self.error = self.broken = VHOST_MEMORY_LOST
            self.blocked = True
            self.more = False

    cdef void flush(self) noexcept nogil:
        cdef bint failed = False
        cdef int i
        for i in range(<int>N_RINGS):
            if self.rings[i].published != self.rings[i].called and is_ready(&self.rings[i]):
                signal(&self.rings[i])
                failed = failed or self.rings[i].violation != NULL
        if failed:
            self.check_rings()
        self.memory.tell_marked()

    cdef void end_turn(self) noexcept nogil:
        self.give_back()
        self.check_rings()
        self.cost = 0
        self.more = self.more or self.again
        self.again = False
        self.flush()

"""What a vhost-user session sets up: the memory that a machine shares, its rings, what was acknowledged.

`vhost_user.session` speaks with the front end and calls the methods here; `link.vhost` moves the frames.
Rings and their descriptors come and go at any time, so this link watches its kicks itself: edge-triggered and
never read, as each write to an eventfd is an event.

A front end that connects to a new passt finds in the used ring how far the old one came, as buffers are taken
and given in order: `virtio.ring.start` goes on there, and no chain is lost or given twice.
"""

import os

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from passt.dataplane.base.externs cimport (
    EPOLLET, EPOLLIN, EPOLL_CTL_ADD, EPOLL_CTL_DEL, close, memset, write,
)
from passt.dataplane.link.link cimport LINK_CSUM, LINK_TSO4, LINK_TSO6, LINK_USO4, LINK_USO6, Link
from passt.dataplane.loop.reactor cimport EVENT_LINK, Reactor, make_tag
from passt.dataplane.virtio.guest_memory cimport GuestMemory
from passt.dataplane.virtio.ring cimport MAX_RING_SIZE, Ring, find, is_ready, listen, start

MAX_QUEUE_PAIRS = N_RINGS // 2
OFFERED_FEATURES = sum(1 << bit for bit in (
    F_CSUM, F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_GUEST_ECN, F_HOST_TSO4, F_HOST_TSO6, F_HOST_ECN,
    F_MRG_RXBUF, F_MQ, F_LOG_ALL, F_INDIRECT_DESC, F_EVENT_IDX, F_PROTOCOL_FEATURES, F_VERSION_1,
    F_GUEST_USO4, F_GUEST_USO6, F_HOST_USO))


@cython.no_gc_clear               # `__dealloc__` needs the reactor, also of one that was in a cycle
cdef class VhostRings(Link):
    """Without memory and rings at first."""

    def __cinit__(self, Reactor reactor not None):
        cdef int i
        self.reactor = reactor
        self.memory = GuestMemory()
        self.blocked = True
        for i in range(<int>N_RINGS):
            self.fds[i] = -1
            self.rings[i].kick = -1
            self.rings[i].call = -1
        self.n_fds = N_RINGS

    def __dealloc__(self):
        cdef int i
        for i in range(<int>N_RINGS):
            self.drop_ring(i)
        self.n_fds = 0            # the base class has nothing to close

    # What the session asks for

    cdef Ring *ring_at(self, unsigned int number) except NULL:
        if number >= <unsigned int>N_RINGS:
            raise ValueError(f"there is no ring {number}, only 0 to {<int>N_RINGS - 1}")
        return &self.rings[number]

    cdef Ring *ring_for(self, unsigned int number, int fd) except NULL:
        """As `ring_at`, for a ring that takes ownership of *fd*, which is closed if there is no such ring.

        It is made non-blocking, as a counter that nobody reads would keep us in write(2).
        """
        if number >= <unsigned int>N_RINGS and fd >= 0:
            close(fd)
        self.ring_at(number)
        if fd >= 0:
            os.set_blocking(fd, False)
        return &self.rings[number]

    def set_features(self, features):
        """Take the features that the front end acknowledged. Raises ValueError."""
        cdef uint32_t before = self.features
        cdef int i
        if features & ~OFFERED_FEATURES:
            raise ValueError(f"features {features & ~OFFERED_FEATURES:#x} were not offered")
        if not features >> F_VERSION_1 & 1:
            raise ValueError("devices before virtio 1.0 are not supported: VIRTIO_F_VERSION_1 is missing")
        self.give_back()
        self.acknowledged = features
        self.features = 0
        if self.acknowledged >> F_GUEST_CSUM & 1:
            self.features = LINK_CSUM
            if self.acknowledged >> F_GUEST_TSO4 & 1:
                self.features |= LINK_TSO4
            if self.acknowledged >> F_GUEST_TSO6 & 1:
                self.features |= LINK_TSO6
            if self.acknowledged >> F_GUEST_USO4 & self.acknowledged >> F_GUEST_USO6 & 1:
                self.features |= LINK_USO4 | LINK_USO6
        if self.features != before:
            self.forget_kept()    # they were made for another driver
        for i in range(<int>N_RINGS):
            self.rings[i].has_event_index = self.acknowledged >> F_EVENT_IDX & 1
            self.rings[i].has_indirect = self.acknowledged >> F_INDIRECT_DESC & 1
            if not self.acknowledged >> F_PROTOCOL_FEATURES & 1:
                self.rings[i].is_enabled = True
        self.note_rings()

    def set_memory(self, regions):
        """Replace all memory by *regions*. Raises ValueError and OSError, then unchanged."""
        cdef GuestMemory memory = GuestMemory()
        for region in regions:
            memory.add(region.guest_address, region.size, region.user_address, region.mmap_offset, region.fd)
        self.give_back()
        memory.take_log(self.memory)
        self.memory.clear()
        self.memory = memory
        self.note_rings()

    def add_region(self, region):
        """Map one more region. Raises ValueError and OSError."""
        self.memory.add(region.guest_address, region.size, region.user_address, region.mmap_offset, region.fd)
        self.note_rings()

    def remove_region(self, region):
        """Unmap a region. Raises ValueError."""
        self.give_back()
        self.memory.remove(region.guest_address, region.size, region.user_address)
        self.note_rings()

    def set_ring_size(self, unsigned int ring, size):
        """Tell how many entries *ring* has. Raises ValueError."""
        cdef Ring *it = self.ring_at(ring)
        if not 0 < size <= MAX_RING_SIZE or size & (size - 1):
            raise ValueError(f"a ring of {size} entries is not possible, but a power of 2 to"
                             f" {<int>MAX_RING_SIZE}")
        if it.is_started:
            raise ValueError(f"the size of ring {ring} changes while it runs")
        it.size = size
        self.note_rings()

    def set_ring_base(self, unsigned int ring, base):
        """Tell which chain of *ring* comes next. Raises ValueError."""
        cdef Ring *it = self.ring_at(ring)
        if base >> 16:
            raise ValueError(f"ring {ring} cannot begin at {base}, only at 0 to 65535")
        if it.is_started:
            raise ValueError(f"the base of ring {ring} changes while it runs")
        it.next_available = base

    def set_ring_addresses(self, unsigned int ring, descriptors, used, available, log):
        """Tell where *ring* lies, by the front end's addresses; *log*: guest's of its used ring, or None.

        Raises ValueError.
        """
        cdef Ring *it = self.ring_at(ring)
        if descriptors & 15 or used & 3 or available & 1:
            raise ValueError(f"the parts of ring {ring} are not aligned (virtio 1.2, 2.7)")
        self.give_back()
        it.descriptors_at = descriptors
        it.used_at = used
        it.available_at = available
        it.has_address = True
        it.logs_used = log is not None
        it.log_at = log or 0
        self.note_rings()
        if it.is_started and not is_ready(it):
            raise ValueError(f"ring {ring} does not lie in shared memory")

    def set_kick(self, unsigned int ring, int fd):
        """Start *ring*; its driver kicks by the eventfd *fd*, which is ours now.

        Raises ValueError and OSError.
        """
        cdef Ring *it = self.ring_for(ring, fd)
        if fd < 0:
            raise ValueError(f"ring {ring} has no kick descriptor: rings are not polled here")
        if it.kick >= 0:
            self.watch_kick(ring, EPOLL_CTL_DEL)
            close(it.kick)
        it.kick = fd
        find(it, self.memory)
        if it.descriptors == NULL or it.available == NULL or it.used == NULL:
            raise ValueError(f"ring {ring} does not lie in shared memory")
        result = self.reactor.watch(fd, EPOLL_CTL_ADD, EPOLLIN | EPOLLET,
                                    make_tag(EVENT_LINK, self.number, ring))
        if result < 0:
            raise OSError(-result, f"{os.strerror(-result)}: watching the kick of ring {ring}")
        if not it.is_started:
            start(it)
        self.note_rings()

    def set_call(self, unsigned int ring, int fd):
        """Have *ring* call by the eventfd *fd*, which is ours now; -1: its driver looks by itself."""
        cdef Ring *it = self.ring_for(ring, fd)
        cdef uint64_t one = 1
        if it.call >= 0:
            close(it.call)
        it.call = fd
        if fd >= 0:
            write(fd, &one, sizeof(one))      # what was used before was told to nobody

    def enable_ring(self, unsigned int ring, bint enabled):
        """Let frames pass by *ring*, or not."""
        self.ring_at(ring).is_enabled = enabled
        self.note_rings()

    def stop_ring(self, unsigned int ring):
        """Stop *ring*: touch it no more; return the index of its next chain. Raises ValueError."""
        cdef Ring *it = self.ring_at(ring)
        self.give_back()
        self.flush()
        self.drop_ring(ring)
        self.note_rings()
        return it.next_available

    def set_log(self, int fd, size, offset):
        """Log dirty pages in *size* bytes of *fd* from *offset* on; *fd* stays the caller's."""
        self.memory.share_log(fd, size, offset)

    def set_log_call(self, int fd):
        """Tell of new dirty pages by the eventfd *fd*, which is ours now."""
        self.memory.set_log_call(fd)

    def reset(self):
        """Stop all rings and forget the features; the memory stays."""
        cdef int i
        self.give_back()
        self.forget_kept()
        for i in range(<int>N_RINGS):
            self.drop_ring(i)
            memset(&self.rings[i], 0, sizeof(Ring))
            self.rings[i].kick = self.rings[i].call = -1
        self.acknowledged = 0
        self.features = 0
        self.note_rings()

    def end(self, str reason):
        """The session is over; the link is detached at the end of this turn."""
        self.reason = reason
        self.error = VHOST_ENDED

    # For the link and the engine

    cdef uint32_t wanted_events(self, int which) noexcept nogil:
        return 0                  # kicks come and go, and are watched from here

    cdef str end_reason(self):
        cdef int i
        if self.error == VHOST_ENDED:
            return self.reason
        if self.error == VHOST_MEMORY_LOST:
            return "it cut off memory that it shares"
        for i in range(<int>N_RINGS):
            if self.rings[i].violation != NULL:
                return f"ring {i} is damaged: {self.rings[i].violation.decode()}"
        return Link.end_reason(self)

    cdef void watch_kick(self, int number, int op) noexcept nogil:
        self.reactor.watch(self.rings[number].kick, op, EPOLLIN | EPOLLET,
                           make_tag(EVENT_LINK, self.number, <uint32_t>number))

    cdef void drop_ring(self, int number) noexcept nogil:
        """Stop the ring and close its descriptors.

        The front end may hold the same eventfd, and then closing ours does not take it from the watched ones.
        """
        cdef Ring *ring = &self.rings[number]
        if ring.kick >= 0:
            self.watch_kick(number, EPOLL_CTL_DEL)
            close(ring.kick)
        if ring.call >= 0:
            close(ring.call)
        ring.kick = ring.call = -1
        ring.is_started = False
        ring.is_listening = False

    cdef void note_rings(self) noexcept nogil:
        """Rings or memory have changed: find where they lie, and whether the guest can receive now."""
        cdef int i
        for i in range(<int>N_RINGS):
            find(&self.rings[i], self.memory)
            if i & 1 and is_ready(&self.rings[i]):
                self.more = True
        self.blocked = True
        if self.may_receive():
            listen(&self.rings[RECEIVE])
            self.on_writable()

    cdef bint may_receive(self) noexcept nogil:
        """Whether the guest has a ring to receive by."""
        return self.rings[RECEIVE].is_enabled and is_ready(&self.rings[RECEIVE])

    cdef void check_rings(self) noexcept nogil:
        """End the session if a ring is damaged or memory is lost."""
        cdef int i
        if self.error:
            return
        for i in range(<int>N_RINGS):
            if self.rings[i].violation != NULL:
                self.error = VHOST_VIOLATION
        if self.memory.is_lost():     # a ring of zeros in its place is damaged, too
            self.error = VHOST_MEMORY_LOST
        if self.error:
            self.broken = self.error
            self.blocked = True
            self.more = False

    cdef void detach(self) noexcept nogil:
        cdef int i
        for i in range(<int>N_RINGS):
            self.drop_ring(i)
        with gil:
            self.memory.clear()
        self.n_fds = 0
        Link.detach(self)

    cdef void give_back(self) noexcept nogil:
        """Give the chains of the last batch back to the guest."""

    cdef void forget_kept(self) noexcept nogil:
        """Drop the frames that wait for buffers."""

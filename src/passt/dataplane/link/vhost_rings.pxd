"""What a vhost-user session sets up: the memory that a machine shares, its rings, what was acknowledged."""

from libc.stdint cimport uint64_t

from passt.dataplane.link.link cimport MAX_LINK_FDS, Link
from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.virtio.guest_memory cimport GuestMemory
from passt.dataplane.virtio.ring cimport Ring

cdef enum:
    N_RINGS = MAX_LINK_FDS        # two for each pair of queues
    RECEIVE = 0                   # the ring by which all frames reach the guest


cdef enum VhostEnd:
    # Values of `Link.error` that are no errno.
    VHOST_ENDED = -1              # the session is over, `reason` says why
    VHOST_VIOLATION = -2          # of a ring, which says which
    VHOST_MEMORY_LOST = -3        # the front end has cut off memory that it shares


# Feature bits (virtio 1.2, 5.1.3 and 6; linux/virtio_net.h for USO; "Vhost-user Protocol" for the last).
cdef enum:
    F_CSUM = 0
    F_GUEST_CSUM = 1
    F_GUEST_TSO4 = 7
    F_GUEST_TSO6 = 8
    F_GUEST_ECN = 9
    F_HOST_TSO4 = 11
    F_HOST_TSO6 = 12
    F_HOST_ECN = 13
    F_MRG_RXBUF = 15
    F_MQ = 22
    F_LOG_ALL = 26                # VHOST_F_LOG_ALL
    F_INDIRECT_DESC = 28
    F_EVENT_IDX = 29
    F_PROTOCOL_FEATURES = 30      # VHOST_USER_F_PROTOCOL_FEATURES
    F_VERSION_1 = 32
    F_GUEST_USO4 = 54
    F_GUEST_USO6 = 55
    F_HOST_USO = 56


cdef class VhostRings(Link):
    cdef Reactor reactor
    cdef GuestMemory memory
    cdef uint64_t acknowledged    # features
    cdef Ring rings[N_RINGS]
    cdef str reason

    cdef Ring *ring_at(self, unsigned int number) except NULL
    cdef Ring *ring_for(self, unsigned int number, int fd) except NULL
    cdef void watch_kick(self, int number, int op) noexcept nogil
    cdef void drop_ring(self, int number) noexcept nogil
    cdef void note_rings(self) noexcept nogil
    cdef bint may_receive(self) noexcept nogil
    cdef void check_rings(self) noexcept nogil
    cdef void give_back(self) noexcept nogil
    cdef void forget_kept(self) noexcept nogil

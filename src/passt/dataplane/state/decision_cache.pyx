"""Answers of the policy that hold for later connections too.

Theory of operation. Where a bypassed connection goes follows from the two addresses and the listener;
the policy says so by `Target.lasting`. A question costs Python some microseconds, a tenth of the time
that the kernel takes to make the connection, so such answers are kept in a small table, one for each
slot of a hash. All are forgotten when the guest's addresses change, as the policy may go by them, and when
a listener is removed, as another one may get its index.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport calloc, free, memcmp, memcpy, memset, sockaddr_storage
from passt.dataplane.flow.decision cimport InboundView
from passt.dataplane.sockets.socket_address cimport read_sockaddr


cdef uint32_t slot_of(uint32_t listener, const uint8_t *peer, const uint8_t *local) noexcept nogil:
    return (listener * 31 + peer[3] + peer[15] + 7 * (local[3] + local[15])) & (N_DECISIONS - 1)


cdef class DecisionCache:
    """At most one decision for each slot; the later one replaces the earlier one."""

    def __cinit__(self):
        self.decisions = <CachedDecision *>calloc(N_DECISIONS, sizeof(CachedDecision))
        if self.decisions == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.decisions)

    cdef bint find(self, uint32_t listener, const sockaddr_storage *peer, const sockaddr_storage *local,
                   InboundView *view) noexcept nogil:
        """Fill *view* with what the policy would say of a connection; False: it has to be asked."""
        cdef uint8_t peer_address[16]
        cdef uint8_t local_address[16]
        cdef uint16_t port = 0
        cdef size_t n
        cdef CachedDecision *decision
        if not self.any:
            return False
        n = read_sockaddr(peer, peer_address, &port)
        read_sockaddr(local, local_address, &port)
        decision = &self.decisions[slot_of(listener, peer_address, local_address)]
        if (decision.listener != listener + 1 or decision.addr_len != n
                or memcmp(decision.peer, peer_address, 16) or memcmp(decision.local, local_address, 16)):
            return False
        memset(view, 0, sizeof(InboundView))
        view.bypass = True
        view.from_namespace = decision.from_namespace
        view.route = decision.route
        return True

    cdef void keep(self, uint32_t listener, const uint8_t *peer, const uint8_t *local, size_t n,
                   const InboundView *view) noexcept nogil:
        """Have the decision in *view* found for later connections between these addresses of *n* bytes."""
        cdef CachedDecision *decision = &self.decisions[slot_of(listener, peer, local)]
        self.any = True
        decision.listener = listener + 1
        decision.addr_len = n
        memcpy(decision.peer, peer, 16)
        memcpy(decision.local, local, 16)
        decision.from_namespace = view.from_namespace
        decision.route = view.route

    cdef void forget(self) noexcept nogil:
        """The facts that the policy decides by have changed."""
        if self.any:
            memset(self.decisions, 0, N_DECISIONS * sizeof(CachedDecision))
            self.any = False

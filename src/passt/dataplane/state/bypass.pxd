"""What the bypass holds for all of its flows."""

from libc.stdint cimport uint8_t

from passt.dataplane.base.externs cimport iovec, mmsghdr
from passt.dataplane.state.decision_cache cimport DecisionCache
from passt.dataplane.state.spare_sockets cimport SpareSockets
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.sockets.namespace_thread cimport NamespaceThread
from passt.dataplane.sockets.pipe_pool cimport PipePool

cdef enum:
    COPY_SIZE = 16384             # bypassed connections: reads of less are copied, others move pages
    SPLICE_MESSAGES = 64          # datagrams per system call


cdef struct SpliceBatch:
    # Datagrams of one flow and direction that are to be sent; the payload lies where it was received.
    Flow *flow
    int n
    bint to_client
    mmsghdr headers[SPLICE_MESSAGES]
    iovec pieces[SPLICE_MESSAGES]


cdef class BypassState:
    cdef NamespaceThread namespace_thread     # None: nothing bypasses the link
    cdef DecisionCache decisions
    cdef SpareSockets spare_sockets
    cdef PipePool pipes
    cdef uint8_t *copy_space      # COPY_SIZE bytes
    cdef SpliceBatch *batch       # NULL before the first bypassed datagram

    cdef SpliceBatch *get_batch(self) noexcept nogil

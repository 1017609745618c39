"""What the bypass holds for all of its flows.

`Core` holds it for the bypass; so this module uses nothing above the flow table.
"""

from passt.dataplane.base.externs cimport calloc, free, malloc
from passt.dataplane.state.decision_cache cimport DecisionCache
from passt.dataplane.state.spare_sockets cimport SpareSockets
from passt.dataplane.sockets.pipe_pool cimport PipePool
from passt.dataplane.sockets.sockets cimport Sockets


cdef class BypassState:
    """Reserves of sockets and pipes, scratch memory, and what the policy said before."""

    def __cinit__(self, Sockets sockets not None):
        self.decisions = DecisionCache()
        self.spare_sockets = SpareSockets(sockets)
        self.pipes = PipePool()
        self.copy_space = <uint8_t *>malloc(COPY_SIZE)
        if self.copy_space == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.copy_space)
        free(self.batch)

    cdef SpliceBatch *get_batch(self) noexcept nogil:
        """The batch of datagrams; NULL if there is no memory for it."""
        cdef int i
        if self.batch != NULL:
            return self.batch
        self.batch = <SpliceBatch *>calloc(1, sizeof(SpliceBatch))
        if self.batch == NULL:
            return NULL
        for i in range(SPLICE_MESSAGES):
            self.batch.headers[i].msg_hdr.msg_iov = &self.batch.pieces[i]
            self.batch.headers[i].msg_hdr.msg_iovlen = 1
        return self.batch

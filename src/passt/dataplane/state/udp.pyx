"""What the UDP translators remember from datagram to datagram.

`Core` holds it for them; so this module uses nothing above the flow table.
"""

from libc.stdint cimport int64_t

from passt.dataplane.base.externs cimport calloc, free
from passt.dataplane.flow.batches cimport InBatch, OutBatch

# Linux' defaults of nf_conntrack_udp_timeout and nf_conntrack_udp_timeout_stream.
cdef int64_t UDP_ONCE_NS = 30000000000
cdef int64_t UDP_STREAM_NS = 120000000000


cdef class UdpState:
    """The batches of both directions and the timeouts."""

    def __cinit__(self):
        self.once_ns = UDP_ONCE_NS
        self.stream_ns = UDP_STREAM_NS
        self.out_batch = <OutBatch *>calloc(1, sizeof(OutBatch))
        self.in_batch = <InBatch *>calloc(1, sizeof(InBatch))
        if self.out_batch == NULL or self.in_batch == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.in_batch != NULL:
            free(self.in_batch.memory)
        free(self.in_batch)
        free(self.out_batch)

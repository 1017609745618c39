"""What the UDP translators remember from datagram to datagram."""

from libc.stdint cimport int64_t

from passt.dataplane.flow.batches cimport InBatch, OutBatch
from passt.dataplane.flow.record cimport Flow


cdef class UdpState:
    cdef OutBatch *out_batch      # datagrams of the guest, to be flushed with the gathered TCP data
    cdef InBatch *in_batch
    cdef Flow *last_flow          # of the guest's last datagram; it may have ended, so compare its key
    cdef int64_t once_ns          # how long a UDP flow without an answer, or with one, lives unused
    cdef int64_t stream_ns        # how long one lives that went on

"""The segment at hand and the data gathered of those before it, for one send(2) per flow and batch."""

from libc.stdint cimport uint32_t

from passt.dataplane.base.externs cimport iovec
from passt.dataplane.flow.table cimport Flow

cdef enum:
    MAX_GATHER = 256              # pieces of one flow's data collected for one system call


cdef struct Gather:
    Flow *flow                    # whose data it is, NULL: nothing is gathered
    uint32_t n
    uint32_t ts_val               # timestamps of the segment at hand, where its connection has them
    uint32_t ts_ecr
    iovec pieces[MAX_GATHER]      # where the link received them

"""What the translators of the IP layer remember from packet to packet."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.packet.reassembly cimport Reassembler

cdef enum:
    N_PATHS = 64                  # of which an MTU is known, see `path_mtu`
    MIN_MTU = 576                 # bytes; no real link has less, and it bounds the number of fragments


cdef struct PathEntry:
    # The path to an address of the guest's side, as in a `FlowKey`.
    uint8_t address[16]
    uint32_t mtu
    int64_t expires_at            # ns; 0: the entry is empty


cdef class IpState:
    cdef Reassembler reassembler
    cdef uint32_t fragment_timer  # its id
    cdef PathEntry paths[N_PATHS]
    cdef bint has_paths

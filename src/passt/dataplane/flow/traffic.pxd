"""What a flow of datagrams carried; of connections the kernel counts it (`Sockets.report`)."""

from libc.stdint cimport uint32_t, uint64_t


cdef struct Traffic:
    # Payload; datagrams that no socket or link took are among them.
    uint64_t bytes_to_host
    uint64_t bytes_to_guest
    uint64_t packets_to_host
    uint64_t packets_to_guest


cdef inline void add_to_host(Traffic *traffic, uint32_t n_packets, size_t n) noexcept nogil:
    traffic.packets_to_host += n_packets
    traffic.bytes_to_host += n


cdef inline void add_to_guest(Traffic *traffic, uint32_t n_packets, size_t n) noexcept nogil:
    traffic.packets_to_guest += n_packets
    traffic.bytes_to_guest += n

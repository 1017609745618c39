"""Which packets a capture takes."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.observe.seen_packet cimport SeenPacket

cdef enum:
    MAX_PORTS = 8                 # `facts.contracts` has the same numbers
    MAX_NETWORKS = 8


cdef struct PortSpan:
    uint16_t first
    uint16_t last


cdef struct Network:
    uint8_t address[16]
    uint8_t addr_len              # 4 or 16
    uint8_t prefix_len            # bits


cdef struct PacketFilter:
    # A packet fits if it fits each of these; what is 0 asks for nothing.
    uint32_t protocols            # SeenKind: one of them
    uint32_t families             # the same
    uint32_t interfaces           # one of them: bits 1 << SeenInterface
    uint32_t n_ports              # either port lies in one of
    PortSpan ports[MAX_PORTS]
    uint32_t n_networks           # either address lies in one of
    Network networks[MAX_NETWORKS]


cdef int compile_filter(object wanted, PacketFilter *out) except -1
cdef bint fits(const PacketFilter *wanted, const SeenPacket *seen) noexcept nogil

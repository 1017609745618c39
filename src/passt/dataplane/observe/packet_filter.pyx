"""Which packets a capture takes: decided for each by a few comparisons, without memory of those before."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.base.externs cimport memcmp, memcpy, memset
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.observe.seen_packet cimport SeenPacket


cdef int compile_filter(object wanted, PacketFilter *out) except -1:
    """Take a `contracts.PacketFilter` apart. Raises ValueError if it has too many ports or networks."""
    cdef bytes address
    cdef object first, last, bits
    if len(wanted.ports) > MAX_PORTS or len(wanted.networks) > MAX_NETWORKS:
        raise ValueError(f"a filter has at most {MAX_PORTS} ports and {MAX_NETWORKS} addresses")
    memset(out, 0, sizeof(PacketFilter))
    out.protocols = wanted.protocols
    out.families = wanted.families
    out.interfaces = wanted.interfaces
    for first, last in wanted.ports:
        out.ports[out.n_ports].first = first
        out.ports[out.n_ports].last = last
        out.n_ports += 1
    for address, bits in wanted.networks:
        if len(address) not in (4, 16) or not 0 <= bits <= 8 * len(address):
            raise ValueError("an address has 4 or 16 bytes, and its prefix no more bits")
        memcpy(out.networks[out.n_networks].address, <const char *>address, len(address))
        out.networks[out.n_networks].addr_len = <uint8_t>len(address)
        out.networks[out.n_networks].prefix_len = bits
        out.n_networks += 1
    return 0


cdef bint fits(const PacketFilter *wanted, const SeenPacket *seen) noexcept nogil:
    """Whether the capture takes a packet."""
    if wanted.protocols and not wanted.protocols & seen.kinds:
        return False
    if wanted.families and not wanted.families & seen.kinds:
        return False
    if wanted.interfaces and not wanted.interfaces >> seen.interface & 1:
        return False
    if wanted.n_ports and not (seen.has_ports and has_port(wanted, &seen.key)):
        return False
    return not wanted.n_networks or (seen.has_ends and has_address(wanted, &seen.key))


cdef bint has_port(const PacketFilter *wanted, const FlowKey *key) noexcept nogil:
    cdef uint32_t i
    for i in range(wanted.n_ports):
        if (wanted.ports[i].first <= key.guest_port <= wanted.ports[i].last
                or wanted.ports[i].first <= key.remote_port <= wanted.ports[i].last):
            return True
    return False


cdef bint has_address(const PacketFilter *wanted, const FlowKey *key) noexcept nogil:
    cdef uint32_t i
    for i in range(wanted.n_networks):
        if wanted.networks[i].addr_len == key.addr_len and (
                lies_in(&wanted.networks[i], key.guest) or lies_in(&wanted.networks[i], key.remote)):
            return True
    return False


cdef bint lies_in(const Network *network, const uint8_t *address) noexcept nogil:
    cdef size_t whole = network.prefix_len // 8
    cdef uint8_t bits = network.prefix_len % 8
    cdef uint8_t mask
    if memcmp(network.address, address, whole):
        return False
    if not bits:
        return True
    mask = <uint8_t>(0xff << (8 - bits) & 0xff)
    return network.address[whole] & mask == address[whole] & mask

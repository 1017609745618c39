"""Path MTUs in the guest's network, by destination address.

Theory of operation. The guest may be a router: behind it are containers on a bridge, machines, further
links, and any of these may be narrower than ours. An MTU that one of its routers reports
(`packet_too_big`) holds for all flows to that address that begin within EXPIRES_NS; each keeps what it began
with. So a name server's large answer, for which there is a new flow each time, is lost once and not every
time.

An address has one place in a small table, the later one takes it: what is forgotten is told again.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.base.externs cimport memcmp, memcpy
from passt.dataplane.state.ip cimport MIN_MTU, N_PATHS, PathEntry

# After which a path may be taken to be wider again (RFC 1191 6.3, RFC 8201 4).
cdef int64_t EXPIRES_NS = 600000000000


cdef PathEntry *entry_of(Core core, const uint8_t *address) noexcept nogil:
    # Addresses of one network differ in their last bytes: of both families, the rest of IPv4's is 0.
    return &core.ip.paths[(address[2] + 5 * address[3] + address[14] + 5 * address[15]) % N_PATHS]


cdef uint32_t known_mtu(Core core, const uint8_t *address) noexcept nogil:
    """The MTU of the path to *address*, 16 bytes as in a `FlowKey`; 0: not told."""
    cdef const PathEntry *path
    if not core.ip.has_paths:
        return 0
    path = entry_of(core, address)
    if path.expires_at <= core.now or memcmp(path.address, address, 16):
        return 0
    return path.mtu


cdef uint32_t limit_towards(Core core, const uint8_t *address) noexcept nogil:
    """The largest packet that goes to *address* in one piece, if we may cut it; at least MIN_MTU."""
    cdef uint32_t mtu = known_mtu(core, address)
    return min(core.packet_limit, max(mtu, <uint32_t>MIN_MTU)) if mtu else core.packet_limit


cdef void note_mtu(Core core, const uint8_t *address, uint32_t mtu) noexcept nogil:
    """The path to *address* takes no more than *mtu*, and is not known to take less."""
    cdef uint32_t known = known_mtu(core, address)
    cdef PathEntry *path = entry_of(core, address)
    if known and known <= mtu:
        return
    core.ip.has_paths = True
    memcpy(path.address, address, 16)
    path.mtu = mtu
    path.expires_at = core.now + EXPIRES_NS
    core.stats.paths_narrowed += 1

"""Putting the guest's fragments together again."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from passt.dataplane.packet.parse cimport IpView

cdef enum:
    MAX_ASSEMBLIES = 64
    ASSEMBLY_SIZE = 65536         # bytes of an assembly's data
    ASSEMBLY_WORDS = 128          # of 64 bits, one for each 8 bytes

cdef enum FragmentResult:
    FRAGMENT_KEPT                 # more of the packet is to come
    FRAGMENT_COMPLETE             # the packet is whole
    FRAGMENT_BAD                  # senseless by itself
    FRAGMENT_OVERLAPS             # the packet it belongs to is dropped
    FRAGMENT_NO_MEMORY


cdef struct Assembly:
    # One incomplete packet. What was received is a bit per 8 bytes in *map*.
    uint8_t mac[6]                # of the station that sends it
    uint8_t src[16]
    uint8_t dst[16]
    uint32_t id
    uint8_t addr_len              # 0: not in use
    uint8_t protocol              # IPv4: part of what identifies the packet
    uint8_t next_header           # IPv6: of the first fragment
    uint8_t ttl                   # of the first fragment, as is *tos*
    uint8_t tos
    bint congested                # a fragment met congestion (RFC 3168 5.3)
    bint spoiled                  # fragments overlapped: nothing of it is used
    int64_t deadline              # ns
    uint32_t total                # bytes of the whole packet's payload, 0: last fragment not seen
    uint32_t received
    uint32_t highest              # end of the fragment that reaches farthest
    uint32_t first_len            # bytes of the first fragment, 0: not seen
    uint8_t *data
    uint64_t map[ASSEMBLY_WORDS]


cdef struct Fragment:
    # What a fragment says of itself.
    const uint8_t *data
    uint32_t start
    uint32_t length
    uint32_t id
    uint32_t limit                # where the payload of the whole packet has to end
    uint8_t next_header
    bint more


cdef class Reassembler:
    cdef Assembly *assemblies     # MAX_ASSEMBLIES, allocated with first use
    cdef uint32_t last            # index of the one that was added to last
    cdef uint32_t n_used
    cdef uint64_t n_evicted

    cdef FragmentResult add(self, IpView *ip, int64_t now) noexcept nogil
    cdef FragmentResult put(self, Assembly *place, const IpView *ip, const Fragment *fragment) noexcept nogil
    cdef Assembly *find(self, const IpView *ip, const Fragment *fragment) noexcept nogil
    cdef Assembly *begin(self, const IpView *ip, const Fragment *fragment, int64_t now) noexcept nogil
    cdef Assembly *expired(self, int64_t now) noexcept nogil
    cdef void drop(self, Assembly *place) noexcept nogil
    cdef int64_t next_deadline(self) noexcept nogil

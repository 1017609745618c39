"""Reassembly of the guest's fragments (RFC 791 3.2, RFC 8200 4.5, RFC 5722, RFC 1122 3.3.2).

Theory of operation. An incomplete packet has 64 KiB of memory of its own, allocated when it is first
needed and used again by later ones, and a bit for each 8 bytes that came: fragments begin at
multiples of 8 and, except for the last, end there. So order does not matter, and that a packet is complete
is a matter of counting.

A fragment that is there already, byte for byte, is passed over: networks duplicate. One that
overlaps otherwise spoils its packet, in both families (RFC 5722 3): the record stays until its time is
over, so that later fragments of the packet are dropped too. At most MAX_ASSEMBLIES packets are
incomplete; one more pushes out the oldest. A packet that is not complete in time is given up.

The result of `add` lies in the assembly's memory, good until the next fragment is added.
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.packet.headers cimport (
    ECN_CE, ECN_MASK, ETH_ALEN, IP4_FRAGMENT, IP4_MF, IP6_FRAGMENT, IP6_FRAGMENT_HLEN, IP6_HLEN, IP6_MF,
    MAX_IP_LEN, FragmentHdr, Ip4Hdr, ip4_hdr_len,
)
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.base.externs cimport calloc, free, malloc, memcmp, memcpy, memset, ntohl, ntohs

cdef int64_t LIFETIME4_NS = 30000000000       # net.ipv4.ipfrag_time, within RFC 791's limit
cdef int64_t LIFETIME6_NS = 60000000000       # RFC 8200 4.5


cdef class Reassembler:
    """The guest's incomplete packets."""

    def __dealloc__(self):
        cdef int j
        if self.assemblies != NULL:
            for j in range(MAX_ASSEMBLIES):
                free(self.assemblies[j].data)
            free(self.assemblies)

    cdef FragmentResult add(self, IpView *ip, int64_t now) noexcept nogil:
        """Take the fragment *ip* as `split_ip4` or `split_ip6` give it with DROP_FRAGMENT.

        With FRAGMENT_COMPLETE *ip* is the whole packet's; in IPv6 its extension headers behind the
        fragment header are still to be walked, beginning with `protocol`.
        """
        cdef Fragment fragment
        cdef Assembly *place
        cdef FragmentResult result
        if not read_fragment(ip, &fragment):
            return FRAGMENT_BAD
        place = self.find(ip, &fragment)
        if place == NULL:
            place = self.begin(ip, &fragment, now)
            if place == NULL:
                return FRAGMENT_NO_MEMORY
        self.last = <uint32_t>(place - self.assemblies)
        result = self.put(place, ip, &fragment)
        if result == FRAGMENT_OVERLAPS:
            place.spoiled = True
        if result != FRAGMENT_COMPLETE:
            return result
        ip.src = place.src
        ip.dst = place.dst
        ip.l4 = place.data
        ip.l4_len = place.total
        ip.ttl = place.ttl
        ip.tos = place.tos | (ECN_CE if place.congested else 0)
        ip.dont_fragment = False
        ip.protocol = place.protocol if ip.addr_len == 4 else place.next_header
        self.drop(place)
        return FRAGMENT_COMPLETE

    cdef FragmentResult put(self, Assembly *place, const IpView *ip, const Fragment *fragment) noexcept nogil:
        """Copy a fragment into its packet."""
        cdef uint32_t end = fragment.start + fragment.length
        cdef int known
        cdef int units = <int>(((end + 7) >> 3) - (fragment.start >> 3))
        if place.spoiled:
            return FRAGMENT_OVERLAPS
        if end > fragment.limit:
            return FRAGMENT_BAD
        if place.total and (end > place.total or not fragment.more and end != place.total):
            return FRAGMENT_OVERLAPS
        if not fragment.more and end < place.highest:
            return FRAGMENT_OVERLAPS
        known = count_marks(place, fragment.start, end)
        if known:
            if known < units or end > place.highest:
                return FRAGMENT_OVERLAPS
            # Are the same bytes there already?
            return FRAGMENT_OVERLAPS if memcmp(place.data + fragment.start, fragment.data,
                                               fragment.length) else FRAGMENT_KEPT
        mark(place, fragment.start, end)
        memcpy(place.data + fragment.start, fragment.data, fragment.length)
        place.received += fragment.length
        place.highest = max(place.highest, end)
        if not fragment.more:
            place.total = end
        if not fragment.start:
            place.first_len = fragment.length
            place.next_header = fragment.next_header
            place.ttl = ip.ttl
            place.tos = ip.tos
        if ip.tos & ECN_MASK == ECN_CE:
            place.congested = True
        return FRAGMENT_COMPLETE if place.received == place.total else FRAGMENT_KEPT

    cdef Assembly *find(self, const IpView *ip, const Fragment *fragment) noexcept nogil:
        """The packet that a fragment belongs to, or NULL; mostly that of the fragment before."""
        cdef uint32_t i
        if not self.n_used:
            return NULL
        if belongs(&self.assemblies[self.last], ip, fragment):
            return &self.assemblies[self.last]
        for i in range(<uint32_t>MAX_ASSEMBLIES):
            if belongs(&self.assemblies[i], ip, fragment):
                return &self.assemblies[i]
        return NULL

    cdef Assembly *begin(self, const IpView *ip, const Fragment *fragment, int64_t now) noexcept nogil:
        """A record for a new packet, if need be that of the oldest; NULL without memory."""
        cdef Assembly *place = NULL
        cdef uint8_t *data
        cdef uint32_t i
        if self.assemblies == NULL:
            self.assemblies = <Assembly *>calloc(MAX_ASSEMBLIES, sizeof(Assembly))
            if self.assemblies == NULL:
                return NULL
        for i in range(<uint32_t>MAX_ASSEMBLIES):
            if not self.assemblies[i].addr_len:
                place = &self.assemblies[i]
                break
            if place == NULL or self.assemblies[i].deadline < place.deadline:
                place = &self.assemblies[i]
        if place.addr_len:
            self.n_evicted += 1
            self.drop(place)
        data = place.data
        if data == NULL:
            data = <uint8_t *>malloc(ASSEMBLY_SIZE)
            if data == NULL:
                return NULL
        memset(place, 0, sizeof(Assembly))
        place.data = data
        memcpy(place.mac, ip.mac, ETH_ALEN)
        memcpy(place.src, ip.src, ip.addr_len)
        memcpy(place.dst, ip.dst, ip.addr_len)
        place.addr_len = ip.addr_len
        place.id = fragment.id
        place.protocol = ip.protocol if ip.addr_len == 4 else 0
        place.deadline = now + (LIFETIME4_NS if ip.addr_len == 4 else LIFETIME6_NS)
        self.n_used += 1
        return place

    cdef Assembly *expired(self, int64_t now) noexcept nogil:
        """A packet whose time is over, to be dropped by the caller; NULL: none."""
        cdef uint32_t i
        if self.n_used:
            for i in range(<uint32_t>MAX_ASSEMBLIES):
                if self.assemblies[i].addr_len and self.assemblies[i].deadline <= now:
                    return &self.assemblies[i]
        return NULL

    cdef void drop(self, Assembly *place) noexcept nogil:
        """Give a packet up; its memory stays for the next."""
        place.addr_len = 0
        self.n_used -= 1

    cdef int64_t next_deadline(self) noexcept nogil:
        """When the first packet's time is over, INT64_MAX if there is none."""
        cdef int64_t found = INT64_MAX
        cdef uint32_t i
        if self.n_used:
            for i in range(<uint32_t>MAX_ASSEMBLIES):
                if self.assemblies[i].addr_len:
                    found = min(found, self.assemblies[i].deadline)
        return found


cdef bint read_fragment(const IpView *ip, Fragment *out) noexcept nogil:
    """What the fragment's header says; False if it contradicts itself."""
    cdef const FragmentHdr *six = <const FragmentHdr *>ip.l4
    cdef const Ip4Hdr *four = <const Ip4Hdr *>ip.ip
    cdef uint16_t word
    if ip.addr_len == 4:
        word = ntohs(four.frag_be)
        out.id = ntohs(four.id_be)
        out.start = <uint32_t>(word & (IP4_FRAGMENT & ~IP4_MF)) * 8
        out.more = word & IP4_MF != 0
        out.data = ip.l4
        out.length = <uint32_t>ip.l4_len
        out.next_header = 0
        out.limit = <uint32_t>(MAX_IP_LEN - ip4_hdr_len(four))
    else:
        if ip.l4_len < IP6_FRAGMENT_HLEN:
            return False
        word = ntohs(six.offset_be)
        out.id = ntohl(six.id_be)
        out.start = word & (IP6_FRAGMENT & ~IP6_MF)
        out.more = word & IP6_MF != 0
        out.data = ip.l4 + IP6_FRAGMENT_HLEN
        out.length = <uint32_t>(ip.l4_len - IP6_FRAGMENT_HLEN)
        out.next_header = six.next_header
        # What was before the fragment header counts in the payload's length too.
        out.limit = <uint32_t>(MAX_IP_LEN - (ip.l4 - ip.ip - IP6_HLEN))
    return out.length and not (out.more and out.length & 7)


cdef bint belongs(const Assembly *place, const IpView *ip, const Fragment *fragment) noexcept nogil:
    """Whether the fragment is one of that packet: RFC 791 3.2, RFC 8200 4.5; and of the same station."""
    return (place.id == fragment.id and place.addr_len == ip.addr_len
            and (ip.addr_len == 16 or place.protocol == ip.protocol)
            and not memcmp(place.mac, ip.mac, ETH_ALEN)
            and not memcmp(place.src, ip.src, ip.addr_len) and not memcmp(place.dst, ip.dst, ip.addr_len))


cdef int count_marks(const Assembly *place, uint32_t start, uint32_t end) noexcept nogil:
    """How many of the units of 8 bytes from *start* to *end* are there."""
    cdef uint32_t unit
    cdef int found = 0
    for unit in range(start >> 3, (end + 7) >> 3):
        found += <int>((place.map[unit >> 6] >> (unit & 63)) & 1)
    return found


cdef void mark(Assembly *place, uint32_t start, uint32_t end) noexcept nogil:
    cdef uint32_t unit
    for unit in range(start >> 3, (end + 7) >> 3):
        place.map[unit >> 6] |= <uint64_t>1 << (unit & 63)

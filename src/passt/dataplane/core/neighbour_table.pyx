"""MAC addresses of hosts on the host's own link, by the address that the guest sees.

Theory of operation. Where the host's neighbours are followed, a frame from one of them bears its real MAC
address as the source, and all other frames ours. The table is made whole from what the control plane found,
never changed, and replaced by the next one; so a frame takes one look-up in it, and a flow follows a host
that moves to another card. The guest may send to any of these addresses, as the link takes frames to
whatever destination.

It is a hash table with open addressing. What the guest and remotes do not know the secret of they cannot
steer into one run of places, and with half of the places free such a run is short. Without neighbours, which
is so unless they are followed, a look-up is one comparison.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.base.externs cimport calloc, free, memcmp, memcpy, memset
from passt.dataplane.base.siphash cimport siphash
from passt.dataplane.packet.headers cimport ETH_ALEN

cdef enum:
    ADDRESS_WORDS = 2             # of 8 bytes


cdef class NeighbourTable:
    """Of *entries*, packed addresses and MACs, MAX_NEIGHBOURS at most; *secret* is 16 random bytes."""

    def __init__(self, bytes secret not None, dict entries not None):
        cdef bytes address, mac
        cdef Neighbour *place
        if len(entries) > MAX_NEIGHBOURS:
            raise ValueError(f"{len(entries)} neighbours, and there may be {MAX_NEIGHBOURS}")
        memcpy(self.secret, <const char *>secret, sizeof(self.secret))
        if not entries:
            return
        self.places = <Neighbour *>calloc(N_NEIGHBOUR_PLACES, sizeof(Neighbour))
        if self.places == NULL:
            raise MemoryError
        for address, mac in entries.items():
            if len(address) not in (4, 16) or len(mac) != ETH_ALEN:
                raise ValueError("a neighbour has an address of 4 or 16 bytes, and a MAC address of 6")
            place = &self.places[self.place_of(<const uint8_t *><const char *>address, len(address))]
            memcpy(place.address, <const char *>address, len(address))
            memcpy(place.mac, <const char *>mac, ETH_ALEN)
            place.addr_len = <uint8_t>len(address)
            self.n += 1

    def __dealloc__(self):
        free(self.places)

    cdef uint32_t place_of(self, const uint8_t *address, size_t n) noexcept nogil:
        """The place of an address of *n* bytes; or, if it is not there, the free one that it would get."""
        cdef uint8_t padded[16]
        cdef uint32_t i
        memset(padded, 0, sizeof(padded))
        memcpy(padded, address, n)
        i = <uint32_t>siphash(self.secret, padded, ADDRESS_WORDS) & (N_NEIGHBOUR_PLACES - 1)
        while self.places[i].addr_len and (self.places[i].addr_len != n
                                           or memcmp(self.places[i].address, padded, sizeof(padded))):
            i = (i + 1) & (N_NEIGHBOUR_PLACES - 1)
        return i

    cdef const uint8_t *find(self, const uint8_t *address, size_t n) noexcept nogil:
        """The MAC address of the host with an address of *n* bytes; NULL: it is no neighbour."""
        cdef Neighbour *place
        if self.n == 0:
            return NULL
        place = &self.places[self.place_of(address, n)]
        return place.mac if place.addr_len else NULL

    cdef bint has_mac(self, const uint8_t *mac) noexcept nogil:
        """Whether any neighbour has this MAC address; looks at all places."""
        cdef int i
        if self.n:
            for i in range(N_NEIGHBOUR_PLACES):
                if self.places[i].addr_len and not memcmp(self.places[i].mac, mac, ETH_ALEN):
                    return True
        return False

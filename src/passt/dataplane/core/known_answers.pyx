"""Answers to control frames that were given before: who asks again is answered whatever others ask.

Theory of operation. Control frames are answered by Python, and so at a limited rate. A guest that sends
nothing else uses it up, and would keep the same guest's kernel from finding its gateway: a neighbour is asked
for again and again (RFC 4861 7.3, RFC 1122 2.3.2.1), by the very same frame. So requests and solicitations
for an address are remembered with the frame that answered them, and such an answer is given again without
Python and without limit.

What is answered depends on nothing that changes but the addresses that the guest was seen to use, which
nobody else may claim; a question for one of those goes to Python, and so does one whose answer has the MAC
address of the guest. When the network of the host has changed,
all is forgotten (`Core.renew`), and what was said of a neighbour is when that has another MAC address
(`forget_changed`). A flood finds no place here: a question is remembered only while the limit is far from
used up (`decisions.on_control`), and pushes out none that was asked in the last minute.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.base.externs cimport IPPROTO_ICMPV6, calloc, free, memcmp, memcpy, memset
from passt.dataplane.base.siphash cimport siphash
from passt.dataplane.core.guest cimport Guest
from passt.dataplane.core.neighbour_table cimport NeighbourTable
from passt.dataplane.packet.headers cimport (
    ARP_REQUEST, ETH_ALEN, ETH_HLEN, ETHERTYPE_ARP, ETHERTYPE_IP6, IP6_HLEN, ArpPkt, EthHdr, Ip6Hdr, eth_type,
)

cdef enum:
    SOLICITATION = 135            # RFC 4861 4.3
    TARGET_AT = 8
    SOLICITATION_LEN = 24

cdef int64_t KEPT_NS = 60000000000


cdef class KnownAnswers:
    """N_ANSWERS places, each for the questions of one hash; *secret* is 16 random bytes."""

    def __cinit__(self, bytes secret not None):
        self.answers = <KnownAnswer *>calloc(N_ANSWERS, sizeof(KnownAnswer))
        if self.answers == NULL:
            raise MemoryError
        memcpy(self.secret, <const char *>secret, sizeof(self.secret))

    def __dealloc__(self):
        free(self.answers)

    cdef KnownAnswer *place_of(self, const uint8_t *question) noexcept nogil:
        """The one place that a question may have."""
        return &self.answers[siphash(self.secret, question, QUESTION_WORDS) % N_ANSWERS]

    cdef KnownAnswer *find(self, const uint8_t *frame, size_t n, const Guest *guest,
                           int64_t now) noexcept nogil:
        """What is known of a frame; NULL if its answer is not, or may not be given any more."""
        cdef uint8_t question[MAX_QUESTION]
        cdef const uint8_t *target = target_of(frame, n)
        cdef KnownAnswer *found
        if target == NULL or is_guests(target, guest, eth_type(<const EthHdr *>frame) == ETHERTYPE_ARP):
            return NULL
        copy_question(question, frame, n)
        found = self.place_of(question)
        if found.question_len != n or memcmp(found.question, question, MAX_QUESTION):
            return NULL
        if not memcmp((<const EthHdr *>found.answer).src, guest.mac, ETH_ALEN):
            return NULL           # said of a neighbour before the guest had this MAC address
        found.used_at = now
        return found

    cdef void keep(self, const uint8_t *frame, size_t n, const uint8_t *answer, size_t answer_len,
                   int64_t now) noexcept nogil:
        """Remember the answer to a frame, if it is of the kind and there is a place."""
        cdef uint8_t question[MAX_QUESTION]
        cdef KnownAnswer *place
        if target_of(frame, n) == NULL or answer_len > MAX_QUESTION:
            return
        copy_question(question, frame, n)
        place = self.place_of(question)
        if place.question_len and now - place.used_at < KEPT_NS:
            return
        memcpy(place.question, question, MAX_QUESTION)
        memcpy(place.answer, answer, answer_len)
        place.question_len = <uint32_t>n
        place.answer_len = <uint32_t>answer_len
        place.used_at = now

    cdef void forget_changed(self, NeighbourTable before, NeighbourTable after) noexcept nogil:
        """Forget what was said of addresses whose MAC address is another one in *after* than in *before*."""
        cdef KnownAnswer *known
        cdef const uint8_t *target
        cdef const uint8_t *old
        cdef const uint8_t *new
        cdef size_t n
        cdef int i
        for i in range(N_ANSWERS):
            known = &self.answers[i]
            if known.question_len:
                target = target_of(known.question, known.question_len)
                n = 4 if eth_type(<const EthHdr *>known.question) == ETHERTYPE_ARP else 16
                old = before.find(target, n)
                new = after.find(target, n)
                if (old == NULL) != (new == NULL) or (old != NULL and memcmp(old, new, ETH_ALEN)):
                    known.question_len = 0


cdef void copy_question(uint8_t *question, const uint8_t *frame, size_t n) noexcept nogil:
    memset(question, 0, MAX_QUESTION)
    memcpy(question, frame, n)


cdef const uint8_t *target_of(const uint8_t *frame, size_t n) noexcept nogil:
    """The address that an ARP request or a neighbour solicitation is for; NULL: the frame is no such one."""
    cdef const ArpPkt *arp = <const ArpPkt *>(frame + ETH_HLEN)
    cdef const Ip6Hdr *ip6 = <const Ip6Hdr *>(frame + ETH_HLEN)
    if n > MAX_QUESTION:
        return NULL
    if eth_type(<const EthHdr *>frame) == ETHERTYPE_ARP:
        if n < ETH_HLEN + sizeof(ArpPkt) or arp.op != ARP_REQUEST:
            return NULL
        return arp.target_ip
    if (eth_type(<const EthHdr *>frame) != ETHERTYPE_IP6 or n < ETH_HLEN + IP6_HLEN + SOLICITATION_LEN
            or ip6.next_header != IPPROTO_ICMPV6 or frame[ETH_HLEN + IP6_HLEN] != SOLICITATION):
        return NULL
    return frame + ETH_HLEN + IP6_HLEN + TARGET_AT


cdef bint is_guests(const uint8_t *address, const Guest *guest, bint is_ip4) noexcept nogil:
    """Whether the guest was seen to use an address."""
    if is_ip4:
        return not memcmp(address, guest.ip4, 4)
    return not memcmp(address, guest.ip6, 16) or not memcmp(address, guest.ip6_local, 16)

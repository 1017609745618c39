"""Stations on the guest's side of the link, by MAC address.

Theory of operation. One station is the guest: its addresses are where inbound flows go, and it has
every flow that no other station has. Others may be behind the link as well: on a bridge or a macvlan in
the namespace, in a machine of containers. A flow whose frames come from one of those remembers its MAC
(`Flow.mac`), and answers go there; nothing that a station sends moves the flows of others. A frame moves
its own flow only if it is accepted as one of it: a datagram by its addresses and ports, as there is
nothing else in it to tell by; a segment by its numbers too (`tcp.from_guest.is_own`).

The guest is the tap's own MAC where that is known, else the first station that speaks. Another one
becomes the guest only when the guest is gone, as when its interface was replaced: it was not heard for
SILENT_NS, was asked for its addresses QUESTIONS times, a second apart, and did not answer (as RFC 4861
7.3.3 finds out that a neighbour is unreachable). Both a frame of another station and a segment that has to
be sent again give reason to ask; so an idle guest is not asked for nothing. While the link is blocked no
question can reach the guest, and its silence says nothing. The tap's own MAC is taken back as soon as it is
heard. What is known of stations ends with the client's connection: the next one may have another machine.

A MAC address that frames of ours bear for a host beside us (`neighbour_table`) takes no guest's place: a
bridge inside may have sent such a frame back. The flows of a station with that address are its own all the
same, and it is the guest if it is the first that speaks: what hosts beside us say of themselves takes nothing
away.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport FLOW_UDP, Flow
from passt.dataplane.packet.headers cimport ETH_ALEN, is_loopback6, is_multicast4, is_zero
from passt.dataplane.base.externs cimport memcmp, memcpy, memset
from passt.dataplane.core.decisions cimport queue_news, tell_silence
from passt.dataplane.core.guest cimport NEWS_IP4, NEWS_IP6, NEWS_IP6_LOCAL, NEWS_MAC

cdef enum:
    QUESTIONS = 3                 # RFC 4861 10, MAX_UNICAST_SOLICIT

cdef int64_t SILENT_NS = 2000000000
cdef int64_t ANSWER_NS = 1000000000          # RFC 4861 10, RETRANS_TIMER


cdef bint is_station(Core core, const uint8_t *mac) noexcept nogil:
    """Whether a frame from *mac* comes from a station behind the link.

    A frame with our own MAC or with a group address does not: a bridge inside may have sent it back.
    """
    return not (mac[0] & 1 or is_zero(mac, ETH_ALEN) or not memcmp(mac, core.our_mac, ETH_ALEN))


cdef bint learn_mac(Core core, const uint8_t *mac) noexcept nogil:
    """Take note that a frame came from *mac*; tell whether that is the guest."""
    if not memcmp(mac, core.guest.mac, ETH_ALEN) and is_known(core):
        core.guest.heard_at = core.now
        core.guest.n_questions = 0
        return True
    if not is_station(core, mac):
        return False
    if is_known(core) and memcmp(mac, core.guest.tap_mac, ETH_ALEN):
        memcpy(core.guest.rival_mac, mac, ETH_ALEN)
        doubt(core)
        if memcmp(mac, core.guest.mac, ETH_ALEN):
            return False
    else:
        adopt(core, mac)
    return True


cdef bint is_known(Core core) noexcept nogil:
    return not core.guest.mac[0] & 1


cdef void doubt(Core core) noexcept nogil:
    """The guest may be gone: ask it, or after that have the other station that was heard take its place."""
    if core.now - core.guest.heard_at < SILENT_NS or core.now < core.guest.question_at or not is_known(core):
        return
    if core.link.blocked:
        return                    # no question would reach it: its silence says nothing
    if core.guest.n_questions < QUESTIONS:
        core.guest.n_questions += 1
        core.guest.question_at = core.now + ANSWER_NS
        tell_silence(core)
    elif not is_zero(core.guest.rival_mac, ETH_ALEN):
        if core.neighbours.has_mac(core.guest.rival_mac):
            core.guest.question_at = core.now + ANSWER_NS     # all are looked at no more often
        else:
            adopt(core, core.guest.rival_mac)


cdef void adopt(Core core, const uint8_t *mac) noexcept nogil:
    set_guest(core, mac)
    queue_news(core, NEWS_MAC)


cdef void set_guest(Core core, const uint8_t *mac) noexcept nogil:
    """The guest is the station *mac*, as heard just now."""
    memcpy(core.guest.mac, mac, ETH_ALEN)
    memset(core.guest.rival_mac, 0, ETH_ALEN)
    core.guest.heard_at = core.now
    core.guest.n_questions = 0


cdef void learn(Core core, const uint8_t *mac, const uint8_t *address, size_t n) noexcept nogil:
    """Take note of a sender and of the guest's address (*n* bytes); only changes reach Python."""
    cdef uint8_t *known
    cdef uint32_t kind = NEWS_IP4
    if not learn_mac(core, mac):
        return
    if n == 4:
        known = core.guest.ip4
        if not memcmp(address, known, 4):
            return
        if address[0] == 0 or is_multicast4(address) or address[0] == 127 or address[0] >= 240:
            return
    else:
        known = core.guest.ip6
        kind = NEWS_IP6
        if address[0] == 0xfe and (address[1] & 0xc0) == 0x80:
            known = core.guest.ip6_local
            kind = NEWS_IP6_LOCAL
        if not memcmp(address, known, 16):
            return
        if is_zero(address, 16) or address[0] == 0xff or is_loopback6(address):
            return
    memcpy(known, address, n)
    queue_news(core, kind)


cdef void move_flow(Core core, Flow *flow, const uint8_t *mac) noexcept nogil:
    """*flow* belongs to the station *mac*; a flow of the guest follows the guest."""
    flow.has_mac = memcmp(mac, core.guest.mac, ETH_ALEN) != 0
    memcpy(flow.mac, mac, ETH_ALEN)
    if flow.kind == FLOW_UDP and not flow.body.udp.listener:
        # Remotes without a flow may answer to its socket: their flows are to be this station's too.
        move_flow(core, &core.flows.flows[flow.body.udp.port], mac)


cdef void forget_stations(Core core) noexcept nogil:
    """Forget all stations: another machine may be at the other end of the link."""
    cdef uint32_t i
    memset(core.guest.mac, 0xff, ETH_ALEN)
    memset(core.guest.rival_mac, 0, ETH_ALEN)
    core.guest.n_questions = 0
    for i in range(core.flows.top):
        core.flows.flows[i].has_mac = False

"""What is known of the guest, and how often Python is told of it."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef enum GuestNews:
    # Kinds of news that wait to be told, as bits of `Guest.pending_news`.
    NEWS_MAC = 1
    NEWS_IP4 = 2
    NEWS_IP6 = 4
    NEWS_IP6_LOCAL = 8


cdef enum ControlKind:
    # Kinds of control frames, each with a limit of its own: a flood of one does not silence the others.
    CONTROL_ARP
    CONTROL_ARP_GATEWAY           # requests for our own address, without which the guest reaches nobody
    CONTROL_NDP
    CONTROL_DHCP
    CONTROL_DHCPV6
    N_CONTROL_KINDS


cdef struct RateLimit:
    # *full_until* is the time when what was taken so far is back; see `allow`.
    int64_t full_until            # ns


cdef struct Guest:
    uint8_t mac[6]                # ff:ff:ff:ff:ff:ff until it is known
    uint8_t tap_mac[6]            # of the namespace's interface, all 0: there is none
    uint8_t rival_mac[6]          # of the last other station that sent a frame, all 0: none
    uint8_t ip4[4]                # the addresses that the guest was seen to use last
    uint8_t ip6[16]
    uint8_t ip6_local[16]         # link-local
    int64_t heard_at              # ns, when the guest last sent a frame
    int64_t question_at           # ns, when it may be asked again
    uint32_t n_questions          # unanswered in a row
    uint32_t pending_news         # GuestNews bits
    RateLimit news


cdef inline bint has_half(const RateLimit *limit, int64_t now, int64_t interval,
                          int64_t burst) noexcept nogil:
    """Whether at least half of *burst* is left (see `allow`)."""
    return 2 * (limit.full_until - now) <= burst * interval


cdef inline bint allow(RateLimit *limit, int64_t now, int64_t interval, int64_t burst) noexcept nogil:
    """Take one of *burst*, of which one comes back each *interval* ns; False: none is left."""
    if limit.full_until < now:
        limit.full_until = now
    if limit.full_until - now > (burst - 1) * interval:
        return False
    limit.full_until += interval
    return True

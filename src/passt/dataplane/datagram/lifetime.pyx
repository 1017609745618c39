"""What UDP and echo translation have in common: the life of a flow that nothing opens and nothing closes.

Sockets are watched edge-triggered. One that has used up its turn, or that the full link keeps from
reading, is on the work list or waits for the link; so nothing is lost and nothing spins.

A flow that was used pushes its end out by writing `last_used` only; its entry in the timer heap
fires at the earliest possible end, finds it used since, and is armed again. It also becomes the
newest in the order of last use: when there are too many flows, or descriptors run out, the oldest
ends before its time, so that a guest that opens flow after flow never blocks itself for long.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport CLASS_DATAGRAM, Flow
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ICMP6_PROHIBITED, ICMP6_UNREACHABLE, ICMP_PROHIBITED, ICMP_UNREACHABLE, IP4_HLEN, IP6_HLEN,
    MAX_IP_LEN,
)
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.loop.reactor cimport EVENT_FLOW, make_tag
from passt.dataplane.base.stats cimport (
    DROP_FLOWS_FULL, DROP_NO_FD, DROP_REFUSED, DROP_SOCKET, DROP_TRUNCATED, count,
)
from passt.dataplane.base.externs cimport (
    AF_INET, EADDRINUSE, EAGAIN, ENOSPC, EPOLLET, EPOLLIN, EPOLL_CTL_ADD, IPPROTO_UDP, MSG_TRUNC,
    SOCK_DGRAM, SOL_SOCKET, SO_REUSEADDR, htons, iovec, memset, msghdr, sockaddr_in, sockaddr_in6,
    sockaddr_storage, socklen_t,
)
from passt.dataplane.core.decisions cimport (
    ROUTED, RULED_OUT_BY_USER, Ruling, ask_outbound, may_share_port, note_refused,
)
from passt.dataplane.core.make_room cimport (
    admit_datagram, lacks_descriptor, limit_datagram_sockets, spare_for_datagrams,
)
from passt.dataplane.flow.decision cimport HostRoute
from passt.dataplane.ip.icmp_error cimport push_icmp_error


cdef Flow *start_datagram(Core core, const IpView *ip, const FlowKey *key, uint8_t kind,
                          HostRoute *route) noexcept nogil:
    """A record for a new flow of the guest, opened by *ip*, and its route; NULL: counted drop."""
    cdef Flow *flow = admit_datagram(core, kind)
    cdef Ruling ruling
    if flow == NULL:
        return NULL
    flow.keys[0] = key[0]
    ruling = ask_outbound(core, flow, route)
    if ruling != ROUTED:
        count(&core.stats, DROP_REFUSED)
        note_refused(core, flow)
        core.flows.release(flow)
        if ruling == RULED_OUT_BY_USER:
            report_prohibited(core, ip, key)
        return NULL
    flow.peer = route.peer
    flow.peer_len = route.peer_len
    return flow


cdef void report_prohibited(Core core, const IpView *ip, const FlowKey *key) noexcept nogil:
    """Tell the guest that what it sent is prohibited (RFC 1812 5.2.7.1, RFC 4443 3.1): it need not wait.

    There is no such message about what went to a group (RFC 1122 3.2.2).
    """
    cdef bint is_ip4 = key.addr_len == 4
    push_icmp_error(core, ip.mac, key, key.proto, ip.l4, ip.l4_len,
                    ICMP_UNREACHABLE if is_ip4 else ICMP6_UNREACHABLE,
                    ICMP_PROHIBITED if is_ip4 else ICMP6_PROHIBITED, 0, NULL)


cdef void refuse_datagram(Core core, Flow *flow, int result) noexcept nogil:
    """Forget a flow whose socket could not be had because of *result*, a negative errno."""
    if lacks_descriptor(result):
        count(&core.stats, DROP_NO_FD)
    else:
        count(&core.stats, DROP_FLOWS_FULL if result == -ENOSPC else DROP_SOCKET)
    if flow.fd >= 0:
        core.sockets.close(flow.fd)
    core.flows.release(flow)


cdef bint watch_datagram(Core core, Flow *flow) noexcept nogil:
    """Watch the socket of a record, which counts from now on; False: that is not possible."""
    cdef bint watched = core.sockets.watch(flow.fd, EPOLL_CTL_ADD, EPOLLIN | EPOLLET,
                                           make_tag(EVENT_FLOW, flow.generation, flow.index)) == 0
    core.n_datagram_sockets += watched
    return watched


cdef int open_bound(Core core, const HostRoute *route, int protocol, const FlowKey *key) noexcept nogil:
    """A socket bound to the route's device and source; fd or a negative errno.

    It keeps the guest's port or identifier in *key*; if that is taken or privileged the kernel chooses one.
    When descriptors run out another flow gives its own up (`make_room`).
    """
    cdef int fd, result
    cdef socklen_t n = route.source_len
    cdef sockaddr_storage local = route.source
    limit_datagram_sockets(core)
    fd = core.route_socket(SOCK_DGRAM, protocol, route)
    # What the first to give way had need not be a descriptor: a socket may be shared.
    if lacks_descriptor(fd) and spare_for_datagrams(core):
        fd = core.route_socket(SOCK_DGRAM, protocol, route)
    if lacks_descriptor(fd) and spare_for_datagrams(core):
        fd = core.route_socket(SOCK_DGRAM, protocol, route)
    if fd < 0:
        return fd
    if not n:
        memset(&local, 0, sizeof(local))
        local.ss_family = route.peer.ss_family
        n = sizeof(sockaddr_in) if local.ss_family == AF_INET else sizeof(sockaddr_in6)
    # The port lies at the same place in both families' socket addresses.
    (<sockaddr_in *>&local).sin_port = htons(key.guest_port)
    result = core.sockets.bind_source(fd, &local, n)
    if result == -EADDRINUSE and protocol == IPPROTO_UDP and may_share_port(core, key, route):
        core.sockets.set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1)
        result = core.sockets.bind_source(fd, &local, n)
        core.sockets.set_option(fd, SOL_SOCKET, SO_REUSEADDR, 0)
    if result == 0:
        return fd
    (<sockaddr_in *>&local).sin_port = 0
    result = core.sockets.bind_source(fd, &local, n)
    if result == 0:
        return fd
    core.sockets.close(fd)
    return result


cdef void end_datagram(Core core, Flow *flow) noexcept nogil:
    """Close the record's socket, if it has one of its own, and forget it."""
    core.disarm(flow)
    if flow.fd >= 0:
        core.n_datagram_sockets -= 1
        core.sockets.close(flow.fd)
        flow.fd = -1
    core.flows.release(flow)


cdef ssize_t receive(Core core, Flow *flow, uint32_t l4_hdr_len) noexcept nogil:
    """Read a datagram of the flow's socket into the link's slot, behind the place of its headers.

    Returns its length, NOTHING or DROPPED. While the link is full the datagrams stay in the socket:
    the flow waits for the link.
    """
    cdef msghdr message
    cdef iovec piece
    cdef uint32_t l3_len = IP4_HLEN if flow.keys[0].addr_len == 4 else IP6_HLEN
    if core.link.blocked:
        core.flows.add_waiting(flow)
        return NOTHING
    memset(&message, 0, sizeof(message))
    message.msg_iov = &piece
    message.msg_iovlen = 1
    piece.iov_base = core.link.slot + ETH_HLEN + l3_len + l4_hdr_len
    # IPv4 counts its header in the packet's length, IPv6 does not.
    piece.iov_len = MAX_IP_LEN - (l3_len if l3_len == IP4_HLEN else 0) - l4_hdr_len
    return take_datagram(core, flow.fd, &message)


cdef ssize_t take_datagram(Core core, int fd, msghdr *message) noexcept nogil:
    """Receive one message; returns its length, NOTHING or DROPPED."""
    cdef ssize_t n = core.sockets.receive_message(fd, message)
    if n == -EAGAIN:
        return NOTHING
    if n < 0:
        count(&core.stats, DROP_SOCKET)
        return DROPPED
    if message.msg_flags & MSG_TRUNC:
        count(&core.stats, DROP_TRUNCATED)
        return DROPPED
    return n


cdef void touch(Core core, Flow *flow, int64_t *last_used, int64_t lifetime) noexcept nogil:
    """The flow was used now."""
    last_used[0] = core.now
    core.flows.move_newest(flow, CLASS_DATAGRAM)
    if not flow.armed:
        core.arm(flow, core.now + lifetime)


cdef bint still_used(Core core, Flow *flow, int64_t last_used, int64_t lifetime) noexcept nogil:
    """Whether the flow lives on; then its timer is armed again. Called when the timer fired."""
    if last_used + lifetime <= core.now:
        return False
    core.arm(flow, last_used + lifetime)
    return True

"""What UDP and echo translation have in common: a flow with a connected socket and an idle time.

Sockets are watched edge-triggered. A flow that has used up its turn, or that the full link keeps from
reading, is on the work list or waits for the link; so nothing is lost and nothing spins.

A flow that was used pushes its end out by writing `last_used` only; its entry in the timer heap
fires at the earliest possible end, finds it used since, and is armed again.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.core cimport Core, Route
from passt.dataplane.flow cimport FLOW_PING, FLOW_UDP, SIDE_GUEST, Flow, FlowKey
from passt.dataplane.headers cimport ETH_HLEN, IP4_HLEN, IP6_HLEN, MAX_IP_LEN
from passt.dataplane.reactor cimport EVENT_FLOW, make_tag
from passt.dataplane.stats cimport (
    DROP_FLOWS_FULL, DROP_NO_FD, DROP_REFUSED, DROP_SOCKET, DROP_TRUNCATED, count,
)
from passt.dataplane.sys cimport (
    AF_INET, EAGAIN, EMFILE, ENFILE, EPOLL_CTL_ADD, EPOLLET, EPOLLIN, MSG_TRUNC, SOCK_DGRAM, htons, iovec,
    memset, msghdr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
)


cdef Flow *open_datagram(Core core, const FlowKey *key, uint8_t kind, int protocol) noexcept nogil:
    """Route a new flow of the guest and give it a connected, watched socket; NULL: counted drop.

    The socket keeps the guest's port or identifier if the host has it free.
    """
    cdef Flow *flow = core.flows.alloc(kind)
    cdef Route route
    cdef int result
    if flow == NULL:
        count(&core.stats, DROP_FLOWS_FULL)
        return NULL
    flow.keys[0] = key[0]
    if not core.ask_outbound(flow, &route):
        count(&core.stats, DROP_REFUSED)
        core.stats.flows_refused += 1
        core.flows.release(flow)
        return NULL
    result = core.route_socket(SOCK_DGRAM, protocol, &route)
    if result >= 0:
        flow.fd = result
        result = bind_port(core, flow.fd, &route, key.guest_port)
    if result >= 0:
        result = core.sockets.connect(flow.fd, &route.peer, route.peer_len)
    if result < 0 or not watch_datagram(core, flow):
        count(&core.stats, DROP_NO_FD if result in (-EMFILE, -ENFILE) else DROP_SOCKET)
        if flow.fd >= 0:
            core.sockets.close(flow.fd)
        core.flows.release(flow)
        return NULL
    flow.peer = route.peer
    flow.peer_len = route.peer_len
    core.flows.insert(flow, SIDE_GUEST)
    core.stats.flows_opened += 1
    if kind == FLOW_UDP:
        core.stats.flows_udp += 1
    else:
        core.stats.flows_ping += 1
    return flow


cdef bint watch_datagram(Core core, Flow *flow) noexcept nogil:
    return core.sockets.watch(flow.fd, EPOLL_CTL_ADD, EPOLLIN | EPOLLET,
                              make_tag(EVENT_FLOW, flow.generation, flow.index)) == 0


cdef int bind_port(Core core, int fd, const Route *route, uint16_t port) noexcept nogil:
    """Bind to the route's source and try to keep the port or identifier; 0 or a negative errno.

    If it is taken or privileged the kernel chooses one.
    """
    cdef sockaddr_storage local = route.source
    cdef socklen_t n = route.source_len
    if not n:
        memset(&local, 0, sizeof(local))
        local.ss_family = route.peer.ss_family
        n = sizeof(sockaddr_in) if local.ss_family == AF_INET else sizeof(sockaddr_in6)
    # The port lies at the same place in both families' socket addresses.
    (<sockaddr_in *>&local).sin_port = htons(port)
    if core.sockets.bind_source(fd, &local, n) == 0 or not route.source_len:
        return 0
    return core.sockets.bind_source(fd, &route.source, n)


cdef void end_datagram(Core core, Flow *flow) noexcept nogil:
    """Forget the flow and close its socket."""
    if flow.fd >= 0:
        core.sockets.close(flow.fd)
        flow.fd = -1
    core.disarm(flow)
    if flow.kind == FLOW_PING:
        core.stats.flows_ping -= 1
    else:
        core.stats.flows_udp -= 1
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


cdef void use(Core core, Flow *flow, int64_t *last_used, int64_t lifetime) noexcept nogil:
    """The flow was used now."""
    last_used[0] = core.now
    if not flow.armed:
        core.arm(flow, core.now + lifetime)


cdef bint still_used(Core core, Flow *flow, int64_t last_used, int64_t lifetime) noexcept nogil:
    """Whether the flow lives on; then its timer is armed again. Called when the timer fired."""
    if last_used + lifetime <= core.now:
        return False
    core.arm(flow, last_used + lifetime)
    return True

"""UDP flows that bypass the guest's link.

Theory of operation. The client talks to a listener, whose socket it shares with all other clients; for
each client and address that it asked (SIDE_HOST key) there is a socket on the other side, connected to
the service, so that the kernel tells the answers apart. It is bound to the client's port where that is
free there. Answers leave by the listener, from the address that was asked: the packet information that
came with the client's first datagram is sent along with them (ip(7), ipv6(7)).

Datagrams go many per system call, recvmmsg(2) (in `udp.to_guest`) to sendmmsg(2), and stay where they were
received in between; joined datagrams (UDP_GRO) are taken apart. Empty datagrams are relayed too. A
datagram that cannot be sent is a counted drop, as in any network; an error that a socket reports (the
service's port is closed) concerns a datagram that is gone already, and the flow lives on. Idle flows end
as other UDP flows do, and are crowded out with them.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.traffic cimport add_to_guest, add_to_host
from passt.dataplane.core.decisions cimport note_opened, note_ended
from passt.dataplane.core.core cimport Core
from passt.dataplane.datagram.lifetime cimport (
    end_datagram, refuse_datagram, still_used, touch, watch_datagram,
)
from passt.dataplane.flow.bypass cimport SPLICE_CONTROL
from passt.dataplane.flow.key cimport SIDE_HOST, FlowKey
from passt.dataplane.flow.record cimport FLOW_SPLICE_UDP, Flow
from passt.dataplane.bypass.shown_packets cimport show_datagram
from passt.dataplane.bypass.tcp_bypass cimport fill_keys, open_other_side
from passt.dataplane.base.stats cimport DROP_SOCKET, count
from passt.dataplane.base.externs cimport (
    AF_INET, CMSG_FIRSTHDR, CMSG_NXTHDR, CMSG_SPACE, EAGAIN, ECONNREFUSED, IP_PKTINFO, IPPROTO_IP,
    IPPROTO_IPV6, IPV6_PKTINFO, cmsghdr, htons, in6_pktinfo, in_pktinfo, memcpy, memset, mmsghdr, msghdr,
    sockaddr_in, sockaddr_in6, sockaddr_storage,
)
from passt.dataplane.state.bypass cimport SPLICE_MESSAGES, SpliceBatch
from passt.dataplane.core.make_room cimport admit_datagram, limit_datagram_sockets
from passt.dataplane.flow.decision cimport InboundView


cdef int64_t bypass_lifetime(Core core, const Flow *flow) noexcept nogil:
    return core.udp.stream_ns if flow.body.splice_udp.streaming else core.udp.once_ns


cdef void add_spliced(Core core, Flow *flow, const mmsghdr *message, uint32_t segment,
                      bint to_client) noexcept nogil:
    """Add the datagrams of one message to the batch: one, or several of *segment* bytes if that is not 0."""
    cdef SpliceBatch *batch = core.bypass.get_batch()
    cdef uint8_t *payload = <uint8_t *>message.msg_hdr.msg_iov.iov_base
    cdef uint32_t left = message.msg_len
    cdef uint32_t n
    if batch == NULL:
        count(&core.stats, DROP_SOCKET)
        return
    while True:
        n = min(segment, left) if segment else left
        if batch.n == SPLICE_MESSAGES or batch.flow != flow or batch.to_client != to_client:
            flush_spliced(core)
        batch.flow = flow
        batch.to_client = to_client
        batch.pieces[batch.n].iov_base = payload
        batch.pieces[batch.n].iov_len = n
        address(&batch.headers[batch.n].msg_hdr, flow, to_client)
        if flow.inbound == to_client:
            add_to_host(&flow.body.splice_udp.traffic, 1, n)
        else:
            add_to_guest(&flow.body.splice_udp.traffic, 1, n)
        if core.watch.sees_bypass:
            show_datagram(core, flow, flow.inbound != to_client, payload, n)
        batch.n += 1
        payload += n
        left -= n
        if not left:
            return


cdef void address(msghdr *header, Flow *flow, bint to_client) noexcept nogil:
    """Say where a datagram goes: the flow's own socket is connected, a listener's is not."""
    cdef sockaddr_in6 *client = &flow.body.splice_udp.client
    if not to_client:
        header.msg_name = NULL
        header.msg_namelen = 0
        header.msg_control = NULL
        header.msg_controllen = 0
        return
    header.msg_name = client
    header.msg_namelen = sizeof(sockaddr_in) if client.sin6_family == AF_INET else sizeof(sockaddr_in6)
    header.msg_control = flow.body.splice_udp.control
    header.msg_controllen = flow.body.splice_udp.control_len


cdef void flush_spliced(Core core) noexcept nogil:
    """Send the batch."""
    cdef SpliceBatch *batch = core.bypass.batch
    cdef Flow *flow
    cdef int sent
    if batch == NULL or not batch.n:
        return
    flow = batch.flow
    sent = send_batch(core, flow.body.splice_udp.listener_fd if batch.to_client else flow.fd, batch)
    batch.n = 0
    batch.flow = NULL
    if flow.inbound == batch.to_client:
        core.stats.splice_datagrams_to_host += <uint32_t>sent
    else:
        core.stats.splice_datagrams_to_guest += <uint32_t>sent
    if flow.body.splice_udp.answered:
        flow.body.splice_udp.streaming = True
    if batch.to_client:
        flow.body.splice_udp.answered = True
    touch(core, flow, &flow.body.splice_udp.last_used, bypass_lifetime(core, flow))


cdef int send_batch(Core core, int fd, SpliceBatch *batch) noexcept nogil:
    """Send all of the batch; returns how many went. A datagram that the socket refuses is a counted drop."""
    cdef int place = 0
    cdef int total = 0
    cdef int sent
    cdef bint tried_again = False
    while place < batch.n:
        sent = core.sockets.send_messages(fd, &batch.headers[place], <unsigned int>(batch.n - place))
        if sent == -ECONNREFUSED and not tried_again:
            tried_again = True    # that was an earlier datagram's error
            continue
        if sent == -EAGAIN:
            core.stats.drops[<int>DROP_SOCKET] += <uint32_t>(batch.n - place)
            return total
        tried_again = False
        if sent <= 0:
            count(&core.stats, DROP_SOCKET)
            place += 1
        else:
            total += sent
            place += sent
    return total


cdef Flow *open_splice_udp(Core core, uint32_t listener, int fd, const FlowKey *key, const msghdr *message,
                           const InboundView *view) noexcept nogil:
    """A new flow for datagrams as *message* is one, found by *key*; NULL: counted drop."""
    cdef Flow *flow = admit_datagram(core, FLOW_SPLICE_UDP)
    cdef int result
    if flow == NULL:
        return NULL
    limit_datagram_sockets(core)
    result = open_other_side(core, view, False)
    if result >= 0:
        flow.fd = result
        bind_port(core, flow.fd, view, key.remote_port)
        result = core.sockets.connect(flow.fd, &view.route.peer, view.route.peer_len)
        if result < 0:
            core.stats.splice_connect_failures += 1
    if result < 0 or not watch_datagram(core, flow):
        refuse_datagram(core, flow, result)
        return NULL
    flow.keys[1] = key[0]
    fill_keys(flow, <const sockaddr_storage *>message.msg_name, view)
    flow.body.splice_udp.listener = listener + 1
    core.listeners.add_flow(listener)
    flow.body.splice_udp.listener_fd = fd
    memcpy(&flow.body.splice_udp.client, message.msg_name,
           min(<size_t>message.msg_namelen, sizeof(sockaddr_in6)))
    keep_details(flow, <msghdr *>message)
    core.flows.insert(flow, SIDE_HOST)
    core.stats.flows_splice_udp += 1
    note_opened(core, flow)
    return flow


cdef void keep_details(Flow *flow, msghdr *message) noexcept nogil:
    """Keep the packet information of a message, which tells where answers leave from."""
    cdef cmsghdr *item = CMSG_FIRSTHDR(message)
    cdef size_t n
    while item != NULL:
        n = 0
        if item.cmsg_level == IPPROTO_IP and item.cmsg_type == IP_PKTINFO:
            n = CMSG_SPACE(sizeof(in_pktinfo))
        elif item.cmsg_level == IPPROTO_IPV6 and item.cmsg_type == IPV6_PKTINFO:
            n = CMSG_SPACE(sizeof(in6_pktinfo))
        if n and flow.body.splice_udp.control_len + n <= SPLICE_CONTROL:
            memcpy(flow.body.splice_udp.control + flow.body.splice_udp.control_len, item, n)
            flow.body.splice_udp.control_len += n
        item = CMSG_NXTHDR(message, item)


cdef void bind_port(Core core, int fd, const InboundView *view, uint16_t port) noexcept nogil:
    """Try to keep the client's port; if it is taken or privileged the kernel chooses one."""
    cdef sockaddr_storage local = view.route.source
    if not view.route.source_len:
        memset(&local, 0, sizeof(local))
        local.ss_family = view.route.peer.ss_family
    # The port lies at the same place in both families' socket addresses.
    (<sockaddr_in *>&local).sin_port = htons(port)
    if core.sockets.bind_source(fd, &local, view.route.peer_len) < 0 and view.route.source_len:
        core.sockets.bind_source(fd, &view.route.source, view.route.source_len)


cdef void on_splice_timer(Core core, Flow *flow) noexcept nogil:
    if not still_used(core, flow, flow.body.splice_udp.last_used, bypass_lifetime(core, flow)):
        end_splice_udp(core, flow)


cdef void end_splice_udp(Core core, Flow *flow) noexcept nogil:
    core.stats.flows_splice_udp -= 1
    core.listeners.drop_flow(flow.body.splice_udp.listener - 1)
    note_ended(core, flow, b"idle")
    end_datagram(core, flow)


cdef const char *splice_udp_state(const Flow *flow) noexcept nogil:
    return b"SPLICED"

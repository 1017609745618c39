"""UDP flows that bypass the guest's link.

Theory of operation. The client talks to a listener, whose socket it shares with all other clients; for
each client and address that it asked (SIDE_HOST key) there is a socket on the other side, connected to
the service, so that the kernel tells the answers apart. It is bound to the client's port where that is
free there. Answers leave by the listener, from the address that was asked: the packet information that
came with the client's first datagram is sent along with them (ip(7), ipv6(7)).

Datagrams go many per system call, recvmmsg(2) to sendmmsg(2), and stay where they were received in
between. Empty ones are datagrams as others are. A datagram that cannot be sent is a counted drop, as
in any network; an error that a socket reports (the service's port is closed) concerns a datagram that
is gone already, and the flow lives on. Idle flows end after the times of connection tracking.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.core cimport Core, Seen
from passt.dataplane.datagram cimport still_used, use, watch_datagram
from passt.dataplane.flow cimport FLOW_SPLICE_UDP, SIDE_HOST, SPLICE_CONTROL, Flow, FlowKey
from passt.dataplane.sockets cimport read_sockaddr
from passt.dataplane.splice cimport fill_keys, open_far
from passt.dataplane.stats cimport (
    DROP_BAD_PORT, DROP_FLOWS_FULL, DROP_NO_FD, DROP_REFUSED, DROP_SOCKET, DROP_TRUNCATED, count,
)
from passt.dataplane.sys cimport (
    AF_INET, EAGAIN, ECONNREFUSED, EMFILE, ENFILE, IPPROTO_UDP, MSG_TRUNC, calloc, htons, iovec, memcpy,
    memset, mmsghdr, msghdr, sockaddr_in, sockaddr_in6, sockaddr_storage, socklen_t,
)
from passt.dataplane.tcp_conn cimport ms
from passt.dataplane.udp cimport local_address

cdef enum:
    # Idle times of one-shot exchanges and of streams (nf_conntrack_udp_timeout, _timeout_stream).
    LIFETIME_ONCE_MS = 30000
    LIFETIME_STREAM_MS = 120000
    ROUNDS = 4                    # system calls per socket and turn


cdef int64_t lifetime(const Flow *flow) noexcept nogil:
    return ms(LIFETIME_STREAM_MS if flow.u.splice_udp.streaming else LIFETIME_ONCE_MS)


cdef SpliceBatch *get_batch(Core core) noexcept nogil:
    """The engine's batch; NULL if there is no memory for it."""
    cdef SpliceBatch *batch = <SpliceBatch *>core.splice_batch
    cdef int i
    if batch != NULL:
        return batch
    batch = <SpliceBatch *>calloc(1, sizeof(SpliceBatch))
    if batch == NULL:
        return NULL
    for i in range(SPLICE_MESSAGES):
        batch.pieces_in[i].iov_base = batch.payload[i]
        batch.pieces_in[i].iov_len = SPLICE_ROOM
        batch.heads_in[i].msg_hdr.msg_iov = &batch.pieces_in[i]
        batch.heads_in[i].msg_hdr.msg_iovlen = 1
        batch.heads_out[i].msg_hdr.msg_iov = &batch.pieces_out[i]
        batch.heads_out[i].msg_hdr.msg_iovlen = 1
    core.splice_batch = batch
    return batch


cdef int receive_batch(Core core, int fd, SpliceBatch *batch, bint with_details) noexcept nogil:
    """Receive what is there; returns the number of datagrams, 0 if none.

    An error that the socket reports belongs to a datagram sent before: it is counted, and the next try
    gets what is there.
    """
    cdef msghdr *message
    cdef int n = 0
    cdef int i, _
    for i in range(SPLICE_MESSAGES):
        message = &batch.heads_in[i].msg_hdr
        message.msg_name = &batch.names[i] if with_details else NULL
        message.msg_namelen = sizeof(sockaddr_in6) if with_details else 0
        message.msg_control = batch.control[i] if with_details else NULL
        message.msg_controllen = SPLICE_CONTROL if with_details else 0
    for _ in range(ROUNDS):
        n = core.sockets.receive_messages(fd, batch.heads_in, SPLICE_MESSAGES)
        if n >= 0 or n == -EAGAIN:
            return max(n, 0)
        count(&core.stats, DROP_SOCKET)
    return 0


cdef bint add_out(Core core, SpliceBatch *batch, int from_index, int n_out) noexcept nogil:
    """Put the datagram received at *from_index* at place *n_out* of what is sent; False: counted drop."""
    cdef msghdr *message = &batch.heads_out[n_out].msg_hdr
    if batch.heads_in[from_index].msg_hdr.msg_flags & MSG_TRUNC:
        count(&core.stats, DROP_TRUNCATED)
        return False
    batch.pieces_out[n_out].iov_base = batch.payload[from_index]
    batch.pieces_out[n_out].iov_len = batch.heads_in[from_index].msg_len
    message.msg_name = NULL
    message.msg_namelen = 0
    message.msg_control = NULL
    message.msg_controllen = 0
    return True


cdef int send_batch(Core core, int fd, mmsghdr *messages, int n) noexcept nogil:
    """Send *n* datagrams; returns how many went. What the socket refuses is a counted drop."""
    cdef int sent
    cdef int total = 0
    cdef bint tried_again = False
    while n > 0:
        sent = core.sockets.send_messages(fd, messages, <unsigned int>n)
        if sent == -ECONNREFUSED and not tried_again:
            tried_again = True    # that was an earlier datagram's error
            continue
        if sent == -EAGAIN:
            core.stats.drops[<int>DROP_SOCKET] += <uint32_t>n
            return total
        tried_again = False
        if sent <= 0:
            count(&core.stats, DROP_SOCKET)
            sent = 1
        else:
            total += sent
        messages += sent
        n -= sent
    return total


cdef void on_splice_listener(Core core, uint32_t listener, int fd) noexcept nogil:
    """Datagrams on a listener in the namespace."""
    cdef SpliceBatch *batch = get_batch(core)
    cdef Flow *flow
    cdef Flow *current = NULL
    cdef int n, i
    cdef int n_out = 0
    if batch == NULL:
        return
    n = receive_batch(core, fd, batch, True)
    for i in range(n):
        flow = flow_of(core, listener, fd, &batch.heads_in[i].msg_hdr)
        if flow != current and n_out:
            to_service(core, current, batch, n_out)
            n_out = 0
        current = flow
        if flow != NULL and add_out(core, batch, i, n_out):
            n_out += 1
    if n_out:
        to_service(core, current, batch, n_out)


cdef void to_service(Core core, Flow *flow, SpliceBatch *batch, int n) noexcept nogil:
    """Send the first *n* outgoing datagrams to the flow's service."""
    note_sent(core, flow, send_batch(core, flow.fd, batch.heads_out, n))


cdef void note_sent(Core core, Flow *flow, int n) noexcept nogil:
    """The client has sent *n* datagrams to the service."""
    if flow.inbound:
        core.stats.splice_datagrams_to_guest += <uint32_t>n
    else:
        core.stats.splice_datagrams_to_host += <uint32_t>n
    if flow.u.splice_udp.answered:
        flow.u.splice_udp.streaming = True
    use(core, flow, &flow.u.splice_udp.last_used, lifetime(flow))


cdef void forward_one(Core core, Flow *flow, const uint8_t *payload, size_t n) noexcept nogil:
    """Send one datagram that was received elsewhere to the flow's service."""
    cdef mmsghdr message
    cdef iovec piece
    memset(&message, 0, sizeof(message))
    piece.iov_base = <void *>payload
    piece.iov_len = n
    message.msg_hdr.msg_iov = &piece
    message.msg_hdr.msg_iovlen = 1
    note_sent(core, flow, send_batch(core, flow.fd, &message, 1))


cdef void on_splice_socket(Core core, Flow *flow) noexcept nogil:
    """Datagrams of the service, or errors, on the flow's own socket."""
    cdef SpliceBatch *batch = get_batch(core)
    cdef msghdr *message
    cdef int n, i, n_out
    cdef int rounds = ROUNDS
    if batch == NULL:
        return
    while rounds:
        rounds -= 1
        n = receive_batch(core, flow.fd, batch, False)
        n_out = 0
        for i in range(n):
            if not add_out(core, batch, i, n_out):
                continue
            message = &batch.heads_out[n_out].msg_hdr
            message.msg_name = &flow.u.splice_udp.client
            message.msg_namelen = name_len(&flow.u.splice_udp.client)
            message.msg_control = flow.u.splice_udp.control
            message.msg_controllen = flow.u.splice_udp.control_len
            n_out += 1
        if n_out:
            to_client(core, flow, batch, n_out)
        if n < SPLICE_MESSAGES:
            return
    core.flows.add_work(flow)


cdef void to_client(Core core, Flow *flow, SpliceBatch *batch, int n) noexcept nogil:
    """Send the first *n* outgoing datagrams to the flow's client, by the listener that it came to."""
    cdef int sent = send_batch(core, flow.u.splice_udp.listener_fd, batch.heads_out, n)
    if flow.inbound:
        core.stats.splice_datagrams_to_host += <uint32_t>sent
    else:
        core.stats.splice_datagrams_to_guest += <uint32_t>sent
    if flow.u.splice_udp.answered:
        flow.u.splice_udp.streaming = True
    flow.u.splice_udp.answered = True
    use(core, flow, &flow.u.splice_udp.last_used, lifetime(flow))


cdef socklen_t name_len(const sockaddr_in6 *name) noexcept nogil:
    return sizeof(sockaddr_in) if name.sin6_family == AF_INET else sizeof(sockaddr_in6)


cdef Flow *flow_of(Core core, uint32_t listener, int fd, msghdr *message) noexcept nogil:
    """The flow of a datagram that came to a listener, a new one if need be; NULL: counted drop."""
    cdef const sockaddr_storage *peer = <const sockaddr_storage *>message.msg_name
    cdef sockaddr_storage local
    cdef Seen seen
    cdef FlowKey key
    cdef Flow *flow
    cdef uint32_t ifindex = 0
    cdef uint16_t port = 0
    memset(&key, 0, sizeof(key))
    key.addr_len = <uint8_t>read_sockaddr(peer, key.remote, &key.remote_port)
    local_address(message, &local, &ifindex)
    read_sockaddr(&local, key.guest, &port)
    key.proto = IPPROTO_UDP
    key.scope = <uint16_t>(listener + 1)
    flow = core.flows.find(&key, SIDE_HOST)
    if flow != NULL:
        return flow
    if not key.addr_len or not key.remote_port:
        count(&core.stats, DROP_BAD_PORT)
        return NULL
    # The policy maps ports by the one that the listener is bound to.
    (<sockaddr_in *>&local).sin_port = htons(core.listener_port(listener))
    if not core.ask_inbound(listener, IPPROTO_UDP, peer, &local, &seen):
        count(&core.stats, DROP_REFUSED)
        core.stats.flows_refused += 1
        return NULL
    return open_splice_udp(core, listener, fd, &key, message, &seen)


cdef Flow *open_splice_udp(Core core, uint32_t listener, int fd, const FlowKey *key, const msghdr *message,
                           const Seen *seen) noexcept nogil:
    """A new flow for datagrams as *message* is one, found by *key*; NULL: counted drop."""
    cdef Flow *flow
    cdef int result
    cdef int far = open_far(core, seen, False)
    if far >= 0:
        bind_port(core, far, seen, key.remote_port)
        result = core.sockets.connect(far, &seen.route.peer, seen.route.peer_len)
        if result < 0:
            core.sockets.close(far)
            core.stats.splice_connect_failures += 1
            far = result
    if far < 0:
        count(&core.stats, DROP_NO_FD if far in (-EMFILE, -ENFILE) else DROP_SOCKET)
        return NULL
    flow = core.flows.alloc(FLOW_SPLICE_UDP)
    if flow == NULL:
        count(&core.stats, DROP_FLOWS_FULL)
        core.sockets.close(far)
        return NULL
    flow.fd = far
    flow.keys[1] = key[0]
    fill_keys(flow, <const sockaddr_storage *>message.msg_name, seen)
    flow.u.splice_udp.listener = listener + 1
    flow.u.splice_udp.listener_fd = fd
    memcpy(&flow.u.splice_udp.client, message.msg_name,
           min(<size_t>message.msg_namelen, sizeof(sockaddr_in6)))
    flow.u.splice_udp.control_len = min(<size_t>message.msg_controllen, <size_t>SPLICE_CONTROL)
    memcpy(flow.u.splice_udp.control, message.msg_control, flow.u.splice_udp.control_len)
    core.stats.flows_splice_udp += 1
    core.stats.flows_opened += 1
    core.flows.insert(flow, SIDE_HOST)
    if not watch_datagram(core, flow):
        count(&core.stats, DROP_SOCKET)
        end_splice_udp(core, flow)
        return NULL
    use(core, flow, &flow.u.splice_udp.last_used, lifetime(flow))
    return flow


cdef void bind_port(Core core, int fd, const Seen *seen, uint16_t port) noexcept nogil:
    """Try to keep the client's port; if it is taken or privileged the kernel chooses one."""
    cdef sockaddr_storage local = seen.route.source
    if not seen.route.source_len:
        memset(&local, 0, sizeof(local))
        local.ss_family = seen.route.peer.ss_family
    # The port lies at the same place in both families' socket addresses.
    (<sockaddr_in *>&local).sin_port = htons(port)
    if core.sockets.bind_source(fd, &local, seen.route.peer_len) < 0 and seen.route.source_len:
        core.sockets.bind_source(fd, &seen.route.source, seen.route.source_len)


cdef void on_splice_timer(Core core, Flow *flow) noexcept nogil:
    if not still_used(core, flow, flow.u.splice_udp.last_used, lifetime(flow)):
        end_splice_udp(core, flow)


cdef void end_splice_udp(Core core, Flow *flow) noexcept nogil:
    """Forget the flow and close its socket."""
    core.sockets.close(flow.fd)
    flow.fd = -1
    core.disarm(flow)
    core.stats.flows_splice_udp -= 1
    core.flows.release(flow)

"""UDP flows: where they go, the sockets that they share, how long they live.

Theory of operation. A flow is one pair of endpoints as the guest sees them. All flows of one endpoint
of the guest share one host socket (a record of kind FLOW_UDP_PORT), bound to the guest's port where
that is free and not connected: so a guest that talks from one port to a thousand remotes costs one
descriptor, and each remote sees the same source (endpoint-independent mapping, RFC 4787 4.1). What
arrives there is taken from remotes that the guest has a flow to (RFC 4787 5, address and port-dependent
filtering); such a flow is found by the socket and the remote (SIDE_HOST).

A flow gets a socket of its own if its route binds to another source or device than that of the shared
one, or if the guest reaches the same remote by two addresses from one port, as only the socket can
tell such answers apart then.

A flow that the guest opens from a port that a listener has for it leaves by the listener's socket: the
port is taken, and by this port the remote knows the guest's service. The same holds for datagrams to
a group, or to all hosts of the link (RFC 6762 6 and 11: who answers, and who is answered, has port 5353).
Each message says from which address and by which interface it leaves. A listener that is bound to one
address or device cannot serve all flows; these then share its port (`decisions.may_share_port`).

A flow that came in on a listener uses the listener's socket for its answers, sent from the very address
that was asked (IP_PKTINFO). When a remote that the guest has asked first answers to a listener, as that
has the guest's port, the flow moves to the listener.

A flow that waits for its first answer, or had one, lives for as long as Linux' connection tracking
keeps such ones; one that went on is a stream and lives longer. Those to a name server (port 53) count
questions and answers instead, and end soon after the last answer: each question of a resolver comes
from another port (RFC 5452 4.5).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.datagram.lifetime cimport (
    end_datagram, open_bound, refuse_datagram, start_datagram, still_used, touch, watch_datagram,
)
from passt.dataplane.flow.key cimport SIDE_GUEST, SIDE_HOST, FlowKey, fill_key
from passt.dataplane.flow.record cimport CLASS_KEPT, FLOW_UDP, FLOW_UDP_PORT, Flow
from passt.dataplane.flow.table cimport fill_host_key
from passt.dataplane.packet.headers cimport ETH_ALEN, is_loopback6
from passt.dataplane.ip.path_mtu cimport limit_towards
from passt.dataplane.sockets.socket_address cimport local_address, read_sockaddr
from passt.dataplane.bypass.udp_bypass cimport open_splice_udp
from passt.dataplane.base.stats cimport (
    DROP_BAD_PORT, DROP_GSO, DROP_REFUSED, DROP_UNKNOWN_FLOW, VERDICT_OK, Verdict, count,
)
from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, ENOMEM, ENOSPC, IPPROTO_UDP, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP_L4,
    htons, memcmp, memcpy, memset, msghdr, sockaddr_in, sockaddr_in6, sockaddr_storage,
)
from passt.dataplane.core.decisions cimport (
    ask_inbound, ask_listener, ask_source, note_ended, note_opened, note_refused_client,
)
from passt.dataplane.core.listeners cimport SharedListener
from passt.dataplane.core.make_room cimport admit_datagram, take_record
from passt.dataplane.core.station cimport follow_sender
from passt.dataplane.flow.decision cimport HostRoute, InboundView, fill_inbound_key
from passt.dataplane.link.meta cimport RxFrame
from passt.dataplane.packet.parse cimport IpView, UdpView, split_udp
from passt.dataplane.udp.from_guest cimport flush_out, send_out

cdef enum:
    PORT_DNS = 53
    ANY_SIZE = 0xffff

# A question asked again right after its answer, or its second half (A and AAAA), still finds the flow.
cdef int64_t ANSWERED_NS = 1000000000


cdef void on_datagram(Core core, const IpView *ip, const RxFrame *frame) noexcept nogil:
    """A datagram from the guest whose IP header is checked."""
    cdef UdpView udp
    cdef FlowKey key
    cdef Flow *flow
    cdef Verdict verdict = split_udp(ip, &udp)
    if verdict != VERDICT_OK:
        count(&core.stats, verdict)
        return
    if not udp.src_port or not udp.dst_port:
        count(&core.stats, DROP_BAD_PORT)
        return
    if frame.gso_type not in (VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP_L4) or (
            frame.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 and not frame.gso_size):
        count(&core.stats, DROP_GSO)
        return
    fill_key(&key, ip, IPPROTO_UDP, udp.src_port, udp.dst_port)
    flow = core.udp.last_flow
    if flow == NULL or flow.kind != FLOW_UDP or memcmp(&flow.keys[0], &key, sizeof(key)):
        flow = core.flows.find(&key, SIDE_GUEST)
        if flow == NULL:
            flow = open_outbound(core, ip, &key)
        if flow == NULL:
            return
        core.udp.last_flow = flow
    follow_sender(core, flow, ip.mac)
    note_sent(core, flow)
    send_out(core, flow, ip, &udp, frame.gso_size if frame.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 else 0)


cdef Flow *open_outbound(Core core, const IpView *ip, const FlowKey *key) noexcept nogil:
    """Route a new flow of the guest and give it a socket; NULL: counted drop."""
    cdef HostRoute route
    cdef Flow *flow = start_datagram(core, ip, key, FLOW_UDP, &route)
    cdef int result
    if flow == NULL:
        return NULL
    start_udp(core, flow)
    result = take_port(core, flow, &route)
    if result < 0:
        refuse_datagram(core, flow, result)
        return NULL
    if is_group(key):
        join_groups(core, flow, &route)
    core.flows.insert(flow, SIDE_GUEST)
    core.flows.insert(flow, SIDE_HOST)
    core.stats.flows_udp += 1
    note_opened(core, flow)
    return flow


cdef void start_udp(Core core, Flow *flow) noexcept nogil:
    """Set what a new flow begins with; its guest's endpoint is known."""
    flow.body.udp.max_segment = ANY_SIZE
    flow.body.udp.packet_limit = limit_towards(core, flow.keys[0].guest)


cdef int take_port(Core core, Flow *flow, const HostRoute *route) noexcept nogil:
    """Give the flow the socket of its guest's endpoint, or a new one; 0 or a negative errno."""
    cdef FlowKey key
    cdef Flow *port
    cdef bint shared
    if take_listener(core, flow, route):
        return 0                  # whatever earlier flows had to take
    memset(&key, 0, sizeof(key))
    memcpy(key.guest, flow.keys[0].guest, 16)
    key.guest_port = flow.keys[0].guest_port
    key.proto = IPPROTO_UDP
    key.addr_len = flow.keys[0].addr_len
    key.scope = route.peer.ss_family
    port = core.flows.find(&key, SIDE_GUEST)
    shared = port == NULL
    if port != NULL and serves(port, route):
        fill_host_key(&flow.keys[1], port, &flow.peer)
        if core.flows.find(&flow.keys[1], SIDE_HOST) != NULL:
            port = NULL
    else:
        port = NULL
    if port == NULL:
        port = take_record(core, FLOW_UDP_PORT)
        if port == NULL:
            return -ENOSPC
        port.keys[0] = key
        port.fd = open_port(core, port, route)
        if port.fd < 0:
            return give_up_port(core, port)
        if shared:
            core.flows.insert(port, SIDE_GUEST)
        fill_host_key(&flow.keys[1], port, &flow.peer)
    flow.body.udp.port = port.index
    port.body.port.users += 1
    return 0


cdef bint take_listener(Core core, Flow *flow, const HostRoute *route) noexcept nogil:
    """Have the flow use the listener that has the guest's port, if one has; answers are found there.

    By the address that they come to, where it is known from which one the flow leaves. Where the kernel
    chooses that, by what the guest sees of them.
    """
    cdef SharedListener found
    cdef sockaddr_in6 six
    cdef FlowKey key
    cdef uint32_t ifindex = 0
    cdef bint is_known
    memset(&key, 0, sizeof(key))
    is_known = source_of(route, key.guest)
    if not ask_listener(core, &flow.keys[0], route, key.guest, is_known or is_group(&flow.keys[0]), &found):
        return False
    if route.ifname[0]:
        ifindex = core.sockets.index_of(found.fd, route.ifname)
    elif is_group(&flow.keys[0]):
        ifindex = route.ifindex
    key.addr_len = <uint8_t>read_sockaddr(&flow.peer, key.remote, &key.remote_port)
    key.proto = IPPROTO_UDP
    key.scope = <uint16_t>(found.index + 1)
    if (route.ifname[0] and not ifindex) or core.flows.find(&key, SIDE_HOST) != NULL:
        return False
    flow.keys[1] = key
    flow.body.udp.listener = found.index + 1
    core.listeners.add_flow(found.index)
    flow.body.udp.listener_fd = found.fd
    flow.body.udp.local_family = found.family
    flow.body.udp.ifindex = ifindex
    if found.family == AF_INET6 and route.peer.ss_family == AF_INET:
        memset(&six, 0, sizeof(six))
        six.sin6_family = AF_INET6
        six.sin6_port = htons(flow.keys[1].remote_port)
        six.sin6_addr.s6_addr[10] = 0xff
        six.sin6_addr.s6_addr[11] = 0xff
        memcpy(&six.sin6_addr.s6_addr[12], flow.keys[1].remote, 4)
        memcpy(&flow.peer, &six, sizeof(six))
        flow.peer_len = sizeof(six)
    return True


cdef bint source_of(const HostRoute *route, uint8_t *source) noexcept nogil:
    """From which address the host will send, 16 bytes; False, and all 0: that is the kernel's to choose."""
    cdef uint16_t port = 0
    if route.source_len:
        read_sockaddr(&route.source, source, &port)
        return True
    read_sockaddr(&route.peer, source, &port)
    if route.peer.ss_family == AF_INET and source[0] == 127:
        memcpy(source, b"\x7f\0\0\1", 4)      # also for the other hosts of that network
        return True
    if route.peer.ss_family == AF_INET6 and is_loopback6(source):
        return True
    memset(source, 0, 16)
    return False


cdef int give_up_port(Core core, Flow *port) noexcept nogil:
    cdef int result = port.fd
    core.flows.release(port)
    return result


cdef int open_port(Core core, Flow *port, const HostRoute *route) noexcept nogil:
    """A bound and watched socket for the record *port*; fd or a negative errno."""
    cdef int fd = open_bound(core, route, IPPROTO_UDP, &port.keys[0])
    if fd < 0:
        return fd
    port.peer = route.source
    port.peer_len = route.source_len
    memcpy(port.body.port.ifname, route.ifname, sizeof(port.body.port.ifname))
    core.sockets.prepare_datagrams(fd)
    port.fd = fd
    if not watch_datagram(core, port):
        core.sockets.close(fd)
        return -ENOMEM
    return fd


cdef bint serves(const Flow *port, const HostRoute *route) noexcept nogil:
    """Whether the socket is bound as the route asks."""
    if port.peer_len != route.source_len or memcmp(port.body.port.ifname, route.ifname, sizeof(route.ifname)):
        return False
    return not memcmp(&port.peer, &route.source, route.source_len)


cdef Flow *flow_from(Core core, Flow *port, const sockaddr_storage *peer) noexcept nogil:
    """The flow of what *peer* sent to a shared socket; NULL: counted drop, the guest has none with it."""
    cdef FlowKey key
    cdef Flow *flow
    fill_host_key(&key, port, peer)
    flow = core.flows.find(&key, SIDE_HOST)
    if flow == NULL and port.body.port.groups:
        return open_answer(core, port, &key, peer)
    if flow == NULL:
        count(&core.stats, DROP_UNKNOWN_FLOW)
    return flow


cdef bint is_group(const FlowKey *key) noexcept nogil:
    """Whether the guest sends to a multicast group or, in IPv4, to all hosts of its link."""
    return key.remote[0] >= 224 if key.addr_len == 4 else key.remote[0] == 0xff


cdef void join_groups(Core core, Flow *flow, const HostRoute *route) noexcept nogil:
    """Note that the flow goes to a group or broadcast address, and by which interface."""
    cdef Flow *port = &core.flows.flows[flow.body.udp.port]
    flow.body.udp.group = True
    if flow.body.udp.listener:
        return                    # anybody may ask there anyway, and each message says its interface
    port.body.port.groups += 1
    if route.ifindex and not route.ifname[0]:
        core.sockets.set_interface(port.fd, route.peer.ss_family, <int>route.ifindex)


cdef Flow *open_answer(Core core, Flow *port, const FlowKey *key,
                       const sockaddr_storage *peer) noexcept nogil:
    """A new flow for what *peer* answers to a datagram that went to a group; NULL: counted drop."""
    cdef FlowKey guest_key = port.keys[0]
    cdef uint32_t index = port.index
    cdef Flow *flow
    guest_key.scope = 0
    guest_key.remote_port = key.remote_port
    if not key.remote_port or not ask_source(core, key.remote, key.addr_len, guest_key.remote):
        count(&core.stats, DROP_REFUSED)
        return NULL
    if core.flows.find(&guest_key, SIDE_GUEST) != NULL:
        count(&core.stats, DROP_UNKNOWN_FLOW)     # the guest knows another remote by that address
        return NULL
    port.body.port.users += 1        # it must outlive whom the new flow crowds out
    flow = admit_datagram(core, FLOW_UDP)
    if flow == NULL:
        port.body.port.users -= 1
        if not port.body.port.users:
            core.flows.add_work(port)         # the last one was crowded out: it ends
        return NULL
    flow.keys[0] = guest_key
    flow.keys[1] = key[0]
    start_udp(core, flow)
    flow.body.udp.port = index
    flow.has_mac = port.has_mac
    memcpy(flow.mac, port.mac, ETH_ALEN)
    flow.peer = peer[0]
    flow.peer_len = sizeof(sockaddr_in) if peer.ss_family == AF_INET else sizeof(sockaddr_in6)
    core.flows.insert(flow, SIDE_GUEST)
    core.flows.insert(flow, SIDE_HOST)
    core.stats.flows_udp += 1
    note_opened(core, flow)
    return flow


cdef Flow *inbound_flow(Core core, uint32_t listener, int fd, msghdr *message) noexcept nogil:
    """The flow of a datagram that came to a listener, a new one if need be; NULL: counted drop."""
    cdef sockaddr_storage local
    cdef FlowKey key
    cdef Flow *flow
    cdef uint32_t ifindex = 0
    cdef uint16_t port = 0
    cdef const sockaddr_storage *peer = <const sockaddr_storage *>message.msg_name
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
    return open_inbound(core, listener, fd, &key, message, &local, ifindex)


cdef Flow *open_inbound(Core core, uint32_t listener, int fd, const FlowKey *key,
                        const msghdr *message, sockaddr_storage *local,
                        uint32_t ifindex) noexcept nogil:
    """A new flow for datagrams like *message*, sent to *local*, or the guest's own with its remote."""
    cdef const sockaddr_storage *peer = <const sockaddr_storage *>message.msg_name
    cdef InboundView view
    cdef FlowKey guest_key
    cdef Flow *flow
    cdef bint is_new = False
    # The policy maps ports by the one that the listener is bound to.
    (<sockaddr_in *>local).sin_port = htons(core.listeners.states[listener].port)
    if not ask_inbound(core, listener, IPPROTO_UDP, peer, local, &view):
        count(&core.stats, DROP_REFUSED)
        note_refused_client(core, IPPROTO_UDP, peer, local, &view)
        return NULL
    if view.bypass:
        return open_splice_udp(core, listener, fd, key, message, &view)
    memset(&guest_key, 0, sizeof(guest_key))
    fill_inbound_key(&guest_key, &view, IPPROTO_UDP)
    flow = core.flows.find(&guest_key, SIDE_GUEST)
    if flow == NULL:
        flow = admit_datagram(core, FLOW_UDP)
        if flow == NULL:
            return NULL
        flow.inbound = True
        flow.keys[0] = guest_key
        start_udp(core, flow)
        core.flows.insert(flow, SIDE_GUEST)
        core.stats.flows_udp += 1
        is_new = True
    elif not same_remote(core, flow, listener, key):
        count(&core.stats, DROP_REFUSED)
        return NULL
    else:
        flush_out(core)           # what was gathered names the socket that the flow leaves
        core.flows.unhash(flow, SIDE_HOST)
        leave_port(core, flow)
    flow.peer = peer[0]
    flow.peer_len = sizeof(sockaddr_in) if peer.ss_family == AF_INET else sizeof(sockaddr_in6)
    flow.body.udp.listener = listener + 1
    core.listeners.add_flow(listener)
    flow.body.udp.listener_fd = fd
    flow.body.udp.local_family = peer.ss_family
    flow.body.udp.ifindex = ifindex
    flow.keys[1] = key[0]
    core.flows.insert(flow, SIDE_HOST)
    if is_new:
        note_opened(core, flow)
    return flow


cdef bint same_remote(Core core, const Flow *flow, uint32_t listener, const FlowKey *key) noexcept nogil:
    """Whether a flow that the guest sees by the same addresses is one with the same remote.

    One that uses a listener already stays there; only its host address on that listener may change.
    """
    cdef uint8_t address[16]
    cdef uint16_t port = 0
    read_sockaddr(&flow.peer, address, &port)
    if flow.body.udp.listener and flow.body.udp.listener != listener + 1:
        return False
    return port == key.remote_port and not memcmp(address, key.remote, 16)


cdef bint is_dns(const Flow *flow) noexcept nogil:
    return flow.keys[0].remote_port == PORT_DNS and not flow.inbound


cdef void note_sent(Core core, Flow *flow) noexcept nogil:
    """The guest sent a datagram on the flow."""
    if is_dns(flow):
        flow.body.udp.pending += flow.body.udp.pending < ANY_SIZE
    elif flow.body.udp.answered or flow.inbound:
        flow.body.udp.streaming = True
    touch(core, flow, &flow.body.udp.last_used, udp_lifetime(core, flow))


cdef void note_received(Core core, Flow *flow, uint32_t n) noexcept nogil:
    """*n* datagrams came for the guest."""
    if is_dns(flow):
        flow.body.udp.pending -= <uint16_t>min(n, <uint32_t>flow.body.udp.pending)
    elif flow.body.udp.answered or n > 1:
        flow.body.udp.streaming = True
    flow.body.udp.answered = True
    if flow.flow_class == CLASS_KEPT or flow.body.udp.streaming:
        touch(core, flow, &flow.body.udp.last_used, udp_lifetime(core, flow))
    else:
        flow.body.udp.last_used = core.now
        if not flow.body.udp.pending:
            core.flows.move_oldest(flow)      # one that has its answer makes room before those that wait
    if is_dns(flow):
        core.arm(flow, core.now + udp_lifetime(core, flow))


cdef int64_t udp_lifetime(Core core, const Flow *flow) noexcept nogil:
    """How long the flow lives unused, ns."""
    if is_dns(flow):
        return core.udp.once_ns if flow.body.udp.pending or not flow.body.udp.answered else ANSWERED_NS
    return core.udp.stream_ns if flow.body.udp.streaming else core.udp.once_ns


cdef void on_udp_timer(Core core, Flow *flow) noexcept nogil:
    """The flow may have been unused for its lifetime."""
    if not still_used(core, flow, flow.body.udp.last_used, udp_lifetime(core, flow)):
        end_udp(core, flow)


cdef void end_udp(Core core, Flow *flow) noexcept nogil:
    """Forget the flow; the socket that it shares is closed if no other flow uses it."""
    if core.udp.out_batch.n_messages:
        flush_out(core)           # some of it may be this flow's
    core.stats.flows_udp -= 1
    note_ended(core, flow, b"idle")
    leave_port(core, flow)
    end_datagram(core, flow)


cdef void leave_port(Core core, Flow *flow) noexcept nogil:
    """A UDP flow no longer uses the socket that it shared."""
    cdef Flow *port
    if flow.body.udp.listener:
        core.listeners.drop_flow(flow.body.udp.listener - 1)
        return
    port = &core.flows.flows[flow.body.udp.port]
    port.body.port.users -= 1
    port.body.port.groups -= flow.body.udp.group
    if not port.body.port.users:
        end_datagram(core, port)

"""UDP translation (RFC 768).

Theory of operation. A flow is one pair of endpoints as the guest sees them. One that the guest
opened has a socket of its own, connected, so the kernel tells flows apart and reports errors; it is
bound to the guest's port where that is free. One that came in on a listener uses the listener's
socket for its answers, sent from the very address that was asked (IP_PKTINFO), so that it costs no
descriptor; its datagrams are found by what the listener sees (SIDE_HOST).

Datagrams for the guest are read straight into the link's slot, behind the place of the headers.
Segmented datagrams of the guest (UDP_SEGMENT there) leave segmented by the host's kernel.
Idle flows end after the times that Linux' connection tracking uses.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.core cimport Core, Seen, fill_inbound_key
from passt.dataplane.csum cimport csum_fold, pseudo4, pseudo6
from passt.dataplane.datagram cimport (
    DROPPED, NOTHING, end_datagram, open_datagram, receive, still_used, take_datagram, use,
)
from passt.dataplane.flow cimport FLOW_UDP, SIDE_GUEST, SIDE_HOST, Flow, FlowKey, fill_key
from passt.dataplane.fragments cimport send_packet
from passt.dataplane.headers cimport ETH_HLEN, IP4_HLEN, IP6_HLEN, MAX_IP_LEN, UDP_HLEN, UdpHdr
from passt.dataplane.link cimport RxFrame, TxMeta
from passt.dataplane.parse cimport IpView, UdpView, split_udp
from passt.dataplane.sockets cimport read_sockaddr
from passt.dataplane.stats cimport (
    DROP_BAD_PORT, DROP_FLOWS_FULL, DROP_GSO, DROP_LINK_FULL, DROP_REFUSED, DROP_SOCKET, VERDICT_OK,
    Verdict, count,
)
from passt.dataplane.sys cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, ECONNREFUSED,
    EINVAL, EIO, EMSGSIZE, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IPV6_PKTINFO,
    SOL_UDP, UDP_SEGMENT, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP_L4, cmsghdr, htons, in6_pktinfo,
    in_pktinfo, iovec, memcpy, memmove, memset, msghdr, sockaddr_in, sockaddr_in6, sockaddr_storage,
)
from passt.dataplane.tcp_conn cimport ms

cdef enum:
    # Idle times of one-shot exchanges and of streams (nf_conntrack_udp_timeout, _timeout_stream).
    LIFETIME_ONCE_MS = 30000
    LIFETIME_STREAM_MS = 120000
    RECEIVE_BUDGET = 64           # datagrams per socket and turn
    CONTROL_SIZE = 128


cdef int64_t lifetime(const Flow *flow) noexcept nogil:
    return ms(LIFETIME_STREAM_MS if flow.u.udp.streaming else LIFETIME_ONCE_MS)


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
    flow = core.flows.find(&key, SIDE_GUEST)
    if flow == NULL:
        flow = open_datagram(core, &key, FLOW_UDP, IPPROTO_UDP)
        if flow == NULL:
            return
    elif flow.u.udp.answered:
        flow.u.udp.streaming = True
    use(core, flow, &flow.u.udp.last_used, lifetime(flow))
    send_out(core, flow, &udp, frame.gso_size if frame.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 else 0)


cdef void send_out(Core core, Flow *flow, const UdpView *udp, uint16_t segment) noexcept nogil:
    """Send a datagram, or several of *segment* bytes each, to the flow's remote."""
    cdef uint8_t control[CONTROL_SIZE]
    cdef msghdr message
    cdef iovec piece
    cdef ssize_t sent
    cdef size_t offset = 0
    cdef int fd = fill_message(core, flow, &message, control)
    message.msg_iov = &piece
    message.msg_iovlen = 1
    piece.iov_base = <void *>udp.payload
    piece.iov_len = udp.payload_len
    if segment and udp.payload_len > segment:
        add_segment_size(&message, control, segment)
        sent = core.sockets.send_message(fd, &message)
        if sent not in (-EINVAL, -EIO, -EMSGSIZE):
            if sent < 0:
                count(&core.stats, DROP_SOCKET)
            return
        fill_message(core, flow, &message, control)   # this route cannot: send them one by one
        message.msg_iov = &piece
        message.msg_iovlen = 1
    else:
        segment = MAX_IP_LEN
    while True:
        piece.iov_base = <void *>(udp.payload + offset)
        piece.iov_len = min(<size_t>segment, udp.payload_len - offset)
        sent = core.sockets.send_message(fd, &message)
        if sent == -ECONNREFUSED:
            sent = core.sockets.send_message(fd, &message)        # that was an earlier datagram's error
        if sent < 0:
            count(&core.stats, DROP_SOCKET)
        offset += piece.iov_len
        if offset >= udp.payload_len:
            return


cdef int fill_message(Core core, Flow *flow, msghdr *message, uint8_t *control) noexcept nogil:
    """Prepare a message to the flow's remote; returns the socket to send it by.

    A listener's socket needs the destination, and the source in control data (ip(7), ipv6(7)).
    """
    cdef cmsghdr *item = <cmsghdr *>control
    cdef in_pktinfo four
    cdef in6_pktinfo six
    memset(message, 0, sizeof(msghdr))
    if not flow.u.udp.listener:
        return flow.fd
    message.msg_name = &flow.peer
    message.msg_namelen = flow.peer_len
    message.msg_control = control
    memset(control, 0, CONTROL_SIZE)
    if flow.u.udp.local_family == AF_INET:
        memset(&four, 0, sizeof(four))
        memcpy(&four.ipi_spec_dst, flow.keys[1].guest, 4)
        item.cmsg_level = IPPROTO_IP
        item.cmsg_type = IP_PKTINFO
        item.cmsg_len = CMSG_LEN(sizeof(four))
        memcpy(CMSG_DATA(item), &four, sizeof(four))
        message.msg_controllen = CMSG_SPACE(sizeof(four))
    else:
        memset(&six, 0, sizeof(six))
        if flow.keys[1].addr_len == 4:
            six.ipi6_addr.s6_addr[10] = 0xff
            six.ipi6_addr.s6_addr[11] = 0xff
            memcpy(&six.ipi6_addr.s6_addr[12], flow.keys[1].guest, 4)
        else:
            memcpy(&six.ipi6_addr, flow.keys[1].guest, 16)
            six.ipi6_ifindex = flow.u.udp.ifindex
        item.cmsg_level = IPPROTO_IPV6
        item.cmsg_type = IPV6_PKTINFO
        item.cmsg_len = CMSG_LEN(sizeof(six))
        memcpy(CMSG_DATA(item), &six, sizeof(six))
        message.msg_controllen = CMSG_SPACE(sizeof(six))
    return flow.u.udp.listener_fd


cdef void add_segment_size(msghdr *message, uint8_t *control, uint16_t segment) noexcept nogil:
    """Append UDP_SEGMENT to the control data (linux/udp.h)."""
    cdef cmsghdr *item = <cmsghdr *>(control + message.msg_controllen)
    message.msg_control = control
    item.cmsg_level = SOL_UDP
    item.cmsg_type = UDP_SEGMENT
    item.cmsg_len = CMSG_LEN(sizeof(segment))
    memcpy(CMSG_DATA(item), &segment, sizeof(segment))
    message.msg_controllen += CMSG_SPACE(sizeof(segment))


cdef void send_in(Core core, const FlowKey *key, uint32_t n) noexcept nogil:
    """Send the guest a datagram whose *n* bytes lie in the slot behind the headers' place."""
    cdef uint32_t l4_len = UDP_HLEN + n
    cdef UdpHdr udp
    cdef TxMeta meta
    cdef uint8_t *place = core.push_ip(key.remote, key.guest, key.addr_len, IPPROTO_UDP, l4_len)
    udp.src_port_be = htons(key.remote_port)
    udp.dst_port_be = htons(key.guest_port)
    udp.len_be = htons(<uint16_t>l4_len)
    if key.addr_len == 4:
        udp.csum_be = <uint16_t>~csum_fold(pseudo4(key.remote, key.guest, IPPROTO_UDP, l4_len))
    else:
        udp.csum_be = <uint16_t>~csum_fold(pseudo6(key.remote, key.guest, IPPROTO_UDP, l4_len))
    memcpy(place, &udp, UDP_HLEN)
    memset(&meta, 0, sizeof(meta))
    meta.csum_start = <uint16_t>(place - core.link.slot)
    meta.csum_offset = 6
    meta.hdr_len = meta.csum_start + UDP_HLEN
    send_packet(core, meta.hdr_len + n, &meta)


cdef void on_udp_socket(Core core, Flow *flow) noexcept nogil:
    """Datagrams or errors on a flow's own socket."""
    cdef ssize_t n
    cdef int budget = RECEIVE_BUDGET
    while budget:
        budget -= 1
        n = receive(core, flow, UDP_HLEN)
        if n == NOTHING:
            return
        if n == DROPPED:
            continue
        if flow.u.udp.answered:
            flow.u.udp.streaming = True
        flow.u.udp.answered = True
        use(core, flow, &flow.u.udp.last_used, lifetime(flow))
        send_in(core, &flow.keys[0], <uint32_t>n)
    core.flows.add_work(flow)


cdef void on_udp_listener(Core core, uint32_t listener, int fd) noexcept nogil:
    """Datagrams or errors on a listener."""
    cdef uint8_t control[CONTROL_SIZE]
    cdef sockaddr_storage peer
    cdef msghdr message
    cdef iovec piece
    cdef Flow *flow
    cdef ssize_t n
    cdef int budget = RECEIVE_BUDGET
    cdef uint8_t *place = core.link.slot + ETH_HLEN + IP6_HLEN + UDP_HLEN
    while budget:
        budget -= 1
        memset(&message, 0, sizeof(message))
        message.msg_name = &peer
        message.msg_namelen = sizeof(peer)
        message.msg_control = control
        message.msg_controllen = CONTROL_SIZE
        message.msg_iov = &piece
        message.msg_iovlen = 1
        piece.iov_base = place
        piece.iov_len = MAX_IP_LEN - UDP_HLEN
        n = take_datagram(core, fd, &message)
        if n == NOTHING:
            return
        if n == DROPPED:
            continue
        if core.link.blocked:
            # Left in the socket it would make the listener readable again and again.
            count(&core.stats, DROP_LINK_FULL)
            continue
        flow = inbound_flow(core, listener, fd, &message)
        if flow == NULL:
            continue
        if flow.keys[0].addr_len == 4:
            memmove(place - (IP6_HLEN - IP4_HLEN), place, <size_t>n)
        use(core, flow, &flow.u.udp.last_used, lifetime(flow))
        send_in(core, &flow.keys[0], <uint32_t>n)


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
        flow.u.udp.streaming = True
        return flow
    if not key.addr_len or not key.remote_port:
        count(&core.stats, DROP_BAD_PORT)
        return NULL
    return open_inbound(core, listener, fd, &key, peer, &local, ifindex)


cdef Flow *open_inbound(Core core, uint32_t listener, int fd, const FlowKey *key,
                        const sockaddr_storage *peer, sockaddr_storage *local,
                        uint32_t ifindex) noexcept nogil:
    """A new flow for datagrams from *peer* to *local*."""
    cdef Seen seen
    cdef Flow *flow
    # The policy maps ports by the one that the listener is bound to.
    (<sockaddr_in *>local).sin_port = htons(core.listener_port(listener))
    if not core.ask_inbound(listener, IPPROTO_UDP, peer, local, &seen):
        count(&core.stats, DROP_REFUSED)
        core.stats.flows_refused += 1
        return NULL
    flow = core.flows.alloc(FLOW_UDP)
    if flow == NULL:
        count(&core.stats, DROP_FLOWS_FULL)
        return NULL
    flow.inbound = True
    flow.peer = peer[0]
    flow.peer_len = sizeof(sockaddr_in) if peer.ss_family == AF_INET else sizeof(sockaddr_in6)
    flow.u.udp.listener = listener + 1
    flow.u.udp.listener_fd = fd
    flow.u.udp.local_family = peer.ss_family
    flow.u.udp.ifindex = ifindex
    flow.u.udp.answered = True
    flow.keys[1] = key[0]
    fill_inbound_key(&flow.keys[0], &seen, IPPROTO_UDP)
    if not core.flows.insert(flow, SIDE_GUEST):
        count(&core.stats, DROP_REFUSED)
        core.flows.release(flow)
        return NULL
    core.flows.insert(flow, SIDE_HOST)
    core.stats.flows_udp += 1
    core.stats.flows_opened += 1
    return flow


cdef void local_address(msghdr *message, sockaddr_storage *out, uint32_t *ifindex) noexcept nogil:
    """The address that a datagram was sent to, from its control data; link-local ones with interface."""
    cdef cmsghdr *item = CMSG_FIRSTHDR(message)
    cdef in_pktinfo four
    cdef in6_pktinfo six
    memset(out, 0, sizeof(sockaddr_storage))
    while item != NULL:
        if item.cmsg_level == IPPROTO_IP and item.cmsg_type == IP_PKTINFO:
            memcpy(&four, CMSG_DATA(item), sizeof(four))
            out.ss_family = AF_INET
            (<sockaddr_in *>out).sin_addr = four.ipi_addr
            return
        if item.cmsg_level == IPPROTO_IPV6 and item.cmsg_type == IPV6_PKTINFO:
            memcpy(&six, CMSG_DATA(item), sizeof(six))
            out.ss_family = AF_INET6
            (<sockaddr_in6 *>out).sin6_addr = six.ipi6_addr
            if six.ipi6_addr.s6_addr[0] == 0xfe and (six.ipi6_addr.s6_addr[1] & 0xc0) == 0x80:
                ifindex[0] = six.ipi6_ifindex
            return
        item = CMSG_NXTHDR(message, item)


cdef void on_udp_timer(Core core, Flow *flow) noexcept nogil:
    if not still_used(core, flow, flow.u.udp.last_used, lifetime(flow)):
        end_datagram(core, flow)

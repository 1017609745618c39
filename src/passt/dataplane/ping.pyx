"""ICMP and ICMPv6 echo translation (RFC 792, RFC 4443 4).

Theory of operation. A flow is one identifier between the guest and one remote; its socket is a
"ping" socket (icmp(7)), bound to the guest's identifier where that is free and connected to the
remote. The kernel fills identifier and checksum of requests in; replies get the guest's identifier
back. The group of the process has to be in net.ipv4.ping_group_range.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.traffic cimport add_to_guest, add_to_host
from passt.dataplane.core.core cimport Core
from passt.dataplane.packet.checksum cimport csum_add, csum_fold, pseudo6
from passt.dataplane.datagram.lifetime cimport (
    DROPPED, NOTHING, end_datagram, open_bound, refuse_datagram, start_datagram, still_used, touch,
    watch_datagram,
)
from passt.dataplane.datagram.socket_errors cimport drain_errors, settle_send_error
from passt.dataplane.flow.key cimport SIDE_GUEST, FlowKey, fill_key
from passt.dataplane.flow.record cimport FLOW_PING, Flow
from passt.dataplane.ip.fragments cimport send_packet
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ICMP6_ECHO_REPLY, ICMP6_ECHO_REQUEST, ICMP_ECHO_REPLY, ICMP_ECHO_REQUEST, ICMP_HLEN, IP4_HLEN,
    IP6_HLEN, MAX_IP_LEN, IcmpHdr,
)
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.ip.path_mtu cimport limit_towards
from passt.dataplane.datagram.ip_fields cimport Marks, read_marks, set_ping_marks
from passt.dataplane.base.stats cimport DROP_PROTOCOL, DROP_SHORT, DROP_SOCKET, DROP_TRUNCATED, count
from passt.dataplane.base.externs cimport (
    EACCES, EAGAIN, EPERM, IPPROTO_ICMP, IPPROTO_ICMPV6, MSG_TRUNC, htons, iovec, memcpy, memset, msghdr,
    ntohs,
)
from passt.dataplane.core.decisions cimport note_ended, note_opened, tell_ping_forbidden
from passt.dataplane.core.station cimport follow_sender, station_of
from passt.dataplane.flow.decision cimport HostRoute
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.packet.build cimport mark_packet

cdef enum:
    LIFETIME_MS = 30000           # nf_conntrack_icmp_timeout
    RECEIVE_BUDGET = 16
    # Attempts: one may report an earlier request's error, one that the message is too large; the last sends.
    MAX_TRIES = 3
    CONTROL_SIZE = 128


cdef void on_echo(Core core, const IpView *ip) noexcept nogil:
    """An ICMP or ICMPv6 message from the guest; only echo requests go on."""
    cdef IcmpHdr icmp
    cdef FlowKey key
    cdef Flow *flow
    cdef msghdr message
    cdef iovec piece
    cdef ssize_t sent
    cdef uint8_t protocol = IPPROTO_ICMP if ip.addr_len == 4 else IPPROTO_ICMPV6
    cdef uint8_t wanted = ICMP_ECHO_REQUEST if ip.addr_len == 4 else ICMP6_ECHO_REQUEST
    if ip.l4_len < ICMP_HLEN:
        count(&core.stats, DROP_SHORT)
        return
    memcpy(&icmp, ip.l4, ICMP_HLEN)
    if icmp.type != wanted or icmp.code:
        count(&core.stats, DROP_PROTOCOL)
        return
    fill_key(&key, ip, protocol, ntohs(icmp.id_be), ntohs(icmp.id_be))
    flow = core.flows.find(&key, SIDE_GUEST)
    if flow == NULL:
        flow = open_ping(core, ip, &key, protocol)
        if flow == NULL:
            return
        flow.body.ping.packet_limit = limit_towards(core, key.guest)
    follow_sender(core, flow, ip.mac)
    touch(core, flow, &flow.body.ping.last_used, ms(LIFETIME_MS))
    add_to_host(&flow.body.ping.traffic, 1, ip.l4_len - ICMP_HLEN)
    memset(&message, 0, sizeof(message))
    piece.iov_base = <void *>ip.l4
    piece.iov_len = ip.l4_len
    message.msg_iov = &piece
    message.msg_iovlen = 1
    set_ping_marks(core, flow, ip)
    for _ in range(MAX_TRIES):
        sent = core.sockets.send_message(flow.fd, &message)
        if sent >= 0:
            return
        if not settle_send_error(core, flow, <int>sent, ip.l4, ip.l4_len):
            break
    count(&core.stats, DROP_SOCKET)


cdef Flow *open_ping(Core core, const IpView *ip, const FlowKey *key, int protocol) noexcept nogil:
    """Route a new flow of the guest and give it a connected, watched socket; NULL: counted drop.

    The socket keeps the guest's identifier if the host has it free.
    """
    cdef HostRoute route
    cdef Flow *flow = start_datagram(core, ip, key, FLOW_PING, &route)
    cdef int result
    if flow == NULL:
        return NULL
    result = open_bound(core, &route, protocol, key)
    if result in (-EACCES, -EPERM):
        tell_ping_forbidden(core)
    if result >= 0:
        flow.fd = result
        result = core.sockets.connect(flow.fd, &route.peer, route.peer_len)
    if result < 0 or not watch_datagram(core, flow):
        refuse_datagram(core, flow, result)
        return NULL
    core.flows.insert(flow, SIDE_GUEST)
    core.stats.flows_ping += 1
    note_opened(core, flow)
    return flow


cdef void on_ping_socket(Core core, Flow *flow) noexcept nogil:
    """Replies or errors on a ping socket."""
    cdef Marks marks
    cdef ssize_t n
    cdef int budget = RECEIVE_BUDGET
    while budget:
        budget -= 1
        n = take_reply(core, flow, &marks)
        if n == NOTHING:
            return
        if n == DROPPED:
            continue
        if n < ICMP_HLEN:
            count(&core.stats, DROP_SHORT)
            continue
        touch(core, flow, &flow.body.ping.last_used, ms(LIFETIME_MS))
        send_reply(core, flow, <uint32_t>n, &marks)
    core.flows.add_work(flow)


cdef ssize_t take_reply(Core core, Flow *flow, Marks *marks) noexcept nogil:
    """Read a message into the link's slot behind the IP header's place; its length, NOTHING or DROPPED.

    While the link is full the messages stay in the socket: the flow waits for the link.
    """
    cdef uint8_t control[CONTROL_SIZE]
    cdef msghdr message
    cdef iovec piece
    cdef uint32_t mtu = 0
    cdef ssize_t n
    cdef bint is_ip4 = flow.keys[0].addr_len == 4
    if core.link.blocked:
        core.flows.add_waiting(flow)
        return NOTHING
    memset(&message, 0, sizeof(message))
    message.msg_iov = &piece
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = CONTROL_SIZE
    piece.iov_base = core.link.slot + ETH_HLEN + (IP4_HLEN if is_ip4 else IP6_HLEN)
    # IPv4 counts its header in the packet's length, IPv6 does not.
    piece.iov_len = MAX_IP_LEN - IP4_HLEN if is_ip4 else MAX_IP_LEN
    n = core.sockets.receive_message(flow.fd, &message)
    if n == -EAGAIN:
        return NOTHING
    if n < 0:
        if not drain_errors(core, flow, 0, flow.fd, &mtu):
            count(&core.stats, DROP_SOCKET)
        return DROPPED
    if message.msg_flags & MSG_TRUNC:
        count(&core.stats, DROP_TRUNCATED)
        return DROPPED
    read_marks(&message, marks)
    return n


cdef void send_reply(Core core, Flow *flow, uint32_t n, const Marks *marks) noexcept nogil:
    """Send the guest the reply of *n* bytes that lies in the slot, under the guest's identifier."""
    cdef FlowKey *key = &flow.keys[0]
    cdef bint is_ip4 = key.addr_len == 4
    cdef IcmpHdr icmp
    cdef TxMeta meta
    cdef uint8_t *header = core.link.slot + ETH_HLEN + (IP4_HLEN if is_ip4 else IP6_HLEN)
    memcpy(&icmp, header, ICMP_HLEN)
    if icmp.type != (ICMP_ECHO_REPLY if is_ip4 else ICMP6_ECHO_REPLY):
        count(&core.stats, DROP_PROTOCOL)
        return
    add_to_guest(&flow.body.ping.traffic, 1, n - ICMP_HLEN)
    core.push_ip(station_of(core, flow), key.remote, key.guest, key.addr_len, key.proto, n)
    mark_packet(core.link.slot + ETH_HLEN, is_ip4, marks.tos, marks.ttl)
    icmp.id_be = htons(key.guest_port)
    icmp.csum_be = 0
    memcpy(header, &icmp, ICMP_HLEN)
    icmp.csum_be = csum_fold(csum_add(
        header, n, 0 if is_ip4 else pseudo6(key.remote, key.guest, key.proto, n)))
    memcpy(header, &icmp, ICMP_HLEN)
    memset(&meta, 0, sizeof(meta))
    meta.hdr_len = <uint16_t>(header - core.link.slot + ICMP_HLEN)
    send_packet(core, <size_t>(header - core.link.slot) + n, &meta, flow.body.ping.packet_limit)


cdef void on_ping_timer(Core core, Flow *flow) noexcept nogil:
    if not still_used(core, flow, flow.body.ping.last_used, ms(LIFETIME_MS)):
        end_ping(core, flow)


cdef void end_ping(Core core, Flow *flow) noexcept nogil:
    core.stats.flows_ping -= 1
    note_ended(core, flow, b"idle")
    end_datagram(core, flow)

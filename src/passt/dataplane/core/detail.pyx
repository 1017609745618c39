"""What is known of one flow, for those who look at the running program.

Theory of operation. Nothing is counted per frame for this. Of a connection the kernel counts everything
anyway (tcp(7), TCP_INFO), and is asked when somebody looks, two calls for each flow. Sequence numbers tell
how many bytes passed, modulo 2 ** 32; the kernel's own count, which lags behind or runs ahead by less than
that, says which multiple. Flows of datagrams have four counters in their record.

The guest's end is what the guest sees. Of a connection that bypasses the link it has a socket of its own,
whose other end is the one that the guest sees.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport memcpy, memset, sockaddr_storage
from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.bypass cimport HALF_EOF
from passt.dataplane.flow.record cimport (
    FLOW_PING, FLOW_SPLICE_TCP, FLOW_SPLICE_UDP, FLOW_TCP, FLOW_UDP, Flow,
)
from passt.dataplane.flow.tcp cimport (
    CONN_GUEST_FIN, CONN_HOST_EOF, TCP_CONNECTING, TCP_SYN_RECEIVED, TCP_SYN_SENT, TcpConn,
)
from passt.dataplane.flow.traffic cimport Traffic
from passt.dataplane.sockets.socket_address cimport read_sockaddr
from passt.dataplane.sockets.sockets cimport Report
from passt.facts.contracts import FlowDetail

cdef enum:
    ACCEPTED = 0                  # halves of a bypassed connection
    CONNECTED = 1


cdef struct End:
    uint8_t address[16]
    size_t len                    # 0: none
    uint16_t port


cdef object describe(Core core, const Flow *flow):
    """A `FlowDetail` of *flow*."""
    cdef const char *state = core.handlers[flow.kind].state(flow)
    cdef End guest, remote, peer, local
    cdef tuple common
    memcpy(guest.address, flow.keys[0].guest, 16)
    guest.port = flow.keys[0].guest_port
    memcpy(remote.address, flow.keys[0].remote, 16)
    remote.port = flow.keys[0].remote_port
    guest.len = remote.len = flow.keys[0].addr_len
    peer.port = 0
    peer.len = read_sockaddr(&flow.peer, peer.address, &peer.port)
    find_local(core, flow, &local, &remote)
    common = (
        flow.index, flow.generation, flow.keys[0].proto, "" if state == NULL else state.decode(),
        flow.kind in (FLOW_SPLICE_TCP, FLOW_SPLICE_UDP), bool(flow.inbound),
        (<char *>guest.address)[:guest.len], guest.port, (<char *>remote.address)[:remote.len], remote.port,
        (<char *>peer.address)[:peer.len], peer.port, (<char *>local.address)[:local.len], local.port,
        core.now - flow.opened_at)
    if flow.kind == FLOW_TCP:
        return FlowDetail(*common, *measure_tcp(core, flow))
    if flow.kind == FLOW_SPLICE_TCP:
        return FlowDetail(*common, *measure_spliced(core, flow))
    return FlowDetail(*common, *measure_datagrams(core, flow))


cdef void find_local(Core core, const Flow *flow, End *local, End *remote) noexcept nogil:
    """Our socket's own end; of a bypassed connection also the remote's as the guest sees it, if known."""
    cdef int fd = flow.fd
    cdef int inner
    cdef End seen
    if flow.kind == FLOW_UDP:
        fd = flow.body.udp.listener_fd if flow.body.udp.listener else core.flows.flows[flow.body.udp.port].fd
    elif flow.kind == FLOW_SPLICE_UDP and flow.inbound:
        fd = flow.body.splice_udp.listener_fd
    elif flow.kind == FLOW_SPLICE_TCP:
        fd = flow.body.splice.halves[ACCEPTED if flow.inbound else CONNECTED].fd
        inner = flow.body.splice.halves[CONNECTED if flow.inbound else ACCEPTED].fd
        read_local(core, inner, &seen)
        if seen.port:
            remote[0] = seen
    read_local(core, fd, local)


cdef void read_local(Core core, int fd, End *end) noexcept nogil:
    cdef sockaddr_storage name
    memset(end, 0, sizeof(End))
    if core.sockets.local_name(fd, &name) == 0:
        end.len = read_sockaddr(&name, end.address, &end.port)


cdef int64_t idle_ns(Core core, const Flow *flow, uint32_t idle_ms) noexcept nogil:
    """Time without data: of a connection that had none the kernel counts from the host's own start."""
    return min(<int64_t>idle_ms * 1000000, core.now - flow.opened_at)


cdef tuple measure_tcp(Core core, const Flow *flow):
    """What is known of a connection by the link, from *idle_ns* on."""
    cdef const TcpConn *conn = &flow.body.tcp
    cdef Report host
    cdef bint is_known = core.sockets.report(flow.fd, &host)
    cdef bint has_begun = conn.state not in (TCP_CONNECTING, TCP_SYN_SENT, TCP_SYN_RECEIVED)
    cdef object to_host = None
    cdef object to_guest = None
    if is_known:
        to_host = sent_of(conn, &host) if has_begun else 0
        to_guest = taken_of(conn, &host) if has_begun else 0
    return (
        idle_ns(core, flow, host.idle_ms) if is_known else None, to_host, to_guest,
        host.segments_out if is_known else None, host.segments_in if is_known else None,
        conn.srtt // 1000 if conn.srtt else None, host.rtt_us if is_known and host.rtt_us else None,
        conn.retransmits, host.retransmits if is_known else None,
        conn.snd_wnd if has_begun else None, conn.rcv_adv - conn.rcv_nxt if has_begun else None,
        host.window if is_known else None)


cdef uint64_t sent_of(const TcpConn *conn, const Report *host) noexcept nogil:
    """Bytes that the guest has sent us: never less than the remote has acknowledged."""
    # Our SYN and our FIN may be among those.
    cdef uint64_t least = host.bytes_acked - min(host.bytes_acked, <uint64_t>2)
    cdef uint32_t count = conn.rcv_nxt - conn.irs - 1 - (1 if conn.flags & CONN_GUEST_FIN else 0)
    return least + <uint32_t>(count - <uint32_t>least)


cdef uint64_t taken_of(const TcpConn *conn, const Report *host) noexcept nogil:
    """Bytes that the guest has acknowledged: never more than the remote has sent."""
    cdef uint64_t most = host.bytes_received
    cdef uint32_t upto = conn.snd_una
    cdef uint32_t count
    if conn.flags & CONN_HOST_EOF and <int32_t>(conn.fin_seq - upto) < 0:
        upto = conn.fin_seq
    count = upto - conn.iss - 1
    return most - <uint32_t>(<uint32_t>most - count)


cdef tuple measure_spliced(Core core, const Flow *flow):
    """What is known of a bypassed connection, from *idle_ns* on."""
    cdef int outer = ACCEPTED if flow.inbound else CONNECTED
    cdef Report host, guest
    cdef bint is_known = core.sockets.report(flow.body.splice.halves[outer].fd, &host)
    cdef bint knows_guest = core.sockets.report(flow.body.splice.halves[1 - outer].fd, &guest)
    if not is_known or not knows_guest:
        return (None,) * 12
    return (
        idle_ns(core, flow, min(host.idle_ms, guest.idle_ms)),
        received(&guest, flow.body.splice.halves[1 - outer].flags),
        received(&host, flow.body.splice.halves[outer].flags),
        host.segments_out, host.segments_in, guest.rtt_us or None, host.rtt_us or None,
        guest.retransmits, host.retransmits, guest.window, None, host.window)


cdef uint64_t received(const Report *report, uint32_t flags) noexcept nogil:
    """Bytes of payload that a socket received."""
    cdef bint has_fin = report.has_fin or (report.is_closed and flags & HALF_EOF != 0)
    return report.bytes_received - (has_fin and report.bytes_received > 0)


cdef tuple measure_datagrams(Core core, const Flow *flow):
    """What is known of a flow of datagrams, from *idle_ns* on."""
    cdef Traffic traffic
    cdef int64_t last_used
    if flow.kind == FLOW_UDP:
        traffic, last_used = flow.body.udp.traffic, flow.body.udp.last_used
    elif flow.kind == FLOW_PING:
        traffic, last_used = flow.body.ping.traffic, flow.body.ping.last_used
    else:
        traffic, last_used = flow.body.splice_udp.traffic, flow.body.splice_udp.last_used
    return (core.now - (last_used or flow.opened_at), traffic.bytes_to_host, traffic.bytes_to_guest,
            traffic.packets_to_host, traffic.packets_to_guest, *(None,) * 7)

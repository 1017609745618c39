"""How a connection that the guest opens begins, and what all connections begin with.

The guest's SYN is answered only when the host's socket is connected (TCP_CONNECTING), so that a connection
which the remote refuses is refused to the guest too.
"""

from libc.stdint cimport uint32_t

from passt.dataplane.base.externs cimport EINPROGRESS, EPOLLOUT, IPPROTO_TCP, SOCK_STREAM
from passt.dataplane.base.stats cimport DROP_FLOWS_FULL, DROP_NO_FD, DROP_REFUSED, DROP_SOCKET, count
from passt.dataplane.core.core cimport Core
from passt.dataplane.core.decisions cimport ROUTED, ask_outbound, note_opened, note_refused
from passt.dataplane.core.make_room cimport (
    admit, is_early, is_full, join_crowd, lacks_descriptor, spare_for_connection,
)
from passt.dataplane.core.station cimport follow_sender
from passt.dataplane.flow.decision cimport HostRoute
from passt.dataplane.flow.key cimport SIDE_GUEST, FlowKey
from passt.dataplane.flow.record cimport FLOW_TCP, Flow
from passt.dataplane.flow.tcp cimport CONN_HELD, TCP_CONNECTING, TCP_SYN_RECEIVED, TcpConn
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.packet.parse cimport IpView, TcpView
from passt.dataplane.tcp.failed_connect cimport refuse, refuse_syn
from passt.dataplane.tcp.segments cimport (
    WATCH_ADD, choose_isn, reset_both, send_reset, send_syn, start_rtx, take_syn, update_window, watch,
)
from passt.dataplane.tcp.sequence cimport CWND_OPEN
from passt.dataplane.tcp.states cimport set_state
from passt.dataplane.tcp.timing cimport RTO_INITIAL_MS, start_timestamps


cdef void open_connection(Core core, const IpView *ip, const TcpView *tcp, const FlowKey *key) noexcept nogil:
    """A SYN for a new connection: route it and start to connect."""
    cdef Flow *flow
    cdef HostRoute route
    cdef int result
    cdef bint connected
    if is_full(core, key):
        return
    flow = admit(core, FLOW_TCP)
    if flow == NULL:
        count(&core.stats, DROP_FLOWS_FULL)
        send_reset(core, ip, tcp)
        return
    flow.keys[0] = key[0]
    follow_sender(core, flow, ip.mac)
    if ask_outbound(core, flow, &route) != ROUTED:
        count(&core.stats, DROP_REFUSED)
        note_refused(core, flow)
        core.flows.release(flow)
        send_reset(core, ip, tcp)
        return
    result = core.route_socket(SOCK_STREAM, IPPROTO_TCP, &route)
    if lacks_descriptor(result) and is_early(core, key):
        count(&core.stats, DROP_NO_FD)
        core.flows.release(flow)
        return
    if lacks_descriptor(result) and spare_for_connection(core):
        result = core.route_socket(SOCK_STREAM, IPPROTO_TCP, &route)
    if result < 0:
        count(&core.stats, DROP_NO_FD if lacks_descriptor(result) else DROP_SOCKET)
        core.flows.release(flow)
        refuse_syn(core, ip, tcp, key, -result)
        return
    if not join_crowd(core, flow, &result):
        core.sockets.close(result)
        if core.now >= core.flows.full_until[flow.crowd]:
            send_reset(core, ip, tcp)
        core.flows.release(flow)
        return
    flow.fd = result
    flow.peer = route.peer
    flow.peer_len = route.peer_len
    core.flows.insert(flow, SIDE_GUEST)
    core.stats.flows_tcp += 1
    take_syn(core, flow, tcp)
    flow.body.tcp.cwnd = CWND_OPEN
    if route.held:
        flow.body.tcp.flags |= CONN_HELD
    set_state(core, flow, TCP_CONNECTING)
    note_opened(core, flow)
    result = core.sockets.connect(flow.fd, &flow.peer, flow.peer_len)
    connected = result == 0
    if connected or result == -EINPROGRESS:
        # ENOSPC or ENOMEM (epoll_ctl(2)): without events the connection would hang for ever.
        result = watch(core, flow, 0 if connected else <uint32_t>EPOLLOUT, WATCH_ADD)
    if result < 0:
        refuse(core, flow, -result)
    elif connected:
        on_connected(core, flow)


cdef void on_connected(Core core, Flow *flow) noexcept nogil:
    """The host's socket is connected: answer the guest's SYN."""
    cdef TcpConn *conn = &flow.body.tcp
    if core.sockets.prepare_stream(flow.fd) < 0:
        reset_both(core, flow)
        return
    start_sequence(core, flow)
    set_state(core, flow, TCP_SYN_RECEIVED)
    update_window(core, flow)
    send_syn(core, flow)
    start_rtx(core, flow, conn.rto)


cdef void start_sequence(Core core, Flow *flow) noexcept nogil:
    """Choose the initial sequence number and set what follows from it."""
    cdef TcpConn *conn = &flow.body.tcp
    conn.iss = choose_isn(core, flow)
    start_timestamps(core, flow)
    conn.snd_una = conn.iss
    conn.snd_nxt = conn.iss + 1
    conn.snd_max = conn.snd_nxt
    conn.sock_una = conn.snd_nxt
    conn.rtt_seq = conn.snd_nxt
    conn.rto = ms(RTO_INITIAL_MS)
    conn.cwnd = CWND_OPEN

"""Guests and remotes that vanish without a word (RFC 9293 3.8.4, RFC 1122 4.2.3.6).

A connection may be idle for as long as its ends like. Only one whose guest does not answer any more is
ended: a machine that was reset, a namespace that is gone. After two hours without a segment from the
guest it is probed, with Linux' numbers (tcp(7), tcp_keepalive_time and the like). While data or a
window probe is under way the retransmission timer finds out earlier and nothing is done here; nor
while the link is full, since a paused guest is not a dead one. It costs no wake-up but those: the
deadline is the latest one of the flow in the timer heap, and a segment from the guest only sets the time.

Remotes are the business of the host's kernel, but it probes only where it is told to. A guest that
wants its remote probed sends probes, which we answer; so the first of them has the host's socket probe
the remote after the same time of silence. A remote that is found dead is an error of the socket, and the
guest sees a reset.
"""

from libc.stdint cimport int64_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport (
    CONN_KEEP_ALIVE, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN_WAIT_2, TcpConn,
)
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.packet.headers cimport TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN
from passt.dataplane.packet.parse cimport TcpView
from passt.dataplane.tcp.segments cimport reset_both, send_segment

cdef enum:
    IDLE_MS = 7200000
    INTERVAL_MS = 75000
    PROBES = 9
    SECOND_MS = 1000


cdef void start_keep_alive(Core core, Flow *flow) noexcept nogil:
    """The connection is established: watch over it from now on."""
    flow.body.tcp.heard_at = core.now
    flow.body.tcp.alive_at = core.now + ms(IDLE_MS)


cdef void note_guest_alive(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """Note that a segment of the guest came."""
    cdef TcpConn *conn = &flow.body.tcp
    if tcp.seq == conn.rcv_nxt - 1 and tcp.payload_len <= 1:
        on_guest_probe(core, flow, tcp)
    conn.heard_at = core.now
    conn.alive_probes = 0


cdef void on_guest_probe(Core core, Flow *flow, const TcpView *tcp) noexcept nogil:
    """The guest asks whether the remote is there; it may also ask for window, which is another matter."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef int64_t idle_s = (core.now - conn.heard_at) // ms(SECOND_MS)
    if conn.flags & CONN_KEEP_ALIVE or flow.fd < 0 or idle_s < 1:
        return
    if not (conn.rcv_adv - conn.rcv_nxt) >> conn.rcv_wscale:
        return
    if not is_quiet(conn) or tcp.flags & (TCP_SYN | TCP_FIN | TCP_RST):
        return
    conn.flags |= CONN_KEEP_ALIVE
    core.sockets.keep_alive(flow.fd, <int>idle_s)


cdef bint is_quiet(const TcpConn *conn) noexcept nogil:
    """Whether the connection is in a state that may last for ever."""
    return conn.state in (TCP_ESTABLISHED, TCP_CLOSE_WAIT, TCP_FIN_WAIT_2)


cdef void on_keep_alive(Core core, Flow *flow) noexcept nogil:
    """The keep-alive deadline has come: probe a silent guest, or give it up."""
    cdef TcpConn *conn = &flow.body.tcp
    if not is_quiet(conn) or conn.rtx_at or core.link.blocked:
        conn.alive_probes = 0
        conn.alive_at = core.now + ms(IDLE_MS)
    elif not conn.alive_probes and core.now - conn.heard_at < ms(IDLE_MS):
        conn.alive_at = conn.heard_at + ms(IDLE_MS)
    elif conn.alive_probes == PROBES:
        reset_both(core, flow)
    else:
        conn.alive_probes += 1
        conn.alive_at = core.now + ms(INTERVAL_MS)
        core.stats.tcp_keep_alives += 1
        send_segment(core, flow, TCP_ACK, conn.snd_una - 1, 0)

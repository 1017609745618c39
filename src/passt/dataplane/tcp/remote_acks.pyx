"""Acknowledge to the guest the bytes that the remote has acknowledged.

Read `tcp.segments` first. What a socket has taken is as good as delivered to the kernel, so it is
acknowledged at once: that fills the send buffer, which bulk data needs. For a dialogue over a real network
it hides the network from the guest: its TCP measures a round trip of microseconds, and believes delivered
what the remote may never get. Such a connection is better acknowledged as the remote does it.

Theory of operation. Each connection is judged by its own socket alone. After FIRST_WRITES small writes of
the guest in a row one TCP_INFO (tcp(7), linux/tcp.h) tells whether it is a dialogue over a network:

* its least round trip is MIN_RTT_US or more: below, the guest could not tell the difference. A connection
  that is nearer is never looked at again; one to a loopback address never at all;
* its round trip and four deviations are MAX_RTT_US at most: Linux' TCP repeats what is not acknowledged
  within 200 ms (TCP_RTO_MIN), and what it knows of the round trip is what we made it see so far;
* the bandwidth-delay product, or what is really under way, is less than a twentieth of the send buffer: it
  does not need the buffer.

From then on (CONN_FOLLOW) the socket tells by its error queue (SOF_TIMESTAMPING_TX_ACK,
Documentation/networking/timestamping.rst) when the remote has acknowledged the end of a write. That is one
event, which mostly comes together with the remote's answer; how far the remote has come is read from
tcpi_bytes_acked, which counts our SYN where we connected, and not where we accepted. `remote_acked` is the
number that the guest is told then, in every segment; it never moves back, and the window counts from it to
the same right edge as ever. Bytes between it and `rcv_nxt` are the lag.

It ends when it would do harm: more than MAX_LAG bytes lag (no dialogue), the remote does not acknowledge
for LAG_MS (before the guest repeats), the guest repeats (it takes them for lost), the store holds bytes,
or either end has finished. Then everything is acknowledged at once, and it takes twice as many small
writes until the connection is looked at again. A lost event does no more harm than that.
"""

from libc.stdint cimport int64_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport (
    CONN_ACK_NOW, CONN_FIN_EARLY, CONN_FOLLOW, CONN_GUEST_FIN, CONN_HOST_EOF, CONN_PUSHED, CONN_READABLE,
    CONN_STAMPED, TCP_ESTABLISHED, TcpConn,
)
from passt.dataplane.packet.headers cimport is_loopback6
from passt.dataplane.sockets.socket_address cimport read_sockaddr
from passt.dataplane.sockets.sockets cimport PathInfo
from passt.dataplane.base.externs cimport sockaddr_storage
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.tcp.segments cimport send_ack, set_timer
from passt.dataplane.tcp.sequence cimport seq_lt

cdef enum:
    FIRST_WRITES = 8
    MAX_MISSES = 9               # doublings of it: up to 4096
    NEVER = 255                   # in remote_misses: the connection is not looked at any more
    SMALL_WRITE = 2048            # bytes of the guest in one turn that may be part of a dialogue
    MAX_LAG = 8192
    MIN_RTT_US = 2000
    MAX_RTT_US = 150000
    LAG_MS = 150
    BUFFER_PER_BDP = 20


cdef void count_write(Core core, Flow *flow, uint32_t due) noexcept nogil:
    """The guest has *due* bytes to be acknowledged: perhaps it is time to look at the connection."""
    cdef TcpConn *conn = &flow.body.tcp
    if conn.remote_misses == NEVER:
        return
    if due > SMALL_WRITE or not conn.flags & CONN_PUSHED:
        conn.remote_writes = 0
        return
    conn.remote_writes += 1
    if conn.remote_writes < FIRST_WRITES << conn.remote_misses:
        return
    conn.remote_writes = 0
    if not core.sockets.has_bytes_acked or is_loopback(&flow.peer):
        conn.remote_misses = NEVER
    elif can_follow(conn):
        consider_following(core, flow)


cdef bint is_loopback(const sockaddr_storage *peer) noexcept nogil:
    """Whether the remote is this host by its loopback address."""
    cdef unsigned char address[16]
    cdef unsigned short port = 0
    cdef size_t n = read_sockaddr(peer, address, &port)
    return address[0] == 127 if n == 4 else is_loopback6(address)


cdef bint can_follow(const TcpConn *conn) noexcept nogil:
    """Whether neither end has finished and nothing is stored."""
    return (conn.state == TCP_ESTABLISHED and conn.store == NULL
            and not conn.flags & (CONN_GUEST_FIN | CONN_HOST_EOF | CONN_FIN_EARLY))


cdef void consider_following(Core core, Flow *flow) noexcept nogil:
    """Judge the connection by its socket, and begin to follow the remote if it is a dialogue."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef PathInfo path
    cdef int64_t total = 0
    cdef double under_way
    conn.remote_misses += conn.remote_misses < MAX_MISSES
    if core.sockets.path_info(flow.fd, &path) < 0 or path.min_rtt_us < MIN_RTT_US:
        conn.remote_misses = NEVER
        return
    if is_too_long(&path):
        return
    core.sockets.free_space(flow.fd, &total)
    # The kernel counts each segment as a full one; what a user types does not fill them.
    under_way = min(path.rtt_us * (path.bytes_per_s / 1e6),
                    <double><uint32_t>(conn.rcv_nxt - acked_by(flow, &path)))
    if under_way * BUFFER_PER_BDP > total:
        return
    if core.sockets.follow_acks(flow.fd, True) < 0:
        conn.remote_misses = NEVER
        return
    # What was written so far is not marked, so it is acknowledged as before.
    conn.remote_acked = conn.rcv_nxt
    conn.flags |= CONN_FOLLOW | CONN_STAMPED | CONN_ACK_NOW
    core.stats.tcp_acks_followed += 1


cdef uint32_t acked_by(const Flow *flow, const PathInfo *path) noexcept nogil:
    """The number up to which the remote has acknowledged, in the guest's sequence space."""
    return flow.body.tcp.irs + <uint32_t>path.bytes_acked + flow.inbound


cdef bint is_too_long(const PathInfo *path) noexcept nogil:
    return <int64_t>path.rtt_us + 4 * <int64_t>path.rttvar_us > MAX_RTT_US


cdef void stop_following(Core core, Flow *flow) noexcept nogil:
    """Acknowledge everything at once from now on."""
    cdef TcpConn *conn = &flow.body.tcp
    conn.flags = (conn.flags & ~<uint32_t>CONN_FOLLOW) | CONN_ACK_NOW
    conn.pingpong = 0
    conn.ack_at = 0
    if flow.fd >= 0:
        core.sockets.follow_acks(flow.fd, False)
    core.stats.tcp_acks_unfollowed += 1
    core.flows.add_work(flow)


cdef bint follow(Core core, Flow *flow) noexcept nogil:
    """End of a turn: tell the guest how far the remote has come; False if that is over."""
    cdef TcpConn *conn = &flow.body.tcp
    if not can_follow(conn) or conn.rcv_nxt - conn.remote_acked > MAX_LAG:
        stop_following(core, flow)
        return False
    if conn.flags & CONN_ACK_NOW or conn.remote_acked != conn.rcv_acked:
        if not send_ack(core, flow) and core.link.blocked:
            core.flows.add_waiting(flow)
    if conn.remote_acked == conn.rcv_nxt:
        conn.ack_at = 0
    elif not conn.ack_at:
        conn.ack_at = core.now + ms(LAG_MS)
        set_timer(core, flow)
    return True


cdef void on_remote_ack(Core core, Flow *flow) noexcept nogil:
    """The error queue tells that the remote has acknowledged a write; its answer may have come as well.

    The kernel has taken the whole segment in when it answers us, so one turn is enough for both.
    """
    cdef TcpConn *conn = &flow.body.tcp
    core.sockets.drain_errors(flow.fd)
    if conn.flags & CONN_FOLLOW:
        read_remote_acked(core, flow)
        conn.flags |= CONN_READABLE
        core.flows.add_work(flow)


cdef void read_remote_acked(Core core, Flow *flow) noexcept nogil:
    """Move remote_acked to what the remote has acknowledged; leave if the network has become too slow."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef PathInfo path
    cdef uint32_t acked
    if core.sockets.path_info(flow.fd, &path) < 0 or is_too_long(&path):
        stop_following(core, flow)
        return
    acked = acked_by(flow, &path)
    if seq_lt(conn.remote_acked, acked) and not seq_lt(conn.rcv_nxt, acked):
        conn.remote_acked = acked
        conn.ack_at = 0           # the wait begins anew


cdef void on_lag_timeout(Core core, Flow *flow) noexcept nogil:
    """The remote is slow to acknowledge, or the event was lost: the guest is about to repeat."""
    cdef TcpConn *conn = &flow.body.tcp
    cdef uint32_t before = conn.remote_acked
    read_remote_acked(core, flow)
    if conn.flags & CONN_FOLLOW and conn.remote_acked == before:
        stop_following(core, flow)
    core.flows.add_work(flow)


cdef void on_repeated(Core core, Flow *flow) noexcept nogil:
    """The guest sends again what we have: if that is because of the lag, the lag must end."""
    cdef TcpConn *conn = &flow.body.tcp
    if conn.flags & CONN_FOLLOW and conn.remote_acked != conn.rcv_nxt:
        stop_following(core, flow)

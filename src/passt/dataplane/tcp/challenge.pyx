"""Challenge acknowledgements, limited per connection (RFC 5961 7).

RFC 5961 has suspicious segments answered by an acknowledgement ("challenge"), and RFC 9293 3.10.7.4 any
that lies outside the window. Two ends that disagree about numbers would answer each other's answers
without end, at the speed of the CPU. So each connection has so many of these in a span of time
(RFC 5961 7 gives these very numbers as its example). Segments with data or FIN are not counted: nobody
sends one as an answer, and an end that repeats one must hear that it has come.
"""

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.tcp cimport CONN_ACK_NOW, TcpConn
from passt.dataplane.loop.timers cimport ms

cdef enum:
    SPAN_MS = 5000
    MAX_IN_SPAN = 10


cdef void challenge(Core core, Flow *flow) noexcept nogil:
    """Send the guest a challenge ACK (RFC 5961 3.2, 4.2, 5.2)."""
    if may_answer(core, flow):
        core.stats.tcp_challenge_acks += 1
        flow.body.tcp.flags |= CONN_ACK_NOW
        core.flows.add_work(flow)


cdef bint may_answer(Core core, Flow *flow) noexcept nogil:
    """Whether one more such acknowledgement may leave now; it is counted if so."""
    cdef TcpConn *conn = &flow.body.tcp
    if not conn.challenges or core.now - conn.challenged_at >= ms(SPAN_MS):
        conn.challenged_at = core.now
        conn.challenges = 0
    if conn.challenges == MAX_IN_SPAN:
        core.stats.tcp_acks_withheld += 1
        return False
    conn.challenges += 1
    return True

"""Connections that come to a listener: accepted at once, then offered to the guest or to the bypass."""

from libc.stdint cimport uint32_t

from passt.dataplane.base.externs cimport EAGAIN, EPOLLRDHUP, IPPROTO_TCP, sockaddr_storage
from passt.dataplane.base.stats cimport DROP_FLOWS_FULL, DROP_NO_FD, DROP_REFUSED, DROP_SOCKET, count
from passt.dataplane.bypass.tcp_bypass cimport open_splice
from passt.dataplane.core.core cimport Core
from passt.dataplane.core.decisions cimport ask_inbound, note_opened, note_refused_client
from passt.dataplane.core.make_room cimport admit, join_crowd, lacks_descriptor, spare_for_connection
from passt.dataplane.flow.decision cimport InboundView, fill_inbound_key
from passt.dataplane.flow.key cimport SIDE_GUEST, FlowKey
from passt.dataplane.flow.record cimport FLOW_TCP, Flow
from passt.dataplane.flow.tcp cimport TCP_CLOSING, TCP_LAST_ACK, TCP_SYN_SENT, TCP_TIME_WAIT
from passt.dataplane.loop.timers cimport ms
from passt.dataplane.tcp.open cimport start_sequence
from passt.dataplane.tcp.segments cimport WATCH_ADD, end_connection, send_syn, start_rtx, update_window, watch
from passt.dataplane.tcp.sequence cimport overflow_len
from passt.dataplane.tcp.states cimport set_state
from passt.dataplane.tcp.to_guest cimport may_send_data, note_readable, push_data

cdef enum:
    ACCEPT_BUDGET = 64            # connections taken per listener and turn
    RETRY_MS = 100                # until a listener is watched again for which there was no descriptor at all


cdef void on_listener(Core core, uint32_t listener, int fd) noexcept nogil:
    """Take the connections that wait on a listener."""
    cdef sockaddr_storage peer, local
    cdef int new
    cdef int budget = ACCEPT_BUDGET
    while budget:
        budget -= 1
        new = core.sockets.accept(fd, &peer, &local)
        if new == -EAGAIN:
            return
        if lacks_descriptor(new):
            if spare_for_connection(core):
                continue
            count(&core.stats, DROP_NO_FD)
            core.listeners.spare_fd = core.sockets.refuse(fd, core.listeners.spare_fd)
            if core.listeners.spare_fd < 0:
                # The client cannot even be refused, and would keep the listener readable.
                core.listeners.pause(listener, fd)
                core.reactor.timers.arm(core.listeners.retry_timer, core.now + ms(RETRY_MS))
                return
        elif new < 0:
            count(&core.stats, DROP_SOCKET)
        else:
            offer_connection(core, listener, new, &peer, &local)
            if core.reactor.slept:
                return            # most likely it came alone; the next epoll_wait(2) reports others


cdef void offer_connection(Core core, uint32_t listener, int fd, const sockaddr_storage *peer,
                           const sockaddr_storage *local) noexcept nogil:
    """Offer an accepted connection to the guest."""
    cdef InboundView view
    cdef Flow *flow
    cdef bint wanted = (not core.guest.pending_news
                        and core.bypass.decisions.find(listener, peer, local, &view)
                        or ask_inbound(core, listener, IPPROTO_TCP, peer, local, &view))
    if wanted and view.bypass:
        open_splice(core, fd, peer, &view)
        return
    if not wanted or core.sockets.prepare_stream(fd) < 0:
        count(&core.stats, DROP_REFUSED)
        note_refused_client(core, IPPROTO_TCP, peer, local, &view)
        core.sockets.abort(fd)
        return
    flow = admit(core, FLOW_TCP)
    if flow == NULL:
        count(&core.stats, DROP_FLOWS_FULL)
        core.sockets.abort(fd)
        return
    flow.inbound = True
    flow.peer = peer[0]
    fill_inbound_key(&flow.keys[0], &view, IPPROTO_TCP)
    replace_finished(core, &flow.keys[0])
    if not join_crowd(core, flow, &fd):
        core.sockets.abort(fd)
        core.flows.release(flow)
        return
    if not core.flows.insert(flow, SIDE_GUEST):
        count(&core.stats, DROP_REFUSED)
        core.sockets.abort(fd)
        core.flows.release(flow)
        return
    flow.fd = fd
    core.stats.flows_tcp += 1
    start_sequence(core, flow)
    set_state(core, flow, TCP_SYN_SENT)
    note_opened(core, flow)
    if watch(core, flow, 0, WATCH_ADD) < 0:
        count(&core.stats, DROP_SOCKET)
        end_connection(core, flow, True)
        return
    update_window(core, flow)
    send_syn(core, flow)
    start_rtx(core, flow, flow.body.tcp.rto)


cdef void replace_finished(Core core, const FlowKey *key) noexcept nogil:
    """A client comes with the tuple of an earlier connection: forget that one if the remote is done with it.

    The listener's event can come before the one that tells how the remote ended the old connection, so that
    socket is read first. At most our FIN is not acknowledged then; should it be lost, the guest answers
    the SYN with an acknowledgement, and the reset that follows ends its connection.
    """
    cdef Flow *old = core.flows.find(key, SIDE_GUEST)
    if old == NULL:
        return
    if may_send_data(&old.body.tcp) and not overflow_len(old):
        note_readable(&old.body.tcp, EPOLLRDHUP)
        push_data(core, old, False)
    if old.body.tcp.state == TCP_TIME_WAIT or (old.body.tcp.state in (TCP_LAST_ACK, TCP_CLOSING)
                                               and not overflow_len(old)):
        end_connection(core, old, False)

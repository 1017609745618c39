"""Calls of the translators into Python: the policy, the responder, the events.

Each function of the translators that may run Python is marked `with gil`, here and nowhere else, so the
compiler itself proves that no other one touches a Python object per frame. An exception in a callback is a
mistake of ours: `Core.failure` keeps it, the loop stops, and `Engine.run` raises it.

A question and a piece of news cost Python's time, some 10 us each, and a control frame 100. Questions come
once per flow; news and control frames of each kind are limited, so that a guest which sends nothing else
takes no more than 0.1 % and 10 % of a processor.
"""

from passt.facts.contracts import PROHIBITED, Target

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport IPPROTO_UDP, iovec, memcpy, memset, sockaddr_storage
from passt.dataplane.base.stats cimport DROP_CONTROL_RATE, count
from passt.dataplane.core.core cimport Core
from passt.dataplane.core.detail cimport describe
from passt.dataplane.core.guest cimport (
    NEWS_IP4, NEWS_IP6, NEWS_IP6_LOCAL, NEWS_MAC, ControlKind, RateLimit, allow, has_half,
)
from passt.dataplane.core.known_answers cimport KnownAnswer
from passt.dataplane.core.listeners cimport Listener, SharedListener
from passt.dataplane.flow.decision cimport HostRoute, InboundView
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.packet.headers cimport ETH_ALEN
from passt.dataplane.sockets.socket_address cimport fill_sockaddr, read_sockaddr

cdef enum:
    # A guest gets as many at once as its start or a sweep over its neighbours takes, then a steady rate.
    CONTROL_INTERVAL_NS = 5_000_000
    CONTROL_BURST = 256
    NEWS_INTERVAL_NS = 10_000_000
    NEWS_BURST = 64
    # Some 10 us each, and as much for those who read them.
    TELLING_INTERVAL_NS = 500_000
    TELLING_BURST = 64


cdef Ruling ask_outbound(Core core, Flow *flow, HostRoute *route) noexcept with gil:
    """Have the policy route a flow that the guest opens, or refuse it."""
    cdef size_t n = flow.keys[0].addr_len
    cdef object target, error
    memset(route, 0, sizeof(HostRoute))
    try:
        target = core.policy.outbound(
            flow.keys[0].proto, (<char *>flow.keys[0].guest)[:n], flow.keys[0].guest_port,
            (<char *>flow.keys[0].remote)[:n], flow.keys[0].remote_port)
        if target is None:
            return RULED_OUT
        if target is PROHIBITED:
            return RULED_OUT_BY_USER
        fill_route(route, target)
        return ROUTED
    except BaseException as error:
        core.fail(error)
        return RULED_OUT


cdef Opening ask_opening(Core core, const Flow *flow, const iovec *pieces, size_t n,
                         const char *end) noexcept with gil:
    """Have the policy judge a guest's first bytes, which lie in *n* pieces.

    *end* says why no more of them will be waited for, NULL: they will.
    """
    cdef const FlowKey *key = &flow.keys[0]
    cdef size_t addr_len = key.addr_len
    cdef size_t i
    cdef object passes, error
    cdef list parts
    try:
        parts = []
        for i in range(n):
            parts.append((<const char *>pieces[i].iov_base)[:pieces[i].iov_len])
        passes = core.policy.judge_opening(
            (<const char *>key.guest)[:addr_len], key.guest_port, (<const char *>key.remote)[:addr_len],
            key.remote_port, b"".join(parts), "" if end == NULL else end.decode())
        if passes is None:
            return OPENING_OPEN
        return OPENING_PASSED if passes else OPENING_REFUSED
    except BaseException as error:
        core.fail(error)
        return OPENING_REFUSED


cdef bint ask_inbound(Core core, uint32_t listener, uint8_t proto, const sockaddr_storage *peer,
                      const sockaddr_storage *local, InboundView *view) noexcept with gil:
    """Have the policy say where a flow goes that came to *listener*; False: refused."""
    cdef uint8_t peer_address[16]
    cdef uint8_t local_address[16]
    cdef uint16_t peer_port = 0
    cdef uint16_t local_port = 0
    cdef size_t n = read_sockaddr(peer, peer_address, &peer_port)
    cdef size_t m = read_sockaddr(local, local_address, &local_port)
    cdef bytes text
    cdef Listener source
    cdef object target, error, ask, rule
    memset(view, 0, sizeof(InboundView))
    # The policy decides by the addresses that the guest was seen to use last.
    flush_news(core, core.guest.pending_news)
    try:
        source = core.listeners.at(listener)
        view.from_namespace = source.in_namespace
        rule = source.rule
        ask = core.policy.outbound_bypass if view.from_namespace else core.policy.inbound
        target = ask(proto, rule, (<char *>peer_address)[:n], peer_port,
                     (<char *>local_address)[:m], local_port)
        if target is None:
            return False
        if type(target) is Target:
            view.bypass = True
            fill_route(&view.route, target)
            if target.lasting:
                core.bypass.decisions.keep(listener, peer_address, local_address, n, view)
            return True
        text = target.source
        view.addr_len = <uint8_t>len(text)
        memcpy(view.source, <const char *>text, min(len(text), 16))
        text = target.destination
        memcpy(view.destination, <const char *>text, min(len(text), 16))
        view.source_port = target.source_port
        view.destination_port = target.destination_port
        return True
    except BaseException as error:
        core.fail(error)
        return False


cdef bint ask_source(Core core, const uint8_t *address, size_t n, uint8_t *seen) noexcept with gil:
    """Have the policy translate a host-side address to the one that the guest sees; False: it sees none.

    *seen* has 16 bytes, those behind the address are zeroed; *address* may be the same memory.
    """
    cdef bytes text
    cdef object found, error
    try:
        found = core.policy.guest_visible_source((<const char *>address)[:n])
        if found is None or <size_t>len(found) != n:
            return False
        text = found
        memset(seen, 0, 16)
        memcpy(seen, <const char *>text, n)
        return True
    except BaseException as error:
        core.fail(error)
        return False


cdef bint ask_listener(Core core, const FlowKey *key, const HostRoute *route, const uint8_t *source,
                       bint any_peer, SharedListener *found) noexcept with gil:
    """The listener on the guest's own port by which a flow of that endpoint can leave; False: none.

    Its socket has the port that a socket of ours would need to keep, and the answers come to it. It can
    send from *source*, 16 bytes, 0: as routed. That it leads to the guest's endpoint is enough with
    *any_peer*; else it must hand what the peer sends to this very flow.
    """
    cdef uint8_t address[16]
    cdef uint16_t port = 0
    cdef size_t n
    cdef Listener listener
    cdef object error, seen, guest, local
    cdef list candidates = core.listeners.sharing(key.guest_port)
    if not candidates:
        return False
    flush_news(core, core.guest.pending_news)
    n = read_sockaddr(&route.peer, address, &port)
    guest = (<const char *>key.guest)[:n]
    seen = ((<const char *>key.remote)[:n], key.remote_port, guest, key.guest_port)
    local = (<const char *>source)[:n]
    try:
        for listener in candidates:
            if not listener.may_send(route.peer.ss_family, local, <bytes>route.ifname):
                continue
            if leads_there(core, listener, any_peer, (<char *>address)[:n], port, seen):
                found.index = listener.index
                found.fd = listener.fd
                found.family = listener.families[0]
                return True
    except BaseException as error:
        core.fail(error)
    return False


cdef bint leads_there(Core core, Listener listener, bint any_peer, bytes peer, int peer_port,
                      tuple seen) except *:
    """Whether a listener leads to the guest's endpoint in *seen*, and for one peer to that very flow."""
    if any_peer:
        return core.policy.leads_to(IPPROTO_UDP, listener.rule, seen[2], seen[3])
    target = core.policy.inbound(IPPROTO_UDP, listener.rule, peer, peer_port, bytes(len(peer)), seen[3])
    return target is not None and tuple(target) == seen


cdef bint may_share_port(Core core, const FlowKey *key, const HostRoute *route) noexcept with gil:
    """Whether only narrower listeners have the guest's port, bound to one address or device.

    The kernel prefers such a listener for datagrams to its address or device, and it hands them to the same
    guest; so a wider socket may be bound to the port as well.
    """
    cdef uint8_t address[16]
    cdef uint16_t port = 0
    cdef size_t n
    cdef Listener listener
    cdef object error, local
    cdef list candidates = [listener for listener in core.listeners.sharing(key.guest_port)
                            if route.peer.ss_family in listener.families]
    n = read_sockaddr(&route.source, address, &port) if route.source_len else 0
    local = (<char *>address)[:n]
    try:
        for listener in candidates:
            if listener.is_wider(local, <bytes>route.ifname):
                return False
            if not core.policy.leads_to(IPPROTO_UDP, listener.rule,
                                        (<const char *>key.guest)[:key.addr_len], key.guest_port):
                return False
    except BaseException as error:
        core.fail(error)
        return False
    return bool(candidates)


cdef void on_control(Core core, ControlKind kind, const uint8_t *frame, size_t n) noexcept nogil:
    """Have a control frame answered: as it was before, else by Python within the rate limit of its kind."""
    cdef RateLimit *limit = &core.control[<int>kind]
    cdef KnownAnswer *known = core.answers.find(frame, n, &core.guest, core.now)
    if known != NULL:
        core.stats.control_repeats += 1
        repeat(core, known)
    elif allow(limit, core.now, CONTROL_INTERVAL_NS, CONTROL_BURST):
        respond(core, frame, n, has_half(limit, core.now, CONTROL_INTERVAL_NS, CONTROL_BURST))
    else:
        count(&core.stats, DROP_CONTROL_RATE)


cdef void repeat(Core core, const KnownAnswer *known) noexcept nogil:
    """Send an answer that was given before."""
    cdef TxMeta meta
    memset(&meta, 0, sizeof(meta))
    memcpy(core.link.slot, known.answer, known.answer_len)
    core.send(known.answer_len, &meta)


cdef void respond(Core core, const uint8_t *frame, size_t n, bint remember) noexcept with gil:
    """Hand a control frame to the responder and send its answers."""
    cdef object error
    cdef bytes reply
    cdef list replies
    core.stats.control_frames += 1
    try:
        replies = core.responder.respond((<const char *>frame)[:n])
        for reply in replies:
            core.send_frame(reply)
        if remember and len(replies) == 1:
            reply = replies[0]
            core.answers.keep(frame, n, <const uint8_t *><const char *>reply, len(reply), core.now)
    except BaseException as error:
        core.fail(error)


cdef void tell_mac(Core core) noexcept with gil:
    cdef object error
    try:
        core.events.on_guest_mac((<char *>core.guest.mac)[:ETH_ALEN])
    except BaseException as error:
        core.fail(error)


cdef void tell_silence(Core core) noexcept with gil:
    cdef object error
    try:
        core.events.on_guest_silent()
    except BaseException as error:
        core.fail(error)


cdef void tell_ping_forbidden(Core core) noexcept with gil:
    cdef object error
    try:
        core.events.on_ping_forbidden()
    except BaseException as error:
        core.fail(error)


cdef void tell_address(Core core, const uint8_t *address, size_t n) noexcept with gil:
    cdef object error
    try:
        core.events.on_guest_address((<const char *>address)[:n])
    except BaseException as error:
        core.fail(error)


cdef void trace_state(Core core, const Flow *flow, const char *what) noexcept with gil:
    cdef object error
    try:
        core.trace(f"flow {flow.index}: {what.decode()}")
    except BaseException as error:
        core.fail(error)


cdef bint may_tell(Core core) noexcept nogil:
    """Whether there is a watcher that has not been told much of late; what it is not told is counted."""
    cdef bint may = core.has_watcher and allow(&core.telling, core.now, TELLING_INTERVAL_NS, TELLING_BURST)
    core.n_untold += core.has_watcher and not may
    return may


cdef void note_opened(Core core, Flow *flow) noexcept nogil:
    """A flow has begun, and is complete enough to be shown."""
    flow.opened_at = core.now
    core.stats.flows_opened += 1
    if may_tell(core):
        tell_opened(core, flow)


cdef void note_ended(Core core, const Flow *flow, const char *why) noexcept nogil:
    """A flow ends, and its socket is still open; *why* is one word, unless the engine has a reason."""
    if may_tell(core):
        tell_ended(core, flow, why if core.why == NULL else core.why)


cdef void note_refused(Core core, const Flow *flow) noexcept nogil:
    """The policy refused a flow of the guest; only its key is known."""
    core.stats.flows_refused += 1
    if may_tell(core):
        tell_refused(core, flow.keys[0].proto, flow.keys[0].addr_len, flow.keys[0].guest,
                     flow.keys[0].guest_port, flow.keys[0].remote, flow.keys[0].remote_port, False)


cdef void note_refused_client(Core core, uint8_t proto, const sockaddr_storage *peer,
                              const sockaddr_storage *local, const InboundView *view) noexcept nogil:
    """The policy, asked for *view*, refused what *peer* sent to a listener of the host or the namespace."""
    cdef uint8_t from_address[16]
    cdef uint8_t to_address[16]
    cdef uint16_t from_port = 0
    cdef uint16_t to_port = 0
    cdef size_t n = read_sockaddr(peer, from_address, &from_port)
    core.stats.flows_refused += 1
    if may_tell(core):
        read_sockaddr(local, to_address, &to_port)
        tell_refused(core, proto, n, from_address, from_port, to_address, to_port,
                     not view.from_namespace)


cdef void tell_opened(Core core, const Flow *flow) noexcept with gil:
    cdef object error
    try:
        core.watcher.on_flow_opened(describe(core, flow))
    except BaseException as error:
        core.fail(error)


cdef void tell_ended(Core core, const Flow *flow, const char *why) noexcept with gil:
    cdef object error
    try:
        core.watcher.on_flow_ended(describe(core, flow), why.decode())
    except BaseException as error:
        core.fail(error)


cdef void tell_refused(Core core, uint8_t proto, size_t n, const uint8_t *source, uint16_t source_port,
                       const uint8_t *destination, uint16_t destination_port, bint inbound) noexcept with gil:
    cdef object error
    try:
        core.watcher.on_flow_refused(
            proto, (<const char *>source)[:n], source_port, (<const char *>destination)[:n],
            destination_port, inbound)
    except BaseException as error:
        core.fail(error)


cdef void queue_news(Core core, uint32_t kind) noexcept nogil:
    """Tell news of a kind now, or after the rate limit allows: only the latest value counts."""
    if allow(&core.guest.news, core.now, NEWS_INTERVAL_NS, NEWS_BURST):
        flush_news(core, kind)
    else:
        core.guest.pending_news |= kind


cdef void flush_news(Core core, uint32_t kinds) noexcept nogil:
    """Tell all news of the given kinds."""
    if kinds:
        core.bypass.decisions.forget()
    core.guest.pending_news &= ~kinds
    if kinds & NEWS_MAC:
        tell_mac(core)
    if kinds & NEWS_IP4:
        tell_address(core, core.guest.ip4, 4)
    if kinds & NEWS_IP6_LOCAL:
        tell_address(core, core.guest.ip6_local, 16)
    if kinds & NEWS_IP6:
        tell_address(core, core.guest.ip6, 16)


cdef void fill_route(HostRoute *route, object target) except *:
    """Take a `contracts.Target` apart."""
    cdef bytes text = target.address
    cdef const uint8_t *address = <const uint8_t *><const char *>text
    route.held = target.held
    route.ifindex = target.scope_id
    route.peer_len = fill_sockaddr(&route.peer, address, len(text), target.port, target.scope_id)
    if target.source is not None:
        text = target.source
        address = <const uint8_t *><const char *>text
        route.source_len = fill_sockaddr(&route.source, address, len(text), 0, target.scope_id)
    if target.ifname is not None:
        text = target.ifname
        memcpy(route.ifname, <const char *>text, min(len(text), 15))

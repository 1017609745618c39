"""Calls of the translators into Python: the policy, the responder, the events."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.base.externs cimport iovec, sockaddr_storage
from passt.dataplane.core.core cimport Core
from passt.dataplane.core.guest cimport ControlKind
from passt.dataplane.core.listeners cimport SharedListener
from passt.dataplane.flow.decision cimport HostRoute, InboundView
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport Flow


cdef enum Ruling:
    # What the policy says of a flow of the guest.
    RULED_OUT = 0
    RULED_OUT_BY_USER             # the guest is told
    ROUTED


cdef enum Opening:
    # What the policy says of a connection's first bytes.
    OPENING_REFUSED = 0
    OPENING_OPEN                  # more has to come
    OPENING_PASSED


cdef Ruling ask_outbound(Core core, Flow *flow, HostRoute *route) noexcept with gil
cdef Opening ask_opening(Core core, const Flow *flow, const iovec *pieces, size_t n,
                         const char *end) noexcept with gil
cdef bint ask_inbound(Core core, uint32_t listener, uint8_t proto, const sockaddr_storage *peer,
                      const sockaddr_storage *local, InboundView *view) noexcept with gil
cdef bint ask_source(Core core, const uint8_t *address, size_t n, uint8_t *seen) noexcept with gil
cdef bint ask_listener(Core core, const FlowKey *key, const HostRoute *route, const uint8_t *source,
                       bint any_peer, SharedListener *found) noexcept with gil
cdef bint may_share_port(Core core, const FlowKey *key, const HostRoute *route) noexcept with gil
cdef void on_control(Core core, ControlKind kind, const uint8_t *frame, size_t n) noexcept nogil
cdef void tell_silence(Core core) noexcept with gil
cdef void tell_ping_forbidden(Core core) noexcept with gil
cdef void trace_state(Core core, const Flow *flow, const char *what) noexcept with gil
cdef bint may_tell(Core core) noexcept nogil
cdef void note_opened(Core core, Flow *flow) noexcept nogil
cdef void note_ended(Core core, const Flow *flow, const char *why) noexcept nogil
cdef void note_refused(Core core, const Flow *flow) noexcept nogil
cdef void note_refused_client(Core core, uint8_t proto, const sockaddr_storage *peer,
                              const sockaddr_storage *local, const InboundView *view) noexcept nogil
cdef void queue_news(Core core, uint32_t kind) noexcept nogil
cdef void flush_news(Core core, uint32_t kinds) noexcept nogil

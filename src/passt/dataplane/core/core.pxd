"""What the translators of one engine share."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from passt.dataplane.flow.record cimport N_FLOW_KINDS, Flow
from passt.dataplane.flow.table cimport FlowTable
from passt.dataplane.core.listeners cimport Listeners
from passt.dataplane.link.link cimport Link
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.sockets.sockets cimport Sockets
from passt.dataplane.base.stats cimport Stats
from passt.dataplane.base.externs cimport iovec
from passt.dataplane.state.bypass cimport BypassState
from passt.dataplane.core.guest cimport N_CONTROL_KINDS, Guest, RateLimit
from passt.dataplane.core.first_syns cimport FirstSyns
from passt.dataplane.core.known_answers cimport KnownAnswers
from passt.dataplane.core.neighbour_table cimport NeighbourTable
from passt.dataplane.state.echo_memory cimport EchoMemory
from passt.dataplane.flow.batches cimport Gather
from passt.dataplane.flow.decision cimport HostRoute
from passt.dataplane.state.ip cimport IpState
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.observe.frame_observer cimport Watch
from passt.dataplane.state.udp cimport UdpState

cdef enum:
    N_FORMER = 8                  # addresses of ours that a client of DHCP may remember


cdef class Core

ctypedef void (*FlowEvent)(Core core, Flow *flow, int side, uint32_t events) noexcept nogil
ctypedef void (*FlowAction)(Core core, Flow *flow) noexcept nogil
ctypedef const char *(*FlowState)(const Flow *flow) noexcept nogil


cdef struct FlowHandlers:
    # What is done with the flows of one kind; `turn.set_handlers` has the table of all kinds.
    FlowEvent on_event            # epoll events of the flow's socket, or of its second one: *side* 1
    FlowAction on_timer           # the flow's entry has left the timer heap
    FlowAction on_turn            # its turn on the work list has come
    FlowAction end_flow           # the engine wants it to go: reset what can be reset
    FlowAction make_way           # another flow needs its record or descriptor
    FlowState state               # its name for users; NULL: it is no flow to them


cdef class Core:
    # What all translators use.
    cdef readonly Reactor reactor
    cdef Sockets sockets
    cdef Link link
    cdef readonly FlowTable flows
    cdef FlowHandlers handlers[N_FLOW_KINDS]
    cdef readonly Pool pool       # memory for what connections hold
    cdef Watch watch
    cdef Stats stats
    cdef int64_t now              # ns, taken once per turn
    cdef uint64_t isn_key[2]
    # What one room owns and defines; that room alone changes it.
    cdef Listeners listeners
    cdef Guest guest
    cdef Gather gather
    cdef EchoMemory echoes
    cdef IpState ip
    cdef UdpState udp
    cdef BypassState bypass
    # The Python side, for `decisions` alone.
    cdef object policy
    cdef object responder
    cdef object events
    cdef object trace
    cdef object watcher           # a `contracts.FlowWatcher`, or None
    cdef object failure           # exception that a callback raised; leaves run()
    cdef RateLimit control[N_CONTROL_KINDS]   # frames for the responder
    cdef KnownAnswers answers     # that it gave
    cdef FirstSyns first_syns
    cdef NeighbourTable neighbours
    cdef bint has_trace
    cdef bint has_watcher
    cdef RateLimit telling        # of what the watcher is told
    cdef uint64_t n_untold        # and what it was not, beyond that
    cdef const char *why          # for what reason flows end now, NULL: for one of their own
    cdef bint has_failed
    # The frames that go to the guest, and those that are taken from it.
    cdef uint8_t our_mac[6]
    cdef uint8_t our_ip4[4]       # address by which we speak to the guest; 0.0.0.0: none
    cdef uint8_t former_ip4[N_FORMER][4]   # those before it, at which the guest may look for the DHCP server
    cdef uint32_t n_former        # how many there were
    cdef uint32_t mtu             # bytes; 0: none assigned
    cdef uint64_t descriptors     # that the process may have
    cdef uint32_t max_datagram_sockets   # of them, for flows of datagrams
    cdef uint32_t n_datagram_sockets
    cdef uint32_t packet_limit    # bytes of the largest IP packet that the link takes
    cdef uint32_t packet_id       # identification of the last packet that may be sent in fragments
    cdef bint ip4_on, ip6_on, tcp_on, udp_on, icmp_on

    cdef void fail(self, object error)
    cdef void arm(self, Flow *flow, int64_t deadline) noexcept nogil
    cdef void disarm(self, Flow *flow) noexcept nogil
    cdef bint is_enabled(self, const IpView *ip) noexcept nogil
    cdef uint8_t *push_ip(self, const uint8_t *mac, const uint8_t *source, const uint8_t *destination,
                          size_t addr_len, uint8_t protocol, uint32_t l4_len) noexcept nogil
    cdef bint send(self, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil
    cdef int route_socket(self, int kind, int protocol, const HostRoute *route) noexcept nogil
    cdef bint send_frame(self, bytes frame)
    cdef size_t memory_ceiling(self) noexcept nogil

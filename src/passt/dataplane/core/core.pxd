"""What the translators of one engine share."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.flow.batches cimport InBatch, OutBatch
from passt.dataplane.flow.table cimport N_FLOW_KINDS, Flow, FlowKey, FlowTable
from passt.dataplane.core.listeners cimport Listener, Listeners, SharedListener
from passt.dataplane.packet.reassembly cimport Reassembler
from passt.dataplane.link.link cimport Link
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.sockets.pipe_pool cimport PipePool
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.sockets.sockets cimport Sockets
from passt.dataplane.base.stats cimport Stats
from passt.dataplane.base.externs cimport iovec, memcpy, sockaddr_storage, socklen_t
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.observe.frame_observer cimport Watch

cdef enum:
    MAX_GATHER = 256              # pieces of one flow's data collected for one system call
    COPY_SIZE = 16384             # bypassed connections: reads of less are copied, others move pages
    N_ANSWERS = 64                # a power of two
    N_ECHOES = 16                 # datagrams to groups that may come back, see `echoes`
    N_PATHS = 64                  # of which an MTU is known, see `path_mtu`
    MIN_MTU = 576                 # less is no link that anybody has; it bounds the number of fragments
    READY_SOCKETS = 4             # of each family at most
    # Kinds of news of the guest that wait to be told, as bits of Core.untold.
    NEWS_MAC = 1
    NEWS_IP4 = 2
    NEWS_IP6 = 4
    NEWS_IP6_LOCAL = 8


cdef struct Bucket:
    # A rate limit: *full_until* is when what was taken so far is back; see `core.admit`.
    int64_t full_until            # ns


cdef struct Route:
    # What the policy said of a flow that the guest opens; *ifname* NUL-terminated, empty: none.
    sockaddr_storage peer
    sockaddr_storage source
    socklen_t peer_len
    socklen_t source_len          # 0: any source
    uint32_t ifindex              # by which multicasts and broadcasts leave, 0: as routed
    char ifname[16]


cdef struct Seen:
    # What a flow that came to a listener looks like for the guest.
    uint8_t source[16]
    uint8_t destination[16]
    uint16_t source_port
    uint16_t destination_port
    uint8_t addr_len
    # Or it bypasses the link: it comes *from_namespace* or from the host, and *route* tells where it goes.
    bint bypass
    bint from_namespace
    Route route


cdef struct Answer:
    # What the policy said of a bypassed connection, which holds for all others between these addresses.
    uint32_t listener             # index + 1, 0: none
    size_t addr_len
    uint8_t peer[16]
    uint8_t local[16]
    bint from_namespace
    Route route


cdef struct Echo:
    # A datagram that was sent to many, and may be heard by who sent it.
    uint64_t content
    int64_t until                 # ns


cdef struct Path:
    # The way to an address of the guest's side, as in a `FlowKey`, as far as it was told.
    uint8_t address[16]
    uint32_t mtu
    int64_t expires_at            # ns; 0: not told


cdef inline uint32_t answer_slot(uint32_t listener, const uint8_t *peer, const uint8_t *local) noexcept nogil:
    return (listener * 31 + peer[3] + peer[15] + 7 * (local[3] + local[15])) & (N_ANSWERS - 1)


cdef inline void fill_inbound_key(FlowKey *key, const Seen *seen, uint8_t proto) noexcept nogil:
    """The key of an inbound flow as the guest sees it."""
    memcpy(key.guest, seen.destination, 16)
    memcpy(key.remote, seen.source, 16)
    key.guest_port = seen.destination_port
    key.remote_port = seen.source_port
    key.proto = proto
    key.addr_len = seen.addr_len


cdef class Core

ctypedef void (*FlowEvent)(Core core, Flow *flow, int side, uint32_t events) noexcept nogil
ctypedef void (*FlowAction)(Core core, Flow *flow) noexcept nogil
ctypedef const char *(*FlowState)(const Flow *flow) noexcept nogil


cdef struct FlowHandlers:
    # What is done with the flows of one kind; `turn.set_handlers` has the table of all kinds.
    FlowEvent on_event            # epoll events of the flow's socket, or of its second one: *side* 1
    FlowAction on_timer           # the flow's entry has left the timer heap
    FlowAction on_turn            # its turn on the work list has come
    FlowAction end                # the engine wants it to go: reset what can be reset
    FlowState state               # its name for users


cdef class Core:
    cdef readonly Reactor reactor
    cdef Sockets sockets
    cdef Link link
    cdef readonly FlowTable flows
    cdef FlowHandlers handlers[N_FLOW_KINDS]
    cdef object policy
    cdef object responder
    cdef object events
    cdef object trace
    cdef Watch watch
    cdef object failure           # exception that a callback raised; leaves run()
    cdef Listeners listeners
    cdef object inside            # NamespaceThread, None: nothing bypasses the link
    cdef PipePool pipes
    cdef uint8_t *copy_space      # COPY_SIZE bytes for spliced connections
    cdef Answer *answers          # N_ANSWERS of them, see `answers`
    cdef bint has_answers
    cdef int ready[2][READY_SOCKETS]      # TCP sockets opened in advance, see `ready`: IPv4, IPv6
    cdef int n_ready[2]
    cdef bint wants_ready[2]
    cdef int ready_size           # how many are kept of each family
    cdef void *splice_batch       # of splice_udp, from the first bypassed datagram on
    cdef Stats stats
    cdef int64_t now              # ns, taken once per turn
    cdef uint64_t isn_key[2]
    cdef uint8_t our_mac[6]
    cdef uint8_t our_ip4[4]       # address by which we speak to the guest; 0.0.0.0: none
    cdef Bucket control           # frames for the responder
    cdef Bucket news              # news of the guest
    cdef uint32_t untold          # NEWS_* bits
    # Of stations, see there; the guest's MAC is ff:ff:ff:ff:ff:ff until it is known.
    cdef uint8_t guest_mac[6]
    cdef uint8_t tap_mac[6]       # of the namespace's interface, all 0: there is none
    cdef uint8_t rival_mac[6]     # the last other station that was heard, all 0: none
    cdef int64_t heard_at         # ns, when the guest was
    cdef int64_t question_at      # ns, when it may be asked again
    cdef uint32_t n_questions     # unanswered in a row
    cdef uint8_t seen4[4]
    cdef uint8_t seen6[16]
    cdef uint8_t seen6_local[16]
    cdef uint32_t mtu             # bytes; 0: none assigned
    cdef uint32_t packet_limit    # bytes of the largest IP packet that the link takes
    cdef Path paths[N_PATHS]
    cdef bint has_paths
    cdef Echo echoes[N_ECHOES]
    cdef uint32_t next_echo
    cdef int64_t echoes_until     # ns, when the last of them is forgotten
    cdef Reassembler reassembler
    cdef uint32_t fragment_timer  # its id
    cdef uint32_t packet_id       # identification of the last packet that may be sent in fragments
    cdef bint ip4_on, ip6_on, tcp_on, udp_on, icmp_on
    cdef bint has_trace
    cdef bint has_failed
    cdef readonly Pool pool       # memory for what connections hold
    cdef iovec gather[MAX_GATHER]
    cdef uint32_t n_gather
    cdef uint32_t ts_val          # timestamps of the segment at hand, where its connection has them
    cdef uint32_t ts_ecr
    cdef Flow *gather_flow
    cdef OutBatch *out_batch      # datagrams of the guest's, to be flushed with the gathered data
    cdef InBatch *in_batch
    cdef Flow *last_udp           # of the guest's last datagram; to be compared, it may have ended
    cdef int64_t udp_once         # ns that a UDP flow without an answer, or with one, lives unused
    cdef int64_t udp_stream       # ns for one that went on

    cdef bint ask_outbound(self, Flow *flow, Route *route) noexcept with gil
    cdef bint ask_inbound(self, uint32_t listener, uint8_t proto, const sockaddr_storage *peer,
                          const sockaddr_storage *local, Seen *seen) noexcept with gil
    cdef void keep_answer(self, uint32_t listener, const uint8_t *peer, const uint8_t *local, size_t n,
                          const Seen *seen) noexcept nogil
    cdef void forget_answers(self) noexcept nogil
    cdef void on_control(self, const uint8_t *frame, size_t n) noexcept nogil
    cdef void respond(self, const uint8_t *frame, size_t n) noexcept with gil
    cdef bint ask_source(self, const uint8_t *address, size_t n, uint8_t *seen) noexcept with gil
    cdef void tell_mac(self) noexcept with gil
    cdef void tell_silence(self) noexcept with gil
    cdef void tell_ping_forbidden(self) noexcept with gil
    cdef void tell_address(self, const uint8_t *address, size_t n) noexcept with gil
    cdef void trace_state(self, const Flow *flow, const char *what) noexcept with gil
    cdef void fail(self, object error)
    cdef void arm(self, Flow *flow, int64_t deadline) noexcept nogil
    cdef void disarm(self, Flow *flow) noexcept nogil
    cdef void note(self, uint32_t kind) noexcept nogil
    cdef void tell(self, uint32_t kinds) noexcept nogil
    cdef bint is_enabled(self, const IpView *ip) noexcept nogil
    cdef uint8_t *push_ip(self, const uint8_t *mac, const uint8_t *source, const uint8_t *destination,
                          size_t addr_len, uint8_t protocol, uint32_t l4_len) noexcept nogil
    cdef bint send(self, size_t n, const TxMeta *meta) noexcept nogil
    cdef bint ask_listener(self, const FlowKey *key, const Route *route, const uint8_t *source,
                           bint any_peer, SharedListener *found) noexcept with gil
    cdef bint leads_there(self, Listener listener, bint any_peer, bytes peer, int peer_port,
                          tuple seen) except *
    cdef bint may_share_port(self, const FlowKey *key, const Route *route) noexcept with gil
    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil
    cdef int route_socket(self, int kind, int protocol, const Route *route) noexcept nogil
    cdef bint send_frame(self, bytes frame)
    cdef size_t memory_ceiling(self) noexcept nogil

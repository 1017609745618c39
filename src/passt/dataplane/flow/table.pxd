"""The flow table: records, look-up by either side, life cycle."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.base.externs cimport memcpy, memset, sockaddr_in6, sockaddr_storage, socklen_t

cdef enum FlowKind:
    FLOW_FREE = 0
    FLOW_DEAD = 1                 # ended, but still on the work list
    FLOW_TCP = 2
    FLOW_UDP = 3
    FLOW_UDP_PORT = 4             # no flow: a host socket that UDP flows share
    FLOW_PING = 5
    FLOW_SPLICE_TCP = 6
    FLOW_SPLICE_UDP = 7
    N_FLOW_KINDS

cdef enum FlowSide:
    SIDE_GUEST = 0
    SIDE_HOST = 1

cdef enum:
    NO_FLOW = 0xffffffff
    SPLICE_CONTROL = 80           # IP_PKTINFO and IPV6_PKTINFO, as dual-stack sockets give both
    FLOW_KEY_WORDS = 5

cdef enum TcpState:
    # RFC 9293 3.3.2, as our end of the guest's connection sees them; CONNECTING is a SYN_RECEIVED
    # that withholds its SYN-ACK until the host's socket is connected.
    TCP_CLOSED = 0
    TCP_CONNECTING
    TCP_SYN_SENT
    TCP_SYN_RECEIVED
    TCP_ESTABLISHED
    TCP_FIN_WAIT_1
    TCP_FIN_WAIT_2
    TCP_CLOSE_WAIT
    TCP_CLOSING
    TCP_LAST_ACK
    TCP_TIME_WAIT
    N_TCP_STATES

cdef enum TcpFlag:
    CONN_READABLE = 1             # the socket may have data or end-of-file for us
    CONN_HOST_EOF = 2             # end-of-file seen: a FIN for the guest is due or sent
    CONN_GUEST_FIN = 4            # the guest's FIN is accepted
    CONN_WRITE_SHUT = 8           # and passed on to the socket
    CONN_ACK_NOW = 16             # an acknowledgement must leave in this turn
    CONN_ACK_DELAYED = 32         # one may wait until ack_at
    CONN_WANT_OUT = 64            # EPOLLOUT is watched
    CONN_RECOVERY = 128           # loss recovery until snd_una reaches recover
    CONN_RTT_TIMED = 256          # a segment is being timed
    CONN_PUSHED = 512             # the guest's last data came with PSH
    CONN_READ_ON = 1024           # a short read does not mean that nothing more is there
    CONN_ASKED = 2048             # the guest sent data since the remote last did
    CONN_WINDOW_STALE = 4096      # the send buffer is to be looked at before the turn ends
    CONN_SACK = 8192              # the guest's SYN permitted selective acknowledgements
    CONN_FIN_EARLY = 16384        # the guest's FIN has come, data before it has not: guest_fin
    CONN_KEEP_ALIVE = 32768       # the host's socket probes the remote, as the guest does us
    CONN_TIMESTAMPS = 65536       # each segment carries the timestamps option
    CONN_FOLLOW = 1 << 20         # the guest is acknowledged what the remote acknowledged (tcp_acked)
    CONN_STAMPED = 1 << 21        # the socket's error queue may tell of acknowledgements

cdef enum FlowClass:
    # Flows that may have to make room for new ones; each class has an order in which they go.
    CLASS_KEPT = 0                # never
    CLASS_OVER                    # in TIME-WAIT, only the tuple is remembered
    CLASS_HALF_OPEN_OUT           # the guest opens it, and the remote or the guest has not answered yet
    CLASS_HALF_OPEN_IN            # the same of one that comes to a listener
    CLASS_DATAGRAM                # the one unused for longest goes
    N_CLASSES


cdef enum:
    # Runs of bytes that one connection's store keeps apart, and that a guest may report to have.
    # Two in a hundred segments of 1500 bytes lost leave some sixty holes in a window of 4 MiB.
    STORE_RANGES = 128
    SACK_RANGES = 128


cdef enum SpliceFlag:
    HALF_READABLE = 1             # the socket may have data or end-of-file for us
    HALF_READ_ON = 2              # a short read does not mean that nothing more is there
    HALF_BULK = 4                 # the last read was large: move pages instead of copying
    HALF_EOF = 8                  # end-of-file seen
    HALF_SHUT = 16                # and passed on
    HALF_FULL = 32                # the other socket takes no more: wait for its event
    HALF_HAD_BULK = 128           # it was so before, and the other socket is ready for it
    HALF_WATCH_OUT = 64           # EPOLLOUT of this half's own socket is watched


cdef struct FlowKey:
    # The guest's and the remote's endpoint as one side sees them; IPv4 in the first 4 bytes, rest 0.
    #
    # *scope* is 0 on the guest's side and names the listener on the host's. Two kinds are special: the
    # host's side of a UDP flow with a socket of ours has scope 0 and that record's index in *guest*; the
    # guest's side of a socket (FLOW_UDP_PORT) has no remote, and the socket's family in *scope*.
    uint8_t guest[16]
    uint8_t remote[16]
    uint16_t guest_port
    uint16_t remote_port
    uint8_t proto
    uint8_t addr_len
    uint16_t scope


cdef struct Piece:
    # Memory for *room* bytes behind this header, of which those from *head* to *tail* are in use.
    Piece *next
    uint32_t head
    uint32_t tail
    uint32_t room


cdef struct StoreRange:
    # Sequence numbers *start* to *end* without a gap; *stamp* tells when it was added to last.
    Piece *first
    Piece *last
    uint32_t start
    uint32_t end
    uint32_t stamp


cdef struct TcpStore:
    # Bytes of the guest's that no socket has yet (tcp_store); never empty.
    size_t memory                 # taken from the pool, this record included
    uint32_t n
    uint32_t stamp
    bint in_order                 # ranges[0] ends at rcv_nxt and waits for the socket
    StoreRange ranges[STORE_RANGES]


cdef struct SackRange:
    # A run of bytes that the guest has, and the hole before it (tcp_sack).
    uint32_t start
    uint32_t end
    uint32_t resent               # the hole was sent again up to here, if that lies in it
    uint32_t mark                 # snd_max at that time
    uint32_t serial               # of the frame that did it


cdef struct SackBoard:
    # What the guest has of what is not acknowledged; never empty.
    uint32_t n
    uint32_t serial               # frames that repeated something so far
    uint32_t arrived              # latest of them of which something has arrived
    SackRange ranges[SACK_RANGES]


cdef struct TcpConn:
    # Sequence variables of RFC 9293 3.3.1 towards the guest; snd_* is what the guest receives.
    uint32_t iss
    uint32_t snd_una
    uint32_t snd_nxt
    uint32_t snd_max              # highest snd_nxt ever: it moves back for a retransmission
    uint32_t snd_wnd
    uint32_t snd_wl1
    uint32_t snd_wl2
    uint32_t max_wnd              # largest window that the guest ever offered
    uint32_t sock_una             # sequence number of the first byte still in the socket
    uint32_t fin_seq              # of our FIN, valid with CONN_HOST_EOF
    uint32_t irs
    uint32_t rcv_nxt
    uint32_t rcv_acked            # last acknowledgement that the guest was sent
    uint32_t rcv_adv              # right edge of the window that the guest was told
    uint32_t remote_acked            # what the remote has acknowledged, with CONN_FOLLOW; else as rcv_acked
    uint32_t rcv_room             # window when the send buffer was last looked at
    uint32_t cwnd                 # limit of bytes in flight after a time-out, else CWND_OPEN
    uint32_t recover              # RFC 6582
    uint32_t rtt_seq
    int64_t rtt_start             # ns
    int64_t srtt                  # ns; 0: no sample yet (RFC 6298)
    int64_t rttvar                # ns
    int64_t rto                   # ns
    int64_t rtx_at                # deadline of retransmission, window probe or state, 0: none
    int64_t ack_at                # deadline of a delayed acknowledgement or of the remote's, 0: none
    int64_t sock_at               # when to look at the send buffer again, 0: on an event only
    int64_t alive_at              # when to see whether the guest is still there, 0: not established yet
    int64_t heard_at              # when the guest's last segment came
    int64_t challenged_at         # when the count in *challenges* began
    TcpStore *store               # bytes of the guest's that no socket has yet, NULL: none
    SackBoard *board              # what the guest says it has beyond snd_una, NULL: nothing
    uint32_t guest_fin            # of the guest's FIN, valid with CONN_FIN_EARLY
    uint32_t tell_start           # what the next acknowledgement reports first: bytes that came twice
    uint32_t tell_end             # (RFC 2883 4) or an early FIN; both the same: nothing
    uint32_t ts_offset            # of our clock
    uint32_t ts_recent            # stamp of the guest's that is due for an echo
    uint32_t ts_recent_at         # when it came, s
    uint32_t flags
    uint16_t remote_writes           # small ones of the guest's in a row
    uint16_t mss                  # payload of a segment to the guest
    uint8_t state
    uint8_t snd_wscale
    uint8_t rcv_wscale
    uint8_t retries              # unanswered in a row
    uint8_t backoff              # doublings of the time-out since the last progress
    uint8_t dup_acks
    uint8_t sock_polls
    uint8_t pingpong              # questions of the guest in a row that were answered by data
    uint8_t alive_probes          # unanswered keep-alive probes in a row
    uint8_t remote_misses            # times that the connection was found not to be one to follow
    uint8_t challenges            # acknowledgements that were spent on what makes no sense


cdef struct UdpFlow:
    int64_t last_used             # ns
    uint32_t listener             # index + 1 of the listener whose socket serves it, 0: a socket of ours
    uint32_t port                 # index of that socket's FLOW_UDP_PORT
    uint32_t ifindex              # by which it leaves a listener's socket, 0: as routed
    int listener_fd
    uint16_t local_family         # of the listener's socket addresses
    uint16_t max_segment         # largest datagram that UDP_SEGMENT may cut here
    uint16_t pending              # questions of a DNS flow that wait for an answer
    bint answered
    bint streaming
    bint group                    # goes to a multicast group or to a broadcast address
    int64_t mtu_told_at              # ns, when the guest was told of the path's MTU, 0: not yet
    uint32_t packet_limit         # bytes of the largest packet to the guest that goes in one piece


cdef struct SocketMarks:
    # What a UDP socket was told (see socket_marks).
    uint8_t fragmenting           # how it treats large datagrams, 0: not yet said
    uint8_t tells_ttl             # 1: of what is received
    uint8_t broadcasts            # 1: SO_BROADCAST is set


cdef struct UdpPort:
    # The socket is `fd` of the record, the source that it is bound to its `peer`.
    char ifname[16]
    uint32_t users                # flows
    uint32_t longest              # datagram of the last batch read
    uint32_t groups               # flows to groups: what answers them comes from anybody
    SocketMarks marks


cdef struct PingFlow:
    int64_t last_used             # ns
    uint8_t ttl                   # that the socket sends with, 0: not yet said
    uint8_t tos
    uint8_t fragmenting           # see socket_marks
    int64_t mtu_told_at
    uint32_t packet_limit


cdef struct SpliceHalf:
    # One direction of a bypassed connection: what comes from *fd* goes to the other half's fd.
    uint8_t *kept                 # copied, but not taken by the other socket yet
    int fd
    int32_t pipe                  # holds what was read from fd, -1: none
    uint32_t n_held               # bytes in the pipe or from kept_start on
    uint32_t kept_start
    uint32_t kept_size
    uint32_t flags                # SpliceFlag


cdef struct SpliceConn:
    SpliceHalf halves[2]          # 0: of the socket that was accepted, 1: of the one that we connected
    bint watched                  # the sockets are in the loop
    bint connecting
    bint failing


cdef struct SpliceUdp:
    int64_t last_used             # ns
    uint32_t listener             # index + 1 of the listener whose socket the client talks to
    int listener_fd
    uint8_t control[SPLICE_CONTROL]     # packet information that came: where answers leave from
    size_t control_len
    sockaddr_in6 client           # of the family of the listener's socket, which may be IPv4
    bint answered
    bint streaming


cdef union FlowBody:
    TcpConn tcp
    UdpFlow udp
    UdpPort port
    PingFlow ping
    SpliceConn splice
    SpliceUdp splice_udp


cdef struct Flow:
    FlowKey keys[2]
    uint32_t chain[2]             # next node of the hash chain, by side
    uint32_t index
    uint32_t generation
    uint32_t next_free
    uint32_t next_work
    uint32_t older                # of its FlowClass, NO_FLOW at the end
    uint32_t newer
    uint8_t hashed[2]             # these are truth values; a bint would take four bytes
    uint8_t has_work
    uint8_t kind
    uint8_t flow_class
    uint8_t inbound
    uint8_t has_mac
    uint8_t mac[6]                # with has_mac: of the station that it belongs to, else it is the guest's
    int fd
    socklen_t peer_len
    int64_t armed                 # deadline in the heap, 0: not armed
    sockaddr_storage peer         # host side: where the socket's traffic goes
    FlowBody body


cdef inline void fill_key(FlowKey *key, const IpView *ip, uint8_t proto, uint16_t guest_port,
                          uint16_t remote_port) noexcept nogil:
    """The key of a packet from the guest as the guest sees it."""
    memset(key, 0, sizeof(FlowKey))
    memcpy(key.guest, ip.src, ip.addr_len)
    memcpy(key.remote, ip.dst, ip.addr_len)
    key.guest_port = guest_port
    key.remote_port = remote_port
    key.proto = proto
    key.addr_len = ip.addr_len


cdef class FlowTable:
    cdef Flow *flows
    cdef uint32_t *heads
    cdef uint32_t mask
    cdef uint32_t max_flows
    cdef uint32_t top             # flows below have been used
    cdef uint32_t first_free
    cdef uint32_t first_work
    cdef uint32_t last_work
    cdef uint32_t first_waiting   # flows that wait for the link; linked by next_work as well
    cdef uint32_t oldest[N_CLASSES]
    cdef uint32_t newest[N_CLASSES]
    cdef uint64_t secret[2]
    cdef readonly uint32_t n_active
    cdef uint32_t n_in_class[N_CLASSES]   # flows; not kept for CLASS_KEPT
    cdef public uint32_t max_datagram   # flows of CLASS_DATAGRAM, which `datagram` keeps to

    cdef Flow *alloc(self, uint8_t kind) noexcept nogil
    cdef void release(self, Flow *flow) noexcept nogil
    cdef bint insert(self, Flow *flow, int side) noexcept nogil
    cdef Flow *find(self, const FlowKey *key, int side) noexcept nogil
    cdef Flow *at_tag(self, uint64_t tag) noexcept nogil
    cdef uint64_t hash(self, const FlowKey *key) noexcept nogil
    cdef void add_work(self, Flow *flow) noexcept nogil
    cdef void add_waiting(self, Flow *flow) noexcept nogil
    cdef void wake_waiting(self) noexcept nogil
    cdef uint32_t take_work(self) noexcept nogil
    cdef void move_newest(self, Flow *flow, uint8_t flow_class) noexcept nogil
    cdef void classify(self, Flow *flow, uint8_t flow_class) noexcept nogil
    cdef void unhash(self, Flow *flow, int side) noexcept nogil
    cdef void put_free(self, Flow *flow) noexcept nogil
cdef void fill_host_key(FlowKey *key, const Flow *port, const sockaddr_storage *peer) noexcept nogil

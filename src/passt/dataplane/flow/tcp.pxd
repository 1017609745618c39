"""The record of a TCP connection."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

cdef enum TcpState:
    # RFC 9293 3.3.2, as our end of the guest's connection sees them; CONNECTING is a SYN_RECEIVED
    # that withholds its SYN-ACK until the host's socket is connected, HELD an ESTABLISHED in which nothing
    # passes until the guest's first bytes are judged.
    TCP_CLOSED = 0
    TCP_CONNECTING
    TCP_SYN_SENT
    TCP_SYN_RECEIVED
    TCP_HELD
    TCP_ESTABLISHED
    TCP_FIN_WAIT_1
    TCP_FIN_WAIT_2
    TCP_CLOSE_WAIT
    TCP_CLOSING
    TCP_LAST_ACK
    TCP_TIME_WAIT
    N_TCP_STATES

cdef enum TcpFlag:
    CONN_READABLE = 1 << 0        # the socket may have data or end-of-file for us
    CONN_HOST_EOF = 1 << 1        # end-of-file seen: a FIN for the guest is due or sent
    CONN_GUEST_FIN = 1 << 2       # the guest's FIN is accepted
    CONN_WRITE_SHUT = 1 << 3      # and passed on to the socket
    CONN_ACK_NOW = 1 << 4         # an acknowledgement must leave in this turn
    CONN_ACK_DELAYED = 1 << 5     # one may wait until ack_at
    CONN_WANT_OUT = 1 << 6        # EPOLLOUT is watched
    CONN_RECOVERY = 1 << 7        # loss recovery until snd_una reaches recover
    CONN_RTT_TIMED = 1 << 8       # a segment is being timed
    CONN_PUSHED = 1 << 9          # the guest's last data came with PSH
    CONN_READ_ON = 1 << 10        # a short read does not mean that nothing more is there
    CONN_ASKED = 1 << 11          # the guest sent data since the remote last did
    CONN_WINDOW_STALE = 1 << 12   # the send buffer is to be looked at before the turn ends
    CONN_SACK = 1 << 13           # the guest's SYN permitted selective acknowledgements
    CONN_FIN_EARLY = 1 << 14      # the guest's FIN has come, data before it has not: guest_fin
    CONN_KEEP_ALIVE = 1 << 15     # the host's socket probes the remote, as the guest does us
    CONN_TIMESTAMPS = 1 << 16     # each segment carries the timestamps option
    CONN_FOLLOW = 1 << 17         # the guest is acknowledged what the remote acknowledged (`tcp.remote_acks`)
    CONN_STAMPED = 1 << 18        # the socket's error queue may tell of acknowledgements
    CONN_HELD = 1 << 19           # the remote gets nothing before the guest's first bytes are judged

cdef enum:
    # Runs of bytes that one connection's store keeps apart, and that a guest may report to have.
    # Two in a hundred segments of 1500 bytes lost leave some sixty holes in a window of 4 MiB.
    STORE_RANGES = 128
    SACK_RANGES = 128


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
    # Bytes of the guest that no socket has yet (`tcp.unsent_store`); never empty.
    size_t memory                 # taken from the pool, this record included
    uint32_t n
    uint32_t stamp
    bint in_order                 # ranges[0] ends at rcv_nxt and waits for the socket
    StoreRange ranges[STORE_RANGES]


cdef struct SackRange:
    # A run of bytes that the guest has, and the hole before it (`tcp.scoreboard`).
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
    uint32_t remote_acked         # what the remote has acknowledged, with CONN_FOLLOW; else as rcv_acked
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
    TcpStore *store               # bytes of the guest that no socket has yet, NULL: none
    SackBoard *board              # what the guest says it has beyond snd_una, NULL: nothing
    uint32_t guest_fin            # of the guest's FIN, valid with CONN_FIN_EARLY
    uint32_t tell_start           # what the next acknowledgement reports first: duplicate bytes
    uint32_t tell_end             # (RFC 2883 4) or an early FIN; both the same: nothing
    uint32_t ts_offset            # of our clock
    uint32_t ts_recent            # stamp of the guest that is due for an echo
    uint32_t ts_recent_at         # when it came, s
    uint32_t flags
    uint32_t retransmits          # frames that were sent to the guest again
    uint16_t remote_writes        # small ones of the guest in a row
    uint16_t mss                  # payload of a segment to the guest
    uint8_t state
    uint8_t snd_wscale
    uint8_t rcv_wscale
    uint8_t retries               # unanswered in a row
    uint8_t backoff               # doublings of the time-out since the last progress
    uint8_t dup_acks
    uint8_t sock_polls
    uint8_t pingpong              # questions of the guest in a row that were answered by data
    uint8_t alive_probes          # unanswered keep-alive probes in a row
    uint8_t remote_misses         # times that the connection was found not to be one to follow
    uint8_t challenges            # acknowledgements that were spent on what makes no sense

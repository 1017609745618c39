"""The records of flows that bypass the link."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t

from passt.dataplane.base.externs cimport sockaddr_in6
from passt.dataplane.flow.traffic cimport Traffic

cdef enum:
    SPLICE_CONTROL = 80           # IP_PKTINFO and IPV6_PKTINFO, as dual-stack sockets give both

cdef enum SpliceFlag:
    HALF_READABLE = 1 << 0        # the socket may have data or end-of-file for us
    HALF_READ_ON = 1 << 1         # a short read does not mean that nothing more is there
    HALF_BULK = 1 << 2            # the last read was large: move pages instead of copying
    HALF_EOF = 1 << 3             # end-of-file seen
    HALF_SHUT = 1 << 4            # and passed on
    HALF_FULL = 1 << 5            # the other socket is full: wait for its event
    HALF_WATCH_OUT = 1 << 6       # EPOLLOUT of this half's own socket is watched
    HALF_HAD_BULK = 1 << 7        # it was so before, and the other socket is ready for it


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
    uint32_t shown_next[2]        # sequence numbers of what is shown to captures: the next one of each half,
    uint32_t shown_acked[2]       # and the last one of the other half that it acknowledged
    bint is_shown                 # these have begun
    bint watched                  # the sockets are in the loop
    bint connecting
    bint failing


cdef struct SpliceUdp:
    int64_t last_used             # ns
    Traffic traffic
    uint32_t listener             # index + 1 of the listener whose socket the client talks to
    int listener_fd
    uint8_t control[SPLICE_CONTROL]  # packet information that came: where answers leave from
    size_t control_len
    sockaddr_in6 client           # of the family of the listener's socket, which may be IPv4
    bint answered
    bint streaming

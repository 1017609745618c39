"""The host's sockets as the translators use them; tests put a scripted one in its place."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.base.externs cimport iovec, mmsghdr, msghdr, sockaddr_storage, socklen_t

cdef enum:
    MAX_PEEK_PIECES = 1008        # with the chunks IOV_MAX (limits.h)
    PEEK_CHUNKS = 16              # of DISCARD_SIZE, see Sockets.peek


cdef struct PathInfo:
    # What the kernel knows of a connection's path (linux/tcp.h, struct tcp_info).
    uint64_t bytes_acked          # by the remote, our SYN included where we connected
    uint64_t bytes_per_s          # delivered of late
    uint32_t rtt_us
    uint32_t rttvar_us            # mean deviation
    uint32_t min_rtt_us


cdef struct Report:
    # What the kernel counted for a connection, and measured (linux/tcp.h, struct tcp_info).
    uint64_t bytes_acked          # by the remote; our SYN where we connected, and our FIN, are two of them
    uint64_t bytes_received       # in order; the remote's FIN is one of them
    uint32_t segments_out
    uint32_t segments_in
    uint32_t retransmits
    uint32_t rtt_us               # 0: not measured yet
    uint32_t window               # bytes that may be on the way: congestion window
    uint32_t idle_ms              # since data was sent or received
    uint8_t has_fin               # the remote has ended its stream
    uint8_t is_closed             # both ends have, or one was reset


cdef uint8_t scale_for(int64_t window) noexcept nogil


cdef class Sockets:
    cdef Reactor reactor
    cdef bint has_peek_off
    cdef bint has_meminfo
    cdef bint has_bytes_acked     # and tells when it grows
    cdef uint8_t window_scale     # that all windows that a send buffer can make up can be told with

    cdef int open(self, int family, int kind, int protocol) noexcept nogil
    cdef int bind_source(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept nogil
    cdef int bind_device(self, int fd, const char *name, size_t n) noexcept nogil
    cdef int connect(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept nogil
    cdef int accept(self, int fd, sockaddr_storage *peer, sockaddr_storage *local) noexcept nogil
    cdef int open_spare(self) noexcept nogil
    cdef int refuse(self, int fd, int spare) noexcept nogil
    cdef int prepare_stream(self, int fd) noexcept nogil
    cdef ssize_t send(self, int fd, iovec *pieces, size_t n) noexcept nogil
    cdef ssize_t peek_pieces(self, int fd, uint32_t skip, const iovec *wanted, size_t n) noexcept nogil
    cdef ssize_t peek(self, int fd, uint32_t skip, uint8_t *buf, size_t n) noexcept nogil
    cdef bint at_end(self, int fd) noexcept nogil
    cdef int rewind(self, int fd, uint32_t offset) noexcept nogil
    cdef ssize_t consume(self, int fd, size_t n) noexcept nogil
    cdef int64_t free_space(self, int fd, int64_t *total) noexcept nogil
    cdef int shut_write(self, int fd) noexcept nogil
    cdef int take_error(self, int fd) noexcept nogil
    cdef int keep_alive(self, int fd, int idle_s) noexcept nogil
    cdef int path_info(self, int fd, PathInfo *path) noexcept nogil
    cdef bint report(self, int fd, Report *report) noexcept nogil
    cdef int local_name(self, int fd, sockaddr_storage *name) noexcept nogil
    cdef int follow_acks(self, int fd, bint on) noexcept nogil
    cdef int drain_errors(self, int fd) noexcept nogil
    cdef int move_down(self, int fd) noexcept nogil
    cdef int close(self, int fd) noexcept nogil
    cdef int abort(self, int fd) noexcept nogil
    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept nogil
    cdef ssize_t send_message(self, int fd, const msghdr *message) noexcept nogil
    cdef ssize_t receive_message(self, int fd, msghdr *message) noexcept nogil
    cdef int send_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept nogil
    cdef int receive_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept nogil
    cdef ssize_t receive(self, int fd, uint8_t *buf, size_t n) noexcept nogil
    cdef ssize_t move(self, int from_fd, int to_fd, size_t n) noexcept nogil
    cdef ssize_t fill_pipe(self, int fd, const uint8_t *buf, size_t n) noexcept nogil
    cdef void prepare_relay(self, int fd) noexcept nogil
    cdef void prepare_bulk(self, int fd) noexcept nogil
    cdef void prepare_datagrams(self, int fd) noexcept nogil
    cdef ssize_t receive_error(self, int fd, msghdr *message) noexcept nogil
    cdef int set_option(self, int fd, int level, int name, int value) noexcept nogil
    cdef bint is_own(self, int fd, const sockaddr_storage *peer, socklen_t n) noexcept nogil
    cdef uint32_t index_of(self, int fd, const char *ifname) noexcept nogil
    cdef int set_interface(self, int fd, int family, int ifindex) noexcept nogil

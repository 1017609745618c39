"""The host's sockets as the translators use them.

One thin method per operation; results are what the system call returns, failures negative errnos.
That makes a place where tests put a scripted socket instead, and the only place where the
translators touch the kernel.

Data for the guest is read by peeking, so it stays in the socket until the guest acknowledges it.
With SO_PEEK_OFF (socket(7); TCP/IPv4 since Linux 6.9, TCP/IPv6 since 6.9 and fixes) the kernel
keeps the place: each peek moves it on, each consuming read moves it back. Elsewhere the bytes
before the place are read again into memory that nobody looks at.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.sockets.socket_address cimport read_sockaddr
from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, EAGAIN, EALREADY, EINPROGRESS, EINTR, EISCONN, EMFILE, ENFILE, ENOPROTOOPT,
    F_DUPFD_CLOEXEC, IFNAMSIZ, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP,
    IPPROTO_UDP, IPV6_MULTICAST_IF, IPV6_RECVERR, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS, IPV6_V6ONLY,
    IP_MULTICAST_IF, IP_RECVERR, IP_RECVTOS, IP_RECVTTL, IP_UNICAST_IF, MSG_DONTWAIT, MSG_ERRQUEUE,
    MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, PASST_MEMINFO_SNDBUF, PASST_MEMINFO_VARS, PASST_MEMINFO_WMEM_QUEUED,
    POLLIN, POLLOUT, SHUT_WR, SIOCGIFINDEX, SIOCOUTQ, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_STREAM,
    SOF_TIMESTAMPING_OPT_TSONLY, SOF_TIMESTAMPING_TX_ACK, SOL_SOCKET, SOL_UDP, SO_BINDTODEVICE, SO_ERROR,
    SO_KEEPALIVE, SO_LINGER, SO_MEMINFO, SO_OOBINLINE, SO_PEEK_OFF, SO_RCVBUF, SO_REUSEADDR, SO_SNDBUF,
    SO_TIMESTAMPING, SPLICE_F_MOVE, SPLICE_F_NONBLOCK, TCP_CONGESTION, TCP_INFO, TCP_KEEPIDLE, TCP_KEEPINTVL,
    TCP_NODELAY, UDP_GRO, accept4, bind, close as close_fd, connect as connect_to, errno, fcntl,
    getsockname, getsockopt, htonl, ifreq, ioctl, iovec, ip_mreqn, linger, memcpy, memset, mmsghdr, msghdr,
    passt_tcp_info, poll, pollfd, recv, recvmmsg, recvmsg, sendmmsg, sendmsg, setsockopt, shutdown, sockaddr,
    sockaddr_in, sockaddr_storage, socket, socklen_t, splice, write,
)

cdef enum:
    DISCARD_SIZE = 1 << 20
    DEFAULT_SCALE = 8             # windows up to 16 MiB, in steps of 256 bytes
    MAX_SCALE = 14                # RFC 7323 2.3
    ERROR_BATCH = 8               # entries of an error queue that are taken at once
    USUAL_KEEPINTVL = 75          # seconds (tcp(7), tcp_keepalive_intvl)
    # Room for some milliseconds of a fast sender; memory is used only while datagrams lie there.
    DATAGRAM_BUFFER = 4 << 20
    # States of the kernel's TCP as TCP_INFO's first byte gives them (linux/tcp_states.h)
    KERNEL_TIME_WAIT = 6
    KERNEL_CLOSE = 7
    KERNEL_CLOSE_WAIT = 8
    KERNEL_LAST_ACK = 9
    KERNEL_CLOSING = 11

# Written by the kernel, read by nobody: where peeks without SO_PEEK_OFF put what was seen before.
cdef uint8_t discard[DISCARD_SIZE]


cdef uint8_t scale_for(int64_t window) noexcept nogil:
    """The smallest window scale (RFC 7323 2.2), 1 at least, with which *window* bytes can be told."""
    cdef uint8_t scale = 1
    while scale < MAX_SCALE and <int64_t>65535 << scale < window:
        scale += 1
    return scale


cdef class Sockets:
    """The kernel's sockets, watched by *reactor*."""

    def __cinit__(self, Reactor reactor):
        self.reactor = reactor
        self.has_meminfo = True
        self.window_scale = DEFAULT_SCALE

    def probe(self, without=()) -> frozenset[str]:
        """Find out what this kernel can do; the names in *without* count as missing.

        "peek_off4" and "peek_off6": TCP sockets of that family keep a peek offset. It is used if all
        families that the kernel has do (6.9 had it for IPv4 only). "meminfo": SO_MEMINFO. "bytes_acked": what
        `remote_acks` needs, that is TCP_INFO as of Linux 4.9 and SOF_TIMESTAMPING_TX_ACK (4.0). How large
        send buffers may get is looked up too.
        """
        cdef int family, fd
        cdef int zero = 0
        cdef uint32_t info[PASST_MEMINFO_VARS]
        cdef socklen_t n
        cdef PathInfo path
        cdef set found = set()
        self.has_peek_off = True
        self.has_meminfo = True
        self.has_bytes_acked = True
        for family, name in ((AF_INET, "peek_off4"), (AF_INET6, "peek_off6")):
            fd = self.open(family, SOCK_STREAM, IPPROTO_TCP)
            if fd < 0:
                continue          # a family that the kernel lacks needs no peek offset
            if name not in without and setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof(zero)) == 0:
                found.add(name)
            else:
                self.has_peek_off = False
            n = sizeof(info)
            if "meminfo" not in without and getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &n) == 0:
                found.add("meminfo")
            else:
                self.has_meminfo = False
            self.has_bytes_acked = (
                self.has_bytes_acked and "bytes_acked" not in without
                and self.path_info(fd, &path) == 0 and self.follow_acks(fd, True) == 0)
            if self.has_bytes_acked:
                found.add("bytes_acked")
            close_fd(fd)
        try:
            with open("/proc/sys/net/ipv4/tcp_wmem", encoding="utf-8") as file:
                self.window_scale = scale_for(int(file.read().split()[2]))
        except (OSError, ValueError, IndexError):
            self.window_scale = DEFAULT_SCALE
        return frozenset(found)

    cdef int open(self, int family, int kind, int protocol) noexcept nogil:
        """A non-blocking socket, of one family only; a datagram socket tells of errors and marks.

        Datagram sockets do not share their port when they are bound: datagrams for a port are found by
        the port alone, so one that was bound by somebody else already would lose them to us, and
        replies to a ping socket by the identifier (net/ipv4/ping.c, ping_lookup).
        """
        cdef int fd = socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
        cdef int one = 1
        cdef int zero = 0
        if fd < 0:
            return -errno
        if kind == SOCK_DGRAM:
            if protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
                # The kernel switches sharing on by itself for these.
                setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &zero, sizeof(zero))
            elif family == AF_INET6:
                setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one))
            want_details(fd, family, protocol)
        return fd

    cdef int bind_source(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept nogil:
        return -errno if bind(fd, <const sockaddr *>address, n) < 0 else 0

    cdef int bind_device(self, int fd, const char *name, size_t n) noexcept nogil:
        return -errno if setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, <socklen_t>n) < 0 else 0

    cdef int connect(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept nogil:
        """Connect a datagram socket, or start to connect a stream (-EINPROGRESS).

        A connection within this host is made or refused before the call returns, but only a second
        call says so (connect(2), net/ipv4/af_inet.c); that spares a turn of the loop.
        """
        if connect_to(fd, <const sockaddr *>address, n) == 0:
            return 0
        if errno == EINPROGRESS and (connect_to(fd, <const sockaddr *>address, n) == 0 or errno == EISCONN):
            return 0
        return -EINPROGRESS if errno == EALREADY else -errno

    cdef int accept(self, int fd, sockaddr_storage *peer, sockaddr_storage *local) noexcept nogil:
        """Accept a connection and tell both of its ends.

        The kernel takes a descriptor before it looks whether anybody waits (net/socket.c), so that none is
        left means something only if somebody does.
        """
        cdef socklen_t n = sizeof(sockaddr_storage)
        cdef int new = accept4(fd, <sockaddr *>peer, &n, SOCK_NONBLOCK | SOCK_CLOEXEC)
        cdef int error
        cdef pollfd state
        if new < 0:
            error = errno
            state.fd = fd
            state.events = POLLIN
            if error in (EMFILE, ENFILE) and poll(&state, 1, 0) == 0:
                return -EAGAIN
            return -error
        n = sizeof(sockaddr_storage)
        if getsockname(new, <sockaddr *>local, &n) < 0:
            close_fd(new)
            return -EINTR
        return new

    cdef int open_spare(self) noexcept nogil:
        """A descriptor to be given up: a socket bound to nothing, as the sandbox permits one at any time."""
        return socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_UDP)

    cdef int refuse(self, int fd, int spare) noexcept nogil:
        """Out of descriptors: give *spare* up to accept one connection, reset it, and get a spare back.

        Without this the connection would keep the listener readable for ever.
        """
        cdef int new
        if spare >= 0:
            close_fd(spare)
            new = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if new >= 0:
                self.abort(new)
        return self.open_spare()

    cdef int prepare_stream(self, int fd) noexcept nogil:
        """Ready a connected TCP socket: no Nagle (the guest has its own), peek place at the start.

        Urgent data stays in line (RFC 6093): taken out, it would be missing from the sequence space.
        """
        cdef int one = 1
        cdef int zero = 0
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one))
        if self.has_peek_off and setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof(zero)) < 0:
            return -errno
        return 0

    cdef ssize_t send(self, int fd, iovec *pieces, size_t n) noexcept nogil:
        """Queue bytes on a TCP socket; returns how many it took."""
        cdef msghdr message
        cdef ssize_t sent
        memset(&message, 0, sizeof(message))
        message.msg_iov = pieces
        message.msg_iovlen = n
        while True:
            sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0:
                return sent
            if errno != EINTR:
                return -errno

    cdef ssize_t peek(self, int fd, uint32_t skip, uint8_t *buf, size_t n) noexcept nogil:
        """Read up to *n* bytes that lie *skip* bytes into the receive queue, leaving them there.

        0 at end-of-file; -EAGAIN if there is nothing (yet), also if *skip* exceeds what one call
        can pass over without SO_PEEK_OFF (PEEK_CHUNKS MiB).
        """
        cdef iovec piece
        cdef ssize_t got
        if self.has_peek_off:
            got = recv(fd, buf, n, MSG_PEEK | MSG_DONTWAIT)
            return got if got >= 0 else -errno
        piece.iov_base = buf
        piece.iov_len = n
        return self.peek_pieces(fd, skip, &piece, 1)

    cdef ssize_t peek_pieces(self, int fd, uint32_t skip, const iovec *wanted, size_t n) noexcept nogil:
        """Read as `peek` does, into the *n* pieces *wanted*, MAX_PEEK_PIECES at most."""
        cdef iovec pieces[PEEK_CHUNKS + MAX_PEEK_PIECES]
        cdef msghdr message
        cdef ssize_t got
        cdef uint32_t left = skip
        cdef int count = 0
        memset(&message, 0, sizeof(message))
        if self.has_peek_off:
            message.msg_iov = <iovec *>wanted
            message.msg_iovlen = n
            got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT)
            return got if got >= 0 else -errno
        while left and count < PEEK_CHUNKS:
            pieces[count].iov_base = discard
            pieces[count].iov_len = min(left, <uint32_t>DISCARD_SIZE)
            left -= <uint32_t>pieces[count].iov_len
            count += 1
        if left:
            return -EAGAIN
        memcpy(&pieces[count], wanted, n * sizeof(iovec))
        message.msg_iov = pieces
        message.msg_iovlen = count + n
        got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT)
        if got < 0:
            return -errno
        if got > skip:
            return got - skip
        if got < skip:
            return -EAGAIN
        # Exactly what was seen before. The end has come only if the remote closed and, looked at once
        # more after that is known, there still is nothing new.
        if not self.at_end(fd):
            return -EAGAIN
        got = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT)
        return got - skip if got >= skip else -EAGAIN

    cdef bint at_end(self, int fd) noexcept nogil:
        """Whether the remote has closed its side (tcp(7), TCP_INFO state CLOSE_WAIT and later)."""
        cdef uint8_t state = 0
        cdef socklen_t n = 1
        if getsockopt(fd, IPPROTO_TCP, TCP_INFO, &state, &n) < 0:
            return False
        return state in (KERNEL_CLOSE_WAIT, KERNEL_LAST_ACK, KERNEL_CLOSING, KERNEL_TIME_WAIT, KERNEL_CLOSE)

    cdef int rewind(self, int fd, uint32_t offset) noexcept nogil:
        """Put the peek place *offset* bytes into the receive queue."""
        cdef int value = <int>offset
        if not self.has_peek_off:
            return 0
        return -errno if setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &value, sizeof(value)) < 0 else 0

    cdef ssize_t consume(self, int fd, size_t n) noexcept nogil:
        """Drop *n* bytes from the head of the receive queue (tcp(7), MSG_TRUNC)."""
        cdef ssize_t got = recv(fd, NULL, n, MSG_TRUNC | MSG_DONTWAIT)
        return got if got >= 0 else -errno

    cdef int64_t free_space(self, int fd, int64_t *total) noexcept nogil:
        """Payload bytes that the send buffer can surely take now (socket(7), SO_MEMINFO); *total*: its size.

        The kernel admits data while what is queued, headers and slack included, is below SO_SNDBUF.
        One sixteenth is kept back for the overhead of the buffers still to come.

        Without SO_MEMINFO (Linux 4.12; a filter or a sandboxed kernel may lack it) the overhead is taken
        to be as large as the payload. That may find nothing free in a socket that polls writable, of
        which no event would ever tell more; a third of such a buffer is free (net/core/stream.c,
        sk_stream_write_space), so a quarter is promised.
        """
        cdef uint32_t info[PASST_MEMINFO_VARS]
        cdef socklen_t n = sizeof(info)
        cdef int value = 0
        cdef int queued = 0
        cdef int64_t room
        cdef pollfd state
        if self.has_meminfo and getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &n) == 0:
            total[0] = info[PASST_MEMINFO_SNDBUF]
            room = total[0] - info[PASST_MEMINFO_WMEM_QUEUED]
            return max(room - room // 16, <int64_t>0)
        total[0] = 0
        n = sizeof(value)
        if getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &value, &n) < 0 or ioctl(fd, SIOCOUTQ, &queued) < 0:
            return 0
        total[0] = value
        room = (<int64_t>value - 2 * queued) // 2
        state.fd = fd
        state.events = POLLOUT
        state.revents = 0
        if room < total[0] // 4 and poll(&state, 1, 0) > 0 and state.revents & POLLOUT:
            room = total[0] // 4
        return max(room, <int64_t>0)

    cdef int shut_write(self, int fd) noexcept nogil:
        return -errno if shutdown(fd, SHUT_WR) < 0 else 0

    cdef int take_error(self, int fd) noexcept nogil:
        """The pending error of a socket (positive errno), 0 if none."""
        cdef int value = 0
        cdef socklen_t n = sizeof(value)
        if getsockopt(fd, SOL_SOCKET, SO_ERROR, &value, &n) < 0:
            return errno
        return value

    cdef int keep_alive(self, int fd, int idle_s) noexcept nogil:
        """Probe the remote after *idle_s* seconds of silence, and as often as usual or so (tcp(7))."""
        cdef int one = 1
        cdef int between = min(idle_s, USUAL_KEEPINTVL)
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s))
        setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &between, sizeof(between))
        return -errno if setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) < 0 else 0

    cdef int path_info(self, int fd, PathInfo *path) noexcept nogil:
        """What the kernel knows of the path to the remote; -ENOPROTOOPT if it does not tell all of it."""
        cdef passt_tcp_info info
        cdef socklen_t n = sizeof(info)
        if getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0:
            return -errno
        if n < sizeof(info):
            return -ENOPROTOOPT
        path.bytes_acked = info.bytes_acked
        path.bytes_per_s = info.delivery_rate
        path.rtt_us = info.rtt
        path.rttvar_us = info.rttvar
        path.min_rtt_us = info.min_rtt
        return 0

    cdef bint report(self, int fd, Report *report) noexcept nogil:
        """What the kernel counted for a connection; False, and zeros, if it does not tell all of it."""
        cdef passt_tcp_info info
        cdef socklen_t n = sizeof(info)
        memset(report, 0, sizeof(Report))
        if fd < 0 or getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &n) < 0 or n < sizeof(info):
            return False
        report.bytes_acked = info.bytes_acked
        report.bytes_received = info.bytes_received
        report.segments_out = info.segs_out
        report.segments_in = info.segs_in
        report.retransmits = info.total_retrans
        report.rtt_us = info.rtt
        report.window = info.snd_cwnd * info.snd_mss
        report.idle_ms = min(info.last_data_sent, info.last_data_recv)
        report.has_fin = info.state in (KERNEL_TIME_WAIT, KERNEL_CLOSE_WAIT, KERNEL_LAST_ACK, KERNEL_CLOSING)
        report.is_closed = info.state == KERNEL_CLOSE
        return True

    cdef int local_name(self, int fd, sockaddr_storage *name) noexcept nogil:
        """The address that a socket has on our side; a negative errno, and zeros, if there is none."""
        cdef socklen_t n = sizeof(sockaddr_storage)
        memset(name, 0, sizeof(sockaddr_storage))
        return -errno if fd < 0 or getsockname(fd, <sockaddr *>name, &n) < 0 else 0

    cdef int follow_acks(self, int fd, bint on) noexcept nogil:
        """Have the error queue tell when the remote acknowledges the end of a write from now on, or no more.

        Only that it did, not the data (Documentation/networking/timestamping.rst, OPT_TSONLY), which needs no
        privilege.
        """
        cdef int value = SOF_TIMESTAMPING_TX_ACK | SOF_TIMESTAMPING_OPT_TSONLY if on else 0
        return -errno if setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPING, &value, sizeof(value)) < 0 else 0

    cdef int drain_errors(self, int fd) noexcept nogil:
        """Empty the error queue, mostly by one call; returns how many entries there were."""
        cdef mmsghdr messages[ERROR_BATCH]
        cdef int found = 0
        cdef int got = ERROR_BATCH
        while got == ERROR_BATCH:
            memset(messages, 0, sizeof(messages))
            got = recvmmsg(fd, messages, ERROR_BATCH, MSG_ERRQUEUE | MSG_DONTWAIT, NULL)
            found += max(got, 0)
        return found

    cdef int move_down(self, int fd) noexcept nogil:
        """Give a descriptor that nothing watches yet the lowest free number; returns that, else *fd*."""
        cdef int lower = fcntl(fd, F_DUPFD_CLOEXEC, 0)
        if lower < 0:
            return fd
        if lower > fd:
            close_fd(lower)
            return fd
        close_fd(fd)
        return lower

    cdef int close(self, int fd) noexcept nogil:
        return -errno if close_fd(fd) < 0 else 0

    cdef int abort(self, int fd) noexcept nogil:
        """Close so that the remote sees a reset (socket(7), SO_LINGER)."""
        cdef linger option
        option.l_onoff = 1
        option.l_linger = 0
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &option, sizeof(option))
        return -errno if close_fd(fd) < 0 else 0

    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept nogil:
        return self.reactor.watch(fd, op, events, tag)

    cdef ssize_t send_message(self, int fd, const msghdr *message) noexcept nogil:
        cdef ssize_t sent
        while True:
            sent = sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0:
                return sent
            if errno != EINTR:
                return -errno

    cdef ssize_t receive_message(self, int fd, msghdr *message) noexcept nogil:
        cdef ssize_t got
        while True:
            got = recvmsg(fd, message, MSG_DONTWAIT)
            if got >= 0:
                return got
            if errno != EINTR:
                return -errno

    cdef int send_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept nogil:
        """Send up to *n* datagrams; returns how many went, or the error of the first (sendmmsg(2))."""
        cdef int sent
        while True:
            sent = sendmmsg(fd, messages, n, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0:
                return sent
            if errno != EINTR:
                return -errno

    cdef int receive_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept nogil:
        """Receive up to *n* datagrams; returns how many came, or the error before the first (recvmmsg(2))."""
        cdef int got
        while True:
            got = recvmmsg(fd, messages, n, MSG_DONTWAIT, NULL)
            if got >= 0:
                return got
            if errno != EINTR:
                return -errno

    cdef ssize_t receive(self, int fd, uint8_t *buf, size_t n) noexcept nogil:
        """Read up to *n* bytes of a stream; 0 at its end."""
        cdef ssize_t got
        while True:
            got = recv(fd, buf, n, MSG_DONTWAIT)
            if got >= 0:
                return got
            if errno != EINTR:
                return -errno

    cdef ssize_t move(self, int from_fd, int to_fd, size_t n) noexcept nogil:
        """Move up to *n* bytes between a stream and a pipe (splice(2)); 0 at the stream's end."""
        cdef ssize_t moved
        while True:
            moved = splice(from_fd, NULL, to_fd, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK)
            if moved >= 0:
                return moved
            if errno != EINTR:
                return -errno

    cdef ssize_t fill_pipe(self, int fd, const uint8_t *buf, size_t n) noexcept nogil:
        """Write up to *n* bytes to a pipe."""
        cdef ssize_t written
        while True:
            written = write(fd, buf, n)
            if written >= 0:
                return written
            if errno != EINTR:
                return -errno

    cdef void prepare_relay(self, int fd) noexcept nogil:
        """Ready a TCP socket whose bytes are passed on: no Nagle, urgent data in line (RFC 6093)."""
        cdef int one = 1
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one))

    cdef void prepare_bulk(self, int fd) noexcept nogil:
        """Ready a TCP socket for much data to a receiver on this machine.

        There is no network on the way whose queues had to be spared: no pacing, which BBR would do, nor
        an end of slow start by delays, as CUBIC does (HyStart). Reno does neither, and is always there
        (tcp(7)).
        """
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b"reno", 4)

    cdef void prepare_datagrams(self, int fd) noexcept nogil:
        """Ready a bound UDP socket: room for bursts (cut by net.core.rmem_max), joined datagrams welcome.

        From now on others may bind its port too if they share; a listener that comes later must be able to.
        """
        cdef int one = 1
        cdef int size = DATAGRAM_BUFFER
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size))
        setsockopt(fd, SOL_UDP, UDP_GRO, &one, sizeof(one))

    cdef ssize_t receive_error(self, int fd, msghdr *message) noexcept nogil:
        """Take an entry of the error queue (ip(7), IP_RECVERR); -EAGAIN: it is empty."""
        cdef ssize_t got
        while True:
            got = recvmsg(fd, message, MSG_ERRQUEUE | MSG_DONTWAIT)
            if got >= 0:
                return got
            if errno != EINTR:
                return -errno

    cdef int set_option(self, int fd, int level, int name, int value) noexcept nogil:
        return -errno if setsockopt(fd, level, name, &value, sizeof(value)) < 0 else 0

    cdef bint is_own(self, int fd, const sockaddr_storage *peer, socklen_t n) noexcept nogil:
        """Whether *peer* has the port of the datagram socket, and an address of this host: bindable."""
        cdef sockaddr_storage name = peer[0]
        cdef uint8_t address[16]
        cdef uint16_t port = 0
        cdef uint16_t own_port = 0
        cdef socklen_t size = sizeof(name)
        cdef int scratch
        cdef bint found
        read_sockaddr(peer, address, &port)
        if getsockname(fd, <sockaddr *>&name, &size) < 0:
            return False
        read_sockaddr(&name, address, &own_port)
        if port != own_port:
            return False
        scratch = socket(peer.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0)
        if scratch < 0:
            return False
        name = peer[0]
        (<sockaddr_in *>&name).sin_port = 0       # at the same place in both families
        found = bind(scratch, <sockaddr *>&name, n) == 0
        close_fd(scratch)
        return found

    cdef uint32_t index_of(self, int fd, const char *ifname) noexcept nogil:
        """Index of an interface in the namespace of socket *fd*, 0: there is none (netdevice(7)).

        *ifname* has IFNAMSIZ bytes. if_nametoindex(3) would open a socket of its own, which may not be had.
        """
        cdef ifreq request
        memset(&request, 0, sizeof(request))
        memcpy(request.ifr_name, ifname, IFNAMSIZ)
        return <uint32_t>request.ifr_ifindex if ioctl(fd, SIOCGIFINDEX, &request) == 0 else 0

    cdef int set_interface(self, int fd, int family, int ifindex) noexcept nogil:
        """Choose by which interface multicasts leave, and IPv4's broadcasts (ip(7), ipv6(7))."""
        cdef ip_mreqn choice
        cdef uint32_t index_be = htonl(<uint32_t>ifindex)
        if family == AF_INET6:
            return self.set_option(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, ifindex)
        memset(&choice, 0, sizeof(choice))
        choice.imr_ifindex = ifindex
        setsockopt(fd, IPPROTO_IP, IP_UNICAST_IF, &index_be, sizeof(index_be))
        return -errno if setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &choice, sizeof(choice)) < 0 else 0


cdef void want_details(int fd, int family, int protocol) noexcept nogil:
    """Ask for errors, and with each datagram for its TOS or traffic class; for pings the time to live too."""
    cdef int one = 1
    if family == AF_INET6:
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVERR, &one, sizeof(one))
        setsockopt(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, &one, sizeof(one))
        if protocol == IPPROTO_ICMPV6:
            setsockopt(fd, IPPROTO_IPV6, IPV6_RECVHOPLIMIT, &one, sizeof(one))
        return
    setsockopt(fd, IPPROTO_IP, IP_RECVERR, &one, sizeof(one))
    setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &one, sizeof(one))
    if protocol == IPPROTO_ICMP:
        setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &one, sizeof(one))

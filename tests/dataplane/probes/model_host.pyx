"""A host for the real engine: sockets, clock and events are a fuzzer's, nothing waits or touches a network.

Theory of operation. `ModelSockets` stands in for the kernel's sockets and keeps to what a kernel does: a
write takes as many bytes as there is room for, an error is told once, a peek leaves the data where it is, a
message brings no more control data than there is room for. Within that the caller decides: what comes, how
much room there is, which operation fails next. Its descriptors are numbers far above real ones.
`ModelReactor` has a clock that stands still between steps, takes the events of these sockets from the model,
and those of all other descriptors (the link) from epoll. Sockets that are watched edge-triggered tell of
what is new, and of what is there when they are watched; the others as long as something is there.

A call for a descriptor that is not open is a mistake of the engine's: `ModelSockets.mistakes` has them all.
"""

import os
from collections import deque

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, EAGAIN, EMFILE, EPIPE, EPOLL_CTL_DEL, EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN,
    EPOLLOUT, EPOLLRDHUP, IPPROTO_TCP, IPPROTO_UDP, SOCK_DGRAM, SOCK_STREAM, iovec, memcpy,
    mmsghdr, msghdr, read, sockaddr_storage, socklen_t, write,
)
from passt.dataplane.loop.reactor cimport EVENTS_PER_WAIT, Reactor
from passt.dataplane.sockets.namespace_thread cimport (
    SOCKET_TCP4, SOCKET_TCP6, SOCKET_UDP4, NamespaceThread, SocketKind,
)
from passt.dataplane.sockets.sockets cimport PathInfo, Sockets
from tests.dataplane.probes.model_calls cimport (
    ACCEPT, BIND_DEVICE, BIND_SOURCE, CONNECT, CONSUME, FILL_PIPE, FOLLOW_ACKS, KEEP_ALIVE, MOVE,
    N_OPERATIONS, OPEN, PATH_INFO, PEEK, PREPARE_STREAM, RECEIVE, RECEIVE_MESSAGE, REWIND, SEND,
    SEND_MESSAGE, SET_INTERFACE, SET_OPTION, SHUT_WRITE, TAKE_ERROR, WATCH, Operation, fill_message, look_at,
)

cdef enum:
    EBADF = 9
    FIRST_FD = 1 << 20
    SEND_BUFFER = 1 << 20
    MAX_MESSAGE = 65507
    CHUNK = 65536

# What can be made to fail, in the order of `model_calls.Operation`.
OPERATIONS = (
    "open", "bind_source", "bind_device", "connect", "accept", "prepare_stream", "send", "peek", "consume",
    "rewind", "shut_write", "take_error", "keep_alive", "path_info", "follow_acks", "watch", "send_message",
    "receive_message", "receive", "move", "fill_pipe", "set_option", "set_interface",
)


@cython.auto_pickle(False)
cdef class ModelReactor(Reactor):
    """A clock that stands still, and events that were made to happen."""

    cdef public int64_t now
    cdef list queue               # (tag, events) of edge-triggered sockets
    cdef ModelSockets sockets

    def __init__(self, n_timers):
        self.now = 1000000000
        self.queue = []

    @property
    def n_timers(self):
        """How many timers are armed."""
        return self.timers.n

    @property
    def next_deadline(self):
        return self.timers.next_deadline()

    def forget(self):
        """Let the sockets go, which know this reactor."""
        self.sockets = None

    cdef int64_t clock(self) noexcept nogil:
        return self.now

    cdef int poll_once(self) noexcept nogil:
        cdef int n = self.epoll(0)
        self.slept = False
        return self.add_events(max(n, 0))

    cdef int wait(self, int64_t now) noexcept nogil:
        self.slept = True
        return 0

    cdef int add_events(self, int n) noexcept with gil:
        """Put what happened on model sockets behind the *n* events that there are."""
        cdef ModelSocket sock
        cdef uint32_t ready
        taken = 0
        for tag, what in self.queue:
            if n == EVENTS_PER_WAIT:
                break
            self.events[n].events = what
            self.events[n].data.u64 = tag
            taken += 1
            n += 1
        del self.queue[:taken]
        if self.sockets is None:
            return n
        for sock in self.sockets.by_fd.values():
            if sock.watched and not sock.events & EPOLLET and n < EVENTS_PER_WAIT:
                ready = sock.readiness() & (sock.events | EPOLLERR | EPOLLHUP)
                if ready:
                    self.events[n].events = ready
                    self.events[n].data.u64 = sock.tag
                    n += 1
        return n


cdef class ModelSocket:
    """One socket: of a stream what came and how much room there is; of datagrams queues of both kinds."""

    cdef readonly int fd, family, kind, protocol
    cdef public bytearray incoming
    cdef public bint eof, hung_up, shut, connecting, is_listener
    cdef bint is_real              # the number is a descriptor, to be closed
    cdef public int error         # pending
    cdef public int64_t room      # bytes that writes still take
    cdef public uint64_t written, acked
    cdef uint32_t peeked
    cdef readonly object datagrams, errors, backlog
    cdef public list peers        # socket addresses that were sent to, the last ones
    cdef uint64_t tag
    cdef uint32_t events
    cdef bint watched

    def __init__(self, int fd, int family, int kind, int protocol, int64_t room):
        self.fd, self.family, self.kind, self.protocol = fd, family, kind, protocol
        self.incoming = bytearray()
        self.room = room
        self.datagrams, self.errors, self.backlog = deque(), deque(), deque()
        self.peers = []

    @property
    def is_watched(self):
        return self.watched

    cdef uint32_t readiness(self) noexcept:
        """The events that hold now."""
        cdef uint32_t found = 0
        if self.is_listener and self.backlog or self.datagrams or self.incoming or self.eof or self.error:
            found |= EPOLLIN
        if self.error or self.errors:
            found |= EPOLLERR
        if self.eof:
            found |= EPOLLRDHUP
        if self.hung_up or self.eof and self.shut:
            found |= EPOLLHUP
        if self.kind == SOCK_DGRAM or not self.connecting and self.room > 0:
            found |= EPOLLOUT
        return found

    cdef int take_failure(self) noexcept:
        cdef int error = self.error
        self.error = 0
        return error


cdef class ModelSockets(Sockets):
    """Sockets of the model; *failures* are one errno for the next call of each operation, 0: it succeeds."""

    cdef readonly dict by_fd
    cdef readonly list mistakes
    cdef int failures[<int>N_OPERATIONS]
    cdef int next_fd
    cdef public int limit         # of open sockets
    cdef public int64_t room      # that a new one has
    cdef public bint connects_at_once
    cdef public int bind_taken    # errno of all binds, 0: they succeed
    cdef public uint32_t rtt_us

    def __init__(self, ModelReactor reactor):
        cdef int i
        self.by_fd = {}
        self.mistakes = []
        self.next_fd = FIRST_FD
        self.limit = 64
        self.room = CHUNK
        self.rtt_us = 5000
        reactor.sockets = self
        for i in range(<int>N_OPERATIONS):
            self.failures[i] = 0

    def probe(self, without=()):
        """The model is what it is."""
        return frozenset()

    def configure(self, *, bint peek_off, bint bytes_acked):
        """Say what this kernel can do."""
        self.has_peek_off = peek_off
        self.has_bytes_acked = bytes_acked

    def fail_next(self, int operation, int error):
        """Have the next call of OPERATIONS[*operation*] fail."""
        self.failures[operation] = error

    def adopt(self, int fd, int family, int kind, int protocol):
        """Take a real descriptor, a listener's: what comes to it is the model's."""
        cdef ModelSocket sock = ModelSocket(fd, family, kind, protocol, 0)
        sock.is_listener = kind == SOCK_STREAM
        sock.is_real = True
        self.by_fd[fd] = sock

    def drop(self, int fd):
        """Forget an adopted descriptor."""
        self.by_fd.pop(fd, None)

    def ready(self, ModelSocket sock, uint32_t events):
        """Have the loop told of *events*, and of what holds besides, if the socket is watched for it."""
        cdef ModelReactor reactor = self.reactor
        events = (events | sock.readiness()) & (sock.events | EPOLLERR | EPOLLHUP)
        if sock.watched and events:
            reactor.queue.append((sock.tag, events))

    def tell(self, ModelSocket sock, uint32_t events):
        """Have the loop told of *events*, whether they hold or not: from an earlier moment."""
        cdef ModelReactor reactor = self.reactor
        if sock.watched and events & (sock.events | EPOLLERR | EPOLLHUP):
            reactor.queue.append((sock.tag, events & (sock.events | EPOLLERR | EPOLLHUP)))

    cdef ModelSocket at(self, int fd, str operation):
        """The open socket *fd*; None, and a mistake, if there is none."""
        sock = self.by_fd.get(fd)
        if sock is None:
            self.mistakes.append(f"{operation} on {fd}, which is not open")
        return sock

    cdef int failure(self, Operation operation) noexcept:
        cdef int error = self.failures[<int>operation]
        self.failures[<int>operation] = 0
        return error

    cdef int new(self, int family, int kind, int protocol) noexcept:
        """A new socket; fd or a negative errno."""
        cdef int error = self.failure(OPEN)
        if error or len(self.by_fd) >= self.limit:
            return -(error or EMFILE)
        self.by_fd[self.next_fd] = ModelSocket(self.next_fd, family, kind, protocol, self.room)
        self.next_fd += 1
        return self.next_fd - 1

    cdef int simple(self, Operation operation, int fd) noexcept:
        """An operation that does nothing but succeed or fail."""
        if self.at(fd, OPERATIONS[<int>operation]) is None:
            return -EBADF
        return -self.failure(operation)

    cdef int open(self, int family, int kind, int protocol) noexcept with gil:
        return self.new(family, kind, protocol)

    cdef int bind_source(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept with gil:
        cdef uint8_t copy[128]
        memcpy(copy, address, n)
        return self.simple(BIND_SOURCE, fd) or -self.bind_taken

    cdef int bind_device(self, int fd, const char *name, size_t n) noexcept with gil:
        cdef uint8_t copy[16]
        memcpy(copy, name, n)
        return self.simple(BIND_DEVICE, fd)

    cdef int connect(self, int fd, const sockaddr_storage *address, socklen_t n) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "connect")
        cdef int error
        if sock is None:
            return -EBADF
        error = self.failure(CONNECT)
        if error:
            return -error
        sock.peers = [(<const char *>address)[:n]]
        if sock.kind == SOCK_STREAM and not self.connects_at_once:
            sock.connecting = True
            return -115               # EINPROGRESS
        return 0

    cdef int accept(self, int fd, sockaddr_storage *peer, sockaddr_storage *local) noexcept with gil:
        cdef ModelSocket listener = self.at(fd, "accept")
        cdef bytes far, near
        cdef int error, new
        if listener is None:
            return -EBADF
        error = self.failure(ACCEPT)
        if error:
            return -error
        if not listener.backlog:
            return -EAGAIN
        new = self.new(listener.family, SOCK_STREAM, IPPROTO_TCP)
        if new < 0:
            return new
        far, near = listener.backlog.popleft()
        memcpy(peer, <const char *>far, len(far))
        memcpy(local, <const char *>near, len(near))
        return new

    cdef int refuse(self, int fd, int spare) noexcept with gil:
        cdef ModelSocket listener = self.at(fd, "refuse")
        if listener is not None and listener.backlog:
            listener.backlog.popleft()
        return spare

    cdef int prepare_stream(self, int fd) noexcept with gil:
        return self.simple(PREPARE_STREAM, fd)

    cdef int may_write(self, int fd, str operation, Operation number) noexcept:
        """How much a stream takes now, or a negative errno."""
        cdef ModelSocket sock = self.at(fd, operation)
        cdef int error
        if sock is None:
            return -EBADF
        error = self.failure(number) or sock.take_failure()
        if error:
            return -error
        if sock.shut:
            return -EPIPE
        return <int>min(sock.room, <int64_t>SEND_BUFFER) if sock.room > 0 and not sock.connecting else -EAGAIN

    cdef void note_written(self, int fd, size_t n) noexcept:
        cdef ModelSocket sock = self.by_fd[fd]
        sock.room -= n
        sock.written += n

    cdef ssize_t send(self, int fd, iovec *pieces, size_t n) noexcept with gil:
        cdef int room = self.may_write(fd, "send", SEND)
        cdef size_t taken = 0
        cdef size_t i
        if room < 0:
            return room
        for i in range(n):
            look_at(<const uint8_t *>pieces[i].iov_base, pieces[i].iov_len)
            taken += pieces[i].iov_len
        taken = min(taken, <size_t>room)
        self.note_written(fd, taken)
        return taken

    cdef ssize_t peek(self, int fd, uint32_t skip, uint8_t *buf, size_t n) noexcept with gil:
        cdef iovec piece
        piece.iov_base = buf
        piece.iov_len = n
        return self.peek_pieces(fd, skip, &piece, 1)

    cdef ssize_t peek_pieces(self, int fd, uint32_t skip, const iovec *wanted, size_t n) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "peek")
        cdef size_t got = 0
        cdef size_t place
        cdef size_t part
        cdef size_t i
        cdef int error
        if sock is None:
            return -EBADF
        error = self.failure(PEEK) or sock.take_failure()
        if error:
            return -error
        place = sock.peeked if self.has_peek_off else skip
        if place >= <size_t>len(sock.incoming):
            return 0 if sock.eof and place == <size_t>len(sock.incoming) else -EAGAIN
        for i in range(n):
            part = min(wanted[i].iov_len, <size_t>len(sock.incoming) - place - got)
            memcpy(wanted[i].iov_base, <const char *>sock.incoming + place + got, part)
            got += part
        if self.has_peek_off:
            sock.peeked += got
        return got

    cdef bint at_end(self, int fd) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "at_end")
        return sock is not None and sock.eof

    cdef int rewind(self, int fd, uint32_t offset) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "rewind")
        cdef int error = self.failure(REWIND)
        if sock is None or error:
            return -error if error else -EBADF
        if self.has_peek_off:
            sock.peeked = offset
        return 0

    cdef ssize_t consume(self, int fd, size_t n) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "consume")
        cdef int error = self.failure(CONSUME)
        cdef size_t got
        if sock is None or error:
            return -error if error else -EBADF
        if not sock.incoming:
            return 0 if sock.eof else -EAGAIN
        got = min(n, <size_t>len(sock.incoming))
        del sock.incoming[:got]
        sock.peeked -= min(sock.peeked, <uint32_t>got)
        return got

    cdef int64_t free_space(self, int fd, int64_t *total) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "free_space")
        total[0] = SEND_BUFFER
        return 0 if sock is None else max(sock.room, <int64_t>0)

    cdef int shut_write(self, int fd) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "shut_write")
        cdef int error = self.failure(SHUT_WRITE)
        if sock is None or error:
            return -error if error else -EBADF
        sock.shut = True
        return 0

    cdef int take_error(self, int fd) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "take_error")
        return EBADF if sock is None else self.failure(TAKE_ERROR) or sock.take_failure()

    cdef int keep_alive(self, int fd, int idle_s) noexcept with gil:
        return self.simple(KEEP_ALIVE, fd)

    cdef int path_info(self, int fd, PathInfo *path) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "path_info")
        cdef int error = self.failure(PATH_INFO)
        if sock is None or error:
            return -error if error else -EBADF
        path.bytes_acked = sock.acked
        path.bytes_per_s = 1000000
        path.rtt_us = path.min_rtt_us = self.rtt_us
        path.rttvar_us = self.rtt_us // 4
        return 0

    cdef int follow_acks(self, int fd, bint on) noexcept with gil:
        return self.simple(FOLLOW_ACKS, fd)

    cdef int drain_errors(self, int fd) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "drain_errors")
        cdef int n = 0 if sock is None else <int>len(sock.errors)
        if n:
            sock.errors.clear()
        return n

    cdef int close(self, int fd) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "close")
        if sock is None:
            return -EBADF
        del self.by_fd[fd]
        if sock.is_real:
            os.close(fd)
        return 0

    cdef int move_down(self, int fd) noexcept with gil:
        return fd

    cdef int abort(self, int fd) noexcept with gil:
        return self.close(fd)

    cdef int watch(self, int fd, int op, uint32_t events, uint64_t tag) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "watch")
        cdef ModelReactor reactor = self.reactor
        cdef int error = self.failure(WATCH)
        cdef uint32_t ready
        if sock is None or error:
            return -error if error else -EBADF
        sock.watched = op != EPOLL_CTL_DEL
        sock.events = events
        sock.tag = tag
        ready = sock.readiness() & (events | EPOLLERR | EPOLLHUP)
        if sock.watched and events & EPOLLET and ready:
            reactor.queue.append((tag, ready))
        return 0

    cdef ssize_t send_message(self, int fd, const msghdr *message) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "send_message")
        cdef size_t i
        cdef size_t n = 0
        cdef int error
        if sock is None:
            return -EBADF
        error = self.failure(SEND_MESSAGE) or sock.take_failure()
        if error:
            return -error
        for i in range(message.msg_iovlen):
            look_at(<const uint8_t *>message.msg_iov[i].iov_base, message.msg_iov[i].iov_len)
            n += message.msg_iov[i].iov_len
        if message.msg_controllen:
            look_at(<const uint8_t *>message.msg_control, message.msg_controllen)
        if message.msg_name != NULL:
            sock.peers = [*sock.peers[-3:], (<const char *>message.msg_name)[:message.msg_namelen]]
        return n if n <= MAX_MESSAGE else -90           # EMSGSIZE

    cdef int send_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept with gil:
        cdef unsigned int i
        cdef ssize_t sent
        for i in range(n):
            sent = self.send_message(fd, &messages[i].msg_hdr)
            if sent < 0:
                return <int>(i if i else sent)
            messages[i].msg_len = <unsigned int>sent
        return <int>n

    cdef ssize_t receive_message(self, int fd, msghdr *message) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "receive_message")
        cdef int error
        if sock is None:
            return -EBADF
        error = self.failure(RECEIVE_MESSAGE) or sock.take_failure()
        if error:
            return -error
        return fill_message(message, sock.datagrams.popleft()) if sock.datagrams else -EAGAIN

    cdef int receive_messages(self, int fd, mmsghdr *messages, unsigned int n) noexcept with gil:
        cdef unsigned int i
        cdef ssize_t got
        for i in range(n):
            got = self.receive_message(fd, &messages[i].msg_hdr)
            if got < 0:
                return <int>(i if i else got)
            messages[i].msg_len = <unsigned int>got
        return <int>n

    cdef ssize_t receive_error(self, int fd, msghdr *message) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "receive_error")
        if sock is None:
            return -EBADF
        return fill_message(message, sock.errors.popleft()) if sock.errors else -EAGAIN

    cdef ssize_t receive(self, int fd, uint8_t *buf, size_t n) noexcept with gil:
        cdef ModelSocket sock = self.at(fd, "receive")
        cdef int error
        cdef size_t got
        if sock is None:
            return -EBADF
        error = self.failure(RECEIVE) or sock.take_failure()
        if error:
            return -error
        if not sock.incoming:
            return 0 if sock.eof else -EAGAIN
        got = min(n, <size_t>len(sock.incoming))
        memcpy(buf, <const char *>sock.incoming, got)
        del sock.incoming[:got]
        return got

    cdef ssize_t move(self, int from_fd, int to_fd, size_t n) noexcept with gil:
        """Between a stream of the model and a real pipe."""
        cdef ModelSocket sock
        cdef uint8_t space[CHUNK]
        cdef ssize_t got
        cdef int room
        if from_fd >= FIRST_FD:
            sock = self.at(from_fd, "move")
            if sock is None:
                return -EBADF
            room = self.failure(MOVE) or sock.take_failure()
            if room:
                return -room
            if not sock.incoming:
                return 0 if sock.eof else -EAGAIN
            got = write(to_fd, <const char *>sock.incoming, min(n, <size_t>len(sock.incoming)))
            if got <= 0:
                return -EAGAIN
            del sock.incoming[:got]
            return got
        room = self.may_write(to_fd, "move", MOVE)
        if room < 0:
            return room
        got = read(from_fd, space, min(min(n, <size_t>room), <size_t>CHUNK))
        if got > 0:
            self.note_written(to_fd, got)
        return got if got >= 0 else -EAGAIN

    cdef ssize_t fill_pipe(self, int fd, const uint8_t *buf, size_t n) noexcept with gil:
        cdef int error = self.failure(FILL_PIPE)
        return -error if error else write(fd, buf, n)

    cdef void prepare_relay(self, int fd) noexcept with gil:
        self.at(fd, "prepare_relay")

    cdef void prepare_bulk(self, int fd) noexcept with gil:
        self.at(fd, "prepare_bulk")

    cdef void prepare_datagrams(self, int fd) noexcept with gil:
        self.at(fd, "prepare_datagrams")

    cdef int set_option(self, int fd, int level, int name, int value) noexcept with gil:
        return self.simple(SET_OPTION, fd)

    cdef bint is_own(self, int fd, const sockaddr_storage *peer, socklen_t n) noexcept with gil:
        return self.at(fd, "is_own") is not None and (<const uint8_t *>peer)[n - 1] & 1

    cdef uint32_t index_of(self, int fd, const char *ifname) noexcept with gil:
        return 7

    cdef int set_interface(self, int fd, int family, int ifindex) noexcept with gil:
        return self.simple(SET_INTERFACE, fd)


cdef class ModelNamespace(NamespaceThread):
    """A namespace whose sockets are the model's too: there is no thread."""

    cdef ModelSockets sockets

    def __init__(self, ModelSockets sockets):
        self.sockets = sockets

    cdef int take(self, SocketKind kind) noexcept nogil:
        cdef int family = AF_INET if kind in (SOCKET_TCP4, SOCKET_UDP4) else AF_INET6
        cdef bint is_tcp = kind in (SOCKET_TCP4, SOCKET_TCP6)
        return self.sockets.open(family, SOCK_STREAM if is_tcp else SOCK_DGRAM,
                                 IPPROTO_TCP if is_tcp else IPPROTO_UDP)

    cdef void kick(self) noexcept nogil:
        pass

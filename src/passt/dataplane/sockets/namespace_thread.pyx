"""The resident thread in the guest's namespace: opens sockets there.

Theory of operation. The network namespace of a socket is that of the thread which called socket(2),
for good; every other call on it may come from anywhere (net_namespaces(7), setns(2)). A process without
privileges that enters a namespace cannot come back to the one it was in, so one thread of ours goes and
stays: threads of a process share the descriptor table, and what it opens is ours at once.

It opens sockets only, and does nothing else: no Python, no file, no signal (all are blocked, except SIGSYS,
which tells of a refused system call and would end us if it were blocked). It keeps no
capability but CAP_NET_BIND_SERVICE over the guest's namespace, without which ports below 1024 could not
be bound there during the run. Capabilities belong to threads (capabilities(7)), so it drops its own; so
does a filter of system calls (seccomp(2)), and it loads its own, tighter than the main thread's.

New connections must not wait for it. For each kind of socket it keeps a reserve, from the first use of
that kind on; it is told to fill up when half is gone, and works while the engine goes on. Only an empty
reserve, or a request for a listener, makes the engine wait: one switch to the thread and back.

The engine and the thread share a `Mailbox`. The indices of the rings are written by one side each;
semaphores order everything else (POSIX, "Memory Synchronization"). To be started after the last fork,
as a child would have the descriptors but not the thread.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

import os

from passt.dataplane.sockets.socket_address cimport fill_sockaddr
from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, CAP_NET_BIND_SERVICE, CLONE_NEWNET, EADDRNOTAVAIL, EAFNOSUPPORT, EMFILE, ENOPROTOOPT,
    EPERM, IP_PKTINFO, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, IPV6_RECVPKTINFO, IPV6_V6ONLY,
    SIG_SETMASK, SIGSYS, SO_BINDTODEVICE, SO_OOBINLINE, SO_REUSEADDR, SOCK_CLOEXEC, SOCK_DGRAM,
    SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, TCP_CONGESTION, TCP_NODELAY, bind, calloc, close, errno, free,
    listen, memcpy, memset, passt_exchange, passt_keep_capabilities, passt_load, passt_store,
    pthread_attr_destroy, pthread_attr_init, pthread_attr_setstacksize, pthread_attr_t, pthread_create,
    pthread_join, pthread_sigmask, sem_destroy, sem_init, sem_post, sem_wait, setns, setsockopt, sigdelset,
    sigfillset, sigset_t, sockaddr, socket,
)

cdef enum:
    STACK_SIZE = 1 << 16
    BACKLOG = 4096                # the kernel cuts it to net.core.somaxconn of the namespace

cdef bytes LOOPBACK_DEVICE = b"lo"
cdef bytes LOOPBACK4 = b"\x7f\0\0\1"
cdef bytes LOOPBACK6 = bytes(15) + b"\1"


cdef int enter(Mailbox *mailbox) noexcept nogil:
    """Go to the namespace and give up what is not needed there; 0 or an errno."""
    # A pidfd serves since Linux 5.8, a descriptor of /proc/PID/ns/net always.
    if setns(mailbox.namespace_fd, CLONE_NEWNET) < 0:
        return errno
    if passt_keep_capabilities(<uint64_t>1 << CAP_NET_BIND_SERVICE) < 0:
        return errno
    if mailbox.program_size and mailbox.load_filter(mailbox.program, mailbox.program_size) < 0:
        return errno
    return 0


cdef void *thread_main(void *argument) noexcept nogil:
    """The thread: enter, then serve until told to stop."""
    cdef Mailbox *mailbox = <Mailbox *>argument
    cdef uint32_t waiting
    cdef int kind
    mailbox.failure = enter(mailbox)
    sem_post(&mailbox.answers)
    while not mailbox.failure:
        if sem_wait(&mailbox.calls) < 0:
            continue              # EINTR: a debugger came or went
        if passt_load(&mailbox.stop):
            return NULL
        # Cleared first: what is asked for from here on brings a call of its own.
        passt_exchange(&mailbox.kicked, 0)
        waiting = passt_exchange(&mailbox.waiting, 0)
        if waiting and mailbox.request != NULL:
            mailbox.request.result = serve(mailbox.request)
            # A start waits for some of these while the reserves are filled for the first time.
            sem_post(&mailbox.answers)
            waiting = 0
        for kind in range(<int>N_SOCKET_KINDS):
            fill_pool(&mailbox.pools[kind], kind, mailbox.reserve)
        if waiting:
            sem_post(&mailbox.answers)
    return NULL


cdef void fill_pool(SocketPool *pool, int kind, uint32_t reserve) noexcept nogil:
    """Open sockets until there are *reserve* of them or no more can be had."""
    cdef int family = AF_INET if kind in (SOCKET_TCP4, SOCKET_UDP4) else AF_INET6
    cdef bint is_tcp = kind in (SOCKET_TCP4, SOCKET_TCP6)
    cdef uint32_t filled = pool.filled
    cdef int fd
    if not passt_load(&pool.wanted):
        return
    passt_store(&pool.failure, 0)
    while filled - passt_load(&pool.taken) < reserve:
        fd = open_bare(family, SOCK_STREAM if is_tcp else SOCK_DGRAM, IPPROTO_TCP if is_tcp else IPPROTO_UDP)
        if fd < 0:
            passt_store(&pool.failure, <uint32_t>-fd)
            return
        pool.fds[filled % POOL_SIZE] = fd
        filled += 1
        passt_store(&pool.filled, filled)


cdef int open_bare(int family, int kind, int protocol) noexcept nogil:
    """A non-blocking socket with the options that all have; fd or negative errno.

    Streams: no Nagle, whose work the two ends have done already, urgent data in line (RFC 6093), and no
    pacing, as nothing leaves this machine (see `Sockets.prepare_bulk`). A listener hands all of it on to
    what it accepts.
    """
    cdef int fd = socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol)
    cdef int one = 1
    if fd < 0:
        return -errno
    if kind == SOCK_STREAM:
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one))
        setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, b"reno", 4)
    elif family == AF_INET6:
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one))
    return fd


cdef int serve(const SocketRequest *request) noexcept nogil:
    """Open the socket that is asked for; fd or negative errno."""
    cdef int fd = open_bare(request.family, request.kind, request.protocol)
    cdef int result
    if fd < 0:
        return fd
    if prepare_socket(fd, request) < 0:
        result = -errno
        close(fd)
        return result
    return fd


cdef int prepare_socket(int fd, const SocketRequest *request) noexcept nogil:
    """Set options, bind, listen; 0, or -1 with errno set."""
    cdef int one = 1
    cdef int only6 = not request.both_families
    cdef size_t n = 0
    if request.family == AF_INET6 and request.address_len:
        if setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, sizeof(only6)) < 0:
            return -1
    while request.device[n]:
        n += 1
    if n and setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, request.device, <uint32_t>n) < 0:
        return -1
    if request.wants_details:
        if setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof(one)) < 0:
            return -1
        if request.family == AF_INET6 and (
                setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one)) < 0):
            return -1
    if request.backlog and setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0:
        return -1
    if request.address_len and bind(fd, <const sockaddr *>&request.address, request.address_len) < 0:
        return -1
    if request.backlog and listen(fd, request.backlog) < 0:
        return -1
    return 0


cdef class NamespaceThread:
    """Implements `contracts.NamespaceSockets`; see namespace_thread.pyi."""

    def __cinit__(self):
        self.mailbox = <Mailbox *>calloc(1, sizeof(Mailbox))
        if self.mailbox == NULL:
            raise MemoryError
        sem_init(&self.mailbox.calls, 0, 0)
        sem_init(&self.mailbox.answers, 0, 0)

    def __init__(self, int namespace_fd, int reserve=POOL_SIZE, bytes program not None=b"",
                 loader=None):
        cdef pthread_attr_t attributes
        cdef sigset_t everything, before
        cdef int result
        if self.running:
            raise ValueError("the thread is running already")
        if not 1 <= reserve <= <int>POOL_SIZE:
            raise ValueError(f"the reserve has 1 to {<int>POOL_SIZE} sockets of a kind")
        self.mailbox.namespace_fd = namespace_fd
        self.mailbox.reserve = <uint32_t>reserve
        self.mailbox.program = program            # read before the first answer
        self.mailbox.program_size = len(program)
        if program:
            self.mailbox.load_filter = <LoadFilter>PyCapsule_GetPointer(loader, "passt.load_filter")
        pthread_attr_init(&attributes)
        pthread_attr_setstacksize(&attributes, STACK_SIZE)
        # The thread starts with the mask of its creator: no signal of others is ever to be handled there.
        sigfillset(&everything)
        sigdelset(&everything, SIGSYS)
        pthread_sigmask(SIG_SETMASK, &everything, &before)
        result = pthread_create(&self.thread, &attributes, thread_main, self.mailbox)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        pthread_attr_destroy(&attributes)
        if result:
            raise OSError(result, f"{os.strerror(result)}: the thread for the namespace")
        self.running = True
        with nogil:
            self.await_answer()
        if self.mailbox.failure:
            result = self.mailbox.failure
            self.close()
            raise OSError(result, os.strerror(result))

    def __dealloc__(self):
        if self.mailbox != NULL:
            self.end()
            sem_destroy(&self.mailbox.calls)
            sem_destroy(&self.mailbox.answers)
            free(self.mailbox)

    def close(self):
        self.end()

    cdef void end(self) noexcept:
        """Stop the thread and close what is in reserve; no error if it has stopped already."""
        cdef int kind
        if not self.running:
            return
        self.running = False
        passt_store(&self.mailbox.stop, 1)
        sem_post(&self.mailbox.calls)
        pthread_join(self.thread, NULL)
        for kind in range(<int>N_SOCKET_KINDS):
            empty_pool(&self.mailbox.pools[kind])

    def n_ready(self):
        cdef int kind
        cdef int found = 0
        for kind in range(<int>N_SOCKET_KINDS):
            found += <int>(passt_load(&self.mailbox.pools[kind].filled) - self.mailbox.pools[kind].taken)
        return found

    def warm(self, int proto, *, bint ip4, bint ip6):
        kinds = (SOCKET_TCP4, SOCKET_TCP6) if proto == IPPROTO_TCP else (SOCKET_UDP4, SOCKET_UDP6)
        if ip4:
            passt_store(&self.mailbox.pools[<int>kinds[0]].wanted, 1)
        if ip6:
            passt_store(&self.mailbox.pools[<int>kinds[1]].wanted, 1)
        self.kick()

    def open_socket(self, int family, int kind, int protocol):
        cdef SocketRequest request
        memset(&request, 0, sizeof(request))
        request.family = family
        request.kind = kind
        request.protocol = protocol
        return self.open_one(&request)

    def open_listener(self, int proto, int port, *, bint ip4, bint ip6):
        try:
            return [self.open_wildcard(proto, port, ip4, ip6)]
        except OSError as error:
            # SO_BINDTODEVICE takes CAP_NET_RAW before Linux 5.7; filters may forbid it.
            if error.errno not in (EPERM, ENOPROTOOPT):
                raise
        opened = []
        try:
            for wanted, family, address in ((ip4, AF_INET, LOOPBACK4), (ip6, AF_INET6, LOOPBACK6)):
                if wanted:
                    try:
                        opened.append(self.open_bound(proto, port, family, address, b"", False))
                    except OSError as error:
                        if not (ip4 and ip6) or not lacks_family(error.errno):
                            raise
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        if not opened:
            raise OSError(EADDRNOTAVAIL, os.strerror(EADDRNOTAVAIL))
        return opened

    cdef object open_wildcard(self, int proto, int port, bint ip4, bint ip6):
        """A socket for all addresses, but bound to the loopback device."""
        if ip6:
            try:
                return self.open_bound(proto, port, AF_INET6, bytes(16), LOOPBACK_DEVICE, ip4)
            except OSError as error:
                if not ip4 or not lacks_family(error.errno):
                    raise
        return self.open_bound(proto, port, AF_INET, bytes(4), LOOPBACK_DEVICE, False)

    cdef object open_bound(self, int proto, int port, int family, bytes address, bytes device, bint both):
        """Open one socket, bound and listening as its protocol wants it."""
        cdef SocketRequest request
        memset(&request, 0, sizeof(request))
        request.family = family
        request.kind = SOCK_STREAM if proto == IPPROTO_TCP else SOCK_DGRAM
        request.protocol = proto
        request.backlog = BACKLOG if proto == IPPROTO_TCP else 0
        request.wants_details = proto == IPPROTO_UDP
        request.both_families = both
        memcpy(request.device, <const char *>device, len(device))
        request.address_len = fill_sockaddr(&request.address, <const uint8_t *><const char *>address,
                                            len(address), <uint16_t>port, 0)
        return self.open_one(&request)

    cdef int open_one(self, SocketRequest *request) except -1:
        """Have one request served; its descriptor. Raises OSError."""
        if not self.running:
            raise ValueError("the thread has been stopped")
        with nogil:
            self.call(request)
        if request.result < 0:
            raise OSError(-request.result, os.strerror(-request.result))
        return request.result

    cdef int take(self, SocketKind kind) noexcept nogil:
        """A socket of that kind out of the reserve; fd or negative errno."""
        cdef SocketPool *pool = &self.mailbox.pools[<int>kind]
        cdef uint32_t taken = pool.taken
        cdef uint32_t left = passt_load(&pool.filled) - taken
        cdef uint32_t failure
        cdef int fd
        if not left:
            if not self.running:
                return -EPERM
            passt_store(&pool.wanted, 1)
            self.call(NULL)
            left = passt_load(&pool.filled) - taken
            if not left:
                failure = passt_load(&pool.failure)
                return -<int>failure if failure else -EMFILE
        fd = pool.fds[taken % POOL_SIZE]
        passt_store(&pool.taken, taken + 1)
        if 2 * left <= self.mailbox.reserve + 1:
            self.kick()
        return fd

    cdef void kick(self) noexcept nogil:
        """Have the reserves filled up some time soon."""
        if not passt_exchange(&self.mailbox.kicked, 1):
            sem_post(&self.mailbox.calls)

    cdef void call(self, SocketRequest *request) noexcept nogil:
        """Have *request* served, or if it is NULL the reserves filled, and wait for that."""
        self.mailbox.request = request
        passt_store(&self.mailbox.waiting, 1)
        sem_post(&self.mailbox.calls)
        self.await_answer()
        self.mailbox.request = NULL

    cdef void await_answer(self) noexcept nogil:
        while sem_wait(&self.mailbox.answers) < 0:
            continue              # EINTR


cdef bint lacks_family(int error) noexcept:
    """Whether an errno of socket or bind means that the family is compiled out or switched off."""
    return error in (EAFNOSUPPORT, EADDRNOTAVAIL)


cdef void empty_pool(SocketPool *pool) noexcept nogil:
    while pool.taken != pool.filled:
        close(pool.fds[pool.taken % POOL_SIZE])
        pool.taken += 1

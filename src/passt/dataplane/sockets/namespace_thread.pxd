"""The resident thread in the guest's namespace: opens sockets there."""

from libc.stdint cimport uint32_t

from passt.dataplane.base.externs cimport pthread_t, sem_t, sockaddr_storage, socklen_t

cdef enum SocketKind:
    SOCKET_TCP4 = 0
    SOCKET_TCP6
    SOCKET_UDP4
    SOCKET_UDP6
    N_SOCKET_KINDS

cdef enum:
    POOL_SIZE = 64                # sockets of one kind in reserve at most; a power of two


# Puts the calling thread under a filter of system calls; 0, or -1 with errno set.
ctypedef int (*LoadFilter)(const void *program, size_t n) noexcept nogil


cdef struct SocketPool:
    # A ring with one writer per end: the thread writes *filled*, the engine *taken*.
    int fds[POOL_SIZE]
    uint32_t filled
    uint32_t taken
    uint32_t wanted               # 0 until a socket of this kind was asked for
    uint32_t failure              # errno that stopped the last refill, 0: none


cdef struct SocketRequest:
    # One socket to open; *backlog* 0: not listening, *address_len* 0: not bound.
    int family
    int kind
    int protocol
    int backlog
    bint wants_details            # UDP: the destination address with each datagram
    bint both_families
    char device[16]               # to be bound to, empty: none
    sockaddr_storage address
    socklen_t address_len
    int result                    # descriptor or negative errno


cdef struct Mailbox:
    sem_t calls                   # posted by the engine: there is something to do
    sem_t answers                 # posted by the thread: what was waited for is done
    uint32_t stop
    uint32_t kicked               # a call is on its way: no need for another one
    uint32_t waiting              # the engine waits for an answer
    int namespace_fd
    const char *program           # of the filter of system calls
    size_t program_size           # 0: no filter
    LoadFilter load_filter
    int failure                   # errno of entering the namespace
    uint32_t reserve              # sockets of one kind to keep
    SocketRequest *request
    SocketPool pools[N_SOCKET_KINDS]


cdef class NamespaceThread:
    cdef Mailbox *mailbox
    cdef pthread_t thread
    cdef bint running

    cdef object open_wildcard(self, int proto, int port, bint ip4, bint ip6)
    cdef object open_bound(self, int proto, int port, int family, bytes address, bytes device, bint both)
    cdef int take(self, SocketKind kind) noexcept nogil
    cdef void end(self) noexcept
    cdef void kick(self) noexcept nogil
    cdef void call(self, SocketRequest *request) noexcept nogil
    cdef void await_answer(self) noexcept nogil
    cdef int open_one(self, SocketRequest *request) except -1

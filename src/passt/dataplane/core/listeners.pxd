"""The sockets by which flows come in."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.udp cimport SocketMarks
from passt.dataplane.sockets.sockets cimport Sockets


cdef struct SharedListener:
    # A listener that has a guest's own port, for flows that the guest opens from there.
    uint32_t index
    int fd
    uint16_t family


cdef struct ListenerState:
    # What the translators need of a listener without asking Python.
    SocketMarks marks[2]          # what a UDP socket was told, for IPv4 and for IPv6
    uint32_t n_flows              # UDP flows, bypassed ones too, that use the socket
    uint16_t port                 # that the socket is bound to
    uint8_t is_paused             # not watched until the link drains


cdef class Listener:
    cdef readonly int fd
    cdef readonly int protocol    # IPPROTO_TCP: listening; IPPROTO_UDP: bound
    cdef readonly object rule     # handed to the policy
    cdef readonly int port
    cdef readonly bint in_namespace
    # What a flow of the guest from the same port may use a UDP listener for; no families: for nothing.
    cdef tuple families           # that its socket can send to, its own first
    cdef bytes address            # that it is bound to, empty: any
    cdef bytes device             # that it is bound to, empty: any
    cdef readonly uint32_t index

    cdef bint may_send(self, int family, bytes source, bytes ifname)
    cdef bint is_wider(self, bytes source, bytes ifname)


cdef class Listeners:
    cdef Sockets sockets
    cdef list by_index            # Listener, None where one was removed
    cdef dict by_fd
    cdef list free_indices
    cdef dict shareable           # port -> [Listener], those that flows of the guest may use
    cdef ListenerState *states    # by index
    cdef uint32_t n_states
    cdef bint any_paused
    cdef int spare_fd             # given up to refuse a client when descriptors run out; -1: none
    cdef uint32_t retry_timer     # id; listeners paused for want of descriptors are watched again

    cdef Listener add(self, int fd, int protocol, object rule, bint in_namespace)
    cdef void insert(self, Listener listener) except *
    cdef uint32_t next_index(self)
    cdef void clear_state(self, uint32_t index) except *
    cdef Listener find(self, int fd)
    cdef void remove(self, Listener listener) except *
    cdef Listener at(self, uint32_t index)
    cdef list all(self)
    cdef Py_ssize_t count(self) except -1
    cdef list sharing(self, int port)
    cdef void add_flow(self, uint32_t index) noexcept nogil
    cdef void drop_flow(self, uint32_t index) noexcept nogil
    cdef void pause(self, uint32_t index, int fd) noexcept nogil
    cdef void resume(self) except *
    cdef void close(self) except *

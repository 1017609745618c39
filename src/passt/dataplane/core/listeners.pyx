"""The sockets by which flows come in, TCP's that listen and UDP's that are bound.

An event names a listener by its index, which stays as long as the listener does; a freed index is the first
to be given again. What translators need of a listener for each frame lies in a plain record beside it
(`ListenerState`), so that they need not ask Python.

A UDP listener on a port of this host is *shareable*: a flow that the guest opens from the same port has to
leave by that socket, as the port cannot be bound a second time (`decisions.ask_listener`).
"""

import os
import socket as pysocket

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, EMFILE, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLLIN, IFNAMSIZ, IPPROTO_TCP, IPPROTO_UDP,
    close as close_fd, errno, free, getsockname, memset, realloc, sockaddr, sockaddr_storage, socklen_t,
)
from passt.dataplane.loop.reactor cimport EVENT_LISTENER, make_tag
from passt.dataplane.sockets.socket_address cimport read_sockaddr
from passt.dataplane.sockets.sockets cimport Sockets
from passt.facts import contracts


cdef class Listener:
    """One socket and the rule that it was opened for."""

    def __init__(self, int fd, int protocol, rule, int port, bint in_namespace=False, *,
                 tuple families=(), bytes address=b"", bytes device=b""):
        self.fd = fd
        self.protocol = protocol
        self.rule = rule
        self.port = port
        self.in_namespace = in_namespace
        self.families = families
        self.address = address
        self.device = device

    cdef bint may_send(self, int family, bytes source, bytes ifname):
        """Whether its socket can send to *family*, from *source* (packed, empty: any) through *ifname*."""
        return family in self.families and self.is_wider(source, ifname)

    cdef bint is_wider(self, bytes source, bytes ifname):
        """Whether the socket receives all that one bound to *source* and *ifname* would."""
        return self.address in (b"", source) and self.device in (b"", ifname)


cdef class Listeners:
    """All listeners of one engine, by index and by descriptor; it owns the descriptors."""

    def __cinit__(self, Sockets sockets not None):
        self.sockets = sockets
        self.by_index = []
        self.by_fd = {}
        self.free_indices = []
        self.shareable = {}
        self.spare_fd = -1

    def __init__(self, Sockets sockets):
        self.spare_fd = sockets.open_spare()

    def __dealloc__(self):
        if self.spare_fd >= 0:
            close_fd(self.spare_fd)
        free(self.states)

    cdef Listener add(self, int fd, int protocol, object rule, bint in_namespace):
        """Watch a bound socket and own it. Raises OSError and leaves *fd* to the caller if that fails."""
        cdef Listener listener = Listener(fd, protocol, rule, local_port(fd), in_namespace)
        cdef uint32_t index = self.next_index()
        cdef int result
        if index >= contracts.MAX_LISTENERS:
            raise OSError(EMFILE, "too many listeners")
        if protocol == IPPROTO_UDP:
            self.sockets.prepare_datagrams(fd)
            if not in_namespace:
                listener.families, listener.address, listener.device = reach_of(fd)
        result = self.sockets.watch(fd, EPOLL_CTL_ADD, EPOLLIN, make_tag(EVENT_LISTENER, 0, index))
        if result < 0:
            raise OSError(-result, f"{os.strerror(-result)}: watching descriptor {fd}")
        self.insert(listener)
        if protocol == IPPROTO_TCP:
            self.sockets.prepare_relay(fd)     # the sockets that it accepts inherit this
        return listener

    cdef uint32_t next_index(self):
        """The index of the next listener."""
        return self.free_indices[-1] if self.free_indices else len(self.by_index)

    cdef void insert(self, Listener listener) except *:
        """Give *listener* the next index. Raises MemoryError."""
        cdef uint32_t index = self.next_index()
        self.clear_state(index)
        if self.free_indices:
            self.free_indices.pop()
            self.by_index[index] = listener
        else:
            self.by_index.append(listener)
        listener.index = index
        self.states[index].port = <uint16_t>listener.port
        self.by_fd[listener.fd] = listener
        if listener.families:
            self.shareable.setdefault(listener.port, []).append(listener)

    cdef void clear_state(self, uint32_t index) except *:
        """Make room for the record of a listener: its socket was told nothing so far."""
        cdef uint32_t wanted = index + 1
        cdef ListenerState *grown
        if wanted > self.n_states:
            wanted = max(wanted, 2 * self.n_states)
            grown = <ListenerState *>realloc(self.states, wanted * sizeof(ListenerState))
            if grown == NULL:
                raise MemoryError
            self.states = grown
            self.n_states = wanted
        memset(&self.states[index], 0, sizeof(ListenerState))

    cdef Listener find(self, int fd):
        """The listener with that descriptor. Raises KeyError."""
        return self.by_fd[fd]

    cdef void remove(self, Listener listener) except *:
        """Close a listener's socket and forget it."""
        del self.by_fd[listener.fd]
        left = [other for other in self.shareable.pop(listener.port, ()) if other is not listener]
        if left:
            self.shareable[listener.port] = left
        self.by_index[listener.index] = None
        self.states[listener.index].is_paused = False
        self.free_indices.append(listener.index)
        self.sockets.close(listener.fd)

    cdef Listener at(self, uint32_t index):
        """The listener with *index*; None if it was removed."""
        return self.by_index[index] if index < <uint32_t>len(self.by_index) else None

    cdef list all(self):
        """All listeners there are."""
        return list(self.by_fd.values())

    cdef Py_ssize_t count(self) except -1:
        """How many there are."""
        return len(self.by_fd)

    cdef list sharing(self, int port):
        """The UDP listeners that have *port*, which flows of the guest may use."""
        return self.shareable.get(port, [])

    cdef void add_flow(self, uint32_t index) noexcept nogil:
        """A UDP flow uses a listener's socket from now on."""
        self.states[index].n_flows += 1

    cdef void drop_flow(self, uint32_t index) noexcept nogil:
        """It no longer does."""
        self.states[index].n_flows -= 1

    cdef void pause(self, uint32_t index, int fd) noexcept nogil:
        """Leave clients or datagrams in a listener's socket until `resume`."""
        if self.sockets.watch(fd, EPOLL_CTL_DEL, 0, 0) == 0:
            self.states[index].is_paused = True
            self.any_paused = True

    cdef void resume(self) except *:
        """The link drains, or descriptors may be had again: watch the paused listeners."""
        cdef Listener listener
        if not self.any_paused:
            return
        self.any_paused = False
        for listener in self.by_index:
            if listener is not None and self.states[listener.index].is_paused:
                self.states[listener.index].is_paused = False
                self.sockets.watch(listener.fd, EPOLL_CTL_ADD, EPOLLIN,
                                   make_tag(EVENT_LISTENER, 0, listener.index))

    cdef void close(self) except *:
        """Close all."""
        for fd in self.by_fd:
            self.sockets.close(fd)
        self.by_index.clear()
        self.by_fd.clear()
        self.free_indices.clear()
        self.shareable.clear()
        self.any_paused = False


cdef tuple reach_of(int fd):
    """The families that a bound socket can send to, the packed address and the device that it is bound to."""
    view = pysocket.socket(fileno=fd)
    try:
        name = view.getsockname()[0].partition("%")[0]
        device = view.getsockopt(pysocket.SOL_SOCKET, pysocket.SO_BINDTODEVICE, IFNAMSIZ).rstrip(b"\0")
        address = b"" if name in ("0.0.0.0", "::") else pysocket.inet_pton(view.family, name)
        families = (<int>AF_INET,)
        if view.family == pysocket.AF_INET6:
            families = (<int>AF_INET6, <int>AF_INET)
            if address or view.getsockopt(pysocket.IPPROTO_IPV6, pysocket.IPV6_V6ONLY):
                families = (<int>AF_INET6,)
        return families, address, device
    finally:
        view.detach()


cdef int local_port(int fd) except -1:
    """The port that a socket is bound to. Raises OSError."""
    cdef sockaddr_storage name
    cdef socklen_t n = sizeof(name)
    cdef uint8_t address[16]
    cdef uint16_t port = 0
    if getsockname(fd, <sockaddr *>&name, &n) < 0:
        raise OSError(errno, os.strerror(errno))
    read_sockaddr(&name, address, &port)
    return port

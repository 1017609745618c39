"""The real engine on a script: what is ready, what sockets answer, what time it is, comes from the test."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.base.externs cimport sockaddr_storage
from passt.dataplane.engine cimport Engine
from passt.dataplane.link.link cimport Link
from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.sockets.sockets cimport Sockets


cdef object endpoint_of(const sockaddr_storage *address)


cdef class ScriptedReactor(Reactor):
    cdef int64_t now
    cdef list script              # (tag, events) to come
    cdef bint is_real             # without a script, epoll is asked
    cdef int n_found              # events that epoll had when it was asked last
    cdef uint32_t link_events     # that the engine watches the link for


cdef class ScriptedLink(Link):
    cdef list sent
    cdef object kept
    cdef object batches
    cdef list reading             # the rest of the batch that is being read
    cdef list memories
    cdef list in_use              # of `memories`: memory and size of each frame of the last batch
    cdef object openings
    cdef public object room       # frames that go through, then it blocks; None: any number
    cdef public int takes         # frames that it takes, then it refuses without blocking; -1: any number
    cdef public int keep_most     # frames kept while blocked
    cdef public int refuse_next   # frames that are refused without blocking, as by a failing device

    cdef void forget_frames(self)
    cdef list take_sent(self)


cdef class ScriptedSockets(Sockets):
    cdef object kernel
    cdef object failure

    cdef object ask(self, str name, tuple arguments, object otherwise)
    cdef int64_t number(self, str name, tuple arguments, int64_t otherwise) noexcept
    cdef ssize_t take_data(self, object answer, uint8_t *buf) noexcept


cdef class ScriptedEngine(Engine):
    cdef ScriptedReactor loop
    cdef ScriptedSockets scripted


cdef class Rig:
    cdef ScriptedEngine engine
    cdef ScriptedReactor loop
    cdef Core core
    cdef readonly ScriptedLink link
    cdef readonly object kernel

    cdef void turn_with(self, list events) except *
    cdef object link_event(self, uint32_t events)
    cdef list frames(self, frames)
    cdef list opening(self, room)
    cdef void check(self) except *

"""A reserve of empty pipes.

Theory of operation. splice(2) moves data between sockets through a pipe. A pipe is taken for as long
as it holds something and given back empty, so that the same one, warm in the caches, serves one
connection after the other, and only connections whose receiver does not take more hold one. A pipe that
is given back with something in it is closed.

How much a pipe takes decides how often the loop wakes up for a bulk transfer: with 1 MiB, the most that a
user may ask for by default, it carries some more than with 256 KiB. But a user's pipes may take
fs.pipe-user-pages-soft pages in sum (pipe(7)), 16384 by default, 256 of them each: so a smaller one is
asked for next. Beyond the limit the kernel makes small ones or none; both are served, by more calls or
by copying.
"""

from libc.stdint cimport int32_t, uint64_t

from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.base.externs cimport F_SETPIPE_SZ, O_CLOEXEC, O_NONBLOCK, close, fcntl, pipe2

cdef enum:
    LARGE_PIPE_SIZE = 1 << 20     # bytes; fs.pipe-max-size of a kernel as it comes


cdef class PipePool:
    """At most MAX_PIPES pipes, opened when needed."""

    def __cinit__(self):
        cdef int32_t i
        for i in range(MAX_PIPES):
            self.ends[i][0] = self.ends[i][1] = -1
            self.unused[i] = MAX_PIPES - 1 - i
        self.n_unused = MAX_PIPES
        self.n_kept = KEPT_PIPES

    def __dealloc__(self):
        cdef int32_t i
        for i in range(MAX_PIPES):
            if self.ends[i][0] >= 0:
                close(self.ends[i][0])
                close(self.ends[i][1])

    cdef void fit(self, uint64_t descriptors) noexcept:
        """Take a quarter of so many descriptors at most, and keep few: to be called before the first use."""
        self.n_unused = <int>min(max(descriptors // 8, <uint64_t>1), <uint64_t>MAX_PIPES)
        self.n_kept = <int>min(max(descriptors // 64, <uint64_t>1), <uint64_t>KEPT_PIPES)

    cdef int32_t take(self) noexcept nogil:
        """The number of an empty pipe; NO_PIPE if there is none to be had."""
        cdef int fds[2]
        cdef int32_t pipe
        if self.n_idle:
            self.n_idle -= 1
            return self.idle[self.n_idle]
        if not self.n_unused or pipe2(fds, O_NONBLOCK | O_CLOEXEC) < 0:
            return NO_PIPE
        if fcntl(fds[1], F_SETPIPE_SZ, <int>LARGE_PIPE_SIZE) < 0:
            fcntl(fds[1], F_SETPIPE_SZ, <int>PIPE_SIZE)   # refused: the pipe serves as it is
        self.n_unused -= 1
        pipe = self.unused[self.n_unused]
        self.ends[pipe][0] = fds[0]
        self.ends[pipe][1] = fds[1]
        self.n_open[0] += 1
        return pipe

    cdef void give_back(self, int32_t pipe, bint is_empty) noexcept nogil:
        """Take back a pipe; one that is not empty, or one too many, is closed."""
        PASST_ASSERT(pipe < MAX_PIPES)
        PASST_ASSERT(self.ends[pipe][0] >= 0)
        if is_empty and self.n_idle < self.n_kept:
            self.idle[self.n_idle] = pipe
            self.n_idle += 1
        else:
            self.close_one(pipe)

    cdef void close_one(self, int32_t pipe) noexcept nogil:
        close(self.ends[pipe][0])
        close(self.ends[pipe][1])
        self.ends[pipe][0] = self.ends[pipe][1] = -1
        PASST_ASSERT(self.n_unused < MAX_PIPES)
        self.unused[self.n_unused] = pipe
        self.n_unused += 1
        self.n_open[0] -= 1

"""How long descriptors that somebody hostile has sent may keep us waiting.

Theory of operation. Who sends us a descriptor keeps a share of what is behind it, and can have an innocent
system call of ours wait for ever: a write to an eventfd whose counter is full, once O_NONBLOCK, which all
holders share, is taken away again (eventfd(2), fcntl(2)); closing the last descriptor of a TCP socket that
has data left and SO_LINGER set (socket(7)), also one that we never took, in the queue of a socket that
we read or close. The loop would stand still, deaf to signals.

All of these waits end when a signal is handled. So a timer ticks as long as such calls are made: its signal
does nothing but to interrupt. It is armed by the first call, and its handler disarms it after a whole tick
without one, so that a busy link pays no system call, and an idle one is woken once more at most.

What no signal ends is waited for: a file system in user space that does not answer the close of its file.
"""

from libc.stdint cimport uint64_t

from cpython.exc cimport PyErr_SetFromErrno

from passt.dataplane.base.externs cimport EINTR, errno, write

cdef extern from *:
    """
    #include <errno.h>
    #include <signal.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    enum { PASST_TICK_NS = 20000000, PASST_TICK_SIGNAL = SIGVTALRM };

    #ifndef SIGEV_THREAD_ID
    #define SIGEV_THREAD_ID 4
    #endif
    #ifndef sigev_notify_thread_id
    #define sigev_notify_thread_id _sigev_un._tid
    #endif

    static struct {
        int timer;                        /* as the kernel numbers it: no wrapper of the C library is used */
        int is_made;
        volatile sig_atomic_t is_armed;
        volatile sig_atomic_t depth;      /* calls that are being made */
        volatile unsigned n_calls;        /* begun so far */
        volatile unsigned n_seen;         /* of these at the last tick */
        volatile unsigned n_ticks;
    } passt_limit;

    static void passt_set_tick(long ns)
    {
        struct itimerspec when;

        memset(&when, 0, sizeof(when));
        when.it_value.tv_nsec = when.it_interval.tv_nsec = ns;
        syscall(SYS_timer_settime, passt_limit.timer, 0, &when, NULL);
    }

    static void passt_on_tick(int signum)
    {
        int error = errno;

        (void)signum;
        passt_limit.n_ticks++;
        if (!passt_limit.depth && passt_limit.n_calls == passt_limit.n_seen) {
            passt_set_tick(0);
            passt_limit.is_armed = 0;
        }
        passt_limit.n_seen = passt_limit.n_calls;
        errno = error;
    }

    static int passt_make_limit(void)
    {
        struct sigaction action;
        struct sigevent event;

        if (passt_limit.is_made)
            return 0;
        memset(&action, 0, sizeof(action));
        action.sa_handler = passt_on_tick;   /* without SA_RESTART */
        sigemptyset(&action.sa_mask);
        if (sigaction(PASST_TICK_SIGNAL, &action, NULL))
            return -1;
        memset(&event, 0, sizeof(event));
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = PASST_TICK_SIGNAL;
        event.sigev_notify_thread_id = (int)syscall(SYS_gettid);
        if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &passt_limit.timer))
            return -1;
        passt_limit.is_made = 1;
        return 0;
    }

    static void passt_begin_limit(void)
    {
        /* First this: the handler leaves a timer on that has a call to watch. */
        passt_limit.depth++;
        passt_limit.n_calls++;
        if (!passt_limit.is_armed && passt_limit.is_made) {
            passt_limit.is_armed = 1;
            passt_set_tick(PASST_TICK_NS);
        }
    }

    static void passt_end_limit(void)
    {
        passt_limit.depth--;
    }

    static unsigned passt_count_ticks(void)
    {
        return passt_limit.n_ticks;
    }
    """
    int make_limit "passt_make_limit"() nogil
    void begin_it "passt_begin_limit"() nogil
    void end_it "passt_end_limit"() nogil
    unsigned int count_ticks "passt_count_ticks"() nogil


def prepare():
    """Do what a filter of system calls may forbid later. Raises OSError."""
    prepare_wait_limit()


cdef int prepare_wait_limit() except -1:
    """Make the timer, for this thread of this process. Raises OSError."""
    if make_limit():
        PyErr_SetFromErrno(OSError)
    return 0


cdef void begin_limit() noexcept nogil:
    """A call that must not wait for long comes; `end_limit` after it."""
    begin_it()


cdef void end_limit() noexcept nogil:
    """It is over."""
    end_it()


cdef bint tell_event(int fd) noexcept nogil:
    """Add 1 to the eventfd *fd*; False: that would have waited. One whose counter is full has been told."""
    cdef uint64_t one = 1
    cdef bint is_stuck
    begin_it()
    is_stuck = write(fd, &one, sizeof(one)) < 0 and errno == EINTR
    end_it()
    return not is_stuck


cdef class WaitLimit:
    """As a context: what waits within is interrupted, after 20 ms and each time again."""

    def __enter__(self):
        self.n_before = count_ticks()
        begin_it()
        return self

    def __exit__(self, *_):
        end_it()

    def has_passed(self):
        return count_ticks() != self.n_before

    def tell(self, int fd):
        return tell_event(fd)

"""The kernel's filter of system calls, and the signal that tells of a call that it refused (seccomp(2)).

Theory of operation. For a call that a filter answers with SECCOMP_RET_TRAP the kernel does nothing but send
SIGSYS to the thread that asked, which may not have blocked or ignored it: that would end the process. The
handler gives the call the result ENOSYS, by writing to the register from which the thread will read it
(signal frames: ucontext_t), and notes the number of the call. The first time it also adds 1 to an eventfd,
so that the loop can tell the user.

The handler runs in either thread, between any two instructions. So it touches only what atomic operations
and write(2) serve (signal-safety(7)), and asks for no call that a filter of ours refuses: a SIGSYS within the
handler would end us. A SIGSYS that somebody sends does what it does without a handler: it ends the process,
but not PID 1 of a PID namespace (pid_namespaces(7)), which goes on with its handler.

Filters and their handler are of the process and cannot be taken back, so what they share is static.
"""

from cpython.exc cimport PyErr_SetFromErrno
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <signal.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <ucontext.h>
    #include <unistd.h>

    #ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
    #define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
    #endif
    #ifndef SYS_SECCOMP
    #define SYS_SECCOMP 1           /* si_code of asm-generic/siginfo.h */
    #endif

    enum { PASST_CALLS = 1024, PASST_ARGS = 3 };  /* numbers of 1024 and more share the last place */

    static struct {
        int event_fd;
        uint64_t refused[PASST_CALLS / 64];               /* one bit for each call */
        uint64_t args[PASST_CALLS][PASST_ARGS];           /* of the last refusal */
    } passt_refusals = { .event_fd = -1 };

    #if defined(__x86_64__)
    #define PASST_RESULT(context) ((context)->uc_mcontext.gregs[REG_RAX])
    #define PASST_ARG(context, i) \\
        ((uint64_t)(context)->uc_mcontext.gregs[(int[]){ REG_RDI, REG_RSI, REG_RDX }[i]])
    #elif defined(__aarch64__)
    #define PASST_RESULT(context) ((context)->uc_mcontext.regs[0])
    #define PASST_ARG(context, i) ((uint64_t)(context)->uc_mcontext.regs[i])
    #endif

    static void passt_on_refusal(int signum, siginfo_t *info, void *frame)
    {
    #ifdef PASST_RESULT
        ucontext_t *context = frame;
        int before = errno;
        uint32_t number = (uint32_t)info->si_syscall;
        uint64_t bit, one = 1;
        int i;

        if (info->si_code == SYS_SECCOMP) {
            number = number < PASST_CALLS ? number : PASST_CALLS - 1;
            bit = (uint64_t)1 << number % 64;
            for (i = 0; i < PASST_ARGS; i++)
                __atomic_store_n(&passt_refusals.args[number][i], PASST_ARG(context, i), __ATOMIC_RELAXED);
            if (!(__atomic_fetch_or(&passt_refusals.refused[number / 64], bit, __ATOMIC_RELEASE) & bit))
                if (write(passt_refusals.event_fd, &one, sizeof(one)) < 0) {
                    /* Then nobody is told. */
                }
            PASST_RESULT(context) = -ENOSYS;
            errno = before;
            return;
        }
    #endif
        if (getpid() == 1)
            return;
        /* Raised again, it waits until we return. The thread's filter refuses rt_sigaction(2), and so ends us
           at once. */
        signal(signum, SIG_DFL);
        raise(signum);
    }

    static int passt_handle_refusals(int event_fd)
    {
        struct sigaction action;
        sigset_t mask;

        memset(&action, 0, sizeof(action));
        action.sa_sigaction = passt_on_refusal;
        action.sa_flags = SA_SIGINFO | SA_RESTART;
        sigemptyset(&action.sa_mask);
        passt_refusals.event_fd = event_fd;
        if (sigaction(SIGSYS, &action, NULL))
            return -1;
        sigemptyset(&mask);
        sigaddset(&mask, SIGSYS);
        return sigprocmask(SIG_UNBLOCK, &mask, NULL);
    }

    /* SPEC_ALLOW: kernels before 5.16 would slow down the whole process otherwise, against a leak between
       programs that share one (a JIT compiler's); there is none here. */
    static int passt_load_program(const void *program, size_t size)
    {
        struct sock_fprog fprog = {
            .len = (unsigned short)(size / sizeof(struct sock_filter)),
            .filter = (struct sock_filter *)program,
        };

        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            return -1;
        return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &fprog);
    }

    static inline uint64_t passt_refused_calls(unsigned int word)
    {
        return __atomic_load_n(&passt_refusals.refused[word], __ATOMIC_ACQUIRE);
    }

    static inline uint64_t passt_refused_arg(unsigned int number, unsigned int i)
    {
        return __atomic_load_n(&passt_refusals.args[number][i], __ATOMIC_RELAXED);
    }
    """
    enum: PASST_CALLS
    enum: PASST_ARGS
    int passt_handle_refusals(int event_fd) noexcept
    int passt_load_program(const void *program, size_t size) noexcept nogil
    uint64_t passt_refused_calls(unsigned int word) noexcept
    uint64_t passt_refused_arg(unsigned int number, unsigned int i) noexcept

# The place that all larger numbers share.
MAX_CALL = PASST_CALLS - 1
LOADER = PyCapsule_New(<void *>passt_load_program, "passt.load_filter", NULL)


def handle_refusals(int event_fd) -> None:
    """Have refused calls return ENOSYS, and the first refusal of each add 1 to the eventfd *event_fd*."""
    if passt_handle_refusals(event_fd):
        PyErr_SetFromErrno(OSError)


def load(bytes program not None) -> None:
    """Put the calling thread under *program*, an array of struct sock_filter, for good; sets no_new_privs."""
    if passt_load_program(<const char *>program, len(program)):
        PyErr_SetFromErrno(OSError)


def refusals():
    """All calls refused so far: a dict from number to the first arguments of its last refusal."""
    found = {}
    cdef unsigned int number
    cdef uint64_t bits = 0
    for number in range(<unsigned int>PASST_CALLS):
        if number % 64 == 0:
            bits = passt_refused_calls(number // 64)
        if bits >> (number % 64) & 1:
            found[number] = tuple([passt_refused_arg(number, place) for place in range(<int>PASST_ARGS)])
    return found

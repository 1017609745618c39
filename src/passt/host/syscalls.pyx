"""System calls that Python 3.11 lacks: namespaces, mounts, capabilities, Landlock, prctl, signalfd, memory.

Every function raises `OSError` with the kernel's errno (through `_check`, the one place for that) and returns
plain values; callers word an errno for the user. Used at start and at the end only, never per frame. All
externs are in this file, and so are the tun ioctl numbers, which differ between architectures.
"""

from cpython.buffer cimport PyBUF_WRITE
from cpython.exc cimport PyErr_SetFromErrno
from cpython.long cimport PyLong_AsLong
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint32_t, uint64_t

cdef extern from *:
    """
    #include <errno.h>
    #include <linux/capability.h>
    #include <linux/if_tun.h>
    #include <linux/sched.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdint.h>
    #include <sys/auxv.h>
    #include <sys/inotify.h>
    #include <sys/mman.h>
    #include <sys/mount.h>
    #include <sys/prctl.h>
    #include <sys/signalfd.h>
    #include <sys/syscall.h>
    #include <sys/vfs.h>
    #include <unistd.h>

    #ifndef CLONE_PIDFD
    #define CLONE_PIDFD 0x00001000
    #endif
    #ifndef SYS_close_range
    #define SYS_close_range 436
    #endif
    #ifndef SYS_landlock_create_ruleset
    #define SYS_landlock_create_ruleset 444
    #define SYS_landlock_restrict_self 446
    #endif

    /* linux/landlock.h as of its newest version that we know; older kernels take the first *size* bytes. */
    struct passt_landlock_ruleset { uint64_t handled_access_fs, handled_access_net, scoped; };

    static long passt_landlock_create_ruleset(uint64_t access_fs, uint64_t scoped, size_t size)
    {
        struct passt_landlock_ruleset ruleset = { access_fs, 0, scoped };
        return syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
    }

    static long passt_landlock_version(void)
    {
        return syscall(SYS_landlock_create_ruleset, NULL, (size_t)0, 1);
    }

    /* clone(2) without a new stack behaves as fork(2); only s390 has the stack first. */
    static long passt_clone(unsigned long flags, int *pidfd)
    {
    #if defined(__s390__) || defined(__s390x__)
        return syscall(SYS_clone, NULL, flags, pidfd, NULL, NULL);
    #else
        return syscall(SYS_clone, flags, NULL, pidfd, NULL, NULL);
    #endif
    }

    static int passt_file_system_type(int fd, unsigned long *type)
    {
        struct statfs facts;
        if (fstatfs(fd, &facts))
            return -1;
        *type = (unsigned int)facts.f_type;
        return 0;
    }

    static int passt_default_action(int signum)
    {
        char action[64] = { 0 };  /* the kernel's struct sigaction: SIG_DFL, no flags, empty mask */
        return (int)syscall(SYS_rt_sigaction, signum, action, NULL, _NSIG / 8);
    }

    static int passt_capset(unsigned long long effective, unsigned long long permitted,
                            unsigned long long inheritable)
    {
        struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {
            { (__u32)effective, (__u32)permitted, (__u32)inheritable },
            { (__u32)(effective >> 32), (__u32)(permitted >> 32), (__u32)(inheritable >> 32) },
        };
        return (int)syscall(SYS_capset, &header, data);
    }

    static int passt_capget(unsigned long long sets[3])
    {
        struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
        if (syscall(SYS_capget, &header, data))
            return -1;
        sets[0] = data[0].effective | (unsigned long long)data[1].effective << 32;
        sets[1] = data[0].permitted | (unsigned long long)data[1].permitted << 32;
        sets[2] = data[0].inheritable | (unsigned long long)data[1].inheritable << 32;
        return 0;
    }
    """
    long passt_clone(unsigned long flags, int *pidfd) noexcept
    int passt_default_action(int signum) noexcept
    int passt_file_system_type(int fd, unsigned long *type) noexcept
    int c_inotify_init "inotify_init1"(int flags) noexcept
    int c_inotify_add_watch "inotify_add_watch"(int fd, const char *path, uint32_t mask) noexcept
    const int _IN_NONBLOCK "IN_NONBLOCK"
    const int _IN_CLOEXEC "IN_CLOEXEC"
    int passt_capset(unsigned long long effective, unsigned long long permitted,
                     unsigned long long inheritable) noexcept
    int passt_capget(unsigned long long *sets) noexcept
    int c_setns "setns"(int fd, int nstype) noexcept
    int c_unshare "unshare"(int flags) noexcept
    int c_prctl "prctl"(int option, unsigned long a2, unsigned long a3, unsigned long a4,
                        unsigned long a5) noexcept
    int c_mount "mount"(const char *source, const char *target, const char *fstype,
                        unsigned long flags, const void *data) noexcept
    int c_umount2 "umount2"(const char *target, int flags) noexcept
    unsigned long getauxval(unsigned long kind) noexcept
    long passt_landlock_create_ruleset(uint64_t access_fs, uint64_t scoped, size_t size) noexcept
    long passt_landlock_version() noexcept
    int c_sethostname "sethostname"(const char *name, size_t length) noexcept
    void *c_mmap "mmap"(void *place, size_t n, int protection, int flags, int fd, long offset) noexcept
    long c_syscall "syscall"(long number, ...) noexcept
    void c_exit "_exit"(int status) noexcept
    ctypedef struct sigset_t:
        pass
    int sigemptyset(sigset_t *mask) noexcept
    int sigaddset(sigset_t *mask, int signum) noexcept
    int c_signalfd "signalfd"(int fd, const sigset_t *mask, int flags) noexcept
    const int _SYS_close_range "SYS_close_range"
    const int _SYS_pivot_root "SYS_pivot_root"
    const int _SYS_landlock_restrict_self "SYS_landlock_restrict_self"
    const unsigned long _AT_SECURE "AT_SECURE"
    const int _SIGCHLD "SIGCHLD"
    void *_MAP_FAILED "MAP_FAILED"
    const int _MAP_ANONYMOUS "MAP_ANONYMOUS"
    const int _MAP_SHARED "MAP_SHARED"
    const int _PROT_READ "PROT_READ"
    const int _PROT_WRITE "PROT_WRITE"
    const int _SFD_CLOEXEC "SFD_CLOEXEC"
    const int _SFD_NONBLOCK "SFD_NONBLOCK"
    const unsigned long _CLONE_PIDFD "CLONE_PIDFD"

    # These are Python's too.
    cpdef enum:
        CLONE_NEWNS
        CLONE_NEWUTS
        CLONE_NEWIPC
        CLONE_NEWUSER
        CLONE_NEWPID
        CLONE_NEWNET
        MS_NOSUID
        MS_NODEV
        MS_NOEXEC
        MS_REC
        MS_SLAVE
        MS_PRIVATE
        MNT_DETACH
        MS_BIND
        MS_RDONLY
        TUNSETIFF
        TUNSETOFFLOAD
        TUNSETVNETHDRSZ
        TUNGETFEATURES
        PR_CAPBSET_DROP
        PR_CAP_AMBIENT
        PR_CAP_AMBIENT_CLEAR_ALL
        IN_DELETE
        IN_DELETE_SELF
        IN_IGNORED
        IN_MOVED_FROM
        IN_MOVE_SELF
        IN_ONLYDIR
        IN_Q_OVERFLOW
        PR_SET_DUMPABLE
        PR_SET_KEEPCAPS
        PR_SET_PDEATHSIG
        PR_SET_NO_NEW_PRIVS
        PR_GET_NO_NEW_PRIVS

cdef extern from "Python.h":
    void PyOS_BeforeFork()
    void PyOS_AfterFork_Parent()
    void PyOS_AfterFork_Child()


cdef int _check(long result) except -1:
    """Raise OSError from errno if *result* is -1."""
    if result == -1:
        PyErr_SetFromErrno(OSError)
        return -1
    return 0


def setns(int fd, int nstype) -> None:
    """setns(2): move the calling thread into the namespace of *fd*; *nstype* CLONE_NEW* or 0."""
    _check(c_setns(fd, nstype))


def unshare(int flags) -> None:
    """unshare(2): give the calling thread new namespaces, CLONE_NEW* flags."""
    _check(c_unshare(flags))


def clone(unsigned long flags, int death_signal):
    """Fork with namespace *flags*; return (pid, pidfd) in the parent, (0, -1) in the child.

    The child gets *death_signal* when the parent's calling thread ends, unless that happens before this
    returns in the child: a child that needs certainty checks afterwards whether the parent still lives (by
    its end of a socket pair). Python's fork hooks are run, glibc's are not: one thread only.
    The pidfd is close-on-exec.
    """
    cdef int pidfd = -1
    cdef long pid
    PyOS_BeforeFork()
    pid = passt_clone(flags | _CLONE_PIDFD | <unsigned long>_SIGCHLD, &pidfd)
    if pid == 0:
        if c_prctl(PR_SET_PDEATHSIG, <unsigned long>death_signal, 0, 0, 0):
            c_exit(1)
        PyOS_AfterFork_Child()
        return 0, -1
    try:
        _check(pid)
    finally:
        PyOS_AfterFork_Parent()
    return pid, pidfd


def prctl(int option, unsigned long arg2=0, unsigned long arg3=0, unsigned long arg4=0,
          unsigned long arg5=0) -> int:
    """prctl(2) for options whose arguments are numbers; returns its result."""
    cdef int result = c_prctl(option, arg2, arg3, arg4, arg5)
    _check(result)
    return result


def capset(unsigned long long effective, unsigned long long permitted,
           unsigned long long inheritable) -> None:
    """capset(2) on the calling thread; sets are masks of 1 << CAP_*."""
    _check(passt_capset(effective, permitted, inheritable))


def capget():
    """capget(2) of the calling thread: (effective, permitted, inheritable) masks."""
    cdef unsigned long long sets[3]
    _check(passt_capget(sets))
    return sets[0], sets[1], sets[2]


def signalfd(signals) -> int:
    """signalfd(2): a new non-blocking, close-on-exec descriptor that reads *signals* (block them first)."""
    cdef sigset_t mask
    cdef int fd
    cdef object signum
    sigemptyset(&mask)
    for signum in signals:
        _check(sigaddset(&mask, <int>PyLong_AsLong(signum)))
    fd = c_signalfd(-1, &mask, _SFD_CLOEXEC | _SFD_NONBLOCK)
    _check(fd)
    return fd


def inotify_init() -> int:
    """inotify_init1(2): a new non-blocking, close-on-exec descriptor."""
    cdef int fd = c_inotify_init(_IN_CLOEXEC | _IN_NONBLOCK)
    _check(fd)
    return fd


def inotify_add_watch(int fd, bytes path, uint32_t mask) -> int:
    """inotify_add_watch(2): watch *path* for the IN_* events of *mask*; returns the watch's number."""
    cdef int watch = c_inotify_add_watch(fd, path, mask)
    _check(watch)
    return watch


def file_system_type(int fd) -> int:
    """fstatfs(2): the magic number of the file system that *fd* is on."""
    cdef unsigned long found = 0
    _check(passt_file_system_type(fd, &found))
    return found


def set_default_action(int signum) -> None:
    """rt_sigaction(2) with SIG_DFL, also for the signals that the C library reserves."""
    _check(passt_default_action(signum))


def mount(bytes source, bytes target, bytes fstype, unsigned long flags, bytes data=b"") -> None:
    """mount(2)."""
    _check(c_mount(source, target, fstype, flags, <const char *>data))


def umount(bytes target, int flags) -> None:
    """umount2(2)."""
    _check(c_umount2(target, flags))


def pivot_root(bytes new_root, bytes put_old) -> None:
    """pivot_root(2): change the root of all processes of our mount namespace that have the old one."""
    _check(c_syscall(_SYS_pivot_root, <const char *>new_root, <const char *>put_old))


def landlock_version() -> int:
    """landlock_create_ruleset(2): the version of Landlock's interface; ENOSYS or EOPNOTSUPP without it."""
    cdef long version = passt_landlock_version()
    _check(version)
    return <int>version


def landlock_create_ruleset(uint64_t access_fs, uint64_t scoped, size_t size) -> int:
    """landlock_create_ruleset(2) with no rule yet; *size* bytes of its attributes are known to the kernel.

    Returns a new close-on-exec descriptor.
    """
    cdef long fd = passt_landlock_create_ruleset(access_fs, scoped, size)
    _check(fd)
    return <int>fd


def landlock_restrict_self(int ruleset) -> None:
    """landlock_restrict_self(2): enforce *ruleset* on the calling thread and its later children."""
    _check(c_syscall(_SYS_landlock_restrict_self, ruleset, 0))


def is_privileged_start() -> bool:
    """Tell whether execve(2) gave this process rights that its caller lacks: getauxval(3), AT_SECURE."""
    return getauxval(_AT_SECURE) != 0


def sethostname(bytes name) -> None:
    """sethostname(2): at most 64 bytes."""
    _check(c_sethostname(name, len(name)))


def close_range(uint32_t first, uint32_t last, uint32_t flags) -> None:
    """close_range(2), Linux 5.9; ENOSYS on older kernels."""
    _check(c_syscall(_SYS_close_range, first, last, flags))


def share_memory(size_t n):
    """mmap(2): *n* bytes of 0, shared with processes that are forked later; they stay while we run."""
    cdef void *place = c_mmap(NULL, n, _PROT_READ | _PROT_WRITE, _MAP_SHARED | _MAP_ANONYMOUS, -1, 0)
    _check(-1 if place == _MAP_FAILED else 0)
    return PyMemoryView_FromMemory(<char *>place, <Py_ssize_t>n, PyBUF_WRITE)

# ruff: noqa: INP001 - a module beside scripts, in no package
"""What the running program may ask of the kernel: tools/gen_seccomp.py makes the filters from this policy.

There is a filter for the main thread of each form of the program (FORMS), one for the process that binds low
ports for it (`run/port_helper.py`), one for what reads a file for it (`src/helpers/reader.c`,
`follow/policy_reader.py`), one for that which configures a namespace (`src/helpers/configurer.c`), and one
for the thread in the guest's namespace (`dataplane/sockets/namespace_thread.pyx`). A call meets one of five
ends:

* it is in a rule of `FILTERS`, and its arguments fit: the kernel does it;
* it is in a rule, and its arguments fit none: as if it were in none;
* it is in `ABSENT_PATHS`: ENOENT, in silence. Python and the C library look for files now and then, and go on
  without them;
* it is in `DEADLY`, or its arguments are in `DEADLY_ARGUMENTS`: the kernel kills the process. Only somebody
  who has broken in asks for these;
* all others: ENOSYS, and a line in the log for each call (`passt.process.seccomp`). So a newer C library or
  Python, which tries a newer call first, goes on with an older one.

A foreign ABI of the machine (i386, x32) kills, too. Calls that an architecture does not have are left out.

Rules for a change. Calls of the data path have no conditions: from Linux 5.11 on the kernel remembers what is
always allowed and runs no filter for it. Conditions compare 32 bits, as the kernel takes an `int` out of a
register. A call that libseccomp 2.5.4 does not know cannot be named; it gets ENOSYS.
After a change run `python tools/gen_seccomp.py`; docs/howto.md has the rest.
"""

from __future__ import annotations

import errno
import fcntl
import signal
import socket
from dataclasses import dataclass

FORMS = ("command", "attached", "passt", "vhost-user")

# Stands for our own process number; `passt.process.seccomp` puts that in when it loads the filter.
PID_MARK = 0x5EC0_1D00

_INT = 0xFFFF_FFFF
_POINTER = 0xFFFF_FFFF_FFFF_FFFF

# linux/mman.h, linux/fcntl.h, linux/prctl.h, asm-generic/ioctls.h, linux/sockios.h: the same on both
# architectures.
_PROT_EXEC = 4
_AT_SYMLINK_NOFOLLOW, _AT_EMPTY_PATH = 0x100, 0x1000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP = 1, 4, 8, 22
_PR_CAPBSET_DROP, _PR_SET_SECUREBITS, _PR_SET_MM, _PR_SET_NO_NEW_PRIVS = 24, 28, 35, 38
_PR_CAP_AMBIENT, _PR_SET_PTRACER, _PR_SET_VMA = 47, 0x59616D61, 0x53564D41
_F_SETSIG, _F_SETPIPE_SZ, _F_GETPIPE_SZ, _F_ADD_SEALS = 10, 1031, 1032, 1033
_TCGETS, _TIOCGPGRP, _TIOCSPGRP, _TIOCSTI, _TIOCLINUX = 0x5401, 0x540F, 0x5410, 0x5412, 0x541C
_SIOCOUTQ, _FIONBIO, _FIOCLEX, _SIOCGIFINDEX = 0x5411, 0x5421, 0x5451, 0x8933
_SOCK_FLAGS = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC


@dataclass(frozen=True)
class Condition:
    """Argument number *arg* (from 0) has *value* in the bits of *mask*."""

    arg: int
    value: int
    mask: int = _INT


@dataclass(frozen=True)
class Rule:
    """*calls* (names, separated by blanks) are allowed, if all conditions of one of *when* hold; *why*."""

    calls: str
    why: str
    when: tuple[tuple[Condition, ...], ...] = ((),)

    def names(self) -> list[str]:
        """List the calls."""
        return words(self.calls)


def words(text: str) -> list[str]:
    """Take names that are separated by blanks apart."""
    return text.split()


def one_of(arg: int, *values: int) -> tuple[tuple[Condition, ...], ...]:
    """Argument *arg* is one of *values*."""
    return tuple((Condition(arg, value),) for value in values)


def options(level: int, *names: int) -> tuple[tuple[Condition, ...], ...]:
    """Choose options of setsockopt(2) at *level*."""
    return tuple((Condition(1, level), Condition(2, name)) for name in names)


def kinds(family: int, kind: int, *protocols: int) -> tuple[tuple[Condition, ...], ...]:
    """Choose sockets: *kind* with any flags, and one of *protocols*."""
    return tuple(
        (Condition(0, family), Condition(1, kind, _INT & ~_SOCK_FLAGS), Condition(2, protocol))
        for protocol in protocols
    )


NO_EXEC = ((Condition(2, 0, _PROT_EXEC),),)

# What any thread does without being told to: the C library's own calls, old and new.
CORE = (
    Rule("futex", "locks and semaphores"),
    Rule("brk munmap mremap madvise", "memory of the allocator"),
    Rule("mmap mprotect", "memory of the allocator, never to be executed", NO_EXEC),
    Rule("rseq set_robust_list membarrier restart_syscall", "the C library's own, for threads and restarts"),
    Rule("sched_yield sched_getaffinity getcpu sysinfo getrlimit",
         "the allocator asks; tells nothing of others"),
    Rule("prlimit64", "as getrlimit(2), of ourselves", ((Condition(0, 0), Condition(2, 0, _POINTER)),)),
    Rule("getpid gettid", "abort(3); messages of the system log bear our number"),
    Rule("tgkill", "abort(3) and raise(3), of ourselves", ((Condition(0, PID_MARK),),)),
    Rule("rt_sigreturn rt_sigprocmask sigaltstack", "signals; the end of a thread"),
    Rule("clock_gettime clock_getres gettimeofday time", "the clock, where the vDSO does not read it"),
    Rule("exit exit_group", "the end"),
    Rule("close", "descriptors"),
    Rule("write writev", "messages of abort(3); here, data for sockets and files"),
    Rule("prctl", "names that newer allocators give to memory", one_of(0, _PR_SET_VMA)),
)

_SOCKETS4 = (*kinds(socket.AF_INET, socket.SOCK_STREAM, 0, socket.IPPROTO_TCP),
             *kinds(socket.AF_INET, socket.SOCK_DGRAM, 0, socket.IPPROTO_UDP))  # fmt: skip
_SOCKETS6 = (*kinds(socket.AF_INET6, socket.SOCK_STREAM, 0, socket.IPPROTO_TCP),
             *kinds(socket.AF_INET6, socket.SOCK_DGRAM, 0, socket.IPPROTO_UDP))  # fmt: skip
_PINGS = (*kinds(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
          *kinds(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6))  # fmt: skip

# Levels and names of setsockopt(2), with the numbers that Python's socket does not name.
_SO_BINDTODEVICE, _SO_PEEK_OFF, _SO_TIMESTAMPING = 25, 42, 37
_UDP_GRO = 104
_IP_PKTINFO, _IP_MTU_DISCOVER, _IP_RECVERR, _IP_RECVTTL, _IP_RECVTOS = 8, 10, 11, 12, 13
_IP_FREEBIND, _IP_UNICAST_IF = 15, 50
_IPV6_UNICAST_HOPS, _IPV6_MULTICAST_IF, _IPV6_MULTICAST_HOPS, _IPV6_MTU_DISCOVER = 16, 17, 18, 23
_IPV6_RECVERR, _IPV6_V6ONLY, _IPV6_RECVPKTINFO, _IPV6_RECVHOPLIMIT = 25, 26, 49, 51
_IPV6_RECVTCLASS, _IPV6_TCLASS, _IPV6_FREEBIND, _IPV6_DONTFRAG = 66, 67, 78, 62

_LISTENER_OPTIONS = (
    *options(socket.SOL_SOCKET, socket.SO_REUSEADDR, socket.SO_OOBINLINE, _SO_BINDTODEVICE),
    *options(socket.IPPROTO_TCP, socket.TCP_NODELAY, socket.TCP_CONGESTION),
    *options(socket.IPPROTO_IP, _IP_PKTINFO),
    *options(socket.IPPROTO_IPV6, _IPV6_V6ONLY, _IPV6_RECVPKTINFO),
)
_FLOW_OPTIONS = (
    *options(socket.SOL_SOCKET, socket.SO_BROADCAST, socket.SO_SNDBUF, socket.SO_RCVBUF, socket.SO_KEEPALIVE,
             socket.SO_LINGER, _SO_TIMESTAMPING, _SO_PEEK_OFF),
    *options(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT),
    *options(socket.IPPROTO_UDP, _UDP_GRO),
    *options(socket.IPPROTO_IP, socket.IP_TOS, socket.IP_TTL, _IP_MTU_DISCOVER, _IP_RECVERR, _IP_RECVTTL,
             _IP_RECVTOS, _IP_FREEBIND, _IP_UNICAST_IF, socket.IP_MULTICAST_IF, socket.IP_MULTICAST_TTL),
    *options(socket.IPPROTO_IPV6, _IPV6_UNICAST_HOPS, _IPV6_MULTICAST_IF, _IPV6_MULTICAST_HOPS,
             _IPV6_MTU_DISCOVER, _IPV6_RECVERR, _IPV6_RECVHOPLIMIT, _IPV6_RECVTCLASS, _IPV6_TCLASS,
             _IPV6_FREEBIND, _IPV6_DONTFRAG),
)  # fmt: skip

# The loop, the sockets of the host, and Python.
MAIN = (
    Rule("read readv pread64 preadv recvfrom recvmsg recvmmsg", "frames, data, signals, the log file"),
    Rule("pwrite64 pwritev sendto sendmsg sendmmsg", "frames, data, the log file"),
    Rule("epoll_pwait2 epoll_pwait epoll_wait epoll_ctl", "the loop"),
    Rule("poll ppoll", "waits of Python's socket, and for a slow system log"),
    Rule("clock_nanosleep nanosleep", "time.sleep"),
    Rule("connect accept accept4 bind listen shutdown getsockname getpeername getsockopt", "connections"),
    Rule("socket", "sockets of the host, of three protocols", (*_SOCKETS4, *_SOCKETS6, *_PINGS)),
    Rule("setsockopt", "what `dataplane/sockets/` and `host/listeners.py` set",
         (*_LISTENER_OPTIONS, *_FLOW_OPTIONS)),
    Rule("lseek fstat ftruncate", "the log file, the packet capture, lists of ports"),
    Rule("newfstatat", "fstat(3), as newer C libraries call it",
         ((Condition(3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),),)),
    Rule("statx", "fstat(3), as newer C libraries call it",
         ((Condition(2, _AT_EMPTY_PATH, _AT_EMPTY_PATH),),)),
    Rule("dup dup2 dup3", "standard descriptors that are left"),
    Rule("fcntl", "flags of descriptors, copies above the standard ones, sizes of pipes",
         one_of(1, fcntl.F_DUPFD_CLOEXEC, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL,
                _F_SETPIPE_SZ, _F_GETPIPE_SZ)),
    Rule("ioctl", "non-blocking sockets; what is left to be sent; is a file that Python opens a terminal?"
         " the index of an interface",
         one_of(1, _FIONBIO, _FIOCLEX, _SIOCOUTQ, _TCGETS, _SIOCGIFINDEX)),
    Rule("rt_sigaction rt_sigpending", "the end by the signal that ended the command"),
    Rule("kill", "to stop, or end, as the command did", ((Condition(0, PID_MARK),),)),
    Rule("getrandom", "times of router advertisements"),
    Rule("getppid getuid geteuid getgid getegid getpgrp getpgid getsid getrusage times", "tells of us alone"),
    Rule("setsid", "a program that goes to the background leaves the session of its caller"),
    Rule("prctl", "not to end with our parent once it has been told that we are ready",
         one_of(0, _PR_SET_PDEATHSIG)),
)  # fmt: skip

# Connections that bypass the link.
BYPASS = (
    Rule("splice pipe2", "data from socket to socket"),
)  # fmt: skip

# The command's job control and end: `namespace/supervisor.py`, `namespace/terminal.py`, `namespace/child.py`.
COMMAND = (
    Rule("wait4 waitid", "the status of the command"),
    Rule("kill", "is there still somebody in the foreground group of the terminal?", ((Condition(1, 0),),)),
    Rule("pidfd_send_signal", "to end PID 1 of the command",
         ((Condition(1, signal.SIGKILL), Condition(3, 0)),)),
    Rule("fcntl", "to be continued by a message while we are stopped",
         ((Condition(1, fcntl.F_SETOWN), Condition(2, PID_MARK)),
          (Condition(1, _F_SETSIG), Condition(2, signal.SIGCONT)))),
    Rule("ioctl", "to give the terminal to the command, and take it back", one_of(1, _TIOCGPGRP, _TIOCSPGRP)),
)  # fmt: skip

# The end of a namespace that has a name, where inotify(7) does not tell it: `namespace/existing.py`. The
# directory is open then, but the call takes any path: an intruder learns what exists below the root, which is
# empty if the kernel permits that.
ATTACHED = (
    Rule("newfstatat", "is the name of the namespace still there?",
         ((Condition(3, _AT_SYMLINK_NOFOLLOW, _AT_SYMLINK_NOFOLLOW),),)),
    Rule("statx", "as that, by newer C libraries",
         ((Condition(2, _AT_SYMLINK_NOFOLLOW, _AT_SYMLINK_NOFOLLOW),),)),
)  # fmt: skip

# Clients of passt, and of --control in all forms: `dataplane/base/wait_limit.pyx`. Who has neither has made
# no timer, and can make none.
CLIENTS = (
    Rule("timer_settime", "to interrupt a call that a client's descriptor keeps waiting"),
)  # fmt: skip

# A machine that shares its memory: `vhost_user/`, `dataplane/virtio/`. What else it takes all forms have:
# descriptors come by recvmsg(2), and are mapped as any memory is.
VHOST_USER = (
    Rule("memfd_create", "the record of descriptors in use, which a front end gets from us"),
    Rule("fcntl", "that record keeps its size", one_of(1, _F_ADD_SEALS)),
)  # fmt: skip

# The thread that opens sockets in the guest's namespace.
THREAD = (
    Rule("socket", "sockets of the guest's namespace, of two protocols", (*_SOCKETS4, *_SOCKETS6)),
    Rule("bind listen", "listeners there"),
    Rule("setsockopt", "what it sets", _LISTENER_OPTIONS),
)  # fmt: skip

# The process that binds low ports of the host, for rules that come later: `run/port_helper.py`.
HELPER = (
    Rule("recvmsg sendmsg", "requests of the main process; descriptors"),
    Rule("socket", "listeners of two protocols", (*_SOCKETS4, *_SOCKETS6)),
    Rule("bind listen getsockname getsockopt", "listeners; who is at the other end of a connection"),
    Rule("setsockopt", "what `host/listeners.py` sets",
         (*_LISTENER_OPTIONS, *options(socket.IPPROTO_IP, _IP_RECVERR, _IP_RECVTOS, _IP_FREEBIND),
          *options(socket.IPPROTO_IPV6, _IPV6_RECVERR, _IPV6_RECVTCLASS, _IPV6_FREEBIND))),
    Rule("ioctl", "non-blocking sockets; the index of an interface", one_of(1, _FIONBIO, _SIOCGIFINDEX)),
)  # fmt: skip

# The process that reads resolv.conf with --follow: `src/helpers/reader.c`.
READER = (
    Rule("openat", "the file, wherever symbolic links lead"),
    Rule("read fstat lseek", "its content; events; the byte that asks for it"),
    Rule("readlink readlinkat", "the links on the way"),
    Rule("inotify_init1 inotify_init inotify_add_watch", "watches, set anew after each change"),
    Rule("poll ppoll", "waits for a change, or the end of the main process"),
    Rule("sendto sendmsg", "the content"),
)  # fmt: skip

# The process that configures a namespace with --follow and --config-net: `src/helpers/configurer.c`.
CONFIGURER = (
    Rule("recvfrom recvmsg", "orders of the main process; answers of the kernel"),
    Rule("sendto sendmsg", "requests to the kernel, by the netlink socket that is open; the log"),
)  # fmt: skip

# The process that forwards queries of --dns-forward: `names/process.py`. No bind(2) to listen: what is bound
# is the source address of --outbound.
NAMES = (
    Rule("recvfrom recvmsg sendto sendmsg", "queries and answers; orders of the main process; the log"),
    Rule("epoll_pwait2 epoll_pwait epoll_wait epoll_ctl", "its loop"),
    Rule("poll ppoll", "for a slow system log"),
    Rule("socket", "sockets to name servers, of two protocols", (*_SOCKETS4, *_SOCKETS6)),
    Rule("bind connect getsockname getpeername getsockopt", "the ways to them"),
    Rule("accept accept4", "connections of the guest"),
    Rule("setsockopt", "the interface of --outbound-if4 and --outbound-if6",
         options(socket.SOL_SOCKET, _SO_BINDTODEVICE)),
    Rule("fcntl", "flags of descriptors", one_of(1, fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL,
                                                 fcntl.F_SETFL)),
    Rule("ioctl", "non-blocking sockets", one_of(1, _FIONBIO, _FIOCLEX)),
    Rule("getrandom", "the IDs of queries"),
    Rule("lseek fstat ftruncate pread64 pwrite64", "the log file, no other being open"),
    Rule("newfstatat", "fstat(3), as newer C libraries call it",
         ((Condition(3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),),)),
    Rule("statx", "fstat(3), as newer C libraries call it",
         ((Condition(2, _AT_EMPTY_PATH, _AT_EMPTY_PATH),),)),
)  # fmt: skip

FILTERS: dict[str, tuple[Rule, ...]] = {
    "command": (*CORE, *MAIN, *CLIENTS, *BYPASS, *COMMAND),
    "attached": (*CORE, *MAIN, *CLIENTS, *BYPASS, *ATTACHED),
    "passt": (*CORE, *MAIN, *CLIENTS),
    "vhost-user": (*CORE, *MAIN, *CLIENTS, *VHOST_USER),
    "thread": (*CORE, *THREAD),
    "helper": (*CORE, *HELPER),
    "reader": (*CORE, *READER),
    "configurer": (*CORE, *CONFIGURER),
    "names": (*CORE, *NAMES),
}

# Get ABSENT_ERRNO in silence, as far as they are not allowed.
ABSENT_PATHS = words("""
    stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat statfs getcwd
""")
ABSENT_ERRNO = errno.ENOENT


def absent(rules: tuple[Rule, ...]) -> list[str]:
    """List the calls of ABSENT_PATHS that *rules* do not allow without conditions."""
    allowed = {call for rule in rules for call in rule.names() if () in rule.when}
    return [call for call in ABSENT_PATHS if call not in allowed]


def absent_if(rules: tuple[Rule, ...], call: str) -> tuple[Condition, ...]:
    """Say when *call*, of ABSENT_PATHS, gets ABSENT_ERRNO: without any of the flags that *rules* allow."""
    allowed = [condition for rule in rules if call in rule.names() for (condition,) in rule.when]
    if not allowed:
        return ()
    mask = 0
    for condition in allowed:
        mask |= condition.mask
    return (Condition(allowed[0].arg, 0, mask),)


# Kill the process, except in a form that needs one. Nobody asks for these by mistake, nor does a library for
# its own sake.
DEADLY = words("""
    execve execveat clone clone3 fork vfork
    open openat openat2 creat open_by_handle_at name_to_handle_at memfd_create memfd_secret
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_getfd kcmp
    mount umount2 mount_setattr move_mount open_tree fsopen fsconfig fsmount fspick pivot_root chroot
    setns unshare bpf perf_event_open userfaultfd seccomp personality
    add_key request_key keyctl io_uring_setup io_uring_enter io_uring_register
    init_module finit_module delete_module kexec_load kexec_file_load reboot
    setuid setgid setreuid setregid setresuid setresgid setfsuid setfsgid setgroups capset
    rt_sigqueueinfo rt_tgsigqueueinfo tkill
    pkey_mprotect modify_ldt iopl ioperm swapon swapoff acct quotactl quotactl_fd
    settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname
    fanotify_init fanotify_mark lookup_dcookie vhangup
""")


def deadly(rules: tuple[Rule, ...]) -> list[str]:
    """List the calls of DEADLY that *rules* do not allow; those that they do must have no conditions."""
    allowed = {call for rule in rules for call in rule.names()}
    return [call for call in DEADLY if call not in allowed]


_AF_PACKET, _AF_ALG, _AF_VSOCK, _AF_XDP, _AF_KEY, _AF_BLUETOOTH, _AF_CAN, _AF_TIPC, _AF_RDS = (
    17, 38, 40, 44, 15, 31, 29, 30, 21)  # fmt: skip

# These arguments of allowed calls kill as well.
DEADLY_ARGUMENTS = (
    Rule("mmap mprotect", "memory to be executed", ((Condition(2, _PROT_EXEC, _PROT_EXEC),),)),
    Rule("socket", "ways to the kernel, other machines of the host, and other programs",
         one_of(0, socket.AF_NETLINK, _AF_PACKET, _AF_ALG, _AF_VSOCK, _AF_XDP, _AF_KEY, _AF_BLUETOOTH,
                _AF_CAN, _AF_TIPC, _AF_RDS)),
    Rule("prctl", "takes protection away",
         one_of(0, _PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_SECUREBITS,
                _PR_SET_MM, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_SET_PTRACER)),
    Rule("ioctl", "types into the terminal as the user", one_of(1, _TIOCSTI, _TIOCLINUX)),
)  # fmt: skip

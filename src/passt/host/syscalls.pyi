"""Typing of the compiled system calls."""

from collections.abc import Iterable

CLONE_NEWNS: int
CLONE_NEWUTS: int
CLONE_NEWIPC: int
CLONE_NEWUSER: int
CLONE_NEWPID: int
CLONE_NEWNET: int
MS_NOSUID: int
MS_NODEV: int
MS_NOEXEC: int
MS_REC: int
MS_SLAVE: int
MS_PRIVATE: int
MNT_DETACH: int
MS_BIND: int
MS_RDONLY: int
TUNSETIFF: int
TUNSETOFFLOAD: int
TUNSETVNETHDRSZ: int
TUNGETFEATURES: int
PR_CAPBSET_DROP: int
PR_CAP_AMBIENT: int
PR_CAP_AMBIENT_CLEAR_ALL: int
IN_DELETE: int
IN_DELETE_SELF: int
IN_IGNORED: int
IN_MOVED_FROM: int
IN_MOVE_SELF: int
IN_ONLYDIR: int
IN_Q_OVERFLOW: int
PR_SET_DUMPABLE: int
PR_SET_KEEPCAPS: int
PR_SET_PDEATHSIG: int
PR_SET_NO_NEW_PRIVS: int
PR_GET_NO_NEW_PRIVS: int

def setns(fd: int, nstype: int) -> None:
    """setns(2): move the calling thread into the namespace of *fd*; *nstype* CLONE_NEW* or 0."""

def unshare(flags: int) -> None:
    """unshare(2): give the calling thread new namespaces, CLONE_NEW* flags."""

def clone(flags: int, death_signal: int) -> tuple[int, int]:
    """Fork with namespace *flags*; return (pid, pidfd) in the parent, (0, -1) in the child."""

def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2) for options whose arguments are numbers; returns its result."""

def capset(effective: int, permitted: int, inheritable: int) -> None:
    """capset(2) on the calling thread; sets are masks of 1 << CAP_*."""

def capget() -> tuple[int, int, int]:
    """capget(2) of the calling thread: (effective, permitted, inheritable) masks."""

def signalfd(signals: Iterable[int]) -> int:
    """signalfd(2): a new non-blocking, close-on-exec descriptor that reads *signals*."""

def inotify_init() -> int:
    """inotify_init1(2): a new non-blocking, close-on-exec descriptor."""

def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """inotify_add_watch(2): watch *path* for the IN_* events of *mask*; returns the watch's number."""

def file_system_type(fd: int) -> int:
    """fstatfs(2): the magic number of the file system that *fd* is on."""

def set_default_action(signum: int) -> None:
    """rt_sigaction(2) with SIG_DFL, for the signals too that the C library keeps to itself."""

def mount(source: bytes, target: bytes, fstype: bytes, flags: int, data: bytes = b"") -> None:
    """mount(2)."""

def umount(target: bytes, flags: int) -> None:
    """umount2(2)."""

def pivot_root(new_root: bytes, put_old: bytes) -> None:
    """pivot_root(2): change the root of all processes of our mount namespace that have the old one."""

def landlock_version() -> int:
    """landlock_create_ruleset(2): the version of Landlock's interface; ENOSYS or EOPNOTSUPP without it."""

def landlock_create_ruleset(access_fs: int, scoped: int, size: int) -> int:
    """landlock_create_ruleset(2) with no rule yet; *size* bytes of its attributes are known to the kernel."""

def landlock_restrict_self(ruleset: int) -> None:
    """landlock_restrict_self(2): enforce *ruleset* on the calling thread and its later children."""

def is_privileged_start() -> bool:
    """Tell whether execve(2) gave this process rights that its caller lacks: getauxval(3), AT_SECURE."""

def sethostname(name: bytes) -> None:
    """sethostname(2): at most 64 bytes."""

def close_range(first: int, last: int, flags: int) -> None:
    """close_range(2), Linux 5.9; ENOSYS on older kernels."""

def share_memory(n: int) -> memoryview:
    """mmap(2): *n* bytes of 0, shared with processes that are forked later; they stay while we run."""

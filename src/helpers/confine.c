/* See confine.h. */

#include "confine.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FIRST_OWN_FD = 3, MAX_FILTER = 4096, MAX_CAPABILITIES = 64, MAX_KEPT = 3 };

/* linux/landlock.h, which an older system does not have; the numbers are the same everywhere. */
enum { LANDLOCK_CREATE = 444, LANDLOCK_RESTRICT = 446, LANDLOCK_GET_VERSION = 1 };
enum { READING = 1 << 2 | 1 << 3, SCOPE_ABSTRACT_SOCKETS = 1, SCOPE_SIGNALS = 2, SCOPE_VERSION = 6 };
struct ruleset {
    uint64_t fs, net, scoped;
};

static void need(int succeeded)
{
    if (!succeeded)
        _exit(1);
}

void keep_descriptors(int n, const int descriptors[])
{
    int moved[MAX_KEPT], null;

    need(n <= MAX_KEPT);
    for (int i = 0; i < n; i++)   /* out of the way of the places that they shall have */
        need((moved[i] = fcntl(descriptors[i], F_DUPFD, FIRST_OWN_FD + n)) >= 0);
    for (int i = 0; i < n; i++)
        need(dup2(moved[i], FIRST_OWN_FD + i) >= 0);
    need((null = open("/dev/null", O_RDWR)) >= 0);
    for (int fd = 0; fd < FIRST_OWN_FD; fd++)
        need(dup2(null, fd) >= 0);
    if (null >= FIRST_OWN_FD)
        close(null);
    for (int i = 0; i < n; i++)
        close(moved[i]);
#ifdef SYS_close_range
    /* Without it: the main process has made all of them to be closed by execve(2). */
    syscall(SYS_close_range, FIRST_OWN_FD + n, ~0U, 0);
#endif
}

void detach(const char *name)
{
    sigset_t all;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_NAME, name);
    setsid();
    need(chdir("/") == 0);
}

void drop_privileges(unsigned long long kept, long uid, long gid)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct sets[2] = { { 0 } };

    /* What stays in the bounding set for want of CAP_SETPCAP, no_new_privs keeps from being gained. */
    for (int number = 0; number < MAX_CAPABILITIES; number++)
        if (!(kept >> number & 1) && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) < 0)
            break;
    if (uid >= 0) {
        prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0);
        if (setgroups(0, NULL) < 0 && errno != EPERM)
            _exit(1);
        need(setresgid((gid_t)gid, (gid_t)gid, (gid_t)gid) == 0);
        need(setresuid((uid_t)uid, (uid_t)uid, (uid_t)uid) == 0);
        prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0);
    }
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int half = 0; half < 2; half++)
        sets[half].effective = sets[half].permitted = (uint32_t)(kept >> 32 * half);
    need(syscall(SYS_capset, &header, sets) == 0);
    need(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    need(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
}

void restrict_paths(int may_read)
{
    long version = syscall(LANDLOCK_CREATE, NULL, 0, LANDLOCK_GET_VERSION);
    struct ruleset ruleset = { 0 };
    int n_rights, fd;

    if (version < 1)
        return;
    n_rights = version >= 5 ? 16 : version >= 3 ? 15 : version >= 2 ? 14 : 13;
    ruleset.fs = (1u << n_rights) - 1;
    if (may_read)
        ruleset.fs &= ~(uint64_t)READING;   /* what a ruleset does not handle is permitted */
    if (version >= SCOPE_VERSION)
        ruleset.scoped = SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS;
    fd = (int)syscall(LANDLOCK_CREATE, &ruleset,
                      version >= SCOPE_VERSION ? sizeof(ruleset) : sizeof(ruleset.fs), 0);
    need(fd >= 0);
    need(syscall(LANDLOCK_RESTRICT, fd, 0) == 0);
    close(fd);
}

void load_filter(int channel)
{
    static struct sock_filter filter[MAX_FILTER];
    struct sock_fprog program = { .filter = filter };
    ssize_t len = recv(channel, filter, sizeof(filter), MSG_TRUNC);

    need(len >= 0 && (size_t)len <= sizeof(filter) && len % (ssize_t)sizeof(*filter) == 0);
    program.len = (unsigned short)(len / (ssize_t)sizeof(*filter));
    need(program.len == 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0);
}

void end_with(int life)
{
    struct pollfd polled = { .fd = life };

    need(fcntl(life, F_SETOWN, getpid()) == 0);
    need(fcntl(life, F_SETSIG, SIGKILL) == 0);
    need(fcntl(life, F_SETFL, O_ASYNC | O_NONBLOCK) == 0);
    need(poll(&polled, 1, 0) == 0);   /* gone already: nothing will tell */
}

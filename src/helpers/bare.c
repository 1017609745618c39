/* The few functions of the C library that the small programs use, and their start, without the library.
 *
 * A C library's own start asks the processor some dozens of times what it can do (CPUID), and under a hypervisor each
 * of these questions takes 20 microseconds and more: of the 0.7 ms of a processor that such a program cost a start of
 * passt or pasta, that and the dynamic linker were 0.5. Nothing here is more than a system call or a loop over bytes.
 * The declarations are the library's, so a program is the same with it: setup.py links with it where this file has no
 * _start for the machine.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv);

/* The kernel puts the number of arguments on the stack, and the arguments above it. */
__attribute__((noreturn, used)) static void begin(long *stack)
{
    _exit(main((int)stack[0], (char **)(stack + 1)));
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall begin\n");

static long ask(long number, long a, long b, long c, long d, long e, long f)
{
    register long fourth __asm__("r10") = d, fifth __asm__("r8") = e, sixth __asm__("r9") = f;
    long result;

    __asm__ volatile("syscall" : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tand sp, x0, #-16\n\tbl begin\n");

static long ask(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
        x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;

    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "no _start for this machine: link with the C library"
#endif

/* There is one thread. */
int *__errno_location(void)
{
    static int number;

    return &number;
}

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    long result = ask(number, a, b, c, d, e, f);

    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

#define CALL3(name, a, b, c) call(SYS_##name, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define CALL6(name, a, b, c, d, e, f) call(SYS_##name, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

void _exit(int status)
{
    for (;;)
        CALL3(exit_group, status, 0, 0);
}

long syscall(long number, ...)
{
    long given[4];
    va_list arguments;

    va_start(arguments, number);
    for (int i = 0; i < 4; i++)
        given[i] = va_arg(arguments, long);
    va_end(arguments);
    return call(number, given[0], given[1], given[2], given[3], 0, 0);
}

int prctl(int option, ...)
{
    long given[4];
    va_list arguments;

    va_start(arguments, option);
    for (int i = 0; i < 4; i++)
        given[i] = va_arg(arguments, long);
    va_end(arguments);
    return (int)CALL6(prctl, option, given[0], given[1], given[2], given[3], 0);
}

int fcntl(int fd, int command, ...)
{
    va_list arguments;
    long given;

    va_start(arguments, command);
    given = va_arg(arguments, long);
    va_end(arguments);
    return (int)CALL3(fcntl, fd, command, given);
}

/* No file is made, so there is no mode. */
int open(const char *path, int flags, ...)
{
    return (int)CALL6(openat, AT_FDCWD, path, flags, 0, 0, 0);
}

int close(int fd)
{
    return (int)CALL3(close, fd, 0, 0);
}

ssize_t read(int fd, void *data, size_t len)
{
    return CALL3(read, fd, data, len);
}

int dup2(int old, int new)
{
#ifdef SYS_dup2
    return (int)CALL3(dup2, old, new, 0);
#else
    return old == new ? old : (int)CALL3(dup3, old, new, 0);
#endif
}

ssize_t readlink(const char *path, char *target, size_t len)
{
#ifdef SYS_readlink
    return CALL3(readlink, path, target, len);
#else
    return CALL6(readlinkat, AT_FDCWD, path, target, len, 0, 0);
#endif
}

/* No limit of time but whole milliseconds, or none. */
int poll(struct pollfd *polled, nfds_t n, int limit_ms)
{
#ifdef SYS_poll
    return (int)CALL3(poll, polled, n, limit_ms);
#else
    struct timespec limit = { limit_ms / 1000, limit_ms % 1000 * 1000000L };

    return (int)CALL6(ppoll, polled, n, limit_ms < 0 ? NULL : &limit, NULL, 0, 0);
#endif
}

int inotify_init1(int flags)
{
    return (int)CALL3(inotify_init1, flags, 0, 0);
}

int inotify_add_watch(int fd, const char *path, uint32_t mask)
{
    return (int)CALL3(inotify_add_watch, fd, path, mask);
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
    return CALL6(sendto, fd, data, len, flags, 0, 0);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    return CALL3(sendmsg, fd, message, flags);
}

ssize_t recvfrom(int fd, void *data, size_t len, int flags, struct sockaddr *sender, socklen_t *sender_len)
{
    return CALL6(recvfrom, fd, data, len, flags, sender, sender_len);
}

ssize_t recv(int fd, void *data, size_t len, int flags)
{
    return recvfrom(fd, data, len, flags, NULL, NULL);
}

int sigfillset(sigset_t *set)
{
    memset(set, 0xff, sizeof(*set));
    return 0;
}

int sigprocmask(int how, const sigset_t *set, sigset_t *before)
{
    return (int)CALL6(rt_sigprocmask, how, set, before, 8, 0, 0);   /* bytes of a set of 64 signals */
}

pid_t getpid(void)
{
    return (pid_t)CALL3(getpid, 0, 0, 0);
}

pid_t setsid(void)
{
    return (pid_t)CALL3(setsid, 0, 0, 0);
}

int chdir(const char *path)
{
    return (int)CALL3(chdir, path, 0, 0);
}

int setgroups(size_t n, const gid_t *groups)
{
    return (int)CALL3(setgroups, n, groups, 0);
}

int setresgid(gid_t real, gid_t effective, gid_t saved)
{
    return (int)CALL3(setresgid, real, effective, saved);
}

int setresuid(uid_t real, uid_t effective, uid_t saved)
{
    return (int)CALL3(setresuid, real, effective, saved);
}

void *memcpy(void *restrict to, const void *restrict from, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

void *memset(void *to, int value, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ((char *)to)[i] = (char)value;
    return to;
}

int memcmp(const void *one, const void *other, size_t len)
{
    const unsigned char *a = one, *b = other;

    for (size_t i = 0; i < len; i++)
        if (a[i] != b[i])
            return a[i] < b[i] ? -1 : 1;
    return 0;
}

void *memrchr(const void *data, int value, size_t len)
{
    while (len-- > 0)
        if (((const unsigned char *)data)[len] == (unsigned char)value)
            return (char *)data + len;
    return NULL;
}

size_t strlen(const char *text)
{
    size_t len = 0;

    while (text[len])
        len++;
    return len;
}

char *strcpy(char *restrict to, const char *restrict from)
{
    return memcpy(to, from, strlen(from) + 1);
}

char *strchr(const char *text, int wanted)
{
    for (; *text != (char)wanted; text++)
        if (!*text)
            return NULL;
    return (char *)text;
}

char *strrchr(const char *text, int wanted)
{
    return memrchr(text, wanted, strlen(text) + 1);
}

static size_t span(const char *text, const char *some, int wants)
{
    size_t len = 0;

    while (text[len] && (strchr(some, text[len]) != NULL) == wants)
        len++;
    return len;
}

size_t strspn(const char *text, const char *accepted)
{
    return span(text, accepted, 1);
}

size_t strcspn(const char *text, const char *refused)
{
    return span(text, refused, 0);
}

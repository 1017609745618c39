"""Every C declaration of the system that the data plane uses, and nothing else.

Constants come from the C library's and the kernel's headers; the few that older headers lack are
defined here with the kernel's values (uapi headers named beside them).
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport off_t


cdef extern from "<errno.h>" nogil:
    int errno
    enum:
        EAGAIN, EINTR, EINPROGRESS, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPIPE, EIO, EINVAL, EMSGSIZE, EFAULT
        EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EALREADY, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH
        EISCONN, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EPERM, ETIMEDOUT
        ENOSYS, ENOSPC

cdef extern from "<poll.h>" nogil:
    enum: POLLIN
    enum: POLLOUT
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long n, int timeout)

cdef extern from "<string.h>" nogil:
    void *memcpy(void *to, const void *source, size_t n)
    void *memmove(void *to, const void *source, size_t n)
    void *memset(void *to, int byte, size_t n)
    int memcmp(const void *one, const void *other, size_t n)

cdef extern from "<stdlib.h>" nogil:
    void *malloc(size_t n)
    void *calloc(size_t count, size_t n)
    void *realloc(void *old, size_t n)
    void free(void *old)

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *buf, size_t n)
    enum: SEEK_CUR
    ssize_t write(int fd, const void *buf, size_t n)
    off_t lseek(int fd, off_t offset, int whence)
    int ftruncate(int fd, off_t n)
    int close(int fd)
    long syscall(long number, ...)

cdef extern from "<fcntl.h>" nogil:
    enum: O_CLOEXEC, O_RDONLY, O_NONBLOCK, F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ
    unsigned int SPLICE_F_MOVE, SPLICE_F_NONBLOCK, SPLICE_F_MORE
    int open(const char *path, int flags, ...)
    int fcntl(int fd, int command, ...)
    int pipe2(int *fds, int flags)
    ssize_t splice(int fd_in, int64_t *off_in, int fd_out, int64_t *off_out, size_t n, unsigned int flags)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC, EFD_NONBLOCK
    int eventfd(unsigned int value, int flags)

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_attr_t:
        pass
    int pthread_attr_init(pthread_attr_t *attributes)
    int pthread_attr_destroy(pthread_attr_t *attributes)
    int pthread_attr_setstacksize(pthread_attr_t *attributes, size_t n)
    int pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                       void *(*main)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)

cdef extern from "<semaphore.h>" nogil:
    ctypedef struct sem_t:
        pass
    int sem_init(sem_t *semaphore, int shared, unsigned int value)
    int sem_destroy(sem_t *semaphore)
    int sem_post(sem_t *semaphore)
    int sem_wait(sem_t *semaphore)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    enum: SIG_SETMASK, SIGSYS
    int sigfillset(sigset_t *mask)
    int sigdelset(sigset_t *mask, int signum)
    int pthread_sigmask(int how, const sigset_t *mask, sigset_t *before)

cdef extern from "<net/if.h>" nogil:
    enum: IFNAMSIZ
    struct ifreq:
        char ifr_name[16]         # IFNAMSIZ
        int ifr_ifindex

cdef extern from "<sched.h>" nogil:
    enum: CLONE_NEWNET
    int setns(int fd, int kind)
    int sched_yield()

cdef extern from * nogil:
    """
    #include <linux/capability.h>
    #include <stdint.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* Of the calling thread alone (capabilities(7)): keep *kept*, a mask of 1 << CAP_*, of what it has,
       and let no program that it might start gain anything. */
    static inline int passt_keep_capabilities(uint64_t kept)
    {
        struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
        unsigned long capability;
        int i;

        for (capability = 0; capability < 64; capability++)
            if (!(kept >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
                break;
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        if (syscall(SYS_capget, &header, data))
            return -1;
        for (i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
            data[i].permitted &= (uint32_t)(kept >> (32 * i));
            data[i].effective = data[i].permitted;
            data[i].inheritable = 0;
        }
        if (syscall(SYS_capset, &header, data))
            return -1;
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }

    static inline uint32_t passt_load(const uint32_t *place)
    {
        return __atomic_load_n(place, __ATOMIC_ACQUIRE);
    }

    static inline void passt_store(uint32_t *place, uint32_t value)
    {
        __atomic_store_n(place, value, __ATOMIC_RELEASE);
    }

    static inline uint32_t passt_exchange(uint32_t *place, uint32_t value)
    {
        return __atomic_exchange_n(place, value, __ATOMIC_ACQ_REL);
    }
    """
    enum: CAP_NET_BIND_SERVICE
    int passt_keep_capabilities(uint64_t kept)
    uint32_t passt_load(const uint32_t *place)
    void passt_store(uint32_t *place, uint32_t value)
    uint32_t passt_exchange(uint32_t *place, uint32_t value)

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <string.h>

    /* The sum of *n* bytes, a multiple of 8, as 32-bit words of the machine's order (see csum.pyx). For a
       plain loop the compiler emits vector instructions, wider ones where the processor has them. */
    static inline __attribute__((always_inline)) uint64_t passt_sum_loop(const uint8_t *p, size_t n)
    {
        uint64_t word, low = 0, high = 0;
        size_t i;

        for (i = 0; i < n; i += 8) {
            memcpy(&word, p + i, 8);
            low += word & 0xffffffff;
            high += word >> 32;
        }
        return low + high;
    }

    #if defined(__x86_64__) && defined(__GNUC__)
    __attribute__((target("avx2"), unused)) static uint64_t passt_sum_avx2(const uint8_t *p, size_t n)
    {
        return passt_sum_loop(p, n);
    }
    #define PASST_HAS_AVX2 __builtin_cpu_supports("avx2")
    #else
    #define PASST_HAS_AVX2 0
    #define passt_sum_avx2 passt_sum_loop
    #endif

    static inline uint64_t passt_sum_words(const uint8_t *p, size_t n)
    {
        return n >= 256 && PASST_HAS_AVX2 ? passt_sum_avx2(p, n) : passt_sum_loop(p, n);
    }
    """
    uint64_t passt_sum_words(const uint8_t *p, size_t n)

cdef extern from "<time.h>" nogil:
    struct timespec:
        int64_t tv_sec
        long tv_nsec
    enum: CLOCK_MONOTONIC, CLOCK_REALTIME
    int clock_gettime(int clock, timespec *now)

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t host)
    uint16_t ntohs(uint16_t net)
    uint32_t htonl(uint32_t host)
    uint32_t ntohl(uint32_t net)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t writev(int fd, const iovec *pieces, int n)

cdef extern from "<sys/epoll.h>" nogil:
    enum:
        EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLERR, EPOLLHUP, EPOLLRDHUP
        EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CTL_DEL, EPOLL_CLOEXEC
    const uint32_t EPOLLET
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout_ms)

cdef extern from "<sys/syscall.h>" nogil:
    """
    #ifndef SYS_epoll_pwait2
    #define SYS_epoll_pwait2 441   /* asm-generic/unistd.h, Linux 5.11 */
    #endif
    """
    const long SYS_epoll_pwait2

cdef extern from "<sys/socket.h>" nogil:
    enum:
        AF_INET, AF_INET6, SOCK_STREAM, SOCK_DGRAM, SOCK_NONBLOCK, SOCK_CLOEXEC
        SOL_SOCKET, SO_ERROR, SO_REUSEADDR, SO_KEEPALIVE, SO_LINGER, SO_BINDTODEVICE, SO_BROADCAST
        SO_SNDBUF, SO_RCVBUF, SO_OOBINLINE, MSG_ERRQUEUE, MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT, MSG_NOSIGNAL
        SHUT_WR, SO_TIMESTAMPING
    struct sockaddr:
        uint16_t sa_family
    struct sockaddr_storage:
        uint16_t ss_family
    ctypedef uint32_t socklen_t
    struct linger:
        int l_onoff
        int l_linger
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    int socket(int domain, int kind, int protocol)
    int connect(int fd, const sockaddr *address, socklen_t n)
    int bind(int fd, const sockaddr *address, socklen_t n)
    int listen(int fd, int backlog)
    int accept4(int fd, sockaddr *address, socklen_t *n, int flags)
    int getsockname(int fd, sockaddr *address, socklen_t *n)
    int getsockopt(int fd, int level, int name, void *value, socklen_t *n)
    int setsockopt(int fd, int level, int name, const void *value, socklen_t n)
    ssize_t recv(int fd, void *buf, size_t n, int flags)
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t send_bytes "send"(int fd, const void *buf, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int n, int flags, timespec *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int n, int flags)
    int shutdown(int fd, int how)
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *previous)
    unsigned char *CMSG_DATA(cmsghdr *item)
    size_t CMSG_LEN(size_t n)
    size_t CMSG_SPACE(size_t n)

cdef extern from * nogil:
    """
    #ifndef SO_PEEK_OFF
    #define SO_PEEK_OFF 42         /* asm-generic/socket.h */
    #endif
    #ifndef SO_MEMINFO
    #define SO_MEMINFO 55          /* asm-generic/socket.h, Linux 4.12 */
    #endif
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103        /* linux/udp.h, Linux 4.18 */
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104            /* linux/udp.h, Linux 5.0 */
    #endif
    /* indices into the SO_MEMINFO array, linux/sock_diag.h */
    #define PASST_MEMINFO_SNDBUF 3
    #define PASST_MEMINFO_WMEM_QUEUED 5
    #define PASST_MEMINFO_VARS 9
    """
    enum:
        SO_PEEK_OFF, SO_MEMINFO, UDP_SEGMENT, UDP_GRO
        PASST_MEMINFO_SNDBUF, PASST_MEMINFO_WMEM_QUEUED, PASST_MEMINFO_VARS

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6
        IP_PKTINFO, IPV6_PKTINFO, IPV6_RECVPKTINFO, IPV6_V6ONLY
        IP_RECVERR, IP_RECVTOS, IP_RECVTTL, IP_TOS, IP_TTL
        IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_PROBE
        IPV6_RECVERR, IPV6_RECVTCLASS, IPV6_RECVHOPLIMIT, IPV6_TCLASS, IPV6_HOPLIMIT, IPV6_UNICAST_HOPS
        IPV6_MTU_DISCOVER, IPV6_PMTUDISC_WANT, IPV6_PMTUDISC_PROBE
        IP_MULTICAST_IF, IP_UNICAST_IF, IPV6_MULTICAST_IF
        SOL_UDP
    struct in_addr:
        uint32_t s_addr
    struct in6_addr:
        uint8_t s6_addr[16]
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint32_t sin6_flowinfo
        in6_addr sin6_addr
        uint32_t sin6_scope_id
    struct in_pktinfo:
        int ipi_ifindex
        in_addr ipi_spec_dst
        in_addr ipi_addr
    struct in6_pktinfo:
        in6_addr ipi6_addr
        unsigned int ipi6_ifindex
    struct ip_mreqn:
        in_addr imr_multiaddr
        in_addr imr_address
        int imr_ifindex

cdef extern from "<netinet/udp.h>" nogil:
    pass

cdef extern from "<linux/errqueue.h>" nogil:
    enum: SO_EE_ORIGIN_LOCAL, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
    struct sock_extended_err:
        uint32_t ee_errno
        uint8_t ee_origin
        uint8_t ee_type
        uint8_t ee_code
        uint32_t ee_info

cdef extern from "<netinet/tcp.h>" nogil:
    enum: TCP_NODELAY, TCP_INFO, TCP_CONGESTION, TCP_KEEPIDLE, TCP_KEEPINTVL

cdef extern from * nogil:
    """
    #include <stdint.h>
    /* The start of struct tcp_info as linux/tcp.h has it since Linux 4.9; netinet/tcp.h may end earlier. */
    struct passt_tcp_info {
        uint8_t state;
        uint8_t ca_state_to_options[7];
        uint32_t rto_and_ato[2];
        uint32_t snd_mss;
        uint32_t rcv_mss_to_fackets[6];
        uint32_t last_data_sent;
        uint32_t last_ack_sent;
        uint32_t last_data_recv;
        uint32_t last_ack_recv_to_rcv_ssthresh[3];
        uint32_t rtt;
        uint32_t rttvar;
        uint32_t snd_ssthresh;
        uint32_t snd_cwnd;
        uint32_t advmss_to_rcv_space[4];
        uint32_t total_retrans;
        uint64_t pacing_rates[2];
        uint64_t bytes_acked;
        uint64_t bytes_received;
        uint32_t segs_out;
        uint32_t segs_in;
        uint32_t notsent_bytes;
        uint32_t min_rtt;
        uint32_t data_segs[2];
        uint64_t delivery_rate;
    };
    """
    struct passt_tcp_info:
        uint8_t state
        uint32_t snd_mss
        uint32_t last_data_sent
        uint32_t last_data_recv
        uint32_t rtt
        uint32_t rttvar
        uint32_t snd_cwnd
        uint32_t total_retrans
        uint64_t bytes_acked
        uint64_t bytes_received
        uint32_t segs_out
        uint32_t segs_in
        uint32_t min_rtt
        uint64_t delivery_rate

cdef extern from "<linux/net_tstamp.h>" nogil:
    enum: SOF_TIMESTAMPING_TX_ACK, SOF_TIMESTAMPING_OPT_TSONLY

cdef extern from "<sys/ioctl.h>" nogil:
    enum: SIOCGIFINDEX
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<linux/sockios.h>" nogil:
    enum: SIOCOUTQ

cdef extern from "<linux/if_tun.h>" nogil:
    """
    #ifndef TUN_F_USO4
    #define TUN_F_USO4 0x20        /* linux/if_tun.h, Linux 6.2 */
    #define TUN_F_USO6 0x40
    #endif
    """
    enum: TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6

cdef extern from "<linux/virtio_net.h>" nogil:
    """
    #ifndef VIRTIO_NET_HDR_GSO_UDP_L4
    #define VIRTIO_NET_HDR_GSO_UDP_L4 5   /* linux/virtio_net.h, Linux 6.2 */
    #endif
    """
    enum:
        VIRTIO_NET_HDR_F_NEEDS_CSUM
        VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6
        VIRTIO_NET_HDR_GSO_UDP_L4, VIRTIO_NET_HDR_GSO_ECN
    struct virtio_net_hdr:
        uint8_t flags
        uint8_t gso_type
        uint16_t hdr_len
        uint16_t gso_size
        uint16_t csum_start
        uint16_t csum_offset

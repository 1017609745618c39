"""Time to live, TOS and DF of datagrams, carried between the guest's packets and the host's sockets.

To the host: TTL and TOS of the guest's IP header are set on what leaves. So routers on the way answer a small
TTL, queues see the class, and congestion marks work (RFC 3168, RFC 2474). The TTL is not decremented, as
the host is no router to the guest. UDP gives both with each message, in control data; on a ping socket they
are set as options, as older kernels ignore the control data of ping sockets.

Large datagrams: a packet with DF, or of IPv6, is sent so that it is not cut, by us or on the way
(IP_PMTUDISC_PROBE: the path MTU that the host remembers does not count, as the guest remembers its own);
all others are cut as need be. This is an option of the socket only (ip(7)), set when it changes.

To the guest: the kernel gives TOS or traffic class with each datagram, and the guest's packet gets it.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.udp cimport SocketMarks
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.base.externs cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, IPPROTO_IP, IPPROTO_IPV6, IPV6_HOPLIMIT, IPV6_MTU_DISCOVER,
    IPV6_PMTUDISC_PROBE, IPV6_PMTUDISC_WANT, IPV6_RECVHOPLIMIT, IPV6_TCLASS, IPV6_UNICAST_HOPS,
    IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_PROBE, IP_RECVTTL, IP_TOS, IP_TTL, SOL_UDP, UDP_GRO,
    cmsghdr, memcpy, memset, msghdr,
)


cdef void set_fragmenting(Core core, int fd, bint is_ip4, bint dont_fragment, uint8_t *known) noexcept nogil:
    """Have the socket send packets uncut with *dont_fragment*, else cut as need be; *known*: as it does."""
    cdef uint8_t wanted = FRAGMENTING_FORBIDDEN if dont_fragment else FRAGMENTING_ALLOWED
    if known[0] == wanted:
        return
    known[0] = wanted
    if is_ip4:
        core.sockets.set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER,
                                IP_PMTUDISC_PROBE if dont_fragment else IP_PMTUDISC_DONT)
    else:
        # IPv6 is cut by its sender only: to the size that the host knows the path to take.
        core.sockets.set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER,
                                IPV6_PMTUDISC_PROBE if dont_fragment else IPV6_PMTUDISC_WANT)


cdef int socket_of(Core core, const Flow *flow) noexcept nogil:
    """The descriptor by which a UDP flow sends."""
    if flow.body.udp.listener:
        return flow.body.udp.listener_fd
    return core.flows.flows[flow.body.udp.port].fd


cdef SocketMarks *marks_of(Core core, const Flow *flow) noexcept nogil:
    """The options set on the socket by which a flow sends; a dual-stack listener has them for each family."""
    if flow.body.udp.listener:
        return &core.listeners.states[flow.body.udp.listener - 1].marks[flow.keys[0].addr_len != 4]
    return &core.flows.flows[flow.body.udp.port].body.port.marks


cdef void ask_ttl(Core core, const Flow *flow) noexcept nogil:
    """Enable IP_RECVTTL: traceroute counts the hops back by the TTL of ICMP errors."""
    cdef bint is_ip4 = flow.keys[0].addr_len == 4
    cdef SocketMarks *marks = marks_of(core, flow)
    if not marks.tells_ttl:
        marks.tells_ttl = True
        core.sockets.set_option(socket_of(core, flow), IPPROTO_IP if is_ip4 else IPPROTO_IPV6,
                                IP_RECVTTL if is_ip4 else IPV6_RECVHOPLIMIT, 1)


cdef void set_ping_marks(Core core, Flow *flow, const IpView *ip) noexcept nogil:
    """Set TTL, TOS and fragmenting of a ping flow's socket as in the guest's packet."""
    cdef bint is_ip4 = ip.addr_len == 4
    cdef int level = IPPROTO_IP if is_ip4 else IPPROTO_IPV6
    if flow.body.ping.ttl != ip.ttl and ip.ttl:
        flow.body.ping.ttl = ip.ttl
        core.sockets.set_option(flow.fd, level, IP_TTL if is_ip4 else IPV6_UNICAST_HOPS, ip.ttl)
    if flow.body.ping.tos != ip.tos:
        flow.body.ping.tos = ip.tos
        core.sockets.set_option(flow.fd, level, IP_TOS if is_ip4 else IPV6_TCLASS, ip.tos)
    set_fragmenting(core, flow.fd, is_ip4, ip.dont_fragment, &flow.body.ping.fragmenting)


cdef void read_marks(msghdr *message, Marks *out) noexcept nogil:
    """Read TOS, TTL and segment size from the control data of a received message (ip(7), ipv6(7), udp(7))."""
    cdef cmsghdr *item
    cdef int32_t value = 0
    memset(out, 0, sizeof(Marks))
    if not message.msg_controllen:
        return
    item = CMSG_FIRSTHDR(message)
    while item != NULL:
        if item.cmsg_level == IPPROTO_IP and item.cmsg_type == IP_TOS:
            out.tos = CMSG_DATA(item)[0]          # one byte, unlike all others
        elif item.cmsg_level == SOL_UDP and item.cmsg_type == UDP_GRO:
            memcpy(&value, CMSG_DATA(item), sizeof(value))
            out.segment = <uint32_t>max(value, 0)
        elif item.cmsg_level == IPPROTO_IPV6 and item.cmsg_type == IPV6_TCLASS:
            memcpy(&value, CMSG_DATA(item), sizeof(value))
            out.tos = <uint8_t>value
        elif (item.cmsg_level == IPPROTO_IP and item.cmsg_type == IP_TTL
              or item.cmsg_level == IPPROTO_IPV6 and item.cmsg_type == IPV6_HOPLIMIT):
            memcpy(&value, CMSG_DATA(item), sizeof(value))
            out.ttl = <uint8_t>value
        item = CMSG_NXTHDR(message, item)

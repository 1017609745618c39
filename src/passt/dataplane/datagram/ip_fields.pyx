"""Time to live, TOS and DF of datagrams, carried between the guest's packets and the host's sockets.

Out, what the guest wrote into the IP header is written again by the host: so routers on the way answer
a small time to live, queues see the class, and congestion marks work (RFC 3168, RFC 2474). The time to
live is not counted down, as the guest's host is no router to it. UDP says both with each message, in
control data; a ping socket keeps what it was told, as older kernels ignore the control data of those.

Large datagrams: a packet with DF, or of IPv6, is sent so that it is not cut, by us or on the way
(IP_PMTUDISC_PROBE: nor is what the host remembers of the path taken for its MTU, the guest remembers
that itself); all others are cut as need be. That is a property of the socket only (ip(7)), set when it
changes.

In, the kernel tells TOS or traffic class with each datagram, and the guest's packet gets it.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.table cimport Flow, SocketMarks
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.base.externs cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, IPPROTO_IP, IPPROTO_IPV6, IPV6_HOPLIMIT, IPV6_MTU_DISCOVER,
    IPV6_PMTUDISC_PROBE, IPV6_PMTUDISC_WANT, IPV6_RECVHOPLIMIT, IPV6_TCLASS, IPV6_UNICAST_HOPS,
    IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_PROBE, IP_RECVTTL, IP_TOS, IP_TTL, SOL_UDP, UDP_GRO,
    cmsghdr, memcpy, memset, msghdr,
)


cdef void set_fragmenting(Core core, int fd, bint four, bint whole, uint8_t *known) noexcept nogil:
    """Have the socket send what is *whole* uncut, all else cut as need be; *known* is what it does now."""
    cdef uint8_t wanted = FRAGMENTING_FORBIDDEN if whole else FRAGMENTING_ALLOWED
    if known[0] == wanted:
        return
    known[0] = wanted
    if four:
        core.sockets.set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER,
                                IP_PMTUDISC_PROBE if whole else IP_PMTUDISC_DONT)
    else:
        # IPv6 is cut by its sender only: to the size that the host knows the path to take.
        core.sockets.set_option(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER,
                                IPV6_PMTUDISC_PROBE if whole else IPV6_PMTUDISC_WANT)


cdef int socket_of(Core core, const Flow *flow) noexcept nogil:
    """The descriptor by which a UDP flow sends."""
    if flow.u.udp.listener:
        return flow.u.udp.listener_fd
    return core.flows.flows[flow.u.udp.port].fd


cdef SocketMarks *marks_of(Core core, const Flow *flow) noexcept nogil:
    """What that socket was told; a listener of both families for each of them."""
    if flow.u.udp.listener:
        return &core.listeners.states[flow.u.udp.listener - 1].marks[flow.keys[0].addr_len != 4]
    return &core.flows.flows[flow.u.udp.port].u.port.marks


cdef void ask_ttl(Core core, const Flow *flow) noexcept nogil:
    """Have a flow's socket tell the time to live of what comes; tracers count the hops back by errors'."""
    cdef bint four = flow.keys[0].addr_len == 4
    cdef SocketMarks *marks = marks_of(core, flow)
    if not marks.tells_ttl:
        marks.tells_ttl = True
        core.sockets.set_option(socket_of(core, flow), IPPROTO_IP if four else IPPROTO_IPV6,
                                IP_RECVTTL if four else IPV6_RECVHOPLIMIT, 1)


cdef void set_ping_marks(Core core, Flow *flow, const IpView *ip) noexcept nogil:
    """Have a ping flow's socket send as the guest's packet says."""
    cdef bint four = ip.addr_len == 4
    cdef int level = IPPROTO_IP if four else IPPROTO_IPV6
    if flow.u.ping.ttl != ip.ttl and ip.ttl:
        flow.u.ping.ttl = ip.ttl
        core.sockets.set_option(flow.fd, level, IP_TTL if four else IPV6_UNICAST_HOPS, ip.ttl)
    if flow.u.ping.tos != ip.tos:
        flow.u.ping.tos = ip.tos
        core.sockets.set_option(flow.fd, level, IP_TOS if four else IPV6_TCLASS, ip.tos)
    set_fragmenting(core, flow.fd, four, ip.whole, &flow.u.ping.fragmenting)


cdef void read_marks(msghdr *message, Marks *out) noexcept nogil:
    """What the control data of a received message says of its packet (ip(7), ipv6(7), udp(7))."""
    cdef cmsghdr *item
    cdef int32_t value = 0
    memset(out, 0, sizeof(Marks))
    if not message.msg_controllen:
        return
    item = CMSG_FIRSTHDR(message)
    while item != NULL:
        if item.cmsg_level == IPPROTO_IP and item.cmsg_type == IP_TOS:
            out.tos = CMSG_DATA(item)[0]          # one octet, unlike all others
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

"""Errors of the host's datagram sockets, reported to the guest.

Theory of operation. The kernel queues on a socket the ICMP errors about its datagrams, and an error for
each datagram that is too large to send (ip(7), IP_RECVERR; linux/errqueue.h). An entry holds type and code,
who reported it, whom the datagram was for, and of the datagram what the report quoted behind the UDP
header; a ping socket's begins with the ICMP header. So the flow is found by the remote, as for
datagrams, and the guest gets the same error as if there were nothing between, under its own addresses
and ports; the reporter by the address that the guest knows it by.

While the queue holds an entry the socket's next call fails with its error, whatever that call is: after an
error the caller drains the queue and repeats the call. A queue is drained for DRAIN_BUDGET entries at a time;
the rest makes the socket fail once more.

A datagram too large for the host's interface fails where it is sent, and often nobody meant it to: the
guest was given a large MTU, and its kernel sets DF on everything that fits that. An error for the
datagram would fail the next call of a program that never asked for it (RFC 1122 4.1.3.3 has ICMP
errors passed up). So at first such datagrams go out in fragments, and the guest's kernel is told the
path's MTU by a message that belongs to no socket of its programs: from then on it cuts them itself, or
refuses those that may not be cut. What comes still after GRACE_NS, or from a tracer (`ask_ttl`), is
sent by somebody who means it: that is refused, and the error is about that very datagram. A kernel
forgets what it was told after a while; so by EXPIRES_NS all begins anew, or a flow that lives for
long would lose a datagram each time.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.packet.checksum cimport csum_add, csum_fold, pseudo4, pseudo6
from passt.dataplane.datagram.group_echoes cimport note_sending
from passt.dataplane.flow.key cimport SIDE_HOST, FlowKey
from passt.dataplane.flow.record cimport FLOW_PING, FLOW_SPLICE_UDP, Flow
from passt.dataplane.flow.table cimport fill_host_key
from passt.dataplane.packet.headers cimport (
    ICMP6_ECHO_REPLY, ICMP6_PARAMETER_PROBLEM, ICMP6_TOO_BIG, ICMP6_UNREACHABLE, ICMP_ECHO_REPLY,
    ICMP_FRAGMENTATION_NEEDED, ICMP_HLEN, ICMP_PARAMETER_PROBLEM, ICMP_TIME_EXCEEDED, ICMP_UNREACHABLE,
    UDP_HLEN, IcmpHdr, UdpHdr,
)
from passt.dataplane.ip.icmp_error cimport push_icmp_error, relay_icmp_error
from passt.dataplane.datagram.ip_fields cimport Marks, marks_of, read_marks, set_fragmenting, socket_of
from passt.dataplane.sockets.socket_address cimport local_address, read_sockaddr
from passt.dataplane.base.stats cimport DROP_BAD_ADDRESS, DROP_PROTOCOL, DROP_UNKNOWN_FLOW, count
from passt.dataplane.base.externs cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, EACCES, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE,
    ENETUNREACH, EPERM, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_UDP, IPV6_RECVERR,
    IP_RECVERR, SOL_SOCKET, SO_BROADCAST, SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, SO_EE_ORIGIN_LOCAL, cmsghdr,
    htons, iovec, memcmp, memcpy, memset, msghdr, sock_extended_err, sockaddr_storage,
)
from passt.dataplane.core.decisions cimport ask_source
from passt.dataplane.core.station cimport station_of

cdef enum:
    DRAIN_BUDGET = 32
    QUOTE_SIZE = 1280             # bytes of a quotation: no error holds more
    CONTROL_SIZE = 512
    # Codes of ICMP_UNREACHABLE (RFC 792, RFC 1812 5.2.7.1) and ICMP6_UNREACHABLE (RFC 4443 3.1)
    CODE_NET = 0
    CODE_HOST = 1
    CODE_PROHIBITED = 13
    CODE6_NO_ROUTE = 0
    CODE6_PROHIBITED = 1
    CODE6_ADDRESS = 3

# How long datagrams that are too large may be of a guest that does not know yet.
cdef int64_t GRACE_NS = 1000000000
# How long a guest knows: net.ipv4.route.mtu_expires and net.ipv6.route.mtu_expires (ip-sysctl), which
# begin when it hears of it, after us.
cdef int64_t EXPIRES_NS = 600000000000


cdef struct SocketError:
    # One entry of an error queue. The quotation lies in `quote`, behind the place of a UDP header.
    sock_extended_err what
    sockaddr_storage peer         # whom the datagram was for
    sockaddr_storage local        # whom the report was for
    uint32_t ifindex
    uint8_t offender[16]
    uint8_t offender_len          # 0: nobody, the kernel itself
    uint32_t n                    # bytes quoted
    uint8_t ttl                   # that the report came with, 0: not told


# The quotation of the entry in hand.
cdef uint8_t quote[UDP_HLEN + QUOTE_SIZE]


cdef uint32_t drain_errors(Core core, Flow *owner, uint32_t listener, int fd, uint32_t *mtu) noexcept nogil:
    """Tell the guest what the error queue of a socket holds; returns how many entries it had.

    *owner* is the ping flow or the record of the shared socket *fd*; NULL: it is that of *listener*.
    *mtu* is set where the kernel itself refused a datagram for its size. If entries may be left the
    owner is put on the work list; a listener is readable again by itself.
    """
    cdef SocketError error
    cdef Flow *flow
    cdef uint32_t n = 0
    while n < DRAIN_BUDGET:
        if not read_error(core, fd, &error):
            return n
        n += 1
        if error.what.ee_origin == SO_EE_ORIGIN_LOCAL:
            if error.what.ee_errno == EMSGSIZE:
                mtu[0] = error.what.ee_info
            continue
        flow = flow_of(core, owner, listener, &error)
        if flow == NULL:
            count(&core.stats, DROP_UNKNOWN_FLOW)
        else:
            pass_on(core, flow, &error)
    if owner != NULL:
        core.flows.add_work(owner)
    return n


cdef bint read_error(Core core, int fd, SocketError *out) noexcept nogil:
    """Take one entry; False: there is none."""
    cdef uint8_t control[CONTROL_SIZE]
    cdef msghdr message
    cdef iovec piece
    cdef cmsghdr *item
    cdef Marks marks
    cdef uint16_t port = 0
    cdef ssize_t n
    memset(out, 0, sizeof(SocketError))
    memset(&message, 0, sizeof(message))
    piece.iov_base = quote + UDP_HLEN
    piece.iov_len = QUOTE_SIZE
    message.msg_name = &out.peer
    message.msg_namelen = sizeof(out.peer)
    message.msg_iov = &piece
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = CONTROL_SIZE
    n = core.sockets.receive_error(fd, &message)
    if n < 0:
        return False
    out.n = <uint32_t>n
    read_marks(&message, &marks)
    out.ttl = marks.ttl
    local_address(&message, &out.local, &out.ifindex)
    item = CMSG_FIRSTHDR(&message)
    while item != NULL:
        if (item.cmsg_level == IPPROTO_IP and item.cmsg_type == IP_RECVERR
                or item.cmsg_level == IPPROTO_IPV6 and item.cmsg_type == IPV6_RECVERR):
            memcpy(&out.what, CMSG_DATA(item), sizeof(sock_extended_err))
            if item.cmsg_len > CMSG_LEN(sizeof(sock_extended_err)):
                # The reporter's socket address is right behind (SO_EE_OFFENDER).
                out.offender_len = read_offender(
                    CMSG_DATA(item) + sizeof(sock_extended_err),
                    item.cmsg_len - CMSG_LEN(sizeof(sock_extended_err)), out.offender, &port)
        item = CMSG_NXTHDR(&message, item)
    return True


cdef uint8_t read_offender(const uint8_t *data, size_t n, uint8_t *address, uint16_t *port) noexcept nogil:
    """Take the reporter's address; returns its length, 0 if there is none."""
    cdef sockaddr_storage storage
    memset(&storage, 0, sizeof(storage))
    memcpy(&storage, data, min(n, sizeof(storage)))
    return <uint8_t>read_sockaddr(&storage, address, port)


cdef Flow *flow_of(Core core, Flow *owner, uint32_t listener, const SocketError *error) noexcept nogil:
    """The flow whose datagram an error is about, or NULL."""
    cdef FlowKey key
    cdef Flow *flow
    cdef uint16_t port = 0
    if owner != NULL and owner.kind == FLOW_PING:
        return owner
    if owner != NULL:
        fill_host_key(&key, owner, &error.peer)
    else:
        memset(&key, 0, sizeof(key))
        key.addr_len = <uint8_t>read_sockaddr(&error.peer, key.remote, &key.remote_port)
        read_sockaddr(&error.local, key.guest, &port)
        key.proto = IPPROTO_UDP
        key.scope = <uint16_t>(listener + 1)
    flow = core.flows.find(&key, SIDE_HOST)
    if flow == NULL and owner == NULL:
        # The guest's own flow by a listener that has its port: no answer yet says by which address.
        memset(key.guest, 0, sizeof(key.guest))
        flow = core.flows.find(&key, SIDE_HOST)
    # One that bypasses the link has a socket at its other end, and no guest to tell.
    return NULL if flow != NULL and flow.kind == FLOW_SPLICE_UDP else flow


cdef void pass_on(Core core, Flow *flow, SocketError *error) noexcept nogil:
    """Tell the guest of one error that came by ICMP."""
    cdef bint is_ip4 = flow.keys[0].addr_len == 4
    cdef uint8_t remote[16]
    cdef uint8_t type = error.what.ee_type
    cdef uint16_t port = 0
    cdef const uint8_t *offender = error.offender
    if not is_error(is_ip4, type) or error.what.ee_origin != (
            SO_EE_ORIGIN_ICMP if is_ip4 else SO_EE_ORIGIN_ICMP6):
        count(&core.stats, DROP_PROTOCOL)
        return
    read_sockaddr(&flow.peer, remote, &port)
    if error.offender_len != flow.keys[0].addr_len:
        count(&core.stats, DROP_BAD_ADDRESS)
        return
    if not memcmp(error.offender, remote, 16):
        offender = NULL           # by the address that the guest asked
    elif not ask_source(core, error.offender, error.offender_len, error.offender):
        count(&core.stats, DROP_BAD_ADDRESS)
        return
    if is_mtu_error(is_ip4, type, error.what.ee_code) and not mtu_told_at(flow)[0]:
        mtu_told_at(flow)[0] = core.now
    tell(core, flow, error.n, type, error.what.ee_code, error.what.ee_info, offender, error.ttl)


cdef bint is_error(bint is_ip4, uint8_t type) noexcept nogil:
    """Whether the type is an error's that says what became of a datagram; redirects and quenches do not."""
    if is_ip4:
        return type in (ICMP_UNREACHABLE, ICMP_TIME_EXCEEDED, ICMP_PARAMETER_PROBLEM)
    return ICMP6_UNREACHABLE <= type <= ICMP6_PARAMETER_PROBLEM


cdef bint is_mtu_error(bint is_ip4, uint8_t type, uint8_t code) noexcept nogil:
    if is_ip4:
        return type == ICMP_UNREACHABLE and code == ICMP_FRAGMENTATION_NEEDED
    return type == ICMP6_TOO_BIG


cdef int64_t *mtu_told_at(Flow *flow) noexcept nogil:
    return &flow.body.ping.mtu_told_at if flow.kind == FLOW_PING else &flow.body.udp.mtu_told_at


cdef void tell(Core core, Flow *flow, uint32_t n, uint8_t type, uint8_t code, uint32_t info,
               const uint8_t *offender, uint8_t ttl) noexcept nogil:
    """Send the guest an error about the *n* bytes in `quote`, made to look as the guest sent them."""
    cdef FlowKey *key = &flow.keys[0]
    cdef bint is_ip4 = key.addr_len == 4
    cdef UdpHdr udp
    cdef IcmpHdr icmp
    if flow.kind == FLOW_PING:
        if n < ICMP_HLEN:
            count(&core.stats, DROP_PROTOCOL)
            return
        memcpy(&icmp, quote + UDP_HLEN, ICMP_HLEN)
        icmp.id_be = htons(key.guest_port)
        icmp.csum_be = 0
        memcpy(quote + UDP_HLEN, &icmp, ICMP_HLEN)
        icmp.csum_be = csum_fold(csum_add(quote + UDP_HLEN, n, 0 if is_ip4 else pseudo6(
            key.guest, key.remote, key.proto, n)))
        memcpy(quote + UDP_HLEN, &icmp, ICMP_HLEN)
        relay_icmp_error(core, station_of(core, flow), key, key.proto, quote + UDP_HLEN, n, type, code, info,
                         offender, ttl)
        return
    n += UDP_HLEN
    udp.src_port_be = htons(key.guest_port)
    udp.dst_port_be = htons(key.remote_port)
    udp.len_be = htons(<uint16_t>n)
    udp.csum_be = 0
    memcpy(quote, &udp, UDP_HLEN)
    if is_ip4:
        udp.csum_be = csum_fold(csum_add(quote, n, pseudo4(key.guest, key.remote, IPPROTO_UDP, n)))
    else:
        udp.csum_be = csum_fold(csum_add(quote, n, pseudo6(key.guest, key.remote, IPPROTO_UDP, n)))
    if not udp.csum_be:
        udp.csum_be = 0xffff      # RFC 768
    memcpy(quote, &udp, UDP_HLEN)
    relay_icmp_error(core, station_of(core, flow), key, IPPROTO_UDP, quote, n, type, code, info, offender,
                     ttl)


cdef bint settle_send_error(Core core, Flow *flow, int error, const uint8_t *payload,
                            size_t n) noexcept nogil:
    """Find out why sending failed with *error*, a negative errno; True: try once more.

    *payload* is the datagram's (UDP), or the message (echo). The guest is told what it is to know. The
    caller sees to it that it does not try for ever.
    """
    cdef Flow *owner = flow
    cdef uint32_t mtu = 0
    cdef uint32_t found
    cdef bint is_ping = flow.kind == FLOW_PING
    if not is_ping:
        owner = NULL if flow.body.udp.listener else &core.flows.flows[flow.body.udp.port]
    found = drain_errors(core, owner, flow.body.udp.listener - 1 if owner == NULL else 0,
                         flow.body.udp.listener_fd if owner == NULL else owner.fd, &mtu)
    if error == -EMSGSIZE and mtu:
        return settle_too_big(core, flow, mtu, payload, n)
    if (error == -EACCES and flow.keys[0].addr_len == 4 and not is_ping
            and not marks_of(core, flow).broadcasts):
        # Maybe the kernel asks whether a broadcast is meant (socket(7)). If so, anybody may answer.
        marks_of(core, flow).broadcasts = True
        note_sending(core, payload, n, <uint16_t>n)
        if owner != NULL:
            owner.body.port.groups += 1
        return core.sockets.set_option(socket_of(core, flow), SOL_SOCKET, SO_BROADCAST, 1) == 0
    if found or error == -ECONNREFUSED:
        return True               # that was an earlier datagram's error
    tell_failure(core, flow, error, payload, n)
    return False


cdef bint settle_too_big(Core core, Flow *flow, uint32_t mtu, const uint8_t *payload,
                         size_t n) noexcept nogil:
    """The host's interface takes *mtu* only: tell the guest; True: this datagram may be cut."""
    cdef bint is_ip4 = flow.keys[0].addr_len == 4
    cdef int64_t *told = mtu_told_at(flow)
    cdef bint is_known = told[0] != 0 and core.now - told[0] < EXPIRES_NS
    cdef bint is_ping = flow.kind == FLOW_PING
    cdef bint is_tracer = not is_ping and marks_of(core, flow).tells_ttl
    if is_tracer or is_known and core.now - told[0] >= GRACE_NS:
        report(core, flow, ICMP_UNREACHABLE if is_ip4 else ICMP6_TOO_BIG,
               ICMP_FRAGMENTATION_NEEDED if is_ip4 else 0, mtu, payload, n)
        return False
    if not is_known and not core.link.blocked:
        told[0] = core.now
        tell_mtu(core, flow, mtu)
    set_fragmenting(core, flow.fd if is_ping else socket_of(core, flow), is_ip4, False,
                    &flow.body.ping.fragmenting if is_ping else &marks_of(core, flow).fragmenting)
    return True


cdef void tell_mtu(Core core, const Flow *flow, uint32_t mtu) noexcept nogil:
    """Tell the guest's kernel, and no program, of the path's MTU: about an echo reply, as kernels send."""
    cdef bint is_ip4 = flow.keys[0].addr_len == 4
    cdef uint8_t us[16]
    cdef IcmpHdr icmp
    cdef bint known
    memset(us, 0, 16)
    known = ask_source(core, us, flow.keys[0].addr_len, us)
    memset(&icmp, 0, sizeof(icmp))
    icmp.type = ICMP_ECHO_REPLY if is_ip4 else ICMP6_ECHO_REPLY
    icmp.csum_be = csum_fold(csum_add(<const uint8_t *>&icmp, ICMP_HLEN, 0 if is_ip4 else pseudo6(
        flow.keys[0].guest, flow.keys[0].remote, IPPROTO_ICMPV6, ICMP_HLEN)))
    push_icmp_error(core, station_of(core, flow), &flow.keys[0], IPPROTO_ICMP if is_ip4 else IPPROTO_ICMPV6,
                    <const uint8_t *>&icmp, ICMP_HLEN, ICMP_UNREACHABLE if is_ip4 else ICMP6_TOO_BIG,
                    ICMP_FRAGMENTATION_NEEDED if is_ip4 else 0, mtu,
                    us if known else NULL)


cdef void tell_failure(Core core, Flow *flow, int error, const uint8_t *payload, size_t n) noexcept nogil:
    """Tell the guest of a datagram that the host could not send because of its routes or rules."""
    cdef bint is_ip4 = flow.keys[0].addr_len == 4
    cdef uint8_t code
    if error == -ENETUNREACH:
        code = CODE_NET if is_ip4 else CODE6_NO_ROUTE
    elif error == -EHOSTUNREACH:
        code = CODE_HOST if is_ip4 else CODE6_ADDRESS
    elif error in (-EACCES, -EPERM):
        code = CODE_PROHIBITED if is_ip4 else CODE6_PROHIBITED
    else:
        return
    if flow.kind != FLOW_PING and flow.body.udp.group:
        return                    # RFC 1122 3.2.2
    report(core, flow, ICMP_UNREACHABLE if is_ip4 else ICMP6_UNREACHABLE, code, 0, payload, n)


cdef void report(Core core, Flow *flow, uint8_t type, uint8_t code, uint32_t info, const uint8_t *payload,
                 size_t n) noexcept nogil:
    """Tell the guest of an error that we met ourselves, from the address that stands for us."""
    cdef uint8_t us[16]
    cdef uint32_t taken = <uint32_t>min(n, <size_t>QUOTE_SIZE)
    cdef bint known
    memset(us, 0, 16)
    # The unspecified address asks for our own.
    known = ask_source(core, us, flow.keys[0].addr_len, us)
    memcpy(quote + UDP_HLEN, payload, taken)
    tell(core, flow, taken, type, code, info, us if known else NULL, 0)

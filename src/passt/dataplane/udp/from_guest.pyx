"""UDP from the guest to the host's sockets, in batches.

Theory of operation. Datagrams are gathered while the frames of one batch of the link are parsed, and
leave at its end (`flush_out`), earlier if one goes to another socket: so the payload is sent from
where it was received, and the order within a flow is the guest's. Consecutive datagrams of one flow
and size become one message that the kernel cuts (UDP_SEGMENT, linux/udp.h); all messages leave by one
sendmmsg(2).

A message that the kernel refuses to cut is sent again as its datagrams: none of them has left, as it
refuses before it sends (net/ipv4/udp.c, udp_send_skb). The flow remembers from which size on.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.traffic cimport add_to_host
from passt.dataplane.flow.batches cimport (
    CONTROL_SIZE, MAX_SEGMENTS, OUT_MESSAGES, OUT_PIECES, OutBatch, OutMessage,
)
from passt.dataplane.core.core cimport Core
from passt.dataplane.datagram.group_echoes cimport goes_to_many, note_sending
from passt.dataplane.datagram.socket_errors cimport settle_send_error
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.headers cimport IP4_HLEN, MAX_IP_LEN, UDP_HLEN
from passt.dataplane.packet.parse cimport IpView, UdpView
from passt.dataplane.datagram.ip_fields cimport (
    TRACING_TTL, USUAL_TTL, ask_ttl, marks_of, set_fragmenting, socket_of,
)
from passt.dataplane.base.assertions cimport PASST_ASSERT
from passt.dataplane.base.stats cimport DROP_SOCKET
from passt.dataplane.base.externs cimport (
    AF_INET, CMSG_DATA, CMSG_LEN, CMSG_SPACE, EAGAIN, EINVAL, EIO, EMSGSIZE, ENOBUFS, ENOMEM, IPPROTO_IP,
    IPPROTO_IPV6, IPV6_HOPLIMIT, IPV6_PKTINFO, IPV6_TCLASS, IP_PKTINFO, IP_TOS, IP_TTL, SOL_UDP, UDP_SEGMENT,
    cmsghdr, in6_pktinfo, in_pktinfo, iovec, memcpy, memset, mmsghdr, msghdr,
)

cdef enum:
    # Attempts per message: one may report an earlier error, one may fix the path MTU, one SO_BROADCAST; the
    # last one sends.
    MAX_TRIES = 4


cdef void send_out(Core core, Flow *flow, const IpView *ip, const UdpView *udp,
                   uint16_t segment) noexcept nogil:
    """Add a datagram, or with *segment* several of that size and a shorter last one, to the batch."""
    cdef size_t offset = 0
    cdef size_t n
    if not segment or segment >= udp.payload_len:
        queue_datagrams(core, flow, ip, udp.payload, udp.payload_len, <uint16_t>udp.payload_len)
        return
    # As many at a time as one message may have.
    n = <size_t>segment * (MAX_SEGMENTS if segment <= flow.body.udp.max_segment else 1)
    while offset < udp.payload_len:
        queue_datagrams(core, flow, ip, udp.payload + offset, min(n, udp.payload_len - offset), segment)
        offset += n


cdef void queue_datagrams(Core core, Flow *flow, const IpView *ip, const uint8_t *payload, size_t n,
                          uint16_t segment) noexcept nogil:
    """Add *n* bytes: datagrams of *segment* each and a last one that may be shorter."""
    cdef OutBatch *batch = core.udp.out_batch
    cdef OutMessage *message
    cdef iovec *piece
    cdef int fd = socket_of(core, flow)
    cdef uint32_t n_datagrams = <uint32_t>((n + segment - 1) // segment) if segment else 1
    add_to_host(&flow.body.udp.traffic, n_datagrams, n)
    if goes_to_many(core, flow):
        note_sending(core, payload, n, segment)
    if batch.n_messages and (fd != batch.fd or ip.dont_fragment != batch.dont_fragment):
        flush_out(core)
    message = &batch.messages[batch.n_messages - 1] if batch.n_messages else NULL
    if message == NULL or not fits_message(message, flow, ip, n, n_datagrams, segment):
        if batch.n_messages == OUT_MESSAGES:
            flush_out(core)
        batch.fd = fd
        batch.dont_fragment = ip.dont_fragment
        PASST_ASSERT(batch.n_messages < OUT_MESSAGES)
        message = &batch.messages[batch.n_messages]
        batch.n_messages += 1
        memset(message, 0, sizeof(OutMessage))
        message.flow = flow
        message.first = batch.n_pieces
        message.segment = segment
        message.ttl = ip.ttl
        message.tos = ip.tos
    PASST_ASSERT(batch.n_pieces < OUT_PIECES)
    piece = &batch.pieces[batch.n_pieces]
    piece.iov_base = <void *>payload
    piece.iov_len = n
    batch.n_pieces += 1
    message.n_pieces += 1
    message.n_datagrams += n_datagrams
    message.total += <uint32_t>n
    message.ended = n != <size_t>message.segment * n_datagrams or not n
    if batch.n_pieces == OUT_PIECES:
        flush_out(core)


cdef bint fits_message(const OutMessage *message, const Flow *flow, const IpView *ip, size_t n,
                       uint32_t n_datagrams, uint16_t segment) noexcept nogil:
    """Whether the datagrams may join the message: RFC 768 lengths, and what UDP_SEGMENT can tell apart."""
    cdef uint32_t most = MAX_IP_LEN - UDP_HLEN - (IP4_HLEN if ip.addr_len == 4 else 0)
    if message.flow != flow or message.ended or message.ttl != ip.ttl or message.tos != ip.tos:
        return False
    if segment != message.segment and (n_datagrams != 1 or n > message.segment or not n):
        return False
    if message.segment > flow.body.udp.max_segment:
        return False
    return message.n_datagrams + n_datagrams <= MAX_SEGMENTS and message.total + n <= most


cdef void flush_out(Core core) noexcept nogil:
    """Send the batch; the memory of its payload is free then."""
    cdef OutBatch *batch = core.udp.out_batch
    cdef uint32_t n = batch.n_messages
    cdef uint32_t done = 0
    cdef uint32_t tries = 0       # of the message that is the next one
    cdef uint32_t i
    cdef const iovec *piece
    cdef const Flow *flow
    cdef int sent
    if not n:
        return
    for i in range(n):
        # A listener of both families is told for each of them.
        flow = batch.messages[i].flow
        set_fragmenting(core, batch.fd, flow.keys[0].addr_len == 4, batch.dont_fragment,
                        &marks_of(core, flow).fragmenting)
        fill_header(core, batch, i)
    while done < n:
        sent = core.sockets.send_messages(batch.fd, &batch.headers[done], n - done)
        if sent > 0:
            done += <uint32_t>sent
            tries = 0
            continue
        piece = &batch.pieces[batch.messages[done].first]
        tries += 1
        if batch.messages[done].n_datagrams > 1 and sent in (-EINVAL, -EIO, -EMSGSIZE):
            send_apart(core, batch, done, sent)
        elif is_final_error(sent) or tries == MAX_TRIES or not settle_send_error(
                core, batch.messages[done].flow, sent, <const uint8_t *>piece.iov_base, piece.iov_len):
            core.stats.drops[<int>DROP_SOCKET] += batch.messages[done].n_datagrams
        else:
            continue
        done += 1
        tries = 0
    batch.n_messages = 0
    batch.n_pieces = 0


cdef bint is_final_error(int result) noexcept nogil:
    """Whether the error means that this very datagram is lost, and not an earlier one."""
    return result in (-EAGAIN, -ENOBUFS, -ENOMEM, -EINVAL, -EIO)


cdef void send_apart(Core core, OutBatch *batch, uint32_t number, int refused) noexcept nogil:
    """Send each datagram of a message that the kernel will not cut."""
    cdef OutMessage *message = &batch.messages[number]
    cdef mmsghdr headers[MAX_SEGMENTS]
    cdef iovec pieces[MAX_SEGMENTS]
    cdef uint8_t control[CONTROL_SIZE]
    cdef uint32_t n = 0
    cdef uint32_t done = 0
    cdef uint32_t tries = 0
    cdef uint32_t i
    cdef size_t offset
    cdef iovec *piece
    cdef int sent
    message.flow.body.udp.max_segment = 0 if refused == -EIO else <uint16_t>(message.segment - 1)
    for i in range(message.n_pieces):
        piece = &batch.pieces[message.first + i]
        offset = 0
        while offset < piece.iov_len:
            pieces[n].iov_base = <uint8_t *>piece.iov_base + offset
            pieces[n].iov_len = min(<size_t>message.segment, piece.iov_len - offset)
            memset(&headers[n], 0, sizeof(mmsghdr))
            fill_address(core, message, &headers[n].msg_hdr, control)
            headers[n].msg_hdr.msg_iov = &pieces[n]
            headers[n].msg_hdr.msg_iovlen = 1
            offset += pieces[n].iov_len
            n += 1
    while done < n:
        sent = core.sockets.send_messages(batch.fd, &headers[done], n - done)
        if sent > 0:
            done += <uint32_t>sent
            tries = 0
            continue
        tries += 1
        if is_final_error(sent) or tries == MAX_TRIES or not settle_send_error(
                core, message.flow, sent, <const uint8_t *>pieces[done].iov_base, pieces[done].iov_len):
            core.stats.drops[<int>DROP_SOCKET] += 1
            done += 1
            tries = 0


cdef void fill_header(Core core, OutBatch *batch, uint32_t number) noexcept nogil:
    """Prepare the system call's header of a message."""
    cdef OutMessage *message = &batch.messages[number]
    cdef msghdr *header = &batch.headers[number].msg_hdr
    memset(header, 0, sizeof(msghdr))
    fill_address(core, message, header, batch.control[number])
    header.msg_iov = &batch.pieces[message.first]
    header.msg_iovlen = message.n_pieces
    if message.n_datagrams > 1:
        add_control(header, batch.control[number], SOL_UDP, UDP_SEGMENT, &message.segment, sizeof(uint16_t))


cdef void fill_address(Core core, const OutMessage *message, msghdr *header, uint8_t *control) noexcept nogil:
    """Say where a message goes, and for a listener's socket from which address (ip(7), ipv6(7)).

    And by which interface, multicasts too: that comes before what the socket is set to.
    """
    cdef Flow *flow = message.flow
    cdef in_pktinfo is_ip4
    cdef in6_pktinfo six
    header.msg_name = &flow.peer
    header.msg_namelen = flow.peer_len
    add_marks(core, message, header, control)
    if not flow.body.udp.listener:
        return
    if flow.body.udp.local_family == AF_INET:
        memset(&is_ip4, 0, sizeof(is_ip4))
        memcpy(&is_ip4.ipi_spec_dst, flow.keys[1].guest, 4)
        is_ip4.ipi_ifindex = <int>flow.body.udp.ifindex
        add_control(header, control, IPPROTO_IP, IP_PKTINFO, &is_ip4, sizeof(is_ip4))
        return
    memset(&six, 0, sizeof(six))
    six.ipi6_ifindex = flow.body.udp.ifindex
    if flow.keys[1].addr_len == 4:
        six.ipi6_addr.s6_addr[10] = 0xff
        six.ipi6_addr.s6_addr[11] = 0xff
        memcpy(&six.ipi6_addr.s6_addr[12], flow.keys[1].guest, 4)
    else:
        memcpy(&six.ipi6_addr, flow.keys[1].guest, 16)
    add_control(header, control, IPPROTO_IPV6, IPV6_PKTINFO, &six, sizeof(six))


cdef void add_marks(Core core, const OutMessage *message, msghdr *header, uint8_t *control) noexcept nogil:
    """Give TTL and TOS of the guest's packet with a message, where they differ from the socket's own."""
    cdef bint is_ip4 = message.flow.keys[0].addr_len == 4
    cdef int level = IPPROTO_IP if is_ip4 else IPPROTO_IPV6
    cdef int32_t value = message.ttl
    # By itself a multicast goes no further than the link (ip(7), IP_MULTICAST_TTL).
    if value and (value != USUAL_TTL or message.flow.body.udp.group):
        add_control(header, control, level, IP_TTL if is_ip4 else IPV6_HOPLIMIT, &value, sizeof(value))
    if message.ttl < TRACING_TTL:
        ask_ttl(core, message.flow)
    if message.tos:
        value = message.tos
        add_control(header, control, level, IP_TOS if is_ip4 else IPV6_TCLASS, &value, sizeof(value))


cdef void add_control(msghdr *header, uint8_t *control, int level, int kind, const void *value,
                      size_t n) noexcept nogil:
    """Append one item to the control data, which lies at *control* (cmsg(3))."""
    cdef cmsghdr *item = <cmsghdr *>(control + header.msg_controllen)
    memset(item, 0, CMSG_SPACE(n))
    item.cmsg_level = level
    item.cmsg_type = kind
    item.cmsg_len = CMSG_LEN(n)
    memcpy(CMSG_DATA(item), value, n)
    header.msg_control = control
    header.msg_controllen += CMSG_SPACE(n)

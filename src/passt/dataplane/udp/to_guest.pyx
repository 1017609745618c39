"""UDP from the host's sockets to the guest, in batches.

Theory of operation. One recvmmsg(2) takes what a socket has, up to a number of datagrams and, by the
size of those before, of bytes. Consecutive datagrams of one flow and size become one frame that the
guest's kernel cuts (VIRTIO_NET_HDR_GSO_UDP_L4) where the link can; its payload is sent from where it was
received. The kernel joins only datagrams that were sent joined (UDP_GRO); they are treated alike.

A socket that had more than one batch is looked at again at the end of the turn, after all others. While
the link is full nothing is read: a socket of ours waits for the link like any flow, a listener is not
watched until then.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.traffic cimport add_to_guest
from passt.dataplane.flow.batches cimport CONTROL_SIZE, IN_MESSAGES, MAX_SEGMENTS, InBatch
from passt.dataplane.core.core cimport Core
from passt.dataplane.packet.checksum cimport csum_fold, pseudo4, pseudo6
from passt.dataplane.datagram.group_echoes cimport is_own_echo
from passt.dataplane.datagram.socket_errors cimport drain_errors
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport FLOW_SPLICE_UDP, Flow
from passt.dataplane.ip.fragments cimport send_packet
from passt.dataplane.packet.headers cimport ETH_HLEN, IP4_HLEN, IP6_HLEN, MAX_IP_LEN, UDP_HLEN, UdpHdr
from passt.dataplane.link.link cimport LINK_USO4, LINK_USO6
from passt.dataplane.datagram.ip_fields cimport Marks, read_marks
from passt.dataplane.bypass.udp_bypass cimport add_spliced, flush_spliced
from passt.dataplane.base.stats cimport DROP_OWN_ECHO, DROP_SOCKET, DROP_TRUNCATED, count
from passt.dataplane.base.externs cimport (
    EAGAIN, IPPROTO_UDP, MSG_TRUNC, VIRTIO_NET_HDR_GSO_UDP_L4, htons, iovec, malloc, memcmp, memcpy, memset,
    mmsghdr, msghdr, sockaddr_storage,
)
from passt.dataplane.core.station cimport station_of
from passt.dataplane.datagram.lifetime cimport end_datagram
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.packet.build cimport mark_packet
from passt.dataplane.udp.flows cimport flow_from, inbound_flow, note_received

cdef enum:
    MAX_DATAGRAM = 65536
    # Room of one datagram. No power of two: the first bytes of all would share few cache lines.
    STRIDE = 65536 + 17 * 64
    # Bytes of a batch, estimated from the batch before: as much as a link that blocks can keep.
    BATCH_BYTES = 256000
    MIN_BATCH = 4                    # datagrams per batch
    MAX_ERRORS = 8               # of a socket in one turn


cdef struct Run:
    # Datagrams that become one frame; only the last may be shorter, which *ended* tells.
    Flow *flow
    uint32_t n_pieces
    uint32_t n_datagrams
    uint32_t total
    uint32_t segment
    uint8_t tos
    bint ended
    iovec pieces[IN_MESSAGES]


cdef void read_port(Core core, Flow *port) noexcept nogil:
    """Datagrams or errors on a socket that flows share."""
    cdef uint32_t mtu = 0
    cdef int errors = 0
    cdef int room = room_for(port.body.port.longest)
    cdef int n = 0
    if not port.body.port.users:
        end_datagram(core, port)  # see `flows.open_answer`
        return
    if core.link.blocked:
        core.flows.add_waiting(port)
        return
    while n <= 0 and errors < MAX_ERRORS:
        n = receive_batch(core, port.fd, room)
        if n == -EAGAIN:
            return
        if n < 0:
            errors += 1
            if not drain_errors(core, port, 0, port.fd, &mtu):
                count(&core.stats, DROP_SOCKET)
    if n > 0:
        port.body.port.longest = deal_out(core, port, 0, port.fd, n)
    if n < 0 or n == room:
        core.flows.add_work(port)


cdef void read_listener(Core core, uint32_t listener, int fd, bint in_namespace) noexcept nogil:
    """Datagrams or errors on a listener; what is left makes it readable in the next turn."""
    cdef int room = room_for(core.udp.in_batch.longest)
    cdef uint32_t mtu = 0
    cdef int errors = 0
    cdef int n
    if core.link.blocked and not in_namespace:
        # Errors keep it readable, so take them now.
        drain_errors(core, NULL, listener, fd, &mtu)
        core.listeners.pause(listener, fd)
        return
    while errors < MAX_ERRORS:
        n = receive_batch(core, fd, room)
        if n == -EAGAIN:
            return
        if n > 0:
            core.udp.in_batch.longest = deal_out(core, NULL, listener, fd, n)
            return
        errors += 1
        if not drain_errors(core, NULL, listener, fd, &mtu):
            count(&core.stats, DROP_SOCKET)


cdef void read_spliced(Core core, Flow *flow) noexcept nogil:
    """Datagrams or errors on the socket of a flow that bypasses the link."""
    cdef InBatch *batch = core.udp.in_batch
    cdef int errors = 0
    cdef int n = 0
    cdef int i
    while n <= 0 and errors < MAX_ERRORS:
        n = receive_batch(core, flow.fd, IN_MESSAGES)
        if n == -EAGAIN:
            return
        if n < 0:
            count(&core.stats, DROP_SOCKET)
            errors += 1
    for i in range(n):
        if batch.headers[i].msg_hdr.msg_flags & MSG_TRUNC:
            count(&core.stats, DROP_TRUNCATED)
        else:
            add_spliced(core, flow, &batch.headers[i], joined_size(&batch.headers[i].msg_hdr), True)
    flush_spliced(core)
    for i in range(n):
        reset_header(batch, i)
    if n < 0 or n == IN_MESSAGES:
        core.flows.add_work(flow)


cdef int room_for(uint32_t longest) noexcept nogil:
    """How many datagrams a batch may have where those of the last one had up to *longest* bytes."""
    return max(min(BATCH_BYTES // (<int>longest + 1), <int>IN_MESSAGES), <int>MIN_BATCH)


cdef int receive_batch(Core core, int fd, int room) noexcept nogil:
    """Receive up to *room* datagrams; their number or a negative errno."""
    cdef InBatch *batch = core.udp.in_batch
    cdef int i
    if batch.memory == NULL:
        batch.memory = <uint8_t *>malloc(IN_MESSAGES * STRIDE)
        if batch.memory == NULL:
            return -EAGAIN
        for i in range(IN_MESSAGES):
            batch.pieces[i].iov_base = batch.memory + i * STRIDE
            batch.pieces[i].iov_len = MAX_DATAGRAM
            reset_header(batch, i)
    return core.sockets.receive_messages(fd, batch.headers, <unsigned int>room)


cdef void reset_header(InBatch *batch, int i) noexcept nogil:
    """Make the header of message *i* ready to be filled (again)."""
    cdef msghdr *header = &batch.headers[i].msg_hdr
    header.msg_name = &batch.names[i]
    header.msg_namelen = sizeof(sockaddr_storage)
    header.msg_iov = &batch.pieces[i]
    header.msg_iovlen = 1
    header.msg_control = batch.control[i]
    header.msg_controllen = CONTROL_SIZE
    header.msg_flags = 0


cdef uint32_t deal_out(Core core, Flow *port, uint32_t listener, int fd, int n) noexcept nogil:
    """Send the guest the *n* datagrams received, of a socket or a listener; returns the longest size."""
    cdef InBatch *batch = core.udp.in_batch
    cdef Flow *flow = NULL
    cdef Run run
    cdef uint32_t longest = 0
    cdef int i
    run.flow = NULL
    for i in range(n):
        longest = max(longest, batch.headers[i].msg_len)
        if batch.headers[i].msg_hdr.msg_flags & MSG_TRUNC:
            count(&core.stats, DROP_TRUNCATED)
            flow = NULL           # the next one is not to be compared with this sender
            continue
        if is_own_echo(core, fd, &batch.headers[i].msg_hdr, batch.headers[i].msg_len):
            count(&core.stats, DROP_OWN_ECHO)
            flow = NULL
            continue
        if flow == NULL or not same_source(batch, i):
            # A new flow may crowd an old one out, whose datagrams must be away by then.
            send_run(core, &run)
            flush_spliced(core)
            if port != NULL:
                flow = flow_from(core, port, &batch.names[i])
            else:
                flow = inbound_flow(core, listener, fd, &batch.headers[i].msg_hdr)
        if flow == NULL:
            continue
        if flow.kind == FLOW_SPLICE_UDP:
            add_spliced(core, flow, &batch.headers[i], joined_size(&batch.headers[i].msg_hdr), False)
        else:
            add_message(core, &run, flow, &batch.headers[i])
    send_run(core, &run)
    flush_spliced(core)
    for i in range(n):
        reset_header(batch, i)
    return longest


cdef uint32_t joined_size(msghdr *message) noexcept nogil:
    """Size of the datagrams that the kernel joined to one message, 0: it is one."""
    cdef Marks marks
    read_marks(message, &marks)
    return marks.segment


cdef bint same_source(const InBatch *batch, int i) noexcept nogil:
    """Whether message *i* came from the same remote, to the same address, as the one before it."""
    cdef const msghdr *this = &batch.headers[i].msg_hdr
    cdef const msghdr *previous = &batch.headers[i - 1].msg_hdr
    if this.msg_namelen != previous.msg_namelen or this.msg_controllen != previous.msg_controllen:
        return False
    if memcmp(this.msg_name, previous.msg_name, this.msg_namelen):
        return False
    return not memcmp(this.msg_control, previous.msg_control, this.msg_controllen)


cdef void add_message(Core core, Run *run, Flow *flow, mmsghdr *message) noexcept nogil:
    """Add what one message brought, one datagram or several."""
    cdef uint8_t *payload = <uint8_t *>message.msg_hdr.msg_iov.iov_base
    cdef uint32_t left = message.msg_len
    cdef uint32_t segment, n
    cdef Marks marks
    read_marks(&message.msg_hdr, &marks)
    segment = marks.segment
    if not segment or segment >= left:
        add_to_run(core, run, flow, payload, left, left, marks.tos)
        return
    n = segment * (MAX_SEGMENTS if may_join(core, flow, segment) else 1)
    while left:
        add_to_run(core, run, flow, payload, min(n, left), segment, marks.tos)
        payload += min(n, left)
        left -= min(n, left)


cdef void add_to_run(Core core, Run *run, Flow *flow, uint8_t *payload, uint32_t n,
                     uint32_t segment, uint8_t tos) noexcept nogil:
    """Add *n* bytes: datagrams of *segment* each and a last one that may be shorter."""
    cdef uint32_t n_datagrams = (n + segment - 1) // segment if segment else 1
    if n > most_payload(flow):
        count(&core.stats, DROP_TRUNCATED)
        return
    if run.flow == NULL or run.tos != tos or not fits_run(core, run, flow, n, n_datagrams, segment):
        send_run(core, run)
        run.flow = flow
        run.tos = tos
        run.segment = segment
    run.pieces[run.n_pieces].iov_base = payload
    run.pieces[run.n_pieces].iov_len = n
    run.n_pieces += 1
    run.n_datagrams += n_datagrams
    run.total += n
    run.ended = n != run.segment * n_datagrams or not n


cdef uint32_t most_payload(const Flow *flow) noexcept nogil:
    # IPv4 counts its header in the packet's length, IPv6 does not.
    return MAX_IP_LEN - UDP_HLEN - (IP4_HLEN if flow.keys[0].addr_len == 4 else 0)


cdef bint fits_run(Core core, const Run *run, const Flow *flow, uint32_t n, uint32_t n_datagrams,
                   uint32_t segment) noexcept nogil:
    """Whether the datagrams may join the run."""
    if run.flow != flow or run.ended or not n or run.n_pieces == IN_MESSAGES:
        return False
    if segment != run.segment and (n_datagrams != 1 or n > run.segment):
        return False
    if run.n_datagrams + n_datagrams > MAX_SEGMENTS or run.total + n > most_payload(flow):
        return False
    return may_join(core, flow, run.segment)


cdef bint may_join(Core core, const Flow *flow, uint32_t segment) noexcept nogil:
    """Whether the link can cut datagrams of that size, and the way to the guest takes them."""
    cdef uint32_t headers = UDP_HLEN + (IP4_HLEN if flow.keys[0].addr_len == 4 else IP6_HLEN)
    cdef uint32_t need = LINK_USO4 | LINK_USO6
    return core.link.features & need == need and segment + headers <= flow.body.udp.packet_limit


cdef void send_run(Core core, Run *run) noexcept nogil:
    """Send the guest the run, and begin the next one."""
    cdef TxMeta meta
    if run.flow != NULL:
        note_received(core, run.flow, run.n_datagrams)
        add_to_guest(&run.flow.body.udp.traffic, run.n_datagrams, run.total)
        fill_headers(core, run.flow, run.total, &meta)
        if run.tos:
            mark_packet(core.link.slot + ETH_HLEN, run.flow.keys[0].addr_len == 4, run.tos, 0)
        if run.n_datagrams > 1:
            meta.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4
            meta.gso_size = <uint16_t>run.segment
            core.packet_id += run.n_datagrams - 1     # each gets the next identification where it is cut
        if run.n_datagrams == 1 and meta.hdr_len - ETH_HLEN + run.total > run.flow.body.udp.packet_limit:
            memcpy(core.link.slot + meta.hdr_len, run.pieces[0].iov_base, run.total)
            send_packet(core, meta.hdr_len + run.total, &meta, run.flow.body.udp.packet_limit)
        else:
            core.send_pieces(run.pieces, run.n_pieces, &meta)
    run.flow = NULL
    run.n_pieces = 0
    run.n_datagrams = 0
    run.total = 0
    run.ended = False


cdef void fill_headers(Core core, const Flow *flow, uint32_t n, TxMeta *meta) noexcept nogil:
    """Write all headers for *n* bytes of payload at the link's slot, and what is left to do to *meta*."""
    cdef const FlowKey *key = &flow.keys[0]
    cdef uint32_t l4_len = UDP_HLEN + n
    cdef UdpHdr udp
    cdef uint8_t *place = core.push_ip(station_of(core, flow), key.remote, key.guest, key.addr_len,
                                       IPPROTO_UDP, l4_len)
    udp.src_port_be = htons(key.remote_port)
    udp.dst_port_be = htons(key.guest_port)
    udp.len_be = htons(<uint16_t>l4_len)
    if key.addr_len == 4:
        udp.csum_be = <uint16_t>~csum_fold(pseudo4(key.remote, key.guest, IPPROTO_UDP, l4_len))
    else:
        udp.csum_be = <uint16_t>~csum_fold(pseudo6(key.remote, key.guest, IPPROTO_UDP, l4_len))
    memcpy(place, &udp, UDP_HLEN)
    memset(meta, 0, sizeof(TxMeta))
    meta.csum_start = <uint16_t>(place - core.link.slot)
    meta.csum_offset = 6
    meta.hdr_len = meta.csum_start + UDP_HLEN

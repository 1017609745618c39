"""What the translators of one engine share: the objects, the facts learnt of the guest, the few
calls that cross into Python, and the building of the headers that all protocols have in common.

Everything that may run Python is marked `with gil` here and nowhere else in the translators, so the
compiler itself proves that no other function of theirs touches a Python object per frame. An
exception in a callback is a mistake of ours: it is kept in `failure`, the loop stops, and
`Engine.run` raises it.
"""

from passt.facts.contracts import Target

from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.batches cimport InBatch, OutBatch
from passt.dataplane.packet.checksum cimport csum_add, csum_fold
from passt.dataplane.flow.table cimport Flow, FlowTable
from passt.dataplane.packet.headers cimport (
    ETH_ALEN, ETH_HLEN, ETH_MIN_FRAME, ETHERTYPE_IP4, ETHERTYPE_IP6, IP4_DF, IP4_HLEN, IP6_HLEN, EthHdr,
    Ip4Hdr, Ip6Hdr,
)
from passt.dataplane.core.listeners cimport Listener, Listeners, SharedListener
from passt.dataplane.packet.reassembly cimport Reassembler
from passt.dataplane.link.link cimport Link
from passt.dataplane.sockets.pipe_pool cimport PipePool
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.sockets.sockets cimport Sockets, fill_sockaddr, read_sockaddr
from passt.dataplane.base.stats cimport DROP_CONTROL_RATE, DROP_OVERSIZE, count
from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, EINVAL, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, SOCK_STREAM, calloc,
    close, free, htonl, htons, iovec, malloc, memcpy, memset, sockaddr_storage,
)
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.loop.timers cimport HeapEntry
from passt.dataplane.observe.frame_observer cimport Watch

cdef enum:
    TTL_TO_GUEST = 255
    # What all connections together may hold (see pool): enough for a hundred windows of the usual size at
    # once, and no way for a guest to make the process grow further.
    POOL_SIZE = 32 << 20
    DEFAULT_MTU = 65520           # of a guest that is assigned none, passt(1) --mtu
    COPY_BELOW = 2048             # octets that are copied faster than a second piece is looked at
    # Control frames and news of the guest cost Python's time, some 100 and 10 us each, so a guest gets
    # as many as its start or a sweep over its neighbours takes, and then a steady rate: not more than
    # 3 % and 0.1 % of a processor for one that sends nothing else.
    CONTROL_INTERVAL_NS = 5_000_000
    CONTROL_BURST = 256
    NEWS_INTERVAL_NS = 10_000_000
    NEWS_BURST = 64

# Linux' defaults of nf_conntrack_udp_timeout and nf_conntrack_udp_timeout_stream.
cdef int64_t UDP_ONCE_NS = 30000000000
cdef int64_t UDP_STREAM_NS = 120000000000


cdef bint admit(Bucket *bucket, int64_t now, int64_t interval, int64_t burst) noexcept nogil:
    """Take one from *bucket*, which holds *burst* and gets one back each *interval* ns; False: empty."""
    if bucket.full_until < now:
        bucket.full_until = now
    if bucket.full_until - now > (burst - 1) * interval:
        return False
    bucket.full_until += interval
    return True


cdef class Core:
    """Shared state of one engine; see engine.pyi for the arguments."""

    def __init__(self, object policy, object responder, object events, Link link, Sockets sockets, *,
                 bytes our_mac, uint32_t mtu, uint32_t max_flows, bytes secret, bytes our_ip4=bytes(4)):
        if len(our_mac) != ETH_ALEN or len(secret) != 16 or len(our_ip4) != 4:
            raise ValueError("a MAC address has 6 bytes, the secret 16, an IPv4 address 4")
        self.policy = policy
        self.responder = responder
        self.events = events
        self.sockets = sockets
        self.reactor = sockets.reactor
        self.flows = FlowTable(max_flows, secret)
        self.listeners = Listeners(sockets)
        self.mtu = mtu
        self.packet_limit = max(mtu or DEFAULT_MTU, <uint32_t>MIN_MTU)
        self.reassembler = Reassembler()
        self.fragment_timer = max_flows + 1
        memcpy(&self.packet_id, <const char *>secret + 4, sizeof(self.packet_id))
        self.packet_id ^= 0x5a5a5a5a
        self.ip4_on = self.ip6_on = self.tcp_on = self.udp_on = self.icmp_on = True
        memcpy(self.our_mac, <const char *>our_mac, ETH_ALEN)
        memcpy(self.our_ip4, <const char *>our_ip4, 4)
        memset(self.guest_mac, 0xff, ETH_ALEN)
        memcpy(self.isn_key, <const char *>secret, 16)
        # The table's hash and the sequence numbers must not tell of each other.
        self.isn_key[0] ^= 0xa5a5a5a5a5a5a5a5ULL
        self.pool = Pool(POOL_SIZE)
        self.udp_once = UDP_ONCE_NS
        self.udp_stream = UDP_STREAM_NS
        self.out_batch = <OutBatch *>calloc(1, sizeof(OutBatch))
        self.in_batch = <InBatch *>calloc(1, sizeof(InBatch))
        if self.out_batch == NULL or self.in_batch == NULL:
            raise MemoryError
        self.now = self.reactor.clock()
        self.pipes = PipePool()
        self.pipes.n_open = &self.stats.pipes_open
        self.ready_size = READY_SOCKETS
        self.copy_space = <uint8_t *>malloc(COPY_SIZE)
        self.answers = <Answer *>calloc(N_ANSWERS, sizeof(Answer))
        if self.copy_space == NULL or self.answers == NULL:
            raise MemoryError
        self.watch = Watch(self.flows)
        self.use_link(link)

    def fit_descriptors(self, uint64_t descriptors):
        """Have what is kept in reserve leave most of so many descriptors to connections."""
        # Each flow of datagrams may have one; connections and listeners need some too.
        self.flows.max_datagram = <uint32_t>min(<uint64_t>self.flows.max_datagram,
                                                max(descriptors // 2, <uint64_t>1))
        self.ready_size = <int>min(max(descriptors // 64, <uint64_t>1), <uint64_t>READY_SOCKETS)
        self.pipes.fit(descriptors)

    def use_link(self, Link link not None):
        """Send and receive through *link* from now on."""
        self.link = link
        link.stats = &self.stats
        link.watch = self.watch

    def __dealloc__(self):
        free(self.copy_space)
        free(self.answers)
        free(self.splice_batch)
        if self.in_batch != NULL:
            free(self.in_batch.memory)
        free(self.in_batch)
        free(self.out_batch)

    cdef void fail(self, object error):
        if self.failure is None:
            self.failure = error
            self.has_failed = True

    def fail_by(self, error):
        """Keep an exception of a hook that others call."""
        self.fail(error)

    cdef bint ask_outbound(self, Flow *flow, Route *route) noexcept with gil:
        """Have the policy route a flow that the guest opens; False: refused."""
        cdef size_t n = flow.keys[0].addr_len
        cdef object target, error
        memset(route, 0, sizeof(Route))
        try:
            target = self.policy.outbound(
                flow.keys[0].proto, (<char *>flow.keys[0].guest)[:n], flow.keys[0].guest_port,
                (<char *>flow.keys[0].remote)[:n], flow.keys[0].remote_port)
            if target is None:
                return False
            fill_route(route, target)
            return True
        except BaseException as error:
            self.fail(error)
            return False

    cdef bint ask_inbound(self, uint32_t listener, uint8_t proto, const sockaddr_storage *peer,
                          const sockaddr_storage *local, Seen *seen) noexcept with gil:
        """Have the policy say where a flow goes that came to *listener*; False: refused."""
        cdef uint8_t far_address[16]
        cdef uint8_t near_address[16]
        cdef uint16_t far_port = 0
        cdef uint16_t near_port = 0
        cdef size_t n = read_sockaddr(peer, far_address, &far_port)
        cdef size_t m = read_sockaddr(local, near_address, &near_port)
        cdef bytes text
        cdef Listener source
        cdef object target, error, ask, rule
        memset(seen, 0, sizeof(Seen))
        # Where the flow goes is decided by what the guest was seen to use last.
        self.tell(self.untold)
        try:
            source = self.listeners.at(listener)
            seen.from_namespace = source.in_namespace
            rule = source.rule
            ask = self.policy.from_namespace if seen.from_namespace else self.policy.inbound
            target = ask(proto, rule, (<char *>far_address)[:n], far_port,
                         (<char *>near_address)[:m], near_port)
            if target is None:
                return False
            if type(target) is Target:
                seen.bypass = True
                fill_route(&seen.route, target)
                if target.lasting:
                    self.keep_answer(listener, far_address, near_address, n, seen)
                return True
            text = target.source
            seen.addr_len = <uint8_t>len(text)
            memcpy(seen.source, <const char *>text, min(len(text), 16))
            text = target.destination
            memcpy(seen.destination, <const char *>text, min(len(text), 16))
            seen.source_port = target.source_port
            seen.destination_port = target.destination_port
            return True
        except BaseException as error:
            self.fail(error)
            return False

    cdef void keep_answer(self, uint32_t listener, const uint8_t *peer, const uint8_t *local, size_t n,
                          const Seen *seen) noexcept nogil:
        """Have the answer in *seen* found for later connections (`answers.find_answer`)."""
        cdef Answer *answer = &self.answers[answer_slot(listener, peer, local)]
        self.has_answers = True
        answer.listener = listener + 1
        answer.addr_len = n
        memcpy(answer.peer, peer, 16)
        memcpy(answer.local, local, 16)
        answer.from_namespace = seen.from_namespace
        answer.route = seen.route

    cdef void forget_answers(self) noexcept nogil:
        """What the policy goes by has changed."""
        if self.has_answers:
            memset(self.answers, 0, N_ANSWERS * sizeof(Answer))
            self.has_answers = False

    cdef bint ask_source(self, const uint8_t *address, size_t n, uint8_t *seen) noexcept with gil:
        """Have the policy say by which address the guest knows one of the host's side; False: by none.

        *seen* has 16 octets, what is behind the address is zeroed; *address* may be the same memory.
        """
        cdef bytes text
        cdef object found, error
        try:
            found = self.policy.seen_source((<const char *>address)[:n])
            if found is None or <size_t>len(found) != n:
                return False
            text = found
            memset(seen, 0, 16)
            memcpy(seen, <const char *>text, n)
            return True
        except BaseException as error:
            self.fail(error)
            return False

    cdef bint ask_listener(self, const FlowKey *key, const Route *route, const uint8_t *source,
                           bint any_peer, SharedListener *found) noexcept with gil:
        """The listener on the guest's own port by which a flow of that endpoint can leave; False: none.

        Its socket has the port that a socket of ours would need to keep, and the answers come to it. It can
        send from *source*, 16 octets, 0: as routed. That it leads to the guest's endpoint is enough with
        *any_peer*; else it must hand what the peer sends to this very flow.
        """
        cdef uint8_t address[16]
        cdef uint16_t port = 0
        cdef size_t n
        cdef Listener listener
        cdef object error, seen, guest, local
        cdef list candidates = self.listeners.sharing(key.guest_port)
        if not candidates:
            return False
        self.tell(self.untold)
        n = read_sockaddr(&route.peer, address, &port)
        guest = (<const char *>key.guest)[:n]
        seen = ((<const char *>key.remote)[:n], key.remote_port, guest, key.guest_port)
        local = (<const char *>source)[:n]
        try:
            for listener in candidates:
                if not listener.may_send(route.peer.ss_family, local, <bytes>route.ifname):
                    continue
                if self.leads_there(listener, any_peer, (<char *>address)[:n], port, seen):
                    found.index = listener.index
                    found.fd = listener.fd
                    found.family = listener.families[0]
                    return True
        except BaseException as error:
            self.fail(error)
        return False

    cdef bint leads_there(self, Listener listener, bint any_peer, bytes peer, int peer_port,
                          tuple seen) except *:
        """Whether a listener leads to the guest's endpoint in *seen*, and for one peer to that very flow."""
        if any_peer:
            return self.policy.leads_to(IPPROTO_UDP, listener.rule, seen[2], seen[3])
        target = self.policy.inbound(IPPROTO_UDP, listener.rule, peer, peer_port, bytes(len(peer)), seen[3])
        return target is not None and tuple(target) == seen

    cdef bint may_share_port(self, const FlowKey *key, const Route *route) noexcept with gil:
        """Whether the guest's port is taken by listeners that have less of it than a new socket would.

        Such a one gets what comes to its address or device before that socket does, and hands it to the
        same guest; so the port may be bound once more.
        """
        cdef uint8_t address[16]
        cdef uint16_t port = 0
        cdef size_t n
        cdef Listener listener
        cdef object error, local
        cdef list candidates = [listener for listener in self.listeners.sharing(key.guest_port)
                                if route.peer.ss_family in listener.families]
        n = read_sockaddr(&route.source, address, &port) if route.source_len else 0
        local = (<char *>address)[:n]
        try:
            for listener in candidates:
                if listener.is_wider(local, <bytes>route.ifname):
                    return False
                if not self.policy.leads_to(IPPROTO_UDP, listener.rule,
                                            (<const char *>key.guest)[:key.addr_len], key.guest_port):
                    return False
        except BaseException as error:
            self.fail(error)
            return False
        return bool(candidates)

    cdef void on_control(self, const uint8_t *frame, size_t n) noexcept nogil:
        """Have a control frame answered, unless there were too many of late."""
        if admit(&self.control, self.now, CONTROL_INTERVAL_NS, CONTROL_BURST):
            self.respond(frame, n)
        else:
            count(&self.stats, DROP_CONTROL_RATE)

    cdef void respond(self, const uint8_t *frame, size_t n) noexcept with gil:
        """Hand a control frame to the responder and send its answers."""
        cdef object reply, error
        self.stats.control_frames += 1
        try:
            for reply in self.responder.respond((<const char *>frame)[:n]):
                self.send_frame(reply)
        except BaseException as error:
            self.fail(error)

    cdef bint send_frame(self, bytes frame):
        """Send a complete frame made by Python, padded to Ethernet's minimum."""
        cdef size_t n = len(frame)
        cdef TxMeta meta
        if n < ETH_HLEN or n > self.link.max_frame:
            count(&self.stats, DROP_OVERSIZE)
            return False
        memset(&meta, 0, sizeof(meta))
        memcpy(self.link.slot, <const char *>frame, n)
        return self.send(n, &meta)

    cdef void tell_mac(self) noexcept with gil:
        cdef object error
        try:
            self.events.on_guest_mac((<char *>self.guest_mac)[:ETH_ALEN])
        except BaseException as error:
            self.fail(error)

    cdef void tell_silence(self) noexcept with gil:
        cdef object error
        try:
            self.events.on_guest_silent()
        except BaseException as error:
            self.fail(error)

    cdef void tell_ping_forbidden(self) noexcept with gil:
        cdef object error
        try:
            self.events.on_ping_forbidden()
        except BaseException as error:
            self.fail(error)

    cdef void tell_address(self, const uint8_t *address, size_t n) noexcept with gil:
        cdef object error
        try:
            self.events.on_guest_address((<const char *>address)[:n])
        except BaseException as error:
            self.fail(error)

    cdef void trace_state(self, const Flow *flow, const char *what) noexcept with gil:
        cdef object error
        try:
            self.trace(f"flow {flow.index}: {what.decode()}")
        except BaseException as error:
            self.fail(error)

    cdef void arm(self, Flow *flow, int64_t deadline) noexcept nogil:
        """See that the flow's timer fires at *deadline* or earlier; an earlier one stays (see timers)."""
        if flow.armed and flow.armed <= deadline:
            return
        self.reactor.timers.arm(flow.index, deadline)
        flow.armed = deadline

    cdef void disarm(self, Flow *flow) noexcept nogil:
        if flow.armed:
            self.reactor.timers.cancel(flow.index)
            flow.armed = 0

    def switch(self, *, bint ip4=True, bint ip6=True, bint tcp=True, bint udp=True, bint icmp=True):
        """See engine.pyi."""
        self.ip4_on = ip4
        self.ip6_on = ip6
        self.tcp_on = tcp
        self.udp_on = udp
        self.icmp_on = icmp

    cdef bint is_enabled(self, const IpView *ip) noexcept nogil:
        """Whether the packet's family and protocol are switched on; of others only echo can be off."""
        if not (self.ip4_on if ip.addr_len == 4 else self.ip6_on):
            return False
        if ip.protocol == IPPROTO_TCP:
            return self.tcp_on
        if ip.protocol == IPPROTO_UDP:
            return self.udp_on
        return self.icmp_on or ip.protocol not in (IPPROTO_ICMP, IPPROTO_ICMPV6)

    cdef void note(self, uint32_t kind) noexcept nogil:
        """Tell news of a kind now, or later if there were too many of late: what counts is the last."""
        if admit(&self.news, self.now, NEWS_INTERVAL_NS, NEWS_BURST):
            self.tell(kind)
        else:
            self.untold |= kind

    cdef void tell(self, uint32_t kinds) noexcept nogil:
        """Tell all news of the given kinds."""
        if kinds:
            self.forget_answers()
        self.untold &= ~kinds
        if kinds & NEWS_MAC:
            self.tell_mac()
        if kinds & NEWS_IP4:
            self.tell_address(self.seen4, 4)
        if kinds & NEWS_IP6_LOCAL:
            self.tell_address(self.seen6_local, 16)
        if kinds & NEWS_IP6:
            self.tell_address(self.seen6, 16)

    cdef uint8_t *push_ip(self, const uint8_t *mac, const uint8_t *source, const uint8_t *destination,
                          size_t addr_len, uint8_t protocol, uint32_t l4_len) noexcept nogil:
        """Write Ethernet and IP headers at the link's slot, for *mac*; returns where the L4 header begins.

        TCP learns the MTU of a path by packets that may not be cut, as all hosts do (RFC 1191 6.4). What
        else there is over IPv4 may be cut on the guest's side, and counts (RFC 6864 4.3). No socket tells
        whether a datagram came with DF; and to have it dropped where a container's bridge is narrower than
        our link would be worse than to have it cut there, even if it had: its sender is another host,
        whom no unprivileged process can send the ICMP message that it would wait for.
        """
        cdef uint8_t *start = self.link.slot
        cdef EthHdr *eth = <EthHdr *>start
        cdef Ip4Hdr *ip4 = <Ip4Hdr *>(start + ETH_HLEN)
        cdef Ip6Hdr *ip6 = <Ip6Hdr *>(start + ETH_HLEN)
        memcpy(eth.dst, mac, ETH_ALEN)
        memcpy(eth.src, self.our_mac, ETH_ALEN)
        if addr_len == 4:
            eth.type_be = htons(ETHERTYPE_IP4)
            ip4.version_ihl = 0x45
            ip4.tos = 0
            ip4.tot_len_be = htons(<uint16_t>(IP4_HLEN + l4_len))
            if protocol == IPPROTO_TCP:
                ip4.id_be = 0
                ip4.frag_be = htons(IP4_DF)
            else:
                self.packet_id += 1
                ip4.id_be = htons(<uint16_t>self.packet_id)
                ip4.frag_be = 0
            ip4.ttl = TTL_TO_GUEST
            ip4.protocol = protocol
            ip4.csum_be = 0
            memcpy(ip4.src, source, 4)
            memcpy(ip4.dst, destination, 4)
            ip4.csum_be = csum_fold(csum_add(<uint8_t *>ip4, IP4_HLEN, 0))
            return start + ETH_HLEN + IP4_HLEN
        eth.type_be = htons(ETHERTYPE_IP6)
        ip6.vtc_flow_be = htonl(0x60000000)
        ip6.payload_len_be = htons(<uint16_t>l4_len)
        ip6.next_header = protocol
        ip6.hop_limit = TTL_TO_GUEST
        memcpy(ip6.src, source, 16)
        memcpy(ip6.dst, destination, 16)
        return start + ETH_HLEN + IP6_HLEN

    cdef bint send(self, size_t n, const TxMeta *meta) noexcept nogil:
        """Send the frame of *n* bytes at the link's slot; False if the link refused it."""
        if n < ETH_MIN_FRAME:
            memset(self.link.slot + n, 0, ETH_MIN_FRAME - n)
            n = ETH_MIN_FRAME
        return self.link.send(n, meta)

    cdef bint send_pieces(self, const iovec *pieces, size_t n, const TxMeta *meta) noexcept nogil:
        """Send the headers at the slot with the *n* pieces as payload; False if the link refused it."""
        cdef size_t length = meta.hdr_len
        cdef size_t i
        for i in range(n):
            length += pieces[i].iov_len
        if length >= COPY_BELOW and not self.watch.active:
            return self.link.send_pieces(pieces, n, meta)
        length = meta.hdr_len
        for i in range(n):
            memcpy(self.link.slot + length, pieces[i].iov_base, pieces[i].iov_len)
            length += pieces[i].iov_len
        return self.send(length, meta)

    cdef int route_socket(self, int kind, int protocol, const Route *route) noexcept nogil:
        """Open a socket for *route* and bind it to its device; fd or negative errno.

        A stream is bound to the route's source too; a datagram socket not yet, as it can be bound
        only once and is to get the guest's port with it (`datagram.bind_port`).
        """
        cdef size_t n = 0
        cdef int result = 0
        cdef int fd
        if route.peer.ss_family not in (AF_INET, AF_INET6):
            return -EINVAL
        fd = self.sockets.open(route.peer.ss_family, kind, protocol)
        if fd < 0:
            return fd
        while route.ifname[n]:
            n += 1
        if n:
            result = self.sockets.bind_device(fd, route.ifname, n)
        if result == 0 and route.source_len and kind == SOCK_STREAM:
            result = self.sockets.bind_source(fd, &route.source, route.source_len)
        if result < 0:
            self.sockets.close(fd)
            return result
        return fd

    cdef size_t memory_ceiling(self) noexcept nogil:
        """Bytes that flows can take at most: the records, the two tables that find them, the pool."""
        return (self.flows.max_flows * sizeof(Flow) + (self.flows.mask + 1) * sizeof(uint32_t)
                + self.reactor.timers.n_ids * (sizeof(HeapEntry) + sizeof(int32_t)) + self.pool.size)


cdef void fill_route(Route *route, object target) except *:
    """Take a `contracts.Target` apart."""
    cdef bytes text = target.address
    cdef const uint8_t *address = <const uint8_t *><const char *>text
    route.ifindex = target.scope_id
    route.peer_len = fill_sockaddr(&route.peer, address, len(text), target.port, target.scope_id)
    if target.source is not None:
        text = target.source
        address = <const uint8_t *><const char *>text
        route.source_len = fill_sockaddr(&route.source, address, len(text), 0, target.scope_id)
    if target.ifname is not None:
        text = target.ifname
        memcpy(route.ifname, <const char *>text, min(len(text), 15))

"""What the translators of one engine share: the loop, the link, the sockets, the flow table, the time.

What only one room uses is a part that this room defines (`Listeners`, `Guest`, `Gather`, `EchoMemory`,
`IpState`, `UdpState`, `BypassState`); `Core` only holds it, as each translator gets one argument. What
remains here is what all protocols do alike: to open a socket for a route, to arm a flow's timer, to write
the IP header of a frame and send it. All questions to Python are in `decisions`.
"""

from libc.stdint cimport UINT32_MAX, int32_t, int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.packet.checksum cimport csum_add, csum_fold
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.flow.table cimport FlowTable
from passt.dataplane.packet.headers cimport (
    ETH_ALEN, ETH_HLEN, ETH_MIN_FRAME, ETHERTYPE_IP4, ETHERTYPE_IP6, IP4_DF, IP4_HLEN, IP6_HLEN, EthHdr,
    Ip4Hdr, Ip6Hdr, is_zero,
)
from passt.dataplane.core.first_syns cimport FirstSyns
from passt.dataplane.core.known_answers cimport KnownAnswers
from passt.dataplane.core.listeners cimport Listeners
from passt.dataplane.core.neighbour_table cimport NeighbourTable
from passt.dataplane.link.link cimport Link
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.sockets.sockets cimport Sockets
from passt.dataplane.base.stats cimport DROP_OVERSIZE, count
from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, EINVAL, IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP, SOCK_STREAM,
    free, htonl, htons, iovec, memcmp, memcpy, memmove, memset,
)
from passt.dataplane.state.spare_sockets cimport MAX_SPARE
from passt.dataplane.state.bypass cimport BypassState
from passt.dataplane.flow.decision cimport HostRoute
from passt.dataplane.state.ip cimport MIN_MTU, IpState
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.loop.timers cimport HeapEntry
from passt.dataplane.observe.frame_observer cimport Watch
from passt.dataplane.packet.parse cimport IpView
from passt.dataplane.state.udp cimport UdpState

cdef enum:
    TTL_TO_GUEST = 255
    # Bytes that all connections together may hold (see `memory_budget`): enough for a hundred windows of the
    # usual size at once, and no way for a guest to make the process grow further.
    POOL_SIZE = 32 << 20
    DEFAULT_MTU = 65520           # of a guest that is assigned none, passt(1) --mtu
    COPY_BELOW = 2048             # bytes: copying fewer is cheaper than a second piece


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
        self.listeners.retry_timer = max_flows + 2
        self.descriptors = UINT32_MAX
        self.max_datagram_sockets = self.flows.max_datagram
        self.mtu = mtu
        self.packet_limit = max(mtu or DEFAULT_MTU, <uint32_t>MIN_MTU)
        self.ip = IpState(max_flows + 1)
        self.udp = UdpState()
        self.bypass = BypassState(sockets)
        self.bypass.pipes.n_open = &self.stats.pipes_open
        memcpy(&self.packet_id, <const char *>secret + 4, sizeof(self.packet_id))
        self.packet_id ^= 0x5a5a5a5a
        self.ip4_on = self.ip6_on = self.tcp_on = self.udp_on = self.icmp_on = True
        memcpy(self.our_mac, <const char *>our_mac, ETH_ALEN)
        memcpy(self.our_ip4, <const char *>our_ip4, 4)
        memset(self.guest.mac, 0xff, ETH_ALEN)
        memcpy(self.isn_key, <const char *>secret, 16)
        # The table's hash and the sequence numbers must not tell of each other.
        self.isn_key[0] ^= 0xa5a5a5a5a5a5a5a5ULL
        self.pool = Pool(POOL_SIZE)
        self.answers = KnownAnswers(secret)
        self.neighbours = NeighbourTable(secret, {})
        self.first_syns = FirstSyns()
        self.now = self.reactor.clock()
        self.watch = Watch(self.flows)
        self.use_link(link)

    def renew(self, bytes our_ip4 not None):
        """The policy and the responder say something else from now on: forget what they have said."""
        if len(our_ip4) != 4:
            raise ValueError("an IPv4 address has 4 bytes")
        if memcmp(self.our_ip4, <const char *>our_ip4, 4):
            if not is_zero(self.our_ip4, 4):
                remember_former(self)
            memcpy(self.our_ip4, <const char *>our_ip4, 4)
        self.answers = KnownAnswers((<const char *>self.answers.secret)[:16])
        self.bypass.decisions.forget()

    def set_neighbours(self, dict entries not None):
        """See engine.pyi."""
        cdef NeighbourTable before = self.neighbours
        self.neighbours = NeighbourTable((<const char *>self.answers.secret)[:16], entries)
        self.answers.forget_changed(before, self.neighbours)

    def fit_descriptors(self, uint64_t descriptors):
        """Size the reserves so that most of *descriptors*, the process's limit, are left to connections."""
        self.descriptors = descriptors
        # Connections and listeners need some too.
        self.max_datagram_sockets = <uint32_t>min(<uint64_t>self.flows.max_datagram,
                                                  max(descriptors // 2, <uint64_t>1))
        self.bypass.spare_sockets.limit = <int>min(max(descriptors // 64, <uint64_t>1), <uint64_t>MAX_SPARE)
        self.bypass.pipes.fit(descriptors)

    def use_link(self, Link link not None):
        """Send and receive through *link* from now on."""
        self.link = link
        link.stats = &self.stats
        link.watch = self.watch

    cdef void fail(self, object error):
        if self.failure is None:
            self.failure = error
            self.has_failed = True

    def fail_by(self, error):
        """Keep an exception of a hook that others call."""
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

    def __dealloc__(self):
        free(self.gather.joined)

    cdef uint8_t *push_ip(self, const uint8_t *mac, const uint8_t *source, const uint8_t *destination,
                          size_t addr_len, uint8_t protocol, uint32_t l4_len) noexcept nogil:
        """Write Ethernet and IP headers at the link's slot, for *mac*; returns where the L4 header begins.

        TCP learns the MTU of a path by packets that may not be cut, as all hosts do (RFC 1191 6.4). All
        other IPv4 packets may be cut on the guest's side, and have an identification (RFC 6864 4.3). No
        socket tells whether a datagram came with DF; and to have it dropped where a container's bridge
        is narrower than our link would be worse than to have it cut there, even if it had: its sender
        is another host, whom no unprivileged process can send the ICMP message that it would wait for.
        """
        cdef uint8_t *start = self.link.slot
        cdef EthHdr *eth = <EthHdr *>start
        cdef Ip4Hdr *ip4 = <Ip4Hdr *>(start + ETH_HLEN)
        cdef Ip6Hdr *ip6 = <Ip6Hdr *>(start + ETH_HLEN)
        cdef const uint8_t *from_mac = self.neighbours.find(source, addr_len)
        memcpy(eth.dst, mac, ETH_ALEN)
        # A host with the MAC address of a station behind the link would mislead a bridge there.
        if from_mac == NULL or not (memcmp(from_mac, mac, ETH_ALEN)
                                    and memcmp(from_mac, self.guest.mac, ETH_ALEN)):
            from_mac = self.our_mac
        memcpy(eth.src, from_mac, ETH_ALEN)
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

    cdef int route_socket(self, int kind, int protocol, const HostRoute *route) noexcept nogil:
        """Open a socket for *route* and bind it to its device; fd or negative errno.

        A stream is bound to the route's source too; a datagram socket not yet, as it can be bound
        only once and is to get the guest's port with it (`lifetime.open_bound`).
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


cdef void remember_former(Core core) noexcept nogil:
    """Put our IPv4 address in front of those that were ours before; each of these is there once."""
    cdef uint32_t n = 0
    while n < core.n_former and memcmp(core.former_ip4[n], core.our_ip4, 4):
        n += 1
    if n == core.n_former and n < N_FORMER:
        core.n_former += 1
    n = min(n, <uint32_t>N_FORMER - 1)
    memmove(core.former_ip4[1], core.former_ip4[0], n * sizeof(core.former_ip4[0]))
    memcpy(core.former_ip4[0], core.our_ip4, 4)

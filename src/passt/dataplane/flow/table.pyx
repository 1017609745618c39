"""The flow table: records, look-up by either side, life cycle.

A flow is one translated conversation. Its record lives in a fixed table whose pages are touched
only when used; the index stays valid for the flow's life, the generation distinguishes a later user of the
same index. Every flow is found by what the guest sees (SIDE_GUEST); inbound datagram flows
also by what the host's listener sees (SIDE_HOST). Both keys share one chained hash table under a
secret key, so one look-up costs the same with one flow and with 100,000.

Life: `alloc` -> FLOW_TCP, FLOW_UDP or FLOW_PING -> `release`. A flow that has something to do at
the end of the turn is on the work list once; released meanwhile, it stays FLOW_DEAD until the list
has passed it, so the list never holds an index twice.

When the table is full, flows of which little is lost make room for new ones: `classify` keeps the
flows of each class in the order in which they came into it (see `make_room`), datagram flows in that
of their last use, since nothing tells when they end. These have at most a quarter of the table (with a
record for the socket of each, half), so they leave room for connections.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from passt.dataplane.base.assertions cimport (
    PASST_ASSERT, PASST_DEBUG_BUILD, PASST_POISON, PASST_UNPOISON,
)
from passt.dataplane.base.siphash cimport siphash
from passt.dataplane.base.externs cimport IPPROTO_UDP, calloc, free, memcmp, memcpy, memset, sockaddr_storage
from passt.dataplane.flow.key cimport FLOW_KEY_WORDS, SIDE_GUEST, SIDE_HOST, FlowKey
from passt.dataplane.flow.record cimport CLASS_KEPT, FLOW_DEAD, FLOW_FREE, NO_FLOW, Flow
from passt.dataplane.sockets.sockets cimport read_sockaddr

cdef enum:
    HASH_LOAD = 2                 # buckets per flow
    DATAGRAM_SHARE = 4            # of the records may be datagram flows
    MAX_CHECKED = 1024            # records of a table that a debug build checks in every turn


cdef class FlowTable:
    """At most *max_flows* flows; *secret* is 16 random bytes."""

    def __cinit__(self, uint32_t max_flows, bytes secret not None):
        cdef uint32_t buckets = 64
        cdef int i
        if len(secret) != 16:
            raise ValueError("the secret has 16 bytes")
        memcpy(self.secret, <const char *>secret, 16)
        while buckets < max_flows * HASH_LOAD:
            buckets *= 2
        self.flows = <Flow *>calloc(max_flows, sizeof(Flow))
        # Nodes are index * 2 + side + 1, so zeroed memory is a table of empty chains.
        self.heads = <uint32_t *>calloc(buckets, sizeof(uint32_t))
        if self.flows == NULL or self.heads == NULL:
            raise MemoryError
        self.mask = buckets - 1
        self.max_flows = max_flows
        self.first_free = NO_FLOW
        self.first_work = NO_FLOW
        self.last_work = NO_FLOW
        self.first_waiting = NO_FLOW
        for i in range(<int>N_CLASSES):
            self.oldest[i] = NO_FLOW
            self.newest[i] = NO_FLOW
        self.max_datagram = max(max_flows // DATAGRAM_SHARE, <uint32_t>1)

    def __dealloc__(self):
        free(self.flows)
        free(self.heads)

    cdef Flow *alloc(self, uint8_t kind) noexcept nogil:
        """A zeroed record, or NULL if the table is full."""
        cdef Flow *flow
        cdef uint32_t index, generation
        if self.first_free != NO_FLOW:
            index = self.first_free
            self.first_free = self.flows[index].next_free
        elif self.top < self.max_flows:
            index = self.top
            self.top += 1
        else:
            return NULL
        flow = &self.flows[index]
        PASST_ASSERT(index < self.top)
        PASST_ASSERT(flow.kind == FLOW_FREE)
        PASST_ASSERT(not flow.has_work)
        generation = flow.generation
        PASST_UNPOISON(&flow.body, sizeof(flow.body))
        memset(flow, 0, sizeof(Flow))
        flow.generation = generation
        flow.index = index
        flow.kind = kind
        flow.fd = -1
        self.n_active += 1
        return flow

    cdef void release(self, Flow *flow) noexcept nogil:
        """Forget a flow whose descriptor, timer and memory the owner has let go."""
        PASST_ASSERT(flow.index < self.top)
        PASST_ASSERT(flow == &self.flows[flow.index])
        PASST_ASSERT(flow.kind > FLOW_DEAD)
        PASST_ASSERT(not flow.armed)
        PASST_ASSERT(self.n_active > 0)
        self.classify(flow, CLASS_KEPT)
        self.unhash(flow, SIDE_GUEST)
        self.unhash(flow, SIDE_HOST)
        flow.generation += 1
        self.n_active -= 1
        poison_body(flow)
        if flow.has_work:
            flow.kind = FLOW_DEAD
        else:
            self.put_free(flow)

    cdef void put_free(self, Flow *flow) noexcept nogil:
        PASST_ASSERT(flow.kind != FLOW_FREE)
        PASST_ASSERT(not flow.has_work)
        flow.kind = FLOW_FREE
        flow.next_free = self.first_free
        self.first_free = flow.index

    cdef uint64_t hash(self, const FlowKey *key) noexcept nogil:
        return siphash(self.secret, <const uint8_t *>key, FLOW_KEY_WORDS)

    cdef bint insert(self, Flow *flow, int side) noexcept nogil:
        """Make *flow* findable by keys[side]; False if that key is taken."""
        cdef uint32_t *head
        PASST_ASSERT(flow.kind > FLOW_DEAD)
        PASST_ASSERT(not flow.hashed[side])
        if self.find(&flow.keys[side], side) != NULL:
            return False
        head = &self.heads[self.hash(&flow.keys[side]) & self.mask]
        flow.chain[side] = head[0]
        head[0] = flow.index * 2 + side + 1
        flow.hashed[side] = True
        return True

    cdef Flow *find(self, const FlowKey *key, int side) noexcept nogil:
        """The flow with that key on that side, or NULL."""
        cdef uint32_t node = self.heads[self.hash(key) & self.mask]
        cdef Flow *flow
        cdef uint32_t node_side
        while node:
            PASST_ASSERT((node - 1) >> 1 < self.top)
            flow = &self.flows[(node - 1) >> 1]
            node_side = (node - 1) & 1
            PASST_ASSERT(flow.kind > FLOW_DEAD)
            PASST_ASSERT(flow.hashed[node_side])
            if node_side == <uint32_t>side and not memcmp(&flow.keys[side], key, sizeof(FlowKey)):
                return flow
            node = flow.chain[node_side]
        return NULL

    cdef void unhash(self, Flow *flow, int side) noexcept nogil:
        cdef uint32_t *link
        cdef uint32_t mine = flow.index * 2 + side + 1
        cdef uint32_t node
        if not flow.hashed[side]:
            return
        link = &self.heads[self.hash(&flow.keys[side]) & self.mask]
        while link[0] != mine:
            PASST_ASSERT(link[0] != 0)
            node = link[0] - 1
            PASST_ASSERT(node >> 1 < self.top)
            link = &self.flows[node >> 1].chain[node & 1]
        link[0] = flow.chain[side]
        flow.hashed[side] = False

    cdef Flow *at_tag(self, uint64_t tag) noexcept nogil:
        """The flow that an event's tag means, or NULL if it has ended."""
        cdef uint32_t index = <uint32_t>tag
        cdef Flow *flow
        if index >= self.top:
            return NULL
        flow = &self.flows[index]
        # No event is of a later user of the record; generations count modulo 2 ** 24 in a tag.
        PASST_ASSERT(((flow.generation - <uint32_t>(tag >> 32)) & 0xffffff) < 0x800000)
        if flow.kind <= FLOW_DEAD or (flow.generation ^ (tag >> 32)) & 0xffffff:
            return NULL
        return flow

    cdef void add_work(self, Flow *flow) noexcept nogil:
        """Have the flow looked at when this turn ends."""
        PASST_ASSERT(flow.kind > FLOW_DEAD)
        if flow.has_work:
            return
        flow.has_work = True
        flow.next_work = NO_FLOW
        if self.last_work == NO_FLOW:
            self.first_work = flow.index
        else:
            self.flows[self.last_work].next_work = flow.index
        self.last_work = flow.index

    cdef void add_waiting(self, Flow *flow) noexcept nogil:
        """Have the flow looked at when the link drains; counts as being on the work list."""
        PASST_ASSERT(flow.kind > FLOW_DEAD)
        if flow.has_work:
            return
        flow.has_work = True
        flow.next_work = self.first_waiting
        self.first_waiting = flow.index

    cdef void wake_waiting(self) noexcept nogil:
        """Move all that wait for the link to the work list."""
        cdef uint32_t index = self.first_waiting
        cdef Flow *flow
        self.first_waiting = NO_FLOW
        while index != NO_FLOW:
            flow = &self.flows[index]
            index = flow.next_work
            PASST_ASSERT(flow.has_work)
            flow.has_work = False
            if flow.kind == FLOW_DEAD:
                self.put_free(flow)
            else:
                self.add_work(flow)

    cdef uint32_t take_work(self) noexcept nogil:
        """Take the whole list: the first index, each record's `next_work` names the next one."""
        cdef uint32_t first = self.first_work
        if PASST_DEBUG_BUILD:
            if self.top <= MAX_CHECKED:
                check_table(self)
        self.first_work = NO_FLOW
        self.last_work = NO_FLOW
        return first

    cdef void classify(self, Flow *flow, uint8_t flow_class) noexcept nogil:
        """Put the flow at the end of a class, unless it is in that class already."""
        if flow.flow_class != flow_class:
            self.move_newest(flow, flow_class)

    cdef void move_newest(self, Flow *flow, uint8_t flow_class) noexcept nogil:
        """Put the flow at the end of a class, out of the place where it is."""
        cdef uint8_t old = flow.flow_class
        PASST_ASSERT(flow_class < N_CLASSES)
        if old == flow_class and (old == CLASS_KEPT or flow.newer == NO_FLOW):
            return
        if old != CLASS_KEPT:
            PASST_ASSERT(self.n_in_class[old] > 0)
            self.n_in_class[old] -= 1
            if flow.older == NO_FLOW:
                self.oldest[old] = flow.newer
            else:
                self.flows[flow.older].newer = flow.newer
            if flow.newer == NO_FLOW:
                self.newest[old] = flow.older
            else:
                self.flows[flow.newer].older = flow.older
        flow.flow_class = flow_class
        if flow_class == CLASS_KEPT:
            return
        self.n_in_class[flow_class] += 1
        flow.older = self.newest[flow_class]
        flow.newer = NO_FLOW
        if flow.older == NO_FLOW:
            self.oldest[flow_class] = flow.index
        else:
            self.flows[flow.older].newer = flow.index
        self.newest[flow_class] = flow.index


cdef void check_table(FlowTable table) noexcept nogil:
    """Assert that each record is on the lists that it says, and on no other, between two turns."""
    cdef uint32_t n_free = 0
    cdef uint32_t n_dead = 0
    cdef uint32_t n_working = 0
    cdef uint32_t i
    cdef Flow *flow
    for i in range(table.top):
        flow = &table.flows[i]
        PASST_ASSERT(flow.index == i)
        n_free += flow.kind == FLOW_FREE
        n_dead += flow.kind == FLOW_DEAD
        n_working += flow.has_work
        if flow.kind == FLOW_DEAD:
            PASST_ASSERT(flow.has_work)
    PASST_ASSERT(table.n_active == table.top - n_free - n_dead)
    i = table.first_free
    while i != NO_FLOW:
        PASST_ASSERT(table.flows[i].kind == FLOW_FREE)
        PASST_ASSERT(n_free > 0)
        n_free -= 1
        i = table.flows[i].next_free
    PASST_ASSERT(n_free == 0)
    n_working -= check_list(table, table.first_work, table.last_work, n_working)
    n_working -= check_list(table, table.first_waiting, NO_FLOW, n_working)
    PASST_ASSERT(n_working == 0)
    for i in range(<uint32_t>CLASS_KEPT + 1, <uint32_t>N_CLASSES):
        check_class(table, i)


cdef uint32_t check_list(FlowTable table, uint32_t first, uint32_t last, uint32_t most) noexcept nogil:
    """Assert that a list of *most* flows at most has work for each; returns how many it has."""
    cdef uint32_t n = 0
    cdef uint32_t before = NO_FLOW
    while first != NO_FLOW:
        PASST_ASSERT(first < table.top)
        PASST_ASSERT(table.flows[first].has_work)
        PASST_ASSERT(n < most)
        n += 1
        before = first
        first = table.flows[first].next_work
    if last != NO_FLOW:
        PASST_ASSERT(before == last)
    return n


cdef void check_class(FlowTable table, uint32_t flow_class) noexcept nogil:
    """Assert that a class has as many flows as it counts, linked both ways."""
    cdef uint32_t n = 0
    cdef uint32_t before = NO_FLOW
    cdef uint32_t index = table.oldest[flow_class]
    while index != NO_FLOW:
        PASST_ASSERT(index < table.top)
        PASST_ASSERT(table.flows[index].kind > FLOW_DEAD)
        PASST_ASSERT(table.flows[index].flow_class == flow_class)
        PASST_ASSERT(table.flows[index].older == before)
        PASST_ASSERT(n < table.n_in_class[flow_class])
        n += 1
        before = index
        index = table.flows[index].newer
    PASST_ASSERT(n == table.n_in_class[flow_class])
    PASST_ASSERT(before == table.newest[flow_class])


cdef void poison_body(Flow *flow) noexcept nogil:
    """Nobody may look at what a flow of the kind held, but for the state: whoever called what ended a
    connection sees by it that it did. AddressSanitizer goes by 8 bytes.
    """
    cdef size_t state = <size_t>(<uint8_t *>&flow.body.tcp.state - <uint8_t *>&flow.body) & ~<size_t>7
    PASST_POISON(&flow.body, state)
    PASST_POISON(<uint8_t *>&flow.body + state + 8, sizeof(flow.body) - state - 8)


cdef void fill_host_key(FlowKey *key, const Flow *port, const sockaddr_storage *peer) noexcept nogil:
    """The key of a flow by its socket and its remote."""
    cdef uint32_t index = port.index
    memset(key, 0, sizeof(FlowKey))
    memcpy(key.guest, &index, sizeof(index))
    key.addr_len = <uint8_t>read_sockaddr(peer, key.remote, &key.remote_port)
    key.proto = IPPROTO_UDP

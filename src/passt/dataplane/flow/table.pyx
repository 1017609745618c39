"""The flow table: records, look-up by either side, life cycle.

A flow is one translated conversation. Its record lives in a fixed table whose pages are touched
only when used; the index stays valid for the flow's life, the generation distinguishes a later user of the
same index. Every flow is found by what the guest sees (SIDE_GUEST); inbound datagram flows
also by what the host's listener sees (SIDE_HOST). Both keys share one chained hash table under a
secret key, so one look-up costs the same with one flow and with 100,000.

Life: `alloc` -> FLOW_TCP, FLOW_UDP or FLOW_PING -> `release`. A flow that has something to do at
the end of the turn is on the work list once; released meanwhile, it stays FLOW_DEAD until the list
has passed it, so the list never holds an index twice.

When the table is full, flows of which little is lost make room for new ones (see `make_room`). Which of them,
fairness decides: the flows of a class are in crowds, by a keyed hash of their remote's address and port, or
of its address alone where the remote opens them, who chooses ports freely. `classify` keeps a class, and each
crowd in it, in the order in which the flows came into it, datagram flows in that of their last use, since
nothing tells when they end; one that asked once and was answered is the first of them. A crowd of more than
one part in CROWD_SHARE of its class gives its oldest flow: so a flood at or from a few remotes pushes out
nobody but itself. If there is none, the oldest of all goes. Datagram flows have at most a quarter of the
table (with a record for the socket of each, half), so they leave room for connections. Of connections each
crowd has a count, whatever their class: it limits how many descriptors one may have.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.base.assertions cimport (
    PASST_ASSERT, PASST_DEBUG_BUILD, PASST_POISON, PASST_UNPOISON,
)
from passt.dataplane.base.siphash cimport siphash
from passt.dataplane.base.externs cimport (
    IPPROTO_TCP, IPPROTO_UDP, calloc, free, memcmp, memcpy, memset, sockaddr_storage,
)
from passt.dataplane.flow.key cimport FLOW_KEY_WORDS, SIDE_GUEST, SIDE_HOST, FlowKey
from passt.dataplane.flow.record cimport (
    CLASS_KEPT, FLOW_DEAD, FLOW_FREE, N_CLASSES, NO_FLOW, ORDER_CLASS, ORDER_CROWD, Flow, FlowOrder,
)
from passt.dataplane.sockets.socket_address cimport read_sockaddr

cdef enum:
    HASH_LOAD = 2                 # buckets per flow
    DATAGRAM_SHARE = 4            # of the records may be datagram flows
    CROWD_SHARE = 32
    MAX_CHECKED = 1024            # records of a table that a debug build checks in every turn


cdef class FlowTable:
    """At most *max_flows* flows; *secret* is 16 random bytes."""

    def __cinit__(self, uint32_t max_flows, bytes secret not None):
        cdef uint32_t buckets = 64
        cdef int i, j
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
            self.classes[i].oldest = NO_FLOW
            self.classes[i].newest = NO_FLOW
            for j in range(N_CROWDS):
                self.crowds[i][j].oldest = NO_FLOW
                self.crowds[i][j].newest = NO_FLOW
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
        self.uncount_connection(flow)
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

    cdef uint16_t crowd_of(self, const FlowKey *key, bint inbound) noexcept nogil:
        """The crowd of a flow with that key on the guest's side; *inbound*: the remote opens it."""
        cdef FlowKey remote
        memset(&remote, 0, sizeof(remote))
        memcpy(remote.remote, key.remote, sizeof(remote.remote))
        # What stands there for an echo is the guest's identifier.
        if not inbound and key.proto in (IPPROTO_TCP, IPPROTO_UDP):
            remote.remote_port = key.remote_port
        remote.scope = 1 + inbound
        return <uint16_t>(self.hash(&remote) & (N_CROWDS - 1))

    cdef uint32_t expendable(self, uint8_t flow_class) noexcept nogil:
        """The index of the flow of a class that is to go first, NO_FLOW if there is none."""
        cdef uint16_t crowd = self.largest_crowd(flow_class)
        cdef uint32_t n = self.n_in_crowd[flow_class][crowd]
        if n > 1 and n * CROWD_SHARE > self.n_in_class[flow_class]:
            return self.crowds[flow_class][crowd].oldest
        return self.classes[flow_class].oldest

    cdef uint16_t largest_crowd(self, uint8_t flow_class) noexcept nogil:
        """The crowd with the most flows of a class."""
        cdef const uint32_t *n = self.n_in_crowd[flow_class]
        cdef uint16_t found = 0
        cdef uint16_t i
        if self.n_in_class[flow_class]:
            for i in range(N_CROWDS):
                if n[i] > n[found]:
                    found = i
        return found

    cdef void count_connection(self, Flow *flow) noexcept nogil:
        """A connection with a descriptor joins the crowd in `Flow.crowd`."""
        PASST_ASSERT(not flow.counted)
        flow.counted = True
        self.n_connections[flow.crowd] += 1

    cdef void uncount_connection(self, Flow *flow) noexcept nogil:
        """The connection has no descriptor any more; nothing if it was not counted."""
        if flow.counted:
            PASST_ASSERT(self.n_connections[flow.crowd] > 0)
            flow.counted = False
            self.n_connections[flow.crowd] -= 1

    cdef void classify(self, Flow *flow, uint8_t flow_class) noexcept nogil:
        """Put the flow at the end of a class, unless it is in that class already."""
        if flow.flow_class != flow_class:
            self.move_newest(flow, flow_class)

    cdef void move_newest(self, Flow *flow, uint8_t flow_class) noexcept nogil:
        """Put the flow at the end of a class and of its crowd there, out of the places where it is."""
        cdef uint8_t old = flow.flow_class
        PASST_ASSERT(flow_class < N_CLASSES)
        if old == flow_class and (old == CLASS_KEPT or flow.links[<int>ORDER_CLASS].newer == NO_FLOW):
            return
        if old != CLASS_KEPT:
            self.leave_class(flow)
        elif not flow.counted:
            flow.crowd = self.crowd_of(&flow.keys[<int>SIDE_GUEST], flow.inbound)
        flow.flow_class = flow_class
        if flow_class == CLASS_KEPT:
            return
        self.n_in_class[flow_class] += 1
        self.n_in_crowd[flow_class][flow.crowd] += 1
        self.append(flow, &self.classes[flow_class], ORDER_CLASS)
        self.append(flow, &self.crowds[flow_class][flow.crowd], ORDER_CROWD)

    cdef void move_oldest(self, Flow *flow) noexcept nogil:
        """Let a flow be the first of its class, and of its crowd there, to make room."""
        cdef FlowQueue *whole = &self.classes[flow.flow_class]
        cdef FlowQueue *crowd = &self.crowds[flow.flow_class][flow.crowd]
        PASST_ASSERT(flow.flow_class != CLASS_KEPT)
        self.unlink(flow, whole, ORDER_CLASS)
        self.unlink(flow, crowd, ORDER_CROWD)
        self.prepend(flow, whole, ORDER_CLASS)
        self.prepend(flow, crowd, ORDER_CROWD)

    cdef void leave_class(self, Flow *flow) noexcept nogil:
        """Take a flow out of its class and its crowd there."""
        cdef uint8_t old = flow.flow_class
        PASST_ASSERT(self.n_in_class[old] > 0)
        PASST_ASSERT(self.n_in_crowd[old][flow.crowd] > 0)
        self.n_in_class[old] -= 1
        self.n_in_crowd[old][flow.crowd] -= 1
        self.unlink(flow, &self.classes[old], ORDER_CLASS)
        self.unlink(flow, &self.crowds[old][flow.crowd], ORDER_CROWD)

    cdef void prepend(self, Flow *flow, FlowQueue *queue, FlowOrder order) noexcept nogil:
        """Put a flow at the beginning of a queue."""
        self.link_between(flow, queue, order, NO_FLOW, queue.oldest)

    cdef void append(self, Flow *flow, FlowQueue *queue, FlowOrder order) noexcept nogil:
        """Put a flow at the end of a queue."""
        self.link_between(flow, queue, order, queue.newest, NO_FLOW)

    cdef void link_between(self, Flow *flow, FlowQueue *queue, FlowOrder order, uint32_t older,
                           uint32_t newer) noexcept nogil:
        """Put a flow between two that are neighbours in a queue; NO_FLOW: the end of the queue there."""
        flow.links[<int>order].older = older
        flow.links[<int>order].newer = newer
        if older == NO_FLOW:
            queue.oldest = flow.index
        else:
            self.flows[older].links[<int>order].newer = flow.index
        if newer == NO_FLOW:
            queue.newest = flow.index
        else:
            self.flows[newer].links[<int>order].older = flow.index

    cdef void unlink(self, Flow *flow, FlowQueue *queue, FlowOrder order) noexcept nogil:
        """Take a flow out of a queue."""
        cdef uint32_t older = flow.links[<int>order].older
        cdef uint32_t newer = flow.links[<int>order].newer
        if older == NO_FLOW:
            queue.oldest = newer
        else:
            self.flows[older].links[<int>order].newer = newer
        if newer == NO_FLOW:
            queue.newest = older
        else:
            self.flows[newer].links[<int>order].older = older


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
    """Assert that a class and each crowd in it has as many flows as it counts."""
    cdef uint32_t n = 0
    cdef uint32_t i
    check_queue(table, flow_class, &table.classes[flow_class], ORDER_CLASS, table.n_in_class[flow_class])
    for i in range(<uint32_t>N_CROWDS):
        check_queue(table, flow_class, &table.crowds[flow_class][i], ORDER_CROWD,
                    table.n_in_crowd[flow_class][i])
        n += table.n_in_crowd[flow_class][i]
    PASST_ASSERT(n == table.n_in_class[flow_class])


cdef void check_queue(FlowTable table, uint32_t flow_class, const FlowQueue *queue, FlowOrder order,
                      uint32_t expected) noexcept nogil:
    """Assert that a queue has the expected number of flows of a class, linked both ways."""
    cdef uint32_t n = 0
    cdef uint32_t before = NO_FLOW
    cdef uint32_t index = queue.oldest
    while index != NO_FLOW:
        PASST_ASSERT(index < table.top)
        PASST_ASSERT(table.flows[index].kind > FLOW_DEAD)
        PASST_ASSERT(table.flows[index].flow_class == flow_class)
        PASST_ASSERT(table.flows[index].links[<int>order].older == before)
        PASST_ASSERT(n < expected)
        n += 1
        before = index
        index = table.flows[index].links[<int>order].newer
    PASST_ASSERT(n == expected)
    PASST_ASSERT(before == queue.newest)


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

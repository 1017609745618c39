"""C functions of the data plane for pytest: bytes and numbers in, bytes, numbers and tuples out.

What parses frames gets them at the very end of a page whose successor may not be touched, so a read
behind the frame ends the test run instead of going unseen (`Guarded`).
"""

from enum import IntEnum
from typing import NamedTuple

from passt.dataplane.base.stats import VERDICT_NAMES

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, mprotect, munmap,
)

from passt.dataplane.base.externs cimport iovec
from passt.dataplane.packet.checksum cimport csum_add, csum_fold, csum_pieces, pseudo4, pseudo6
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport FLOW_DEAD, NO_FLOW, Flow
from passt.dataplane.flow.table cimport FlowTable
from passt.dataplane.base.siphash cimport siphash
from passt.dataplane.link.segmentation cimport complete_csum, cut_segment
from passt.dataplane.packet.parse cimport (
    IpView, TcpOptions, TcpView, UdpView, read_tcp_options, read_timestamps, split_ip4, split_ip6,
    split_tcp, split_udp,
)
from passt.dataplane.base.stats cimport VERDICT_OK
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.loop.timers cimport TimerHeap

Verdict = IntEnum("Verdict", [(name.upper(), number) for number, name in enumerate(VERDICT_NAMES)])

cdef enum:
    PAGE = 4096
    ROOM = 17 * PAGE


class IpFields(NamedTuple):
    """What split_ip4 or split_ip6 found; *l4* is the payload."""

    source: bytes
    destination: bytes
    protocol: int
    ttl: int
    tos: int
    l4: bytes


class TcpFields(NamedTuple):
    """What split_tcp found."""

    src_port: int
    dst_port: int
    seq: int
    ack: int
    flags: int
    window: int
    options: bytes
    payload: bytes


class UdpFields(NamedTuple):
    """What split_udp found."""

    src_port: int
    dst_port: int
    payload: bytes


class Options(NamedTuple):
    """What read_tcp_options found."""

    mss: int
    window_scale: int
    sack_permitted: bool
    ts_val: int | None = None


class Key(NamedTuple):
    """A flow's key on one side."""

    guest: bytes
    remote: bytes
    guest_port: int
    remote_port: int
    proto: int
    scope: int


cdef class Guarded:
    """Memory that ends where the next byte must not be touched."""

    cdef uint8_t *base

    def __cinit__(self):
        self.base = <uint8_t *>mmap(
            NULL, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>self.base == MAP_FAILED:
            raise MemoryError
        if mprotect(self.base + ROOM, PAGE, PROT_NONE) < 0:
            raise MemoryError

    def __dealloc__(self):
        munmap(self.base, ROOM + PAGE)

    cdef const uint8_t *put(self, bytes data) except NULL:
        """Copy *data* so that it ends at the guard."""
        cdef size_t n = len(data)
        if n > ROOM:
            raise ValueError("too long")
        memcpy(self.base + ROOM - n, <const char *>data, n)
        return self.base + ROOM - n

    def place(self, bytes data not None):
        """As `put`; returns the address, good while this object lives."""
        return <size_t>self.put(data)

    def spoil(self, size_t n):
        """Overwrite the last *n* bytes."""
        memset(self.base + ROOM - n, 0xdb, n)


cdef bytes taken(const uint8_t *p, size_t n):
    return (<const char *>p)[:n]


cdef object fields_of(const IpView *view):
    return IpFields(
        source=taken(view.src, view.addr_len), destination=taken(view.dst, view.addr_len),
        protocol=view.protocol, ttl=view.ttl, tos=view.tos, l4=taken(view.l4, view.l4_len))


def ip4(bytes packet not None):
    """split_ip4: the verdict, or the fields."""
    cdef Guarded memory = Guarded()
    cdef IpView view
    memset(&view, 0xa5, sizeof(view))
    verdict = split_ip4(memory.put(packet), len(packet), &view)
    return fields_of(&view) if verdict == VERDICT_OK else Verdict(verdict)


def ip6(bytes packet not None):
    """split_ip6: the verdict, or the fields."""
    cdef Guarded memory = Guarded()
    cdef IpView view
    memset(&view, 0xa5, sizeof(view))
    verdict = split_ip6(memory.put(packet), len(packet), &view)
    return fields_of(&view) if verdict == VERDICT_OK else Verdict(verdict)


def tcp(bytes segment not None):
    """split_tcp: the verdict, or the fields."""
    cdef Guarded memory = Guarded()
    cdef IpView view
    cdef TcpView out
    memset(&view, 0, sizeof(view))
    memset(&out, 0xa5, sizeof(out))
    view.l4 = memory.put(segment)
    view.l4_len = len(segment)
    verdict = split_tcp(&view, &out)
    if verdict != VERDICT_OK:
        return Verdict(verdict)
    return TcpFields(
        src_port=out.src_port, dst_port=out.dst_port, seq=out.seq, ack=out.ack, flags=out.flags,
        window=out.window, options=taken(out.options, out.options_len),
        payload=taken(out.payload, out.payload_len))


def udp(bytes datagram not None):
    """split_udp: the verdict, or the fields."""
    cdef Guarded memory = Guarded()
    cdef IpView view
    cdef UdpView out
    memset(&view, 0, sizeof(view))
    memset(&out, 0xa5, sizeof(out))
    view.l4 = memory.put(datagram)
    view.l4_len = len(datagram)
    verdict = split_udp(&view, &out)
    if verdict != VERDICT_OK:
        return Verdict(verdict)
    return UdpFields(
        src_port=out.src_port, dst_port=out.dst_port, payload=taken(out.payload, out.payload_len))


def tcp_options(bytes options not None):
    """read_tcp_options."""
    cdef Guarded memory = Guarded()
    cdef TcpView view
    cdef TcpOptions out
    memset(&view, 0, sizeof(view))
    memset(&out, 0xa5, sizeof(out))
    view.options = memory.put(options)
    view.options_len = len(options)
    read_tcp_options(&view, &out)
    return Options(mss=out.mss, window_scale=out.window_scale, sack_permitted=bool(out.sack_permitted),
                   ts_val=out.ts_val if out.timestamps else None)


def timestamps(bytes options not None):
    """read_timestamps."""
    cdef Guarded memory = Guarded()
    cdef TcpView view
    cdef uint32_t value = 0
    cdef uint32_t echo = 0
    memset(&view, 0, sizeof(view))
    view.options = memory.put(options)
    view.options_len = len(options)
    return (value, echo) if read_timestamps(&view, &value, &echo) else None


def checksum(bytes data not None, uint64_t total=0):
    """csum_fold(csum_add()) as it is stored: a number in the machine's order."""
    cdef Guarded memory = Guarded()
    return csum_fold(csum_add(memory.put(data), len(data), total))


def checksum_of_pieces(list pieces not None, size_t offset, size_t n):
    """csum_fold(csum_pieces())."""
    cdef iovec places[64]
    cdef Py_ssize_t i
    memories = [Guarded() for _ in pieces]
    for i in range(len(pieces)):
        places[i].iov_base = <void *>(<Guarded>memories[i]).put(pieces[i])
        places[i].iov_len = len(pieces[i])
    return csum_fold(csum_pieces(places, offset, n, 0))


def partial(bytes data not None, uint64_t total=0):
    """csum_add."""
    cdef Guarded memory = Guarded()
    return csum_add(memory.put(data), len(data), total)


def pseudo(bytes source not None, bytes destination not None, int protocol, uint32_t n):
    """pseudo4 or pseudo6, by the length of *source*."""
    cdef const uint8_t *src = <const uint8_t *><const char *>source
    cdef const uint8_t *dst = <const uint8_t *><const char *>destination
    if len(source) != len(destination) or len(source) not in (4, 16):
        raise ValueError("addresses of one family")
    return (pseudo4 if len(source) == 4 else pseudo6)(src, dst, <uint8_t>protocol, n)


def hash_words(bytes key not None, bytes data not None):
    """siphash of whole 64-bit words under a key of 16 bytes."""
    cdef uint64_t words[2]
    if len(key) != 16 or len(data) % 8:
        raise ValueError("a key of 16 bytes, data of whole words")
    memcpy(words, <const char *>key, 16)
    return siphash(words, <const uint8_t *><const char *>data, len(data) // 8)


def complete(bytes frame not None, int csum_start, int csum_offset):
    """complete_csum."""
    cdef Guarded memory = Guarded()
    cdef TxMeta meta
    cdef uint8_t *place = <uint8_t *>memory.put(frame)
    memset(&meta, 0, sizeof(meta))
    meta.csum_start = <uint16_t>csum_start
    meta.csum_offset = <uint16_t>csum_offset
    complete_csum(place, len(frame), &meta)
    return taken(place, len(frame))


def cut(bytes frame not None, uint32_t offset, *, int hdr_len, int gso_size, int csum_start, int csum_offset,
        int gso_type):
    """cut_segment into memory of just hdr_len + gso_size bytes, pre-filled with 0xa5."""
    cdef Guarded memory = Guarded()
    cdef Guarded target = Guarded()
    cdef TxMeta meta
    cdef uint8_t *out = <uint8_t *>target.put(b"\xa5" * (hdr_len + gso_size))
    cdef size_t n
    meta.hdr_len = <uint16_t>hdr_len
    meta.gso_size = <uint16_t>gso_size
    meta.csum_start = <uint16_t>csum_start
    meta.csum_offset = <uint16_t>csum_offset
    meta.gso_type = <uint8_t>gso_type
    n = cut_segment(memory.put(frame), len(frame), &meta, offset, out)
    return taken(out, n)


cdef class Heap:
    """A TimerHeap."""

    cdef TimerHeap timers

    def __init__(self, uint32_t n_ids):
        self.timers = TimerHeap(n_ids)

    def __len__(self):
        return self.timers.n

    def arm(self, uint32_t id, int64_t deadline):
        self.timers.arm(id, deadline)

    def cancel(self, uint32_t id):
        self.timers.cancel(id)

    def next_deadline(self):
        return self.timers.next_deadline()

    def pop_due(self, int64_t now):
        cdef uint32_t id = 0
        return id if self.timers.pop_due(now, &id) else None


cdef class Table:
    """A FlowTable; flows go by their index."""

    cdef FlowTable flows

    def __init__(self, uint32_t max_flows, bytes secret not None=bytes(16)):
        self.flows = FlowTable(max_flows, secret)

    cdef Flow *at(self, uint32_t index) except NULL:
        if index >= self.flows.top:
            raise IndexError(index)
        return &self.flows.flows[index]

    cdef FlowKey pack(self, key) except *:
        cdef FlowKey out
        cdef bytes text
        memset(&out, 0, sizeof(out))
        text = key.guest
        memcpy(out.guest, <const char *>text, len(text))
        text = key.remote
        memcpy(out.remote, <const char *>text, len(text))
        out.guest_port = key.guest_port
        out.remote_port = key.remote_port
        out.proto = key.proto
        out.addr_len = <uint8_t>len(text)
        out.scope = key.scope
        return out

    def alloc(self, int kind):
        cdef Flow *flow = self.flows.alloc(<uint8_t>kind)
        return None if flow == NULL else flow.index

    def is_blank(self, uint32_t index):
        """Whether the record is as `alloc` promises: zeroed but for its index, generation and kind."""
        cdef Flow *flow = self.at(index)
        cdef Flow blank
        memset(&blank, 0, sizeof(Flow))
        blank.index = index
        blank.generation = flow.generation
        blank.kind = flow.kind
        blank.fd = -1
        return taken(<const uint8_t *>flow, sizeof(Flow)) == taken(<const uint8_t *>&blank, sizeof(Flow))

    def soil(self, uint32_t index):
        """Write into the body of a flow, as its owner would."""
        memset(&self.at(index).body, 0xa5, sizeof(self.at(index).body))
        self.at(index).fd = 5

    def release(self, uint32_t index):
        self.flows.release(self.at(index))

    def insert(self, uint32_t index, int side, key):
        self.at(index).keys[side] = self.pack(key)
        return bool(self.flows.insert(self.at(index), side))

    def find(self, key, int side):
        cdef FlowKey packed = self.pack(key)
        cdef Flow *flow = self.flows.find(&packed, side)
        return None if flow == NULL else flow.index

    def hash(self, key):
        cdef FlowKey packed = self.pack(key)
        return self.flows.hash(&packed)

    def kind(self, uint32_t index):
        return self.at(index).kind

    def generation(self, uint32_t index):
        return self.at(index).generation

    def at_tag(self, uint64_t tag):
        cdef Flow *flow = self.flows.at_tag(tag)
        return None if flow == NULL else flow.index

    def add_work(self, uint32_t index):
        self.flows.add_work(self.at(index))

    def add_waiting(self, uint32_t index):
        self.flows.add_waiting(self.at(index))

    def wake_waiting(self):
        self.flows.wake_waiting()

    def take_work(self):
        """Take the work list as the engine does; returns the indices of flows that live."""
        cdef uint32_t index = self.flows.take_work()
        cdef Flow *flow
        alive = []
        while index != NO_FLOW:
            flow = self.at(index)
            index = flow.next_work
            flow.has_work = False
            if flow.kind == FLOW_DEAD:
                self.flows.put_free(flow)
            else:
                alive.append(flow.index)
        return alive

    @property
    def n_active(self):
        return self.flows.n_active

"""The kernel's side of the data plane for pytest: sockets, epoll, and links over real descriptors."""

from typing import NamedTuple

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from passt.dataplane.link.link cimport (
    LINK_CSUM, LINK_TSO4, LINK_TSO6, LINK_USO4, LINK_USO6, MAX_PIECES, Link,
)
from passt.dataplane.link.tap cimport RX_BATCH, TapLink
from passt.dataplane.loop.reactor cimport Reactor, make_tag
from passt.dataplane.sockets.socket_address cimport fill_sockaddr, read_sockaddr
from passt.dataplane.sockets.sockets cimport PathInfo, Sockets, scale_for
from passt.dataplane.base.stats cimport Stats, stats_as_dict
from passt.dataplane.link.stream cimport StreamLink
from passt.dataplane.base.externs cimport iovec, sockaddr_storage
from passt.dataplane.link.meta cimport RxFrame, TxMeta
from tests.dataplane.probes.scripted cimport endpoint_of

FEATURES = {"CSUM": LINK_CSUM, "TSO4": LINK_TSO4, "TSO6": LINK_TSO6, "USO4": LINK_USO4, "USO6": LINK_USO6}


class Received(NamedTuple):
    """A frame that a link read."""

    frame: bytes
    gso_type: int
    gso_size: int


class Buffer(NamedTuple):
    """What `free_space` says."""

    room: int
    total: int


cdef class HostSockets:
    """`Sockets`; results are those of its methods, data as bytes. Failures are negative errnos."""

    cdef Sockets sockets

    def __init__(self):
        self.sockets = Sockets(Reactor(1))

    def probe(self, without=()):
        return self.sockets.probe(without)

    @property
    def has_peek_off(self):
        return bool(self.sockets.has_peek_off)

    @has_peek_off.setter
    def has_peek_off(self, bint value):
        self.sockets.has_peek_off = value

    def index_of(self, int fd, bytes name):
        cdef char ifname[16]
        memset(ifname, 0, sizeof(ifname))
        memcpy(ifname, <const char *>name, min(<size_t>len(name), sizeof(ifname) - 1))
        return self.sockets.index_of(fd, ifname)

    @property
    def has_meminfo(self):
        return bool(self.sockets.has_meminfo)

    @has_meminfo.setter
    def has_meminfo(self, bint value):
        self.sockets.has_meminfo = value

    @property
    def window_scale(self):
        return self.sockets.window_scale

    def open(self, int family, int kind, int protocol):
        return self.sockets.open(family, kind, protocol)

    def bind_source(self, int fd, bytes address not None, int port, uint32_t scope_id=0):
        cdef sockaddr_storage out
        n = fill_sockaddr(&out, <const uint8_t *><const char *>address, len(address), <uint16_t>port,
                          scope_id)
        return self.sockets.bind_source(fd, &out, n)

    def bind_device(self, int fd, bytes name not None):
        return self.sockets.bind_device(fd, <const char *>name, len(name))

    def connect(self, int fd, bytes address not None, int port, uint32_t scope_id=0):
        cdef sockaddr_storage out
        n = fill_sockaddr(&out, <const uint8_t *><const char *>address, len(address), <uint16_t>port,
                          scope_id)
        return self.sockets.connect(fd, &out, n)

    def accept(self, int fd):
        """The new descriptor and both ends, or a negative errno."""
        cdef sockaddr_storage peer, local
        new = self.sockets.accept(fd, &peer, &local)
        return new if new < 0 else (new, endpoint_of(&peer), endpoint_of(&local))

    def refuse(self, int fd, int spare):
        return self.sockets.refuse(fd, spare)

    def prepare_stream(self, int fd):
        return self.sockets.prepare_stream(fd)

    def send(self, int fd, list pieces not None):
        cdef iovec vector[MAX_PIECES]
        cdef bytes piece
        cdef size_t n = 0
        if len(pieces) > MAX_PIECES:
            raise ValueError("more pieces than a call may have")
        for piece in pieces:
            vector[n].iov_base = <void *><const char *>piece
            vector[n].iov_len = len(piece)
            n += 1
        return self.sockets.send(fd, vector, n)

    def peek(self, int fd, uint32_t skip, size_t n):
        buf = bytearray(n)
        cdef uint8_t *place = buf
        got = self.sockets.peek(fd, skip, place, n)
        return got if got < 0 else bytes(buf[:got])

    def at_end(self, int fd):
        return bool(self.sockets.at_end(fd))

    def rewind(self, int fd, uint32_t offset):
        return self.sockets.rewind(fd, offset)

    def consume(self, int fd, size_t n):
        return self.sockets.consume(fd, n)

    def free_space(self, int fd):
        cdef int64_t total = -1
        room = self.sockets.free_space(fd, &total)
        return Buffer(room, total)

    def shut_write(self, int fd):
        return self.sockets.shut_write(fd)

    def take_error(self, int fd):
        return self.sockets.take_error(fd)

    def keep_alive(self, int fd, int idle_s):
        return self.sockets.keep_alive(fd, idle_s)

    def path_info(self, int fd):
        cdef PathInfo path
        cdef int result = self.sockets.path_info(fd, &path)
        return result if result < 0 else dict(path)

    def follow_acks(self, int fd, bint on):
        return self.sockets.follow_acks(fd, on)

    def drain_errors(self, int fd):
        return self.sockets.drain_errors(fd)

    def close(self, int fd):
        return self.sockets.close(fd)

    def abort(self, int fd):
        return self.sockets.abort(fd)


def window_scale_for(int64_t window):
    """The window scale for windows of up to *window* bytes."""
    return scale_for(window)


def sockaddr_round_trip(bytes address not None, int port, uint32_t scope_id):
    """read_sockaddr(fill_sockaddr()): octets, zeroes behind them, port, length of the structure."""
    cdef sockaddr_storage out
    cdef uint8_t octets[16]
    cdef uint16_t found = 0
    size = fill_sockaddr(&out, <const uint8_t *><const char *>address, len(address), <uint16_t>port, scope_id)
    memset(octets, 0xa5, 16)
    n = read_sockaddr(&out, octets, &found)
    return (<char *>octets)[:n], (<char *>octets)[n:16], found, size


def sockaddr_of_other_family():
    """read_sockaddr of a family that is not IP."""
    cdef sockaddr_storage out
    cdef uint8_t octets[16]
    cdef uint16_t port = 0
    memset(&out, 0, sizeof(out))
    out.ss_family = 1
    return read_sockaddr(&out, octets, &port)


cdef class Loop:
    """A `Reactor`."""

    cdef Reactor reactor

    def __init__(self, uint32_t n_timers=4):
        self.reactor = Reactor(n_timers)

    @property
    def has_pwait2(self):
        return bool(self.reactor.has_pwait2)

    @has_pwait2.setter
    def has_pwait2(self, bint value):
        self.reactor.has_pwait2 = value

    @property
    def skip(self):
        """Short sleeps to come before the loop polls again."""
        return self.reactor.skip

    @skip.setter
    def skip(self, uint32_t value):
        self.reactor.skip = value

    @property
    def slept(self):
        return bool(self.reactor.slept)

    def clock(self):
        return self.reactor.clock()

    def watch(self, int fd, int op, uint32_t events, uint64_t tag):
        return self.reactor.watch(fd, op, events, tag)

    def arm(self, uint32_t id, int64_t deadline):
        self.reactor.timers.arm(id, deadline)

    def wait(self, int64_t now, *, bint busy=False):
        """The events as (events, tag), or a negative errno."""
        cdef int n, i
        n = self.reactor.next_events(now, busy)
        found = []
        for i in range(n):
            found.append((self.reactor.events[i].events, self.reactor.events[i].data.u64))
        return n if n < 0 else found


def tag(uint32_t kind, uint32_t generation, uint32_t index):
    """make_tag."""
    return make_tag(kind, generation, index)


cdef class PlainLink:
    """A `Link` of the base class, or of a class whose constructor does more."""

    cdef Link link
    cdef Stats stats

    def __init__(self):
        self.use(Link())

    cdef void use(self, Link link):
        self.link = link
        memset(&self.stats, 0, sizeof(Stats))
        link.stats = &self.stats

    def send(self, bytes frame not None, *, int gso_type=0, int gso_size=0, int csum_start=0,
             int csum_offset=0, int hdr_len=0, int piece=0):
        """Send a frame; with *piece* its payload in pieces of that size, which lie elsewhere."""
        cdef TxMeta meta
        cdef iovec pieces[MAX_PIECES]
        cdef size_t n = 0
        cdef Py_ssize_t at = hdr_len
        if len(frame) > <Py_ssize_t>self.link.max_frame:
            raise ValueError("longer than the slot")
        meta.gso_type = <uint8_t>gso_type
        meta.gso_size = <uint16_t>gso_size
        meta.csum_start = <uint16_t>csum_start
        meta.csum_offset = <uint16_t>csum_offset
        meta.hdr_len = <uint16_t>hdr_len
        if not piece:
            memcpy(self.link.slot, <const char *>frame, len(frame))
            return bool(self.link.send(len(frame), &meta))
        memcpy(self.link.slot, <const char *>frame, hdr_len)
        while at < len(frame):
            if n == MAX_PIECES:
                raise ValueError("more pieces than a frame may have")
            pieces[n].iov_base = <char *>frame + at
            pieces[n].iov_len = <size_t>min(piece, len(frame) - at)
            at += piece
            n += 1
        return bool(self.link.send_pieces(pieces, n, &meta))

    def read(self, int room=RX_BATCH):
        cdef RxFrame frames[RX_BATCH]
        cdef int n, i
        memset(frames, 0, sizeof(frames))
        n = self.link.read_batch(frames, min(room, <int>RX_BATCH))
        found = []
        for i in range(n):
            found.append(Received((<const char *>frames[i].data)[:frames[i].len], frames[i].gso_type,
                                  frames[i].gso_size))
        return found

    def on_writable(self):
        self.link.on_writable()

    def counters(self):
        return stats_as_dict(&self.stats)

    def flush(self):
        self.link.flush()

    @property
    def features(self):
        return self.link.features

    @property
    def more(self):
        return bool(self.link.more)

    @property
    def error(self):
        return self.link.error

    @property
    def blocked(self):
        return bool(self.link.blocked)


cdef class Tap(PlainLink):
    """A `TapLink`, which owns the descriptor."""

    def __init__(self, int fd, uint32_t offloads):
        self.use(TapLink(fd, offloads))


cdef class Stream(PlainLink):
    """A `StreamLink`."""

    cdef StreamLink stream

    def __init__(self):
        self.stream = StreamLink()
        self.use(self.stream)

    def attach(self, int fd):
        """Take ownership of a connected socket."""
        self.stream.attach(fd)

    def detach(self):
        """Close it."""
        self.stream.detach()

    @property
    def broken(self):
        return self.stream.broken

    @property
    def bad_length(self):
        return self.stream.bad_length

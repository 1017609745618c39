"""Bytes of the guest that no socket has yet, in order or not, and their report to the guest.

Read `tcp.segments` first. Theory of operation. A connection's store holds runs of bytes, sorted, apart from
each other, none of them twice. There are two reasons to be in it:

* The run is in order and acknowledged, but a short write left it over (`in_order`; only the first run
  can be that). It ends at `rcv_nxt`, the next bytes in order are added to it, and it is written to the
  socket before anything else.
* The run came early: something before it is missing. It is kept, so that the guest has to repeat
  only what was lost, and reported by selective acknowledgements (RFC 2018). When the hole closes, it is in
  order; no byte of it is copied again.

Early data is never beyond the window that the guest was told, so when its turn comes the socket has
room for it. Memory comes from the pool (`memory_budget`). Early data may not touch the last half of it, which
is for data that was promised a place, nor exceed MAX_EARLY for one connection: data without room is dropped,
counted, and not reported. Reported data is never dropped before the connection ends (RFC 2018 8 would allow
it).

A run is a chain of pieces of memory. Segments that follow each other share pieces, so that many small
ones do not cost much more than their bytes; the room in a piece that is not used is charged to the pool.
"""

from libc.stdint cimport UINT32_MAX, uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.tcp cimport (
    CONN_FIN_EARLY, CONN_TIMESTAMPS, STORE_RANGES, Piece, StoreRange, TcpConn, TcpStore,
)
from passt.dataplane.packet.headers cimport store_be32
from passt.dataplane.packet.parse cimport MAX_SACK_BLOCKS
from passt.dataplane.base.assertions cimport PASST_ASSERT, PASST_DEBUG_BUILD
from passt.dataplane.base.externs cimport iovec, memcpy, memmove, memset
from passt.dataplane.tcp.sequence cimport seq_le, seq_lt

cdef enum:
    # A piece is as large as the data it is made for, but not smaller than that: the first of a run,
    # and those that follow.
    FIRST_PIECE = 2048
    NEXT_PIECE = 16384
    MAX_EARLY = 8 << 20          # bytes of early data that one connection may hold


cdef void *take(Core core, TcpConn *conn, size_t n, bint early) noexcept nogil:
    """*n* bytes of the pool for a store, or NULL."""
    if early and (core.pool.left < core.pool.size // 2 + n
                  or (conn.store != NULL and conn.store.memory + n > MAX_EARLY)):
        return NULL
    return core.pool.take(n)


cdef bint open_store(Core core, TcpConn *conn, bint early) noexcept nogil:
    """Make an empty store; False if there is no memory."""
    cdef TcpStore *store = <TcpStore *>take(core, conn, sizeof(TcpStore), early)
    if store == NULL:
        return False
    memset(store, 0, sizeof(TcpStore))
    store.memory = sizeof(TcpStore)
    conn.store = store
    return True


cdef Piece *new_piece(Core core, TcpConn *conn, uint32_t room, bint early) noexcept nogil:
    """An empty piece, or NULL if there is no memory."""
    cdef size_t size = sizeof(Piece) + room
    cdef Piece *piece = <Piece *>take(core, conn, size, early)
    if piece == NULL:
        return NULL
    conn.store.memory += size
    piece.next = NULL
    piece.head = 0
    piece.tail = 0
    piece.room = room
    return piece


cdef void free_piece(Core core, TcpStore *store, Piece *piece) noexcept nogil:
    cdef size_t size = sizeof(Piece) + piece.room
    store.memory -= size
    core.pool.give(piece, size)


cdef uint32_t fill(Piece *piece, const uint8_t *data, uint32_t n) noexcept nogil:
    """Add to a piece what has room in it; returns how many bytes."""
    n = min(n, piece.room - piece.tail)
    memcpy(<uint8_t *>(piece + 1) + piece.tail, data, n)
    piece.tail += n
    return n


cdef uint32_t append(Core core, TcpConn *conn, StoreRange *run, const uint8_t *data, uint32_t n,
                     bint early) noexcept nogil:
    """Add to the end of a run; returns how many bytes found memory."""
    cdef uint32_t done = fill(run.last, data, n)
    cdef Piece *piece
    if done < n:
        piece = new_piece(core, conn, max(n - done, <uint32_t>NEXT_PIECE), early)
        if piece != NULL:
            done += fill(piece, data + done, n - done)
            run.last.next = piece
            run.last = piece
    run.end += done
    return done


cdef uint32_t begin(Core core, TcpConn *conn, uint32_t i, uint32_t seq, const uint8_t *data, uint32_t n,
                    bint early) noexcept nogil:
    """Make a new run of *n* bytes before run *i*; returns *n*, or 0 if there is no room."""
    cdef TcpStore *store = conn.store
    cdef StoreRange *run = &store.ranges[i]
    cdef Piece *piece
    if store.n == STORE_RANGES:
        return 0
    piece = new_piece(core, conn, max(n, <uint32_t>FIRST_PIECE), early)
    if piece == NULL:
        return 0
    fill(piece, data, n)
    memmove(run + 1, run, (store.n - i) * sizeof(StoreRange))
    store.n += 1
    run.first = piece
    run.last = piece
    run.start = seq
    run.end = seq + n
    return n


cdef bint join(TcpStore *store, uint32_t i) noexcept nogil:
    """Make one of run *i* and the next if they touch; whether they did."""
    cdef StoreRange *run = &store.ranges[i]
    if i + 1 == store.n or run[1].start != run.end:
        return False
    run.last.next = run[1].first
    run.last = run[1].last
    run.end = run[1].end
    store.n -= 1
    memmove(run + 1, run + 2, (store.n - i - 1) * sizeof(StoreRange))
    return True


cdef uint32_t store_put(Core core, TcpConn *conn, uint32_t seq, const uint8_t *data, uint32_t n,
                        bint early) noexcept nogil:
    """Keep *n* bytes; returns how many of them, from the first on, the store has now.

    Bytes that it has already stay as they are, whatever *data* says. *early*: they are not promised a
    place, see above.
    """
    cdef TcpStore *store
    cdef uint32_t i, at, part, got
    cdef uint32_t done = 0
    if conn.store == NULL and not open_store(core, conn, early):
        return 0
    store = conn.store
    store.stamp += 1
    i = store.n
    while i and seq_lt(seq, store.ranges[i - 1].end):
        i -= 1
    # From here on run i is the first one that ends behind what is done.
    while done < n:
        at = seq + done
        part = n - done
        if i < store.n and seq_le(store.ranges[i].start, at):
            done += min(part, store.ranges[i].end - at)
            store.ranges[i].stamp = store.stamp
            i += 1
            continue
        if i < store.n:
            part = min(part, store.ranges[i].start - at)
        if i and store.ranges[i - 1].end == at:
            i -= 1
            got = append(core, conn, &store.ranges[i], data + done, part, early)
        else:
            got = begin(core, conn, i, at, data + done, part, early)
        done += got
        if got:
            store.ranges[i].stamp = store.stamp
        if got < part:
            break
        if not join(store, i):
            i += 1
    if not store.n:
        drop_store(core, conn)
    if PASST_DEBUG_BUILD:
        check_store(conn.store)
    return done


cdef bint store_has(TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil:
    """Whether all of the *n* bytes are there; their run then counts as the one that came last."""
    cdef TcpStore *store = conn.store
    cdef uint32_t i
    if store == NULL:
        return False
    for i in range(store.n):
        if seq_le(store.ranges[i].start, seq) and seq_le(seq + n, store.ranges[i].end):
            store.stamp += 1
            store.ranges[i].stamp = store.stamp
            return True
    return False


cdef uint32_t store_end(const TcpConn *conn) noexcept nogil:
    """The number behind the last byte of the guest that we have."""
    return conn.rcv_nxt if conn.store == NULL else conn.store.ranges[conn.store.n - 1].end


cdef size_t store_gather(const TcpConn *conn, iovec *pieces, size_t most) noexcept nogil:
    """Point *pieces* to the first run's bytes; returns how many were filled."""
    cdef Piece *piece = conn.store.ranges[0].first
    cdef size_t n = 0
    while piece != NULL and n < most:
        pieces[n].iov_base = <uint8_t *>(piece + 1) + piece.head
        pieces[n].iov_len = piece.tail - piece.head
        piece = piece.next
        n += 1
    return n


cdef void drop_front(Core core, TcpConn *conn, uint32_t n) noexcept nogil:
    """Forget the first *n* bytes of the first run, which has as many; the store ends with its last byte."""
    cdef TcpStore *store = conn.store
    cdef StoreRange *run = &store.ranges[0]
    cdef Piece *piece
    cdef uint32_t part
    PASST_ASSERT(n <= run.end - run.start)
    run.start += n
    while n:
        piece = run.first
        part = min(n, piece.tail - piece.head)
        piece.head += part
        n -= part
        if piece.head == piece.tail:
            run.first = piece.next
            free_piece(core, store, piece)
    if run.start != run.end:
        if PASST_DEBUG_BUILD:
            check_store(store)
        return
    store.in_order = False
    store.n -= 1
    memmove(run, run + 1, store.n * sizeof(StoreRange))
    if not store.n:
        drop_store(core, conn)


cdef void trim_store(Core core, TcpConn *conn, uint32_t upto) noexcept nogil:
    """Forget all bytes before *upto*."""
    cdef StoreRange *run
    while conn.store != NULL:
        run = &conn.store.ranges[0]
        if not seq_lt(run.start, upto):
            return
        drop_front(core, conn, min(upto - run.start, run.end - run.start))


cdef void drop_store(Core core, TcpConn *conn) noexcept nogil:
    """Forget everything."""
    cdef TcpStore *store = conn.store
    cdef Piece *piece
    cdef Piece *following
    cdef uint32_t i
    if store == NULL:
        return
    for i in range(store.n):
        piece = store.ranges[i].first
        while piece != NULL:
            following = piece.next
            free_piece(core, store, piece)
            piece = following
    PASST_ASSERT(store.memory == sizeof(TcpStore))
    core.pool.give(store, store.memory)
    conn.store = NULL


cdef uint8_t *push_block(uint8_t *p, uint32_t start, uint32_t end) noexcept nogil:
    store_be32(p, start)
    store_be32(p + 4, end)
    return p + 8


cdef uint32_t push_sack(const TcpConn *conn, uint8_t *option) noexcept nogil:
    """Write the SACK option with two NOPs before it; returns its length, 0 if there is nothing to report.

    The run that grew last is the first block, then the others, the last reported first (RFC 2018 4); a
    duplicate comes before all of them (RFC 2883 4).
    """
    cdef uint8_t *end = option + 4 + 8 * (MAX_SACK_BLOCKS - (1 if conn.flags & CONN_TIMESTAMPS else 0))
    cdef uint8_t *p = option + 4
    cdef bint with_fin
    cdef bint fin_alone = conn.flags & CONN_FIN_EARLY and store_end(conn) != conn.guest_fin
    cdef const StoreRange *best
    cdef uint32_t before = UINT32_MAX
    cdef uint32_t i
    if conn.tell_start != conn.tell_end:
        p = push_block(p, conn.tell_start, conn.tell_end)
        fin_alone = fin_alone and conn.tell_start != conn.guest_fin
    while conn.store != NULL and p < end:
        best = NULL
        for i in range(1 if conn.store.in_order else 0, conn.store.n):
            if conn.store.ranges[i].stamp < before and (best == NULL
                                                        or conn.store.ranges[i].stamp > best.stamp):
                best = &conn.store.ranges[i]
        if best == NULL:
            break
        before = best.stamp
        # A FIN takes a number of its own.
        with_fin = conn.flags & CONN_FIN_EARLY and best.end == conn.guest_fin
        p = push_block(p, best.start, best.end + with_fin)
    if fin_alone and p < end:
        p = push_block(p, conn.guest_fin, conn.guest_fin + 1)
    if p == option + 4:
        return 0
    option[0] = 1
    option[1] = 1
    option[2] = 5
    option[3] = <uint8_t>(p - option - 2)
    return <uint32_t>(p - option)


cdef void check_store(const TcpStore *store) noexcept nogil:
    """Assert that the runs are sorted and apart, and that the pieces hold their bytes and the memory."""
    cdef size_t memory = sizeof(TcpStore)
    cdef const Piece *piece
    cdef uint32_t i, n
    if store == NULL:
        return
    PASST_ASSERT(store.n > 0)
    PASST_ASSERT(store.n <= STORE_RANGES)
    for i in range(store.n):
        n = 0
        piece = store.ranges[i].first
        while piece != NULL:
            PASST_ASSERT(piece.head <= piece.tail)
            PASST_ASSERT(piece.tail <= piece.room)
            n += piece.tail - piece.head
            memory += sizeof(Piece) + piece.room
            if piece.next == NULL:
                PASST_ASSERT(piece == store.ranges[i].last)
            piece = piece.next
        PASST_ASSERT(n > 0)
        PASST_ASSERT(n == store.ranges[i].end - store.ranges[i].start)
        if i:
            PASST_ASSERT(seq_lt(store.ranges[i - 1].end, store.ranges[i].start))
    PASST_ASSERT(memory == store.memory)

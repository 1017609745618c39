"""What the guest selectively acknowledged, and the repetition of the rest.

Read `tcp.segments` first, RFC 2018 and RFC 6675. Theory of operation. While something is lost on the way to
the guest, its acknowledgements tell which runs of bytes it has beyond `snd_una`. The board keeps these
runs, sorted and apart; it exists only as long as there is one, so that a connection without loss pays
nothing. What lies before a run is a hole.

A hole is taken for lost as in RFC 6675 4 (IsLost): more than two segments, or three runs, arrived that
were sent later; or the third duplicate acknowledgement came, for the first hole; or all that was sent
later has arrived, so that nothing more will tell. Lost holes are repeated, the lowest first, and nothing
else is. For each acknowledgement as much is repeated as it reports to have arrived, and a segment more, so
that a repetition cannot flood a queue that has just overflowed. MAX_RESEND bounds it, whatever is reported.

The guest's numbers are not to be trusted. Distances from what it has acknowledged decide whether a block
is one of ours: in sequence space alone (`seq_lt`) a block can begin beyond all that was sent and end before
all that is acknowledged, with each number next to the other in the right order. So at any time the board
is sorted, its runs are apart, and all of them lie behind `snd_una` and end at `snd_max` or before.

The link keeps the order of frames. So a repetition is lost itself if something arrives that was sent
after it: new data behind the `mark` that `snd_max` was at that time, or a later repetition; each one has
a `serial` number. Such a hole is repeated once more without waiting for the time-out.

After a time-out `snd_nxt` goes back and moves over the holes, stepping over the runs, which the guest
still has (RFC 6675 5.1). A guest that drops what it reported (RFC 2018 8) is found out in two ways, and
the board is forgotten: it acknowledges up to the start or the middle of a run, or the time-out comes a
second time in a row.
"""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.tcp cimport SACK_RANGES, SackBoard, SackRange, TcpConn
from passt.dataplane.packet.parse cimport MAX_SACK_BLOCKS, SackBlock, TcpView, read_sack
from passt.dataplane.base.externs cimport memmove, memset
from passt.dataplane.tcp.sequence cimport seq_le, seq_lt

cdef enum:
    LOST_SEGMENTS = 2             # more than so many arrived that were sent later (RFC 6675 4, DupThresh - 1)
    LOST_RUNS = 3                 # or so many runs (DupThresh)


cdef uint32_t sacked_bytes(const SackBoard *board) noexcept nogil:
    cdef uint32_t total = 0
    cdef uint32_t i
    for i in range(board.n):
        total += board.ranges[i].end - board.ranges[i].start
    return total


cdef uint32_t hole_start(const TcpConn *conn, uint32_t i) noexcept nogil:
    """Where the hole before run *i* begins."""
    return conn.board.ranges[i - 1].end if i else conn.snd_una


cdef void note_arrival(SackBoard *board, const SackRange *run, uint32_t start) noexcept nogil:
    """Something of the hole from *start* to *run* has arrived: it was repeated with success, if at all."""
    if seq_lt(start, run.resent) and seq_lt(board.arrived, run.serial):
        board.arrived = run.serial


cdef void cut_repetition(SackRange *run) noexcept nogil:
    """The run begins earlier now. A repetition that has arrived here carried what lies before it earlier."""
    if seq_lt(run.start, run.resent):
        run.resent = run.start
        run.serial -= 1


cdef void remove(SackBoard *board, uint32_t i) noexcept nogil:
    board.n -= 1
    memmove(&board.ranges[i], &board.ranges[i + 1], (board.n - i) * sizeof(SackRange))


cdef void insert(TcpConn *conn, uint32_t i, uint32_t start, uint32_t end) noexcept nogil:
    """Put a run before run *i*, whose hole it divides; the highest one gives way if there is no room."""
    cdef SackBoard *board = conn.board
    cdef SackRange *run = &board.ranges[i]
    cdef uint32_t lower = hole_start(conn, i)
    if board.n == SACK_RANGES:
        if i == board.n:
            return
        board.n -= 1
    memmove(run + 1, run, (board.n - i) * sizeof(SackRange))
    board.n += 1
    if i + 1 == board.n:
        run.resent = lower
        run.mark = 0
        run.serial = 0
    else:
        run[0] = run[1]
        note_arrival(board, run, start)
    run.start = start
    run.end = end
    cut_repetition(run)


cdef void add(TcpConn *conn, uint32_t start, uint32_t end) noexcept nogil:
    """Note that the guest has *start* to *end*."""
    cdef SackBoard *board = conn.board
    cdef SackRange *run
    cdef SackRange *following
    cdef uint32_t i = board.n
    while i and seq_le(start, board.ranges[i - 1].end):
        i -= 1
    if i == board.n or seq_lt(end, board.ranges[i].start):
        insert(conn, i, start, end)
        return
    run = &board.ranges[i]
    if seq_lt(start, run.start):
        note_arrival(board, run, start)
        run.start = start
        cut_repetition(run)
    while i + 1 < board.n and seq_lt(run.end, end):
        following = run + 1
        note_arrival(board, following, run.end)
        if seq_lt(end, following.start):
            break
        run.end = following.end
        remove(board, i + 1)
    if seq_lt(run.end, end):
        run.end = end


cdef bint is_ours(const SackBlock *block, uint32_t floor, uint32_t top) noexcept nogil:
    """Whether a block lies behind *floor*, the next byte that the guest asks for, and not beyond *top*.

    What is acknowledged (RFC 2883) or was never sent says nothing; nor does *floor* itself.
    """
    cdef uint32_t start = block.start - floor
    cdef uint32_t end = block.end - floor
    return 0 < start < end <= top - floor


cdef uint32_t take_blocks(Core core, TcpConn *conn, const TcpView *tcp) noexcept nogil:
    """Take the blocks of an acknowledgement in; returns how many bytes more than before are reported."""
    cdef SackBlock blocks[MAX_SACK_BLOCKS]
    cdef uint32_t n = read_sack(tcp, blocks)
    cdef uint32_t floor = conn.snd_una if seq_lt(tcp.ack, conn.snd_una) else tcp.ack
    cdef uint32_t before = 0
    cdef uint32_t after, i
    if conn.board != NULL:
        before = sacked_bytes(conn.board)
    for i in range(n):
        if not is_ours(&blocks[i], floor, conn.snd_max):
            continue
        if conn.board == NULL:
            conn.board = <SackBoard *>core.pool.take(sizeof(SackBoard))
            if conn.board == NULL:
                return 0
            memset(conn.board, 0, sizeof(SackBoard))
        add(conn, blocks[i].start, blocks[i].end)
    after = sacked_bytes(conn.board) if conn.board != NULL else 0
    return after - before if after > before else 0        # less if a run gave way


cdef void advance_board(Core core, TcpConn *conn, uint32_t old_una) noexcept nogil:
    """Follow snd_una, which was *old_una*; forget everything if the guest has dropped what it had."""
    cdef SackBoard *board = conn.board
    cdef uint32_t lower = old_una
    while board.n and seq_le(board.ranges[0].end, conn.snd_una):
        note_arrival(board, &board.ranges[0], lower)
        lower = board.ranges[0].end
        remove(board, 0)
    if board.n and not seq_lt(conn.snd_una, board.ranges[0].start):
        core.stats.tcp_reneged += 1
        board.n = 0
    if not board.n:
        drop_board(core, conn)
    elif seq_lt(lower, conn.snd_una):
        note_arrival(board, &board.ranges[0], lower)


cdef void drop_board(Core core, TcpConn *conn) noexcept nogil:
    """Forget what the guest has."""
    if conn.board != NULL:
        core.pool.give(conn.board, sizeof(SackBoard))
        conn.board = NULL


cdef uint32_t behind_run(const TcpConn *conn, uint32_t seq) noexcept nogil:
    """The end of the run that *seq* lies in, or *seq*."""
    cdef uint32_t i
    for i in range(conn.board.n):
        if seq_lt(seq, conn.board.ranges[i].start):
            break
        if seq_lt(seq, conn.board.ranges[i].end):
            return conn.board.ranges[i].end
    return seq


cdef uint32_t gap_length(const TcpConn *conn, uint32_t seq) noexcept nogil:
    """Bytes from *seq*, which lies in no run, to the next run; 0 if there is none."""
    cdef uint32_t i
    for i in range(conn.board.n):
        if seq_lt(seq, conn.board.ranges[i].start):
            return conn.board.ranges[i].start - seq
    return 0


cdef uint32_t sacked_before(const TcpConn *conn, uint32_t seq) noexcept nogil:
    """Bytes of the runs before *seq*, which lies in none."""
    cdef uint32_t total = 0
    cdef uint32_t i
    for i in range(conn.board.n):
        if seq_lt(seq, conn.board.ranges[i].end):
            break
        total += conn.board.ranges[i].end - conn.board.ranges[i].start
    return total


cdef void note_resent(TcpConn *conn, uint32_t seq, uint32_t n) noexcept nogil:
    """*n* bytes at *seq* left once more: note it for the hole that they lie in."""
    cdef SackBoard *board = conn.board
    cdef uint32_t i
    for i in range(board.n):
        if seq_lt(seq, board.ranges[i].start):
            board.serial += 1
            board.ranges[i].resent = seq + min(n, board.ranges[i].start - seq)
            board.ranges[i].mark = conn.snd_max
            board.ranges[i].serial = board.serial
            return


cdef bint is_lost(const TcpConn *conn, uint32_t i, uint32_t later) noexcept nogil:
    """Whether the hole before run *i* is lost; *later* bytes behind it have arrived."""
    cdef const SackBoard *board = conn.board
    return (later > LOST_SEGMENTS * <uint32_t>conn.mss or board.n - i >= LOST_RUNS
            or board.ranges[board.n - 1].end == conn.snd_max
            or (i == 0 and conn.dup_acks >= LOST_RUNS))


cdef bint is_lost_again(const TcpConn *conn, const SackRange *run) noexcept nogil:
    """Whether the repetition of the hole before *run* is lost, too."""
    cdef const SackBoard *board = conn.board
    cdef uint32_t top = board.ranges[board.n - 1].end
    return (seq_lt(run.serial, board.arrived) or seq_lt(run.mark + LOST_SEGMENTS * <uint32_t>conn.mss, top)
            or (top == conn.snd_max and seq_lt(run.mark, top)))

"""Invariants of the data plane, each spoiled on purpose: a build with PASST_DEBUG=1 aborts in each function.

In any other build only `is_debug` may be called: nothing stops the others from doing harm.
"""

from libc.stdint cimport uint8_t, uint64_t

from passt.dataplane.base.assertions cimport PASST_DEBUG_BUILD
from passt.dataplane.base.externs cimport memset
from passt.dataplane.base.memory_budget cimport Pool
from passt.dataplane.base.stats cimport Stats
from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport SIDE_GUEST
from passt.dataplane.flow.record cimport CLASS_OVER, FLOW_TCP, NO_FLOW, ORDER_CLASS, Flow
from passt.dataplane.flow.table cimport FlowTable
from passt.dataplane.flow.tcp cimport (
    TCP_CLOSE_WAIT, TCP_CONNECTING, TCP_ESTABLISHED, TCP_SYN_RECEIVED, SackBoard, TcpConn,
)
from passt.dataplane.link.link cimport Link
from passt.dataplane.link.stream cimport StreamLink
from passt.dataplane.link.tap cimport TapLink
from passt.dataplane.loop.reactor cimport Reactor
from passt.dataplane.loop.timers cimport TimerHeap
from passt.dataplane.sockets.pipe_pool cimport PipePool
from passt.dataplane.sockets.sockets cimport Sockets
from passt.dataplane.tcp.scoreboard cimport advance_board
from passt.dataplane.tcp.states cimport check_connection, set_state
from passt.dataplane.tcp.unsent_store cimport store_put
from passt.dataplane.turn cimport end_flows, set_handlers

cdef uint8_t BYTES[64]


def is_debug():
    return bool(PASST_DEBUG_BUILD)


cdef FlowTable make_table():
    return FlowTable(8, bytes(16))


cdef Core make_core():
    cdef Core core = Core(None, None, None, Link(), Sockets(Reactor(10)), our_mac=bytes(6), mtu=1500,
                          max_flows=8, secret=bytes(16))
    set_handlers(core)
    return core


cdef Flow *establish(Core core) except NULL:
    """A connection in ESTABLISHED, as if the guest had opened it."""
    cdef Flow *flow = core.flows.alloc(FLOW_TCP)
    set_state(core, flow, TCP_CONNECTING)
    set_state(core, flow, TCP_SYN_RECEIVED)
    set_state(core, flow, TCP_ESTABLISHED)
    check_connection(flow)
    return flow


def transition():
    cdef Core core = make_core()
    cdef Flow *flow = establish(core)
    set_state(core, flow, TCP_SYN_RECEIVED)


def first_transition():
    cdef Core core = make_core()
    set_state(core, core.flows.alloc(FLOW_TCP), TCP_ESTABLISHED)


def slot_in_use():
    cdef FlowTable table = make_table()
    table.first_free = table.alloc(FLOW_TCP).index
    table.alloc(FLOW_TCP)


def released_twice():
    cdef FlowTable table = make_table()
    cdef Flow *flow = table.alloc(FLOW_TCP)
    table.release(flow)
    table.release(flow)


def armed_at_release():
    cdef FlowTable table = make_table()
    cdef Flow *flow = table.alloc(FLOW_TCP)
    flow.armed = 1
    table.release(flow)


def work_list():
    cdef FlowTable table = make_table()
    cdef Flow *flow = table.alloc(FLOW_TCP)
    table.add_work(flow)
    flow.has_work = False
    table.take_work()


def lost_work():
    cdef FlowTable table = make_table()
    table.add_work(table.alloc(FLOW_TCP))
    table.first_work = NO_FLOW
    table.last_work = NO_FLOW
    table.take_work()


def chain():
    cdef FlowTable table = make_table()
    cdef Flow *flow = table.alloc(FLOW_TCP)
    table.insert(flow, SIDE_GUEST)
    flow.chain[<int>SIDE_GUEST] = 1000
    flow.keys[<int>SIDE_GUEST].guest_port = 1
    table.heads[table.hash(&flow.keys[<int>SIDE_GUEST]) & table.mask] = 1000
    table.find(&flow.keys[<int>SIDE_GUEST], SIDE_GUEST)


def class_count():
    cdef FlowTable table = make_table()
    table.classify(table.alloc(FLOW_TCP), CLASS_OVER)
    table.n_in_class[<int>CLASS_OVER] += 1
    table.take_work()


def class_order():
    cdef FlowTable table = make_table()
    cdef Flow *flow = table.alloc(FLOW_TCP)
    table.classify(flow, CLASS_OVER)
    table.classify(table.alloc(FLOW_TCP), CLASS_OVER)
    flow.links[<int>ORDER_CLASS].newer = NO_FLOW
    table.take_work()


def generation():
    cdef FlowTable table = make_table()
    cdef Flow *flow = table.alloc(FLOW_TCP)
    table.at_tag((<uint64_t>(flow.generation + 1) << 32) | flow.index)


def given_twice():
    cdef Pool pool = Pool(100)
    pool.give(pool.take(60), 60)
    pool.give(NULL, 60)


def kept_memory():
    cdef Core core = make_core()
    core.pool.take(60)
    end_flows(core)


def kept_pipe():
    cdef Core core = make_core()
    core.bypass.pipes.take()
    end_flows(core)


def timer_order():
    cdef TimerHeap timers = TimerHeap(4)
    timers.arm(0, 10)
    timers.arm(1, 20)
    timers.heap[0].deadline = 30
    timers.cancel(1)


def timer_id():
    TimerHeap(4).arm(4, 10)


def tap_queue():
    cdef Stats stats
    cdef TapLink link = TapLink(-1, 0)
    memset(&stats, 0, sizeof(stats))
    link.stats = &stats
    link.keep_refused(BYTES, 60)
    link.pending_start = link.pending_end + 1
    link.keep_refused(BYTES, 60)


def stream_queue():
    cdef StreamLink link = StreamLink()
    link.note_queued(1, 64)
    link.note_queued(1, 1 << 20)


def stream_account():
    cdef StreamLink link = StreamLink()
    link.note_queued(1, 64)
    link.n_queued = 0
    link.note_written(10)


def pipe():
    cdef PipePool pipes = PipePool()
    pipes.give_back(3, True)


def store_order():
    cdef Core core = make_core()
    cdef TcpConn *conn = &establish(core).body.tcp
    store_put(core, conn, 100, BYTES, 10, True)
    store_put(core, conn, 200, BYTES, 10, True)
    conn.store.ranges[1].start = 50
    conn.store.ranges[1].end = 60
    store_put(core, conn, 100, BYTES, 10, True)


def store_bytes():
    cdef Core core = make_core()
    cdef TcpConn *conn = &establish(core).body.tcp
    store_put(core, conn, 100, BYTES, 10, True)
    conn.store.ranges[0].end += 1
    store_put(core, conn, 100, BYTES, 5, True)


cdef SackBoard *make_board(Core core, TcpConn *conn) except NULL:
    """Two runs, 10 to 20 and 30 to 40, of 50 bytes in flight."""
    cdef SackBoard *board = <SackBoard *>core.pool.take(sizeof(SackBoard))
    memset(board, 0, sizeof(SackBoard))
    board.n = 2
    board.ranges[0].start = 10
    board.ranges[0].end = 20
    board.ranges[1].start = 30
    board.ranges[1].end = 40
    conn.board = board
    conn.snd_nxt = conn.snd_max = 50
    advance_board(core, conn, 0)
    return board


def board_order():
    cdef Core core = make_core()
    cdef TcpConn *conn = &establish(core).body.tcp
    cdef SackBoard *board = make_board(core, conn)
    board.ranges[1].start = 20
    advance_board(core, conn, 0)


def board_edge():
    cdef Core core = make_core()
    cdef TcpConn *conn = &establish(core).body.tcp
    make_board(core, conn)
    conn.snd_max = 39
    advance_board(core, conn, 0)


def send_order():
    cdef Core core = make_core()
    cdef Flow *flow = establish(core)
    flow.body.tcp.snd_una = 1
    core.handlers[<int>FLOW_TCP].on_turn(core, flow)


def receive_order():
    cdef Core core = make_core()
    cdef Flow *flow = establish(core)
    flow.body.tcp.rcv_nxt = 1
    core.handlers[<int>FLOW_TCP].on_turn(core, flow)


def fin_without_flag():
    cdef Core core = make_core()
    cdef Flow *flow = establish(core)
    set_state(core, flow, TCP_CLOSE_WAIT)
    core.handlers[<int>FLOW_TCP].on_turn(core, flow)

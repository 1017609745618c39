"""The record of one flow: what all kinds have, and the body of its kind."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport sockaddr_storage, socklen_t
from passt.dataplane.flow.bypass cimport SpliceConn, SpliceUdp
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.ping cimport PingFlow
from passt.dataplane.flow.tcp cimport TcpConn
from passt.dataplane.flow.udp cimport UdpFlow, UdpPort

cdef enum FlowKind:
    FLOW_FREE = 0
    FLOW_DEAD = 1                 # ended, but still on the work list
    FLOW_TCP = 2
    FLOW_UDP = 3
    FLOW_UDP_PORT = 4             # no flow: a host socket that UDP flows share
    FLOW_PING = 5
    FLOW_SPLICE_TCP = 6
    FLOW_SPLICE_UDP = 7
    N_FLOW_KINDS

cdef enum FlowClass:
    # Flows that may have to make room for new ones; see `flow.table` for which of a class.
    CLASS_KEPT = 0                # never
    CLASS_OVER                    # in TIME-WAIT, only the tuple is remembered
    CLASS_HALF_OPEN_OUT           # the guest opens it, and the remote or the guest has not answered yet
    CLASS_HALF_OPEN_IN            # the same of one that comes to a listener
    CLASS_UNUSED                  # open, and no byte of data has passed in either direction
    CLASS_DATAGRAM                # the one unused for longest goes
    N_CLASSES

cdef enum FlowOrder:
    ORDER_CLASS = 0               # of all flows of a class
    ORDER_CROWD                   # of those of one crowd

cdef enum:
    NO_FLOW = 0xffffffff          # no index


cdef union FlowBody:
    TcpConn tcp
    UdpFlow udp
    UdpPort port
    PingFlow ping
    SpliceConn splice
    SpliceUdp splice_udp


cdef struct FlowLinks:
    uint32_t older                # NO_FLOW at the end
    uint32_t newer


cdef struct Flow:
    FlowKey keys[2]
    uint32_t chain[2]             # next node of the hash chain, by side
    uint32_t index
    uint32_t generation
    uint32_t next_free
    uint32_t next_work
    FlowLinks links[2]            # by FlowOrder
    uint16_t crowd                # the flows with the same remote, and some others; see `flow.table`
    uint8_t hashed[2]             # these are truth values; a bint would take four bytes
    uint8_t has_work
    uint8_t kind
    uint8_t flow_class
    uint8_t counted               # among the connections of its crowd
    uint8_t inbound
    uint8_t has_mac
    uint8_t mac[6]                # with has_mac: of the station that it belongs to, else it is the guest's
    int fd
    socklen_t peer_len
    int64_t armed                 # deadline in the heap, 0: not armed
    int64_t opened_at             # ns
    sockaddr_storage peer         # host side: where the socket's traffic goes
    FlowBody body

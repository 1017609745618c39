"""What a flow is found by."""

from libc.stdint cimport uint8_t, uint16_t

from passt.dataplane.base.externs cimport memcpy, memset
from passt.dataplane.packet.parse cimport IpView

cdef enum:
    FLOW_KEY_WORDS = 5

cdef enum FlowSide:
    SIDE_GUEST = 0
    SIDE_HOST = 1


cdef struct FlowKey:
    # The guest's and the remote's endpoint as one side sees them; IPv4 in the first 4 bytes, rest 0.
    #
    # *scope* is 0 on the guest's side and names the listener on the host's. Two kinds are special: the
    # host's side of a UDP flow with a socket of ours has scope 0 and that record's index in *guest*; the
    # guest's side of a socket (FLOW_UDP_PORT) has no remote, and the socket's family in *scope*.
    uint8_t guest[16]
    uint8_t remote[16]
    uint16_t guest_port
    uint16_t remote_port
    uint8_t proto
    uint8_t addr_len
    uint16_t scope


cdef inline void fill_key(FlowKey *key, const IpView *ip, uint8_t proto, uint16_t guest_port,
                          uint16_t remote_port) noexcept nogil:
    """The key of a packet from the guest as the guest sees it."""
    memset(key, 0, sizeof(FlowKey))
    memcpy(key.guest, ip.src, ip.addr_len)
    memcpy(key.remote, ip.dst, ip.addr_len)
    key.guest_port = guest_port
    key.remote_port = remote_port
    key.proto = proto
    key.addr_len = ip.addr_len

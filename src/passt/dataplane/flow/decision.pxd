"""What the policy says of a flow: where it goes on the host, or what the guest sees of it."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport memcpy, sockaddr_storage, socklen_t
from passt.dataplane.flow.key cimport FlowKey


cdef struct HostRoute:
    # Where a flow's traffic goes on the host's side; *ifname* NUL-terminated, empty: none.
    sockaddr_storage peer
    sockaddr_storage source
    socklen_t peer_len
    socklen_t source_len          # 0: any source
    uint32_t ifindex              # by which multicasts and broadcasts leave, 0: as routed
    char ifname[16]
    bint held                     # the guest's first bytes have to be judged


cdef struct InboundView:
    # What the guest sees of a flow that came to a listener.
    uint8_t source[16]
    uint8_t destination[16]
    uint16_t source_port
    uint16_t destination_port
    uint8_t addr_len
    # Or the flow bypasses the link: it comes *from_namespace* or from the host, and *route* is its way.
    bint bypass
    bint from_namespace
    HostRoute route


cdef inline void fill_inbound_key(FlowKey *key, const InboundView *view, uint8_t proto) noexcept nogil:
    """The key of an inbound flow as the guest sees it."""
    memcpy(key.guest, view.destination, 16)
    memcpy(key.remote, view.source, 16)
    key.guest_port = view.destination_port
    key.remote_port = view.source_port
    key.proto = proto
    key.addr_len = view.addr_len

"""UDP translation (RFC 768): what the turn calls.

A datagram of the guest finds its flow or opens one (`udp.flows`) and joins the batch of those that leave
(`udp.from_guest`); sockets and listeners that are readable are read in batches (`udp.to_guest`).
"""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.datagram.lifetime cimport end_datagram, still_used
from passt.dataplane.flow.table cimport FLOW_UDP, SIDE_GUEST, Flow, FlowKey, fill_key
from passt.dataplane.link.link cimport RxFrame
from passt.dataplane.packet.parse cimport IpView, UdpView, split_udp
from passt.dataplane.base.stats cimport DROP_BAD_PORT, DROP_GSO, VERDICT_OK, Verdict, count
from passt.dataplane.base.externs cimport (
    IPPROTO_UDP, VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP_L4, memcmp,
)
from passt.dataplane.udp.flows cimport lifetime, note_sent, open_outbound
from passt.dataplane.udp.to_guest cimport read_listener, read_port
from passt.dataplane.udp.from_guest cimport send_out


cdef void on_datagram(Core core, const IpView *ip, const RxFrame *frame) noexcept nogil:
    """A datagram from the guest whose IP header is checked."""
    cdef UdpView udp
    cdef FlowKey key
    cdef Flow *flow
    cdef Verdict verdict = split_udp(ip, &udp)
    if verdict != VERDICT_OK:
        count(&core.stats, verdict)
        return
    if not udp.src_port or not udp.dst_port:
        count(&core.stats, DROP_BAD_PORT)
        return
    if frame.gso_type not in (VIRTIO_NET_HDR_GSO_NONE, VIRTIO_NET_HDR_GSO_UDP_L4) or (
            frame.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 and not frame.gso_size):
        count(&core.stats, DROP_GSO)
        return
    fill_key(&key, ip, IPPROTO_UDP, udp.src_port, udp.dst_port)
    flow = core.last_udp
    if flow == NULL or flow.kind != FLOW_UDP or memcmp(&flow.keys[0], &key, sizeof(key)):
        flow = core.flows.find(&key, SIDE_GUEST)
        if flow == NULL:
            flow = open_outbound(core, &key)
        if flow == NULL:
            return
        core.last_udp = flow
    note_sent(core, flow)
    send_out(core, flow, ip, &udp, frame.gso_size if frame.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 else 0)


cdef void on_udp_socket(Core core, Flow *port) noexcept nogil:
    """Datagrams or errors on a socket that flows share, or its turn on the work list."""
    if port.u.port.users:
        read_port(core, port)
    else:
        end_datagram(core, port)  # see `udp.flows.open_answer`


cdef void on_udp_listener(Core core, uint32_t listener, int fd, bint in_namespace) noexcept nogil:
    """Datagrams or errors on a listener, of the host's or in the namespace."""
    read_listener(core, listener, fd, in_namespace)


cdef void on_udp_timer(Core core, Flow *flow) noexcept nogil:
    """The flow may have been unused for its lifetime."""
    if not still_used(core, flow, flow.u.udp.last_used, lifetime(core, flow)):
        end_datagram(core, flow)

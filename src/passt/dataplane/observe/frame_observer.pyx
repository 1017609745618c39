"""Frame observers: the packet capture and --trace.

Every frame comes by here once, whatever link it travels by: from the guest where it is received
(`demux.on_frame`), to the guest where a link has taken it (`Link.put`). Nobody looking on costs
one branch for each frame.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t

from passt.dataplane.flow.key cimport SIDE_GUEST, FlowKey, fill_key
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.headers cimport (
    ETH_HLEN, ETHERTYPE_IP4, ETHERTYPE_IP6, ICMP6_ECHO_REPLY, ICMP6_ECHO_REQUEST, ICMP_ECHO_REPLY,
    ICMP_ECHO_REQUEST, ICMP_HLEN, EthHdr, eth_type, load_be16,
)
from passt.dataplane.packet.parse cimport IpView, split_ip4, split_ip6
from passt.dataplane.base.stats cimport VERDICT_OK
from passt.dataplane.base.externs cimport IPPROTO_ICMP, IPPROTO_ICMPV6, IPPROTO_TCP, IPPROTO_UDP

cdef enum:
    # What a tracer gets of a frame: all headers, unless there are many IPv6 extensions.
    HEAD_LEN = 256


cdef class Watch:
    """Shows frames, and which of *flows* they belong to."""

    def __init__(self, FlowTable flows not None):
        self.flows = flows

    def set_capture(self, Capture capture):
        """Write the capture, or none."""
        self.capture = capture
        self.active = capture is not None or self.tracer is not None

    def set_tracer(self, tracer, fail=None):
        """Call *tracer* (see `Engine.set_trace`), or nobody; *fail* takes exceptions that it raises."""
        self.tracer = tracer
        # Mostly the core's own method, which holds the core.
        self.fail = None if tracer is None else fail
        self.active = tracer is not None or self.capture is not None

    cdef void on_frame(self, const uint8_t *frame, size_t n, bint to_guest, uint16_t csum_start,
                       uint16_t csum_offset, uint8_t gso_type, uint16_t gso_size) noexcept nogil:
        """A frame of at least an Ethernet header passes."""
        if self.capture is not None:
            self.capture.add(frame, n, csum_start, csum_offset)
        if self.tracer is not None:
            self.trace(frame, n, to_guest, gso_type, gso_size)

    cdef void end_turn(self) noexcept nogil:
        """The loop may sleep now."""
        if self.capture is not None and self.capture.end:
            self.capture.flush()

    cdef int32_t flow_of(self, const uint8_t *frame, size_t n, bint to_guest) noexcept nogil:
        """Index of the flow that a frame belongs to; NO_TRACED_FLOW if there is none (yet, or any more)."""
        cdef uint16_t kind = eth_type(<const EthHdr *>frame)
        cdef uint16_t source, destination
        cdef IpView ip
        cdef FlowKey key
        cdef Flow *flow
        if kind == ETHERTYPE_IP4:
            if split_ip4(frame + ETH_HLEN, n - ETH_HLEN, &ip) != VERDICT_OK:
                return NO_TRACED_FLOW
        elif kind != ETHERTYPE_IP6 or split_ip6(frame + ETH_HLEN, n - ETH_HLEN, &ip) != VERDICT_OK:
            return NO_TRACED_FLOW
        if ip.l4_len < ICMP_HLEN:
            return NO_TRACED_FLOW
        source, destination = load_be16(ip.l4), load_be16(ip.l4 + 2)
        if ip.protocol in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            if ip.l4[0] not in (ICMP_ECHO_REQUEST, ICMP_ECHO_REPLY, ICMP6_ECHO_REQUEST, ICMP6_ECHO_REPLY):
                return NO_TRACED_FLOW
            source = destination = load_be16(ip.l4 + 4)
        elif ip.protocol not in (IPPROTO_TCP, IPPROTO_UDP):
            return NO_TRACED_FLOW
        if to_guest:
            ip.src, ip.dst = ip.dst, ip.src
            source, destination = destination, source
        fill_key(&key, &ip, ip.protocol, source, destination)
        flow = self.flows.find(&key, SIDE_GUEST)
        return NO_TRACED_FLOW if flow == NULL else <int32_t>flow.index

    cdef void trace(self, const uint8_t *frame, size_t n, bint to_guest, uint8_t gso_type,
                    uint16_t gso_size) noexcept with gil:
        cdef object error
        try:
            self.tracer((<const char *>frame)[:min(n, <size_t>HEAD_LEN)], n, to_guest, gso_type, gso_size,
                        self.flow_of(frame, n, to_guest))
        except BaseException as error:
            self.fail(error)

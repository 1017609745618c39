"""Report a failed host connect (RST or ICMP), so that the guest's connect(2) gets the same errno.

A TCP that gets an ICMP error while it is in SYN-SENT gives up with the error's meaning (RFC 1122 4.2.3.9
leaves that to the application for most codes; Linux: net/ipv4/tcp_ipv4.c, tcp_v4_err). So a host or a network
that cannot be reached is reported by the code that says so (RFC 1812 5.2.7.1, RFC 4443 3.1), a local
prohibition as an administrative one. A refusal is a reset, and so is what no code stands for.

A remote that never answered is reported by silence. No ICMP message means that, and the guest, whose
own SYNs were not answered either, comes to the same conclusion by its own clock; if it is more patient
than the host's kernel, its next SYN starts another attempt.
"""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.headers cimport (
    ICMP6_ADDRESS_UNREACHABLE, ICMP6_NO_ROUTE, ICMP6_PROHIBITED, ICMP6_UNREACHABLE, ICMP_HOST_UNREACHABLE,
    ICMP_NET_UNREACHABLE, ICMP_PROHIBITED, ICMP_PROTOCOL_UNREACHABLE, ICMP_UNREACHABLE, TcpHdr,
)
from passt.dataplane.ip.icmp_error cimport push_icmp_error
from passt.dataplane.packet.parse cimport IpView, TcpView
from passt.dataplane.base.externs cimport (
    EACCES, EAFNOSUPPORT, EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EPERM,
    ETIMEDOUT, IPPROTO_TCP, htonl, htons, memset,
)
from passt.dataplane.core.station cimport station_of
from passt.dataplane.tcp.segments cimport end_connection, reset_both, send_reset

cdef enum:
    NO_CODE = -1                  # a reset
    SILENCE = -2
    # Ports and sequence number: what RFC 792 has quoted, and all of the guest's SYN that is kept.
    QUOTED_LEN = 8


cdef int code_of(int error, bint is_ip4) noexcept nogil:
    """The code of a destination-unreachable message for a connect(2) that failed with *error*."""
    if error in (ENETUNREACH, ENETDOWN, EAFNOSUPPORT):
        return ICMP_NET_UNREACHABLE if is_ip4 else ICMP6_NO_ROUTE
    if error in (EHOSTUNREACH, EHOSTDOWN, ENONET):
        return ICMP_HOST_UNREACHABLE if is_ip4 else ICMP6_ADDRESS_UNREACHABLE
    if error in (EACCES, EPERM):
        return ICMP_PROHIBITED if is_ip4 else ICMP6_PROHIBITED
    if error == ENOPROTOOPT and is_ip4:
        return ICMP_PROTOCOL_UNREACHABLE
    return SILENCE if error == ETIMEDOUT else NO_CODE


cdef void push_unreachable(Core core, const uint8_t *mac, const FlowKey *key, uint32_t isn,
                           int code) noexcept nogil:
    """Send the message for the SYN with number *isn* of the guest in *key*, which is at *mac*."""
    cdef TcpHdr syn
    memset(&syn, 0, sizeof(syn))
    syn.src_port_be = htons(key.guest_port)
    syn.dst_port_be = htons(key.remote_port)
    syn.seq_be = htonl(isn)
    push_icmp_error(core, mac, key, IPPROTO_TCP, <const uint8_t *>&syn, QUOTED_LEN,
                    ICMP_UNREACHABLE if key.addr_len == 4 else ICMP6_UNREACHABLE, <uint8_t>code, 0, NULL)


cdef void refuse_syn(Core core, const IpView *ip, const TcpView *tcp, const FlowKey *key,
                     int error) noexcept nogil:
    """Answer a SYN for which no socket could be made; *error* is a positive errno, 0: just refused."""
    cdef int code = code_of(error, key.addr_len == 4)
    if code >= 0:
        push_unreachable(core, ip.mac, key, tcp.seq, code)
    elif code == NO_CODE:
        send_reset(core, ip, tcp)


cdef void refuse(Core core, Flow *flow, int error) noexcept nogil:
    """Give up a connection in CONNECTING that failed with *error* (positive, 0: unknown)."""
    cdef int code = code_of(error, flow.keys[0].addr_len == 4)
    if code == NO_CODE:
        reset_both(core, flow)
        return
    if code >= 0:
        push_unreachable(core, station_of(core, flow), &flow.keys[0], flow.body.tcp.irs, code)
    end_connection(core, flow, True)

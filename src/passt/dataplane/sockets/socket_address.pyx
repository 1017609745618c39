"""Socket addresses: made of an address and a port, taken apart, and found in control messages.

An IPv4-mapped address (RFC 4291 2.5.5.2) is an IPv4 address to all who read it here.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.packet.headers cimport is_mapped4
from passt.dataplane.base.externs cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, IPPROTO_IP, IPPROTO_IPV6, IPV6_PKTINFO,
    IP_PKTINFO, cmsghdr, htons, in6_pktinfo, in_pktinfo, memcpy, memset, msghdr, ntohs, sockaddr_in,
    sockaddr_in6, sockaddr_storage, socklen_t,
)


cdef socklen_t fill_sockaddr(sockaddr_storage *out, const uint8_t *address, size_t addr_len, uint16_t port,
                             uint32_t scope_id) noexcept nogil:
    """Make a socket address of 4 or 16 bytes of address; returns its length."""
    cdef sockaddr_in *four = <sockaddr_in *>out
    cdef sockaddr_in6 *six = <sockaddr_in6 *>out
    memset(out, 0, sizeof(sockaddr_storage))
    if addr_len == 4:
        four.sin_family = AF_INET
        four.sin_port = htons(port)
        memcpy(&four.sin_addr, address, 4)
        return sizeof(sockaddr_in)
    six.sin6_family = AF_INET6
    six.sin6_port = htons(port)
    six.sin6_scope_id = scope_id
    memcpy(&six.sin6_addr, address, 16)
    return sizeof(sockaddr_in6)


cdef size_t read_sockaddr(const sockaddr_storage *source, uint8_t *address, uint16_t *port) noexcept nogil:
    """Take a socket address apart; an IPv4-mapped one comes out as IPv4. Returns 4, 16, or 0 if neither.

    *address* has 16 bytes; what is behind the address is zeroed.
    """
    cdef const sockaddr_in *four = <const sockaddr_in *>source
    cdef const sockaddr_in6 *six = <const sockaddr_in6 *>source
    memset(address, 0, 16)
    if source.ss_family == AF_INET:
        memcpy(address, &four.sin_addr, 4)
        port[0] = ntohs(four.sin_port)
        return 4
    if source.ss_family != AF_INET6:
        return 0
    port[0] = ntohs(six.sin6_port)
    if is_mapped4(six.sin6_addr.s6_addr):
        memcpy(address, &six.sin6_addr.s6_addr[12], 4)
        return 4
    memcpy(address, &six.sin6_addr, 16)
    return 16


cdef void local_address(msghdr *message, sockaddr_storage *out, uint32_t *ifindex) noexcept nogil:
    """The address that a datagram was sent to, from its control data; link-local ones with interface."""
    cdef cmsghdr *item = CMSG_FIRSTHDR(message)
    cdef in_pktinfo four
    cdef in6_pktinfo six
    memset(out, 0, sizeof(sockaddr_storage))
    while item != NULL:
        if item.cmsg_level == IPPROTO_IP and item.cmsg_type == IP_PKTINFO:
            memcpy(&four, CMSG_DATA(item), sizeof(four))
            out.ss_family = AF_INET
            (<sockaddr_in *>out).sin_addr = four.ipi_addr
            return
        if item.cmsg_level == IPPROTO_IPV6 and item.cmsg_type == IPV6_PKTINFO:
            memcpy(&six, CMSG_DATA(item), sizeof(six))
            out.ss_family = AF_INET6
            (<sockaddr_in6 *>out).sin6_addr = six.ipi6_addr
            if six.ipi6_addr.s6_addr[0] == 0xfe and (six.ipi6_addr.s6_addr[1] & 0xc0) == 0x80:
                ifindex[0] = six.ipi6_ifindex
            return
        item = CMSG_NXTHDR(message, item)

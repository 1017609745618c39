"""Datagrams of the guest to groups and broadcast addresses, which the host hands back to its own sockets.

Theory of operation. The kernel delivers a broadcast on this host too, and a multicast if any program of
the host is a member (ip(7), IP_MULTICAST_LOOP): these programs are to hear the guest, as any machine of
the link does. But copies come to the very socket that sent it, and to others of ours that have the
guest's port. The guest would take such a copy for a datagram of another host.

Such a copy comes at once, so the last datagrams sent are remembered for a short time, by content. A received
datagram with the same content is an echo if it comes from its receiver's own port and an address of this
host. The same content from another host of the link is no echo.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.base.siphash cimport siphash
from passt.dataplane.datagram.ip_fields cimport marks_of
from passt.dataplane.base.externs cimport memcpy, memset, msghdr, sockaddr_storage
from passt.dataplane.state.echo_memory cimport N_ECHOES, Echo

# The copy is queued before the sending call returns, or when the kernel's softirq thread next runs.
cdef int64_t HELD_NS = 50000000


cdef bint goes_to_many(Core core, const Flow *flow) noexcept nogil:
    """Whether datagrams of the flow may come back: to a group, or where broadcasts are permitted."""
    if flow.body.udp.group:
        return True
    return marks_of(core, flow).broadcasts and not flow.body.udp.answered and not flow.inbound


cdef uint64_t content_of(Core core, const uint8_t *payload, size_t n) noexcept nogil:
    """A keyed hash of the content."""
    cdef uint8_t rest[8]
    memset(rest, 0, sizeof(rest))
    memcpy(rest, payload + n - n % 8, n % 8)
    return (siphash(core.isn_key, payload, n // 8) ^ siphash(core.isn_key, rest, 1)) + n


cdef void note_sending(Core core, const uint8_t *payload, size_t n, uint16_t segment) noexcept nogil:
    """Note *n* bytes that are about to leave, and may come back, in datagrams of *segment*."""
    cdef size_t offset = 0
    cdef Echo *echo
    core.echoes.until = core.now + HELD_NS
    while offset < n or not offset:
        echo = &core.echoes.echoes[core.echoes.next]
        core.echoes.next = (core.echoes.next + 1) % N_ECHOES
        echo.until = core.echoes.until
        echo.content = content_of(core, payload + offset, min(n - offset, <size_t>segment))
        if not segment:
            return
        offset += segment


cdef bint is_own_echo(Core core, int fd, const msghdr *message, size_t n) noexcept nogil:
    """Whether the datagram of *n* bytes in *message* is one that left by the port of the socket *fd*."""
    cdef const uint8_t *payload = <const uint8_t *>message.msg_iov.iov_base
    cdef uint64_t content
    cdef int i
    if core.echoes.until < core.now:
        return False
    content = content_of(core, payload, n)
    for i in range(N_ECHOES):
        if core.echoes.echoes[i].content == content and core.echoes.echoes[i].until >= core.now:
            return core.sockets.is_own(fd, <const sockaddr_storage *>message.msg_name, message.msg_namelen)
    return False

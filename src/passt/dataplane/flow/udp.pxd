"""The records of a UDP flow and of a socket that UDP flows share."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t

from passt.dataplane.flow.traffic cimport Traffic


cdef struct UdpFlow:
    int64_t last_used             # ns
    Traffic traffic
    uint32_t listener             # index + 1 of the listener whose socket serves it, 0: a socket of ours
    uint32_t port                 # index of that socket's FLOW_UDP_PORT
    uint32_t ifindex              # by which it leaves a listener's socket, 0: as routed
    int listener_fd
    uint16_t local_family         # of the listener's socket addresses
    uint16_t max_segment          # largest datagram that UDP_SEGMENT may cut here
    uint16_t pending              # questions of a DNS flow that wait for an answer
    bint answered
    bint streaming
    bint group                    # goes to a multicast group or to a broadcast address
    int64_t mtu_told_at           # ns, when the guest was told of the path's MTU, 0: not yet
    uint32_t packet_limit         # bytes of the largest packet to the guest that goes in one piece


cdef struct SocketMarks:
    # What a UDP socket was told (see `datagram.ip_fields`).
    uint8_t fragmenting           # how it treats large datagrams, 0: not yet said
    uint8_t tells_ttl             # 1: of what is received
    uint8_t broadcasts            # 1: SO_BROADCAST is set


cdef struct UdpPort:
    # The socket is `fd` of the record, the source that it is bound to its `peer`.
    char ifname[16]
    uint32_t users                # flows
    uint32_t longest              # datagram of the last batch read
    uint32_t groups               # flows to groups: what answers them comes from anybody
    SocketMarks marks

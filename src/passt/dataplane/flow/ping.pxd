"""The record of a flow of echo requests."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

from passt.dataplane.flow.traffic cimport Traffic


cdef struct PingFlow:
    int64_t last_used             # ns
    Traffic traffic
    uint8_t ttl                   # that the socket sends with, 0: not yet said
    uint8_t tos
    uint8_t fragmenting           # see `datagram.ip_fields`
    int64_t mtu_told_at
    uint32_t packet_limit

"""ICMP and ICMPv6 errors for the guest."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport FlowKey


cdef void push_icmp_error(Core core, const uint8_t *mac, const FlowKey *key, uint8_t protocol,
                          const uint8_t *quoted, size_t quoted_length, uint8_t type, uint8_t code,
                          uint32_t info, const uint8_t *offender) noexcept nogil
cdef void relay_icmp_error(Core core, const uint8_t *mac, const FlowKey *key, uint8_t protocol,
                           const uint8_t *quoted, size_t quoted_length, uint8_t type, uint8_t code,
                           uint32_t info, const uint8_t *offender, uint8_t ttl) noexcept nogil

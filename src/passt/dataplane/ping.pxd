"""ICMP and ICMPv6 echo translation."""

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.parse cimport IpView


cdef void on_echo(Core core, const IpView *ip) noexcept nogil
cdef void on_ping_socket(Core core, Flow *flow) noexcept nogil
cdef void on_ping_timer(Core core, Flow *flow) noexcept nogil
cdef void end_ping(Core core, Flow *flow) noexcept nogil

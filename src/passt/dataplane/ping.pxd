"""ICMP and ICMPv6 echo translation."""

from passt.dataplane.core cimport Core
from passt.dataplane.flow cimport Flow
from passt.dataplane.parse cimport IpView


cdef void on_echo(Core core, const IpView *ip) noexcept nogil
cdef void on_ping_socket(Core core, Flow *flow) noexcept nogil
cdef void on_ping_timer(Core core, Flow *flow) noexcept nogil

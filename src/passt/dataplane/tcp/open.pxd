"""How a connection that the guest opens begins, and what all connections begin with."""

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.parse cimport IpView, TcpView


cdef void open_connection(Core core, const IpView *ip, const TcpView *tcp, const FlowKey *key) noexcept nogil
cdef void on_connected(Core core, Flow *flow) noexcept nogil
cdef void start_sequence(Core core, Flow *flow) noexcept nogil

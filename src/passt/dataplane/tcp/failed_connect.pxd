"""Report a failed host connect to the guest."""

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.key cimport FlowKey
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.parse cimport IpView, TcpView


cdef void refuse_syn(Core core, const IpView *ip, const TcpView *tcp, const FlowKey *key,
                     int error) noexcept nogil
cdef void refuse(Core core, Flow *flow, int error) noexcept nogil

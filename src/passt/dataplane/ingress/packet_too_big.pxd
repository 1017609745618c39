"""Packets of ours that a router on the guest's side could not pass on."""

from passt.dataplane.core.core cimport Core
from passt.dataplane.packet.parse cimport IpView


cdef bint on_too_big(Core core, const IpView *ip) noexcept nogil

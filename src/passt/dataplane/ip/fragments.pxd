"""Fragments from the guest, and fragments to it."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.link.meta cimport TxMeta
from passt.dataplane.packet.parse cimport IpView


cdef bint on_fragment(Core core, IpView *ip) noexcept nogil
cdef void on_fragment_timer(Core core) noexcept nogil
cdef bint send_packet(Core core, size_t n, const TxMeta *meta, uint32_t limit) noexcept nogil

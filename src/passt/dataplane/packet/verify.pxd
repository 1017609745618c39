"""Checksums of packets from the guest."""

from passt.dataplane.packet.parse cimport IpView


cdef bint is_intact(const IpView *ip) noexcept nogil
cdef bint may_pass(const IpView *ip) noexcept nogil
cdef bint has_intact_header(const IpView *ip) noexcept nogil

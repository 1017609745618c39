"""Stations on the guest's side of the link, by MAC address."""

from libc.stdint cimport uint8_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow
from passt.dataplane.packet.headers cimport ETH_ALEN
from passt.dataplane.base.externs cimport memcmp


cdef inline const uint8_t *station_of(Core core, const Flow *flow) noexcept nogil:
    """Where what is sent to the guest for *flow* goes."""
    if flow.has_mac:
        return flow.mac
    return core.guest.mac


cdef inline void follow_sender(Core core, Flow *flow, const uint8_t *mac) noexcept nogil:
    """A frame that belongs to *flow* came from the station *mac*: answers go there from now on."""
    if memcmp(mac, station_of(core, flow), ETH_ALEN):
        move_flow(core, flow, mac)


cdef bint is_station(Core core, const uint8_t *mac) noexcept nogil
cdef bint is_known(Core core) noexcept nogil
cdef bint learn_mac(Core core, const uint8_t *mac) noexcept nogil
cdef void learn(Core core, const uint8_t *mac, const uint8_t *address, size_t n) noexcept nogil
cdef void doubt(Core core) noexcept nogil
cdef void move_flow(Core core, Flow *flow, const uint8_t *mac) noexcept nogil
cdef void set_guest(Core core, const uint8_t *mac) noexcept nogil
cdef void forget_stations(Core core) noexcept nogil

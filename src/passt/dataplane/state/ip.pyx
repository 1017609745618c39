"""What the translators of the IP layer remember from packet to packet.

`Core` holds it for them; so this module uses nothing above the flow table.
"""

from libc.stdint cimport uint32_t

from passt.dataplane.packet.reassembly cimport Reassembler


cdef class IpState:
    """Fragments that wait for the rest of their packets (`fragments`), and path MTUs (`path_mtu`)."""

    def __cinit__(self, uint32_t fragment_timer):
        self.reassembler = Reassembler()
        self.fragment_timer = fragment_timer

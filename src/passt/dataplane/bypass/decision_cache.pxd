"""What the policy has said before."""

from libc.stdint cimport uint32_t

from passt.dataplane.core.core cimport Core, Seen
from passt.dataplane.base.externs cimport sockaddr_storage


cdef bint find_answer(Core core, uint32_t listener, const sockaddr_storage *peer,
                      const sockaddr_storage *local, Seen *seen) noexcept nogil

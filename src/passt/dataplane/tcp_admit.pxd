"""Records for new connections, if need be of others."""

from passt.dataplane.core cimport Core
from passt.dataplane.flow cimport Flow


cdef Flow *admit(Core core) noexcept nogil

"""Challenge acknowledgements, limited per connection (RFC 5961 7)."""

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow


cdef void challenge(Core core, Flow *flow) noexcept nogil
cdef bint may_answer(Core core, Flow *flow) noexcept nogil

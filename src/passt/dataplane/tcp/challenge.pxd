"""Acknowledgements that answer what makes no sense, limited in number."""

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow


cdef void challenge(Core core, Flow *flow) noexcept nogil
cdef bint may_answer(Core core, Flow *flow) noexcept nogil

"""What is known of one flow."""

from passt.dataplane.core.core cimport Core
from passt.dataplane.flow.record cimport Flow

cdef object describe(Core core, const Flow *flow)

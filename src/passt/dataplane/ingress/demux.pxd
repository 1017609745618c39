"""One frame from the guest goes to its translator, the responder, or a drop counter."""

from libc.stdint cimport uint8_t

from passt.dataplane.core.core cimport Core
from passt.dataplane.link.meta cimport RxFrame


cdef void on_frame(Core core, const RxFrame *frame) noexcept nogil
cdef bint is_tcp_data(const uint8_t *head) noexcept nogil

"""Checksums and segmentation in software, for links that do not do them."""

from libc.stdint cimport uint8_t, uint32_t

from passt.dataplane.link cimport TxMeta


cdef void complete_csum(uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
cdef size_t cut_segment(const uint8_t *frame, size_t n, const TxMeta *meta, uint32_t offset,
                        uint8_t *out) noexcept nogil

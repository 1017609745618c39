"""Checksums and segmentation in software, for links that do not do them."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from passt.dataplane.link.meta cimport TxMeta


cdef enum:
    MAX_HDR_LEN = 14 + 60 + 60    # Ethernet, IPv4 with options, TCP with options


cdef struct Cut:
    # A frame that is being cut: its headers, without what differs between segments, and their sums.
    uint8_t headers[MAX_HDR_LEN]
    uint64_t ip_sum
    uint64_t l4_sum               # with the pseudo-header except its length
    size_t payload                # bytes of the whole
    uint32_t seq
    uint16_t hdr_len
    uint16_t size                 # of the segments' payload
    uint16_t l4_start
    uint16_t id
    uint8_t flags
    bint is_ip4
    bint is_tcp
    bint counts_id                # each segment has an identification of its own


cdef void complete_csum(uint8_t *frame, size_t n, const TxMeta *meta) noexcept nogil
cdef size_t cut_segment(const uint8_t *frame, size_t n, const TxMeta *meta, uint32_t offset,
                        uint8_t *out) noexcept nogil
cdef void start_cut(Cut *cut, const uint8_t *headers, const TxMeta *meta, size_t payload) noexcept nogil
cdef void push_segment(const Cut *cut, uint8_t *out, uint32_t offset, uint32_t n) noexcept nogil

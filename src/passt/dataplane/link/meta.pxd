"""What goes with a frame on its way between a link and the translators: the virtio-net header's meaning."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from passt.dataplane.base.externs cimport iovec


cdef struct RxFrame:
    # One frame from the guest; *data* may be memory that is not ours, valid until the next batch.
    #
    # *data* and *len* are the whole frame if *n_pieces* is 0. Else the frame lies in that many *pieces*, as
    # valid as *data*. Before a translator sees it, `Link.join` puts them together, or, of a frame that is
    # data for TCP, `Link.join_head` its first HEAD_LEN bytes at *data*.
    # *gso_type* is VIRTIO_NET_HDR_GSO_* without the ECN bit, *gso_size* its segment payload size;
    # *csum_start* and *csum_offset* as in TxMeta. What a link has nothing to say of is zero.
    # *unverified*: no kernel has verified its checksums.
    const uint8_t *data
    const iovec *pieces
    uint32_t n_pieces
    uint32_t len                  # bytes
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset
    uint8_t gso_type
    bint unverified


cdef struct TxMeta:
    # What is left to do for a frame to the guest.
    #
    # *csum_start* (offset of the L4 header; 0: checksum complete) and *csum_offset* say where the
    # checksum goes, whose field then holds the folded, not complemented pseudo-header sum.
    # *hdr_len* is the length of all headers.
    uint16_t hdr_len
    uint16_t gso_size
    uint16_t csum_start
    uint16_t csum_offset
    uint8_t gso_type

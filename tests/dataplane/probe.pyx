"""C functions of the data plane for pytest: bytes and numbers in, bytes, numbers and tuples out."""

from libc.stdint cimport uint8_t

from passt.dataplane.csum cimport csum_add, csum_fold


def checksum(bytes data not None):
    """The Internet checksum of *data* as it is stored: a value in network byte order."""
    return csum_fold(csum_add(<const uint8_t *><const char *>data, len(data), 0))

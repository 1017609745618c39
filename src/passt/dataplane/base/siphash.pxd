"""SipHash-2-4: the keyed hash of flow look-up and of initial sequence numbers.

J.-P. Aumasson, D. J. Bernstein, "SipHash: a fast short-input PRF", 2012. A key that the guest and
the remote do not know keeps both from steering flows into one chain and from guessing sequence
numbers (RFC 6528).
"""

from libc.stdint cimport uint8_t, uint64_t

from passt.dataplane.base.externs cimport memcpy


cdef inline uint64_t rotl(uint64_t x, int b) noexcept nogil:
    return (x << b) | (x >> (64 - b))


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[0] = rotl(v[0], 32)
    v[2] += v[3]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[2] = rotl(v[2], 32)


cdef inline uint64_t siphash(const uint64_t *key, const uint8_t *data, size_t n_words) noexcept nogil:
    """Hash *n_words* 64-bit words of *data*; *key* is two words."""
    cdef uint64_t v[4]
    cdef uint64_t word = 0
    cdef size_t i
    v[0] = key[0] ^ 0x736f6d6570736575ULL
    v[1] = key[1] ^ 0x646f72616e646f6dULL
    v[2] = key[0] ^ 0x6c7967656e657261ULL
    v[3] = key[1] ^ 0x7465646279746573ULL
    for i in range(n_words):
        memcpy(&word, data + 8 * i, 8)
        v[3] ^= word
        sip_round(v)
        sip_round(v)
        v[0] ^= word
    word = (<uint64_t>(n_words * 8)) << 56
    v[3] ^= word
    sip_round(v)
    sip_round(v)
    v[0] ^= word
    v[2] ^= 0xff
    sip_round(v)
    sip_round(v)
    sip_round(v)
    sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]

"""Reads and writes of memory that another processor, maybe of somebody hostile, changes meanwhile.

Each reads or writes once, as a whole: the compiler may not read again what was checked.
"""

from libc.stdint cimport uint8_t, uint16_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    #ifndef PASST_ATOMICS
    #define PASST_ATOMICS
    static inline uint16_t passt_load16(const void *p)
    {
        return __atomic_load_n((const uint16_t *)p, __ATOMIC_RELAXED);
    }
    /* What was written before the other side's store is seen after this load. */
    static inline uint16_t passt_acquire16(const void *p)
    {
        return __atomic_load_n((const uint16_t *)p, __ATOMIC_ACQUIRE);
    }
    static inline void passt_store16(void *p, uint16_t value)
    {
        __atomic_store_n((uint16_t *)p, value, __ATOMIC_RELAXED);
    }
    /* Who sees this store sees what we wrote before. */
    static inline void passt_release16(void *p, uint16_t value)
    {
        __atomic_store_n((uint16_t *)p, value, __ATOMIC_RELEASE);
    }
    static inline void passt_copy_once(void *to, const void *from, size_t n)
    {
        memcpy(to, from, n);
        __asm__ volatile("" : : : "memory");
    }
    static inline void passt_set_bits8(void *p, uint8_t bits)
    {
        __atomic_fetch_or((uint8_t *)p, bits, __ATOMIC_RELAXED);
    }
    /* Our stores come before our later loads, which neither acquire nor release orders. */
    static inline void passt_full_barrier(void)
    {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    #endif
    """
    uint16_t load16 "passt_load16"(const void *p) noexcept nogil
    uint16_t acquire16 "passt_acquire16"(const void *p) noexcept nogil
    void store16 "passt_store16"(void *p, uint16_t value) noexcept nogil
    void release16 "passt_release16"(void *p, uint16_t value) noexcept nogil
    void copy_once "passt_copy_once"(void *to, const void *from_, size_t n) noexcept nogil
    void set_bits8 "passt_set_bits8"(void *p, uint8_t bits) noexcept nogil
    void full_barrier "passt_full_barrier"() noexcept nogil

"""Assertions of the data plane: checked in a build with PASST_DEBUG=1, absent from any other.

`PASST_ASSERT` takes one comparison or call without side effects: Cython computes `and`, `or` and chained
comparisons before it, so a failure could not show them. An invariant that needs a loop is a function, called
behind `if PASST_DEBUG_BUILD:`. A failure writes file, line and expression to stderr and calls abort(3).

`PASST_POISON` is for memory that we hand out ourselves, of which AddressSanitizer knows nothing by itself:
between a record's release and its next use a look at it is an error, in a build with PASST_SANITIZE=1.
"""

cdef extern from *:
    """
    #ifdef PASST_DEBUG
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>

    #define PASST_DEBUG_BUILD 1
    #define PASST_ASSERT(condition) \\
        ((condition) ? (void)0 : passt_assertion_failed(__FILE__, __LINE__, #condition))

    /* Write the expression with the source's names. Cython puts __pyx_ and a letter in front of a variable's,
       and the packages, each behind its length, between that and all other names. */
    __attribute__((unused, noreturn, cold))
    static void passt_assertion_failed(const char *file, int line, const char *expression) {
        fprintf(stderr, "%s:%d: assertion failed: ", file, line);
        while (*expression) {
            if (strncmp(expression, "__pyx_", 6) != 0) {
                fputc(*expression++, stderr);
                continue;
            }
            expression += 6;
            while (*expression && *expression != '_')
                expression++;
            expression += *expression == '_';
            while (*expression >= '0' && *expression <= '9') {
                char *name;
                unsigned long length = strtoul(expression, &name, 10);
                expression = strlen(name) > length ? name + length + 1 : name;
            }
        }
        fputc('\\n', stderr);
        abort();
    }
    #else
    #define PASST_DEBUG_BUILD 0
    #define PASST_ASSERT(condition) ((void)sizeof(condition))
    #endif

    /* Memory that is ours but nobody's now: under AddressSanitizer an access ends the process. */
    #ifdef __SANITIZE_ADDRESS__
    #include <sanitizer/asan_interface.h>
    #define PASST_POISON(place, n) __asan_poison_memory_region(place, n)
    #define PASST_UNPOISON(place, n) __asan_unpoison_memory_region(place, n)
    #else
    #define PASST_POISON(place, n) ((void)(place), (void)(n))
    #define PASST_UNPOISON(place, n) ((void)(place), (void)(n))
    #endif
    """
    enum: PASST_DEBUG_BUILD
    void PASST_ASSERT(bint condition) noexcept nogil
    void PASST_POISON(void *place, size_t n) noexcept nogil
    void PASST_UNPOISON(void *place, size_t n) noexcept nogil

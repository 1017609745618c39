/* Coverage for libFuzzer of code that gcc instrumented: -fsanitize-coverage=trace-pc,trace-cmp (gcc(1)).
 *
 * Clang counts in tables that the code brings along; gcc calls a function in each basic block instead. An edge
 * is a pair of blocks that follow each other; each has one of N counters, found by a hash: two may share one, which
 * is rare as long as far fewer than N are seen. libFuzzer takes the counters, and a table of the same size that
 * would tell the place of each, by the two functions that clang's code would call. Comparisons are handed on: both
 * compilers have the same functions. libFuzzer's look where they were called from, so this must be a jump (-O2).
 *
 * To be preloaded before the sanitizers' runtimes, which have empty functions of these names.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>

#define N (1 << 17)
#define MIX 0x9e3779b97f4a7c15ULL

static uint8_t counters[N];
static uintptr_t places[N][2];
static uintptr_t previous;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_cmpf(float one, float other);
void __sanitizer_cov_trace_cmpd(double one, double other);
int edges_attach(const char *fuzzer);
uint8_t *edges_counters(uintptr_t *n);

void __sanitizer_cov_trace_pc(void)
{
    uintptr_t here = (uintptr_t)__builtin_return_address(0) * MIX;
    uint8_t *counter = &counters[((here ^ previous) >> 40) % N];

    /* libFuzzer tells counts apart by their order of magnitude; one that wraps would be news. */
    if (*counter < 255)
        ++*counter;
    previous = here >> 1;
}

#define COMPARISON(name, type)                              \
    void __sanitizer_cov_trace_##name(type one, type other); \
    static void (*name)(type, type);                         \
    void __sanitizer_cov_trace_##name(type one, type other)  \
    {                                                        \
        if (name)                                            \
            name(one, other);                                \
    }

COMPARISON(cmp1, uint8_t)
COMPARISON(cmp2, uint16_t)
COMPARISON(cmp4, uint32_t)
COMPARISON(cmp8, uint64_t)
COMPARISON(const_cmp1, uint8_t)
COMPARISON(const_cmp2, uint16_t)
COMPARISON(const_cmp4, uint32_t)
COMPARISON(const_cmp8, uint64_t)

void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases);
static void (*trace_switch)(uint64_t, uint64_t *);
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases)
{
    if (trace_switch)
        trace_switch(value, cases);
}

/* libFuzzer has no use for these. */
void __sanitizer_cov_trace_cmpf(float one, float other)
{
    (void)one, (void)other;
}

void __sanitizer_cov_trace_cmpd(double one, double other)
{
    (void)one, (void)other;
}

/* The counters, *n of them. */
uint8_t *edges_counters(uintptr_t *n)
{
    *n = N;
    return counters;
}

/* Hand all on to libFuzzer, which is in the shared object *fuzzer*; returns 0, or -1 if it is not loaded. */
int edges_attach(const char *fuzzer)
{
    void *library = dlopen(fuzzer, RTLD_LAZY | RTLD_NOLOAD);
    void (*count)(uint8_t *, uint8_t *);
    void (*place)(const uintptr_t *, const uintptr_t *);
    uintptr_t i;

    if (!library)
        return -1;
    count = dlsym(library, "__sanitizer_cov_8bit_counters_init");
    place = dlsym(library, "__sanitizer_cov_pcs_init");
    if (!count || !place)
        return -1;
    cmp1 = dlsym(library, "__sanitizer_cov_trace_cmp1");
    cmp2 = dlsym(library, "__sanitizer_cov_trace_cmp2");
    cmp4 = dlsym(library, "__sanitizer_cov_trace_cmp4");
    cmp8 = dlsym(library, "__sanitizer_cov_trace_cmp8");
    const_cmp1 = dlsym(library, "__sanitizer_cov_trace_const_cmp1");
    const_cmp2 = dlsym(library, "__sanitizer_cov_trace_const_cmp2");
    const_cmp4 = dlsym(library, "__sanitizer_cov_trace_const_cmp4");
    const_cmp8 = dlsym(library, "__sanitizer_cov_trace_const_cmp8");
    trace_switch = dlsym(library, "__sanitizer_cov_trace_switch");
    for (i = 0; i < N; i++)
        places[i][0] = (uintptr_t)&counters[i];
    count(counters, counters + N);
    place(places[0], places[N]);
    return 0;
}

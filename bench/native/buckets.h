/* How values are distributed: counts by buckets that are less than 1 % wide, each named by its least value. */
#ifndef BENCH_BUCKETS_H
#define BENCH_BUCKETS_H

#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define STEPS 128 /* buckets for each power of two; below, each value has its own */
#define BUCKETS (58 * STEPS)

static uint32_t buckets[BUCKETS];

static inline void forget_buckets(void) {
    memset(buckets, 0, sizeof buckets);
}

static inline void count_in_bucket(uint64_t value) {
    /* 64 - 8: keeps the upper eight bits, of which the first is always set. */
    int shift = value < STEPS ? 0 : 56 - __builtin_clzll(value);
    buckets[shift * STEPS + (value >> shift)]++;
}

static inline uint64_t least_of(size_t bucket) {
    return bucket < STEPS ? bucket : (bucket % STEPS + STEPS) << (bucket / STEPS - 1);
}

/* " VALUE:COUNT" for each bucket that is not empty, and the end of the line. */
static inline void tell_buckets(void) {
    for (size_t one = 0; one < BUCKETS; one++)
        if (buckets[one])
            printf(" %llu:%u", (unsigned long long)least_of(one), buckets[one]);
    putchar('\n');
}

#endif

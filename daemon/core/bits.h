/* bits.h - sets of pieces as bitmaps of 64-bit words. */
#ifndef VINE_CORE_BITS_H
#define VINE_CORE_BITS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

static inline uint32_t bits_words(uint32_t bits)
{
    return (bits + 63) / 64;
}

/* All zero; NULL: out of memory. free() it. */
static inline uint64_t *bits_new(uint32_t bits)
{
    return calloc(bits_words(bits) + (bits == 0), sizeof(uint64_t));
}

static inline bool bits_get(const uint64_t *set, uint32_t bit)
{
    return set[bit / 64] >> (bit % 64) & 1;
}

static inline void bits_set(uint64_t *set, uint32_t bit)
{
    set[bit / 64] |= 1ull << (bit % 64);
}

static inline void bits_clear(uint64_t *set, uint32_t bit)
{
    set[bit / 64] &= ~(1ull << (bit % 64));
}

/* Word `i` of the set of all of `bits` bits. */
static inline uint64_t bits_full_word(uint32_t bits, uint32_t i)
{
    return i + 1 < bits_words(bits) || bits % 64 == 0 ? ~0ull
                                                      : (1ull << (bits % 64)) - 1;
}

/* The first set bit at or after `from`; `bits` if there is none. */
static inline uint32_t bits_next(const uint64_t *set, uint32_t bits, uint32_t from)
{
    uint32_t word = from / 64;
    uint64_t v;

    if (from >= bits)
        return bits;
    v = set[word] & ~0ull << (from % 64);
    while (v == 0 && ++word < bits_words(bits))
        v = set[word];
    if (v == 0)
        return bits;
    return word * 64 + (uint32_t)__builtin_ctzll(v);
}

#endif

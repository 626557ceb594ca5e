/* pieces.h - which parts of the image are there. */
#ifndef VINE_LAZY_PIECES_H
#define VINE_LAZY_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/lazy.h"

struct pieces {
    uint32_t count;                /* data pieces are 1 .. count */
    uint64_t size;                 /* of the image */
    uint64_t end[VINE_PIECES_MAX]; /* by piece; end[0] = 0 */
    bool have[VINE_PIECES_MAX], touched[VINE_PIECES_MAX];
};

/* The table of LAZY_FD_TABLE. -1: malformed. */
int pieces_load(struct pieces *pieces, int fd);

/* The pieces that hold [offset, offset + len), len > 0, within the image. */
void pieces_span(const struct pieces *pieces, uint64_t offset, size_t len,
                 uint32_t *first, uint32_t *last);

/* The first piece of first..last that is not there; 0: all are. */
uint32_t pieces_missing(const struct pieces *pieces, uint32_t first, uint32_t last);

/* LAZY_HAVE; numbers that are none of ours are ignored. */
void pieces_add(struct pieces *pieces, uint32_t first, uint32_t count);

#endif

/* blocks.h - the data part of an image: blocks, compressed by threads, in order.
 *
 * What is put is written in the order it was put, whatever thread was first, so the
 * image is the same with any number of threads. A file whose blocks are, one after the
 * other, in the image already is not written a second time. */
#ifndef VINE_SQUASH_BLOCKS_H
#define VINE_SQUASH_BLOCKS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/squash/disk.h"
#include "daemon/squash/tree.h"
#include "vine/err.h"

#define BLOCK_PLAIN (1u << 24) /* in a block's word: it is not compressed */
#define BLOCK_LEN(word) ((word) & (BLOCK_PLAIN - 1))

struct blocks;

struct fragment { /* a block of tails */
    uint64_t start;
    uint32_t word;
};

/* Writes from the end of `disk` on. `threads` compress. Caller: blocks_free. */
struct blocks *blocks_new(struct disk *disk, unsigned threads, struct vine_err *err);

/* Room for the next block, SQUASH_BLOCK bytes: fill it and put it. Waits for the oldest
 * block when all rooms are taken. NULL with *err set. */
uint8_t *blocks_room(struct blocks *blocks, struct vine_err *err);
/* The room as the next whole block of `file`, which keeps its place. */
int blocks_put(struct blocks *blocks, struct squash_file *file, struct vine_err *err);
/* The first `word` bytes of the room as that block, compressed already or not. */
int blocks_put_ready(struct blocks *blocks, struct squash_file *file, uint32_t word,
                     struct vine_err *err);
/* After the last whole block of a file that has one. */
int blocks_end_file(struct blocks *blocks, struct squash_file *file,
                    struct vine_err *err);
/* The first `len` bytes of the room as a block of tails, and its number. */
int blocks_put_tails(struct blocks *blocks, uint32_t len, uint32_t *number,
                     struct vine_err *err);
/* The same, compressed already or not. */
int blocks_put_ready_tails(struct blocks *blocks, uint32_t word, uint32_t *number,
                           struct vine_err *err);

/* Wait until all is written; the files and fragments are complete then. */
int blocks_finish(struct blocks *blocks, struct vine_err *err);
const struct fragment *blocks_fragments(const struct blocks *blocks, uint32_t *count);
void blocks_free(struct blocks *blocks);

bool bytes_all_zero(const uint8_t *bytes, size_t len);

#endif

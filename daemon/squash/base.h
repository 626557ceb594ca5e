/* base.h - an older image of the same tree, whose blocks are taken as they are. */
#ifndef VINE_SQUASH_BASE_H
#define VINE_SQUASH_BASE_H

#include <stdint.h>

#include "daemon/squash/tree.h"
#include "vine/err.h"

struct base;

/* Reads all inodes. The image must be one of ours: same compressor, level and block
 * size. What follows it in the file does not matter; fd is borrowed. */
struct base *base_open(int fd, struct vine_err *err);
/* A regular file with all of a whole file's blocks; NULL with *err set. */
const struct squash_file *base_find(const struct base *base, const char *path,
                                    struct vine_err *err);
/* A block as it is on disk, BLOCK_LEN(word) bytes. */
int base_read(const struct base *base, uint64_t offset, uint32_t word, uint8_t *out,
              struct vine_err *err);
/* The bytes of a file's tail; and its shared block as it is on disk. */
int base_tail(struct base *base, const struct squash_file *file, uint8_t *out,
              struct vine_err *err);
/* Is that block `len` bytes long? Known of those a tail was taken from. */
bool base_tails_are(const struct base *base, uint32_t block, uint32_t len);
int base_read_tails(const struct base *base, uint32_t block, uint8_t *out,
                    uint32_t *word, struct vine_err *err);
void base_free(struct base *base);

#endif

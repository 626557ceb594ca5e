/* meta.h - the rest of an image: inodes, directories, tables, and the superblock. */
#ifndef VINE_SQUASH_META_H
#define VINE_SQUASH_META_H

#include "daemon/squash/blocks.h"
#include "daemon/squash/tree.h"
#include "vine/err.h"

/* Room for the superblock, and what the kernel must know of the compressor; blocks come
 * next. */
int meta_begin(struct disk *disk, struct vine_err *err);

/* Everything after the blocks, and the superblock. The tree must be sorted. */
int meta_write(struct disk *disk, struct nodes *nodes, const struct fragment *fragments,
               uint32_t fragment_count, struct vine_err *err);

#endif

/* readahead.h - the content of a tree's files, in the tree's order, read ahead by many
 * threads within a bounded window of memory.
 *
 * Every file is compared with what the walk saw after its last byte was read: size,
 * times, inode. So what comes out is the content of the moment the walk ended, or an
 * error (VINE_ECHANGED). */
#ifndef VINE_IMAGE_READAHEAD_H
#define VINE_IMAGE_READAHEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/image/tar_out.h"
#include "daemon/image/tree.h"

struct readahead_options {
    unsigned threads; /* 0 = TREE_THREADS_DEFAULT */
    const char *name; /* of the root, for messages */
};

struct readahead_part { /* borrowed until the next call */
    uint32_t entry;     /* index in the tree */
    uint64_t offset, length;
    const uint8_t *data; /* NULL: a hole */
    /* With offset 0: where the file has bytes; count 0: everywhere. */
    const struct tar_extent *extents;
    size_t extent_count;
};

struct readahead;

/* Starts threads. Root and tree are borrowed until readahead_free. NULL with *err set.
 */
struct readahead *readahead_new(int root_fd, const struct tree *tree,
                                const struct readahead_options *options,
                                struct vine_err *err);

/* The next part: every regular file with bytes that is not marked as the same, first
 * names only, whole, in order.
 * 1 = *part set, 0 = the end, -1 = error. */
int readahead_next(struct readahead *ra, struct readahead_part *part,
                   struct vine_err *err);

/* Stops the threads, at any time. */
void readahead_free(struct readahead *ra);

#endif

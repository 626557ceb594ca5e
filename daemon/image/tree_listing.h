/* tree_listing.h - a walked tree and the listing of an image made of it before. */
#ifndef VINE_IMAGE_TREE_LISTING_H
#define VINE_IMAGE_TREE_LISTING_H

#include <stdint.h>

#include "daemon/image/tree.h"

/* Mark the files of the tree that are as the listing says, whose body are these bytes
 * of fd (pread only). Damaged: -1, and none are. */
int tree_mark_same(struct tree *tree, int fd, uint64_t offset, uint64_t length,
                   struct vine_err *err);

/* The listing of the tree, from fd's beginning; *length 0: there is none, too large. */
int tree_write_listing(const struct tree *tree, int fd, uint64_t *length,
                       struct vine_err *err);

#endif

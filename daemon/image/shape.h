/* shape.h - what of a directory goes into an image, and in which order. */
#ifndef VINE_IMAGE_SHAPE_H
#define VINE_IMAGE_SHAPE_H

#include "daemon/image/globs.h"
#include "daemon/image/tree.h"

struct image_shape {                /* all borrowed; none of it: the tree as it is */
    const char *exclude[GLOBS_MAX]; /* globs.h */
    unsigned exclude_count;
    const char *order;   /* a trace (trace.h): what it names comes first; or NULL */
    const char *overlay; /* a directory whose regular files are added; or NULL */
    const char *prefix;  /* where it is to appear; NULL: a directory's own path */
};

/* Add to the tree what overlay_fd has: regular files, instead of the tree's own if it
 * has such, and their directories. They are read from overlay_fd, which must stay open,
 * and belong to the root's owner. */
int shape_add_overlay(struct tree *tree, int overlay_fd,
                      const struct walk_options *options, struct vine_err *err);

/* Let the tree's contents come in the order of the trace at `path`. A trace that names
 * no file of the tree is an error: it was made of another one. */
int shape_set_order(struct tree *tree, const char *path, const char *name,
                    struct vine_err *err);

#endif

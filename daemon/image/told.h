/* told.h - the place for which an environment in an archive was made, as its own files
 * tell. */
#ifndef VINE_IMAGE_TOLD_H
#define VINE_IMAGE_TOLD_H

#include <stdbool.h>
#include <stddef.h>

#include "vine/limits.h"

struct told {
    char prefix[VINE_PATH_MAX]; /* "": nothing yet */
    bool differ;                /* files tell different ones: none is right */
};

/* Look at the beginning of the file `path`: scripts in bin/ name their Python, and a
 * venv's bin/activate its place. What can be used anywhere names none: so do archives
 * of venv-pack and conda-pack. */
void told_take(struct told *told, const char *path, const void *data, size_t len);

/* "": the files do not say, or not all the same. */
const char *told_prefix(const struct told *told);

#endif

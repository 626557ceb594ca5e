/* list.h - what is in an image, for `vine-env inspect`. */
#ifndef VINE_SQUASH_LIST_H
#define VINE_SQUASH_LIST_H

#include <stdio.h>

#include "vine/err.h"

/* Of the squashfs image at fd's beginning, however it was compressed, each regular file
 * with its path from the root, the first of several names only: "f SIZE PATH", a zero
 * byte. Of conda-meta/NAME.json also "c SIZE PATH", a zero byte, and SIZE bytes, the
 * file itself. "e", a zero byte, ends it. */
int list_image(int fd, FILE *out, struct vine_err *err);

#endif

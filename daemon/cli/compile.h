/* compile.h - byte code for an image, made by the environment's own Python. */
#ifndef VINE_CLI_COMPILE_H
#define VINE_CLI_COMPILE_H

#include <stdint.h>

#include "vine/err.h"

struct compiled {
    uint64_t files;  /* new ones */
    uint64_t failed; /* sources that are none for this Python */
};

/* Byte code for what below `root` (canonical) lacks one that will be valid in an image
 * whose root appears at `prefix`, written below `overlay` (absolute, made here), where
 * the source is below the root. The root is not changed. cleanup.h must have begun: it
 * removes the overlay. */
int compile_missing(const char *root, const char *prefix, const char *overlay,
                    struct compiled *out, struct vine_err *err);

#endif

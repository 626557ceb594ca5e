/* hash.h - the manifest of a file, hashed by several threads. */
#ifndef VINE_IMAGE_HASH_H
#define VINE_IMAGE_HASH_H

#include <stdint.h>

#include "daemon/image/follow.h"
#include "vine/err.h"
#include "vine/manifest.h"

struct image_hash_options {
    unsigned threads;            /* 0 = as many as there are processors; at most 8 */
    struct image_follow *follow; /* ended here; NULL: none. The caller frees it */
};

/* The manifest of the first `size` bytes of fd (pread). Blocking. Caller:
 * manifest_free.
 */
int image_hash_file(int fd, uint64_t size, const struct image_hash_options *options,
                    struct manifest *out, struct vine_err *err);

#endif

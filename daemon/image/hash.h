/* hash.h - the manifest of a file, hashed by several threads. */
#ifndef VINE_IMAGE_HASH_H
#define VINE_IMAGE_HASH_H

#include <stdint.h>

#include "vine/err.h"
#include "vine/manifest.h"

/* The manifest of the first `size` bytes of fd (pread). Blocking. threads 0: as many as
 * there are processors, at most 8. Caller: manifest_free. */
int image_hash_file(int fd, uint64_t size, unsigned threads, struct manifest *out,
                    struct vine_err *err);

#endif

/* pool.h - buffers that are used again, for many threads.
 *
 * A fresh buffer of some hundred KiB is pages that the kernel finds, clears and maps
 * when they are first written, which costs as much as what is read into them. */
#ifndef VINE_IMAGE_POOL_H
#define VINE_IMAGE_POOL_H

#include <stddef.h>

struct pool;

/* Keeps at most `keep_bytes` that nobody uses. NULL: no memory. */
struct pool *pool_new(size_t keep_bytes);
/* At least `size` bytes, not cleared. NULL: no memory. */
void *pool_get(struct pool *pool, size_t size);
void pool_put(struct pool *pool, void *buffer); /* NULL is allowed */
/* All buffers must have been put back. NULL is allowed. */
void pool_free(struct pool *pool);

#endif

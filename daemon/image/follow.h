/* follow.h - hash a file while somebody else still writes it.
 *
 * What was hashed is a hint: the writer may have come back and changed it (vine-squash
 * cuts the file back when it finds that it wrote what is there already, and writes the
 * superblock last). image_hash_file takes a hint only after it has looked at the bytes
 * again, by a sum that costs a fraction of SHA-256. */
#ifndef VINE_IMAGE_FOLLOW_H
#define VINE_IMAGE_FOLLOW_H

#include <stddef.h>
#include <stdint.h>

#include "vine/manifest.h"

struct image_hint {
    struct manifest_chunk chunk;
    uint64_t sum; /* of its bytes, as they were then */
};

struct image_follow;

/* Starts a thread that reads what appears in fd (a duplicate is made). NULL if it
 * cannot: then there are no hints, which is no error. */
struct image_follow *image_follow_start(int fd);
/* The writer is done: waits for the thread, at most one step of 1 MiB. The hints, in
 * order of their offsets, are borrowed until image_follow_free. f may be NULL. */
size_t image_follow_end(struct image_follow *f, const struct image_hint **hints);
/* Hints from number `first` on, at most `most`, while the thread goes on. */
size_t image_follow_peek(struct image_follow *f, size_t first, struct image_hint *out,
                         size_t most);
/* Does not wait: the thread ends by itself. NULL is allowed. */
void image_follow_free(struct image_follow *f);

/* Not for secrets or against attackers: did the same writer change these bytes? */
uint64_t image_sum(const void *data, size_t len);

#endif

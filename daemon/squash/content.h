/* content.h - the bytes of files, on their way to whole blocks and tails. */
#ifndef VINE_SQUASH_CONTENT_H
#define VINE_SQUASH_CONTENT_H

#include <stdint.h>

#include "daemon/squash/base.h"
#include "daemon/squash/blocks.h"
#include "daemon/squash/tree.h"
#include "vine/err.h"

struct content;

/* Threads: 0 = as many as there are processors. */
struct content *content_new(struct disk *disk, unsigned threads, struct vine_err *err);

/* One file after the other: begin, its bytes in order, end. */
int content_begin(struct content *content, struct squash_file *file, uint64_t size,
                  struct vine_err *err);
int content_add(struct content *content, const void *bytes, size_t len,
                struct vine_err *err);
int content_add_zeros(struct content *content, uint64_t len, struct vine_err *err);
int content_end(struct content *content, struct vine_err *err);

/* A whole file as it is in the base, without compressing it. */
int content_same(struct content *content, struct squash_file *file, struct base *base,
                 const struct squash_file *from, struct vine_err *err);

/* Everything written: files and fragments are complete. */
int content_finish(struct content *content, struct vine_err *err);
const struct fragment *content_fragments(const struct content *content,
                                         uint32_t *count);
void content_free(struct content *content);

#endif

/* tails.h - the ends of files, less than a block each, packed into shared blocks.
 *
 * A tail that is there already is not kept twice. */
#ifndef VINE_SQUASH_TAILS_H
#define VINE_SQUASH_TAILS_H

#include <stdint.h>

#include "daemon/squash/base.h"
#include "daemon/squash/blocks.h"
#include "daemon/squash/tree.h"
#include "vine/err.h"

struct tails;

struct tails *tails_new(struct blocks *blocks, struct vine_err *err);
/* Room for a tail, SQUASH_BLOCK bytes. */
uint8_t *tails_room(struct tails *tails);
/* The first `len` bytes of the room are the tail of `file`. */
int tails_put(struct tails *tails, struct squash_file *file, uint32_t len,
              struct vine_err *err);
/* The tail of `file` is that of a file of the base, which must be the same one in all
 * calls. */
int tails_put_same(struct tails *tails, struct squash_file *file, struct base *base,
                   const struct squash_file *from, struct vine_err *err);
/* After the last one. */
int tails_finish(struct tails *tails, struct vine_err *err);
void tails_free(struct tails *tails);

#endif

/* outbox.h - what waits to be written to one socket, in order: bytes, and parts of
 * files.
 *
 * Parts of files go from the page cache to the socket by sendfile, without a copy. The
 * socket must not block. */
#ifndef VINE_EDGE_OUTBOX_H
#define VINE_EDGE_OUTBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"

/* Part of a file that does not change. `release` is called once, when it is written or
 * given up; until then fd stays open. */
struct outbox_file {
    int fd;
    uint64_t offset;
    uint32_t len;
    void (*release)(void *ctx);
    void *ctx;
};

struct outbox {
    struct outbox_part *first, **last;
    size_t queued; /* bytes of all parts that are not yet written */
};

void outbox_init(struct outbox *box);
void outbox_clear(struct outbox *box); /* gives up what waits */

/* Append: a copy of bytes; malloc'ed memory, taken over; part of a file. -1: out of
 * memory, the box is as it was, the argument still the caller's. */
int outbox_copy(struct outbox *box, const void *bytes, size_t len);
int outbox_take(struct outbox *box, void *bytes, size_t len);
int outbox_file(struct outbox *box, const struct outbox_file *file);

/* Write until the socket takes no more or *budget bytes are out; *budget is lowered by
 * what went. -1 with *err: the connection, or the file, is broken. */
int outbox_flush(struct outbox *box, int socket_fd, size_t *budget,
                 struct vine_err *err);

#endif

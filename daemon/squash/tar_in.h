/* tar_in.h - read the tar of a source: the door to libarchive's reader here. */
#ifndef VINE_SQUASH_TAR_IN_H
#define VINE_SQUASH_TAR_IN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"

struct tar_item {
    const char *path;    /* borrowed until the next call, like the others */
    const char *target;  /* of a symbolic link, else NULL */
    const char *link_to; /* path of another name of the same file, else NULL */
    uint32_t mode, uid, gid, mtime;
    uint64_t size; /* of a regular file that is no link */
    bool same;     /* its content is that of the base at this path */
};

struct tar_in;

struct tar_in *tar_in_new(int fd, struct vine_err *err); /* fd is borrowed */
/* 1 and *item, 0 at the end, -1 with *err set. */
int tar_in_next(struct tar_in *tar, struct tar_item *item, struct vine_err *err);
/* The bytes of the item come to `add` in order, holes as a length without bytes. */
int tar_in_data(struct tar_in *tar,
                int (*add)(void *ctx, const void *bytes, uint64_t len,
                           struct vine_err *err),
                void *ctx, struct vine_err *err);
void tar_in_free(struct tar_in *tar);

#endif

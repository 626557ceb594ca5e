/* tar_out.h - write a tar stream: the only door to libarchive's writer. */
#ifndef VINE_IMAGE_TAR_OUT_H
#define VINE_IMAGE_TAR_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "vine/err.h"

struct tar_extent { /* a part of a file that has bytes; the rest are holes */
    uint64_t offset, length;
};

struct tar_entry {
    const char *path; /* "" = the root */
    mode_t mode;      /* type and permissions; what must not arrive is dropped here */
    uint32_t uid, gid;
    uint64_t size;       /* regular files */
    int64_t mtime;       /* seconds; clamped to what squashfs holds */
    const char *target;  /* symbolic links */
    const char *link_to; /* a path written before: this is another name of it */
    const struct tar_extent *extents; /* count 0: the whole file has bytes */
    size_t extent_count;
    bool same; /* a regular file's content is as in the older image; size is 0 */
};

#define TAR_OUT_SAME "vine.same" /* extended attribute of such entries */

struct tar_out;

struct tar_out *tar_out_new(int fd, struct vine_err *err); /* fd is borrowed */

/* After a regular file's entry exactly `size` bytes of data and zeros must follow. */
int tar_out_entry(struct tar_out *tar, const struct tar_entry *entry,
                  struct vine_err *err);
int tar_out_data(struct tar_out *tar, const void *data, size_t len,
                 struct vine_err *err);
int tar_out_zeros(struct tar_out *tar, uint64_t len, struct vine_err *err);

/* The end marker, and everything to fd. */
int tar_out_end(struct tar_out *tar, struct vine_err *err);
uint64_t tar_out_bytes(const struct tar_out *tar); /* given to fd so far */
void tar_out_free(struct tar_out *tar);

#endif

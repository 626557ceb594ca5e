/* disk.h - an image file as libsquashfs wants it, and its errors in our words. */
#ifndef VINE_SQUASH_DISK_H
#define VINE_SQUASH_DISK_H

#include <sqfs/io.h>
#include <stdint.h>

#include "vine/err.h"

#define SQUASH_BLOCK (128u << 10)
#define SQUASH_LEVEL 3 /* of zstd */

struct disk {
    sqfs_file_t file; /* give libsquashfs this one */
    int fd;           /* borrowed */
    uint64_t size;
};

void disk_init(struct disk *disk, int fd, uint64_t size);

int disk_read(const struct disk *disk, void *buf, size_t len, uint64_t offset,
              struct vine_err *err);
/* Writes and grows. */
int disk_write(struct disk *disk, const void *buf, size_t len, uint64_t offset,
               struct vine_err *err);

/* What libsquashfs answered, an SQFS_ERROR; `what` could not be done. Returns -1. */
int disk_fail(struct vine_err *err, int code, const char *what);

/* A compressor of our kind, or a decompressor. NULL with *err set. */
sqfs_compressor_t *disk_compressor(bool unpack, struct vine_err *err);

#endif

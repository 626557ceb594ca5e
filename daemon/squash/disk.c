/* disk.c - see disk.h. */
#include "daemon/squash/disk.h"

#include <sqfs/compressor.h>
#include <sqfs/error.h>
#include <stdlib.h>

#include "daemon/image/bytes.h"

static int on_read(sqfs_file_t *file, sqfs_u64 offset, void *buf, size_t len)
{
    return disk_read((struct disk *)file, buf, len, offset, NULL) < 0 ? SQFS_ERROR_IO
                                                                      : 0;
}

static int on_write(sqfs_file_t *file, sqfs_u64 offset, const void *buf, size_t len)
{
    return disk_write((struct disk *)file, buf, len, offset, NULL) < 0 ? SQFS_ERROR_IO
                                                                       : 0;
}

static sqfs_u64 on_size(const sqfs_file_t *file)
{
    return ((const struct disk *)file)->size;
}

static int on_truncate(sqfs_file_t *file, sqfs_u64 size)
{
    struct disk *disk = (struct disk *)file;

    if (ftruncate(disk->fd, (off_t)size) < 0)
        return SQFS_ERROR_IO;
    disk->size = size;
    return 0;
}

static void on_destroy(sqfs_object_t *object)
{
}

void disk_init(struct disk *disk, int fd, uint64_t size)
{
    *disk = (struct disk){.file = {.base = {.destroy = on_destroy},
                                   .read_at = on_read,
                                   .write_at = on_write,
                                   .get_size = on_size,
                                   .truncate = on_truncate},
                          .fd = fd,
                          .size = size};
}

int disk_read(const struct disk *disk, void *buf, size_t len, uint64_t offset,
              struct vine_err *err)
{
    ssize_t n = -1;

    if (offset > disk->size || len > disk->size - offset)
        return vine_err_set(err, VINE_ECORRUPT, "image points beyond its end");
    n = pread_whole(disk->fd, buf, len, offset);
    if (n < 0)
        return vine_err_sys(err, "cannot read an image");
    if ((size_t)n < len)
        return vine_err_set(err, VINE_ECORRUPT, "image is cut off");
    return 0;
}

int disk_write(struct disk *disk, const void *buf, size_t len, uint64_t offset,
               struct vine_err *err)
{
    const char *next = buf;

    for (size_t left = len; left > 0;) {
        ssize_t n = pwrite(disk->fd, next, left, (off_t)(offset + (len - left)));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vine_err_sys(err, "cannot write the image");
        next += n;
        left -= (size_t)n;
    }
    if (offset + len > disk->size)
        disk->size = offset + len;
    return 0;
}

int disk_fail(struct vine_err *err, int code, const char *what)
{
    switch (code) {
    case SQFS_ERROR_ALLOC:
        return vine_err_set(err, VINE_ENOMEM, "%s: out of memory", what);
    case SQFS_ERROR_IO:
        return vine_err_sys(err, "%s", what);
    case SQFS_ERROR_CORRUPTED:
    case SQFS_ERROR_OUT_OF_BOUNDS:
    case SFQS_ERROR_SUPER_MAGIC:
    case SFQS_ERROR_SUPER_VERSION:
    case SQFS_ERROR_SUPER_BLOCK_SIZE:
        return vine_err_set(err, VINE_ECORRUPT, "%s: image is damaged", what);
    default:
        return vine_err_set(err, VINE_ESYS, "%s: libsquashfs error %d", what, code);
    }
}

sqfs_compressor_t *disk_compressor(bool unpack, struct vine_err *err)
{
    sqfs_compressor_config_t config;
    sqfs_compressor_t *made = NULL;
    int result = sqfs_compressor_config_init(&config, SQFS_COMP_ZSTD, SQUASH_BLOCK,
                                             unpack ? SQFS_COMP_FLAG_UNCOMPRESS : 0);

    if (result == 0) {
        config.level = SQUASH_LEVEL;
        result = sqfs_compressor_create(&config, &made);
    }
    if (result != 0)
        disk_fail(err, result, "cannot prepare zstd");
    return made;
}

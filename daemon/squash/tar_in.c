/* tar_in.c - see tar_in.h.
 *
 * libarchive takes a tar that ends between two entries for a whole one. Ours have an
 * end, two blocks of zeros: what was read last is kept to look for it. */
#include "daemon/squash/tar_in.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define STEP (1u << 20)
#define END_BYTES 1024u
#define SAME "vine.same" /* an extended attribute */

struct tar_in {
    int fd;
    struct archive *archive;
    uint8_t bytes[STEP];
    size_t zeros; /* that end what was read */
};

static void count_zeros(struct tar_in *tar, size_t len)
{
    size_t zeros = 0;

    while (zeros < len && zeros < END_BYTES && tar->bytes[len - 1 - zeros] == 0)
        zeros++;
    tar->zeros = zeros == len ? tar->zeros + zeros : zeros;
}

static la_ssize_t on_read(struct archive *archive, void *ctx, const void **bytes)
{
    struct tar_in *tar = ctx;
    ssize_t n;

    do
        n = read(tar->fd, tar->bytes, sizeof(tar->bytes));
    while (n < 0 && errno == EINTR);
    if (n < 0)
        archive_set_error(archive, errno, "%s", strerror(errno));
    else
        count_zeros(tar, (size_t)n);
    *bytes = tar->bytes;
    return n;
}

static int fail(const struct tar_in *tar, struct vine_err *err)
{
    const char *why = archive_error_string(tar->archive);

    return vine_err_set(err, VINE_EINVAL, "cannot read the tar: %s",
                        why != NULL ? why : "unknown reason");
}

struct tar_in *tar_in_new(int fd, struct vine_err *err)
{
    struct tar_in *tar = calloc(1, sizeof(*tar));

    if (tar != NULL)
        tar->archive = archive_read_new();
    if (tar == NULL || tar->archive == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        free(tar);
        return NULL;
    }
    tar->fd = fd;
    if (archive_read_support_format_tar(tar->archive) != ARCHIVE_OK ||
        archive_read_open(tar->archive, tar, NULL, on_read, NULL) != ARCHIVE_OK) {
        fail(tar, err);
        tar_in_free(tar);
        return NULL;
    }
    return tar;
}

static bool has_same(struct archive_entry *e)
{
    const char *name;
    const void *value;
    size_t len;

    (void)archive_entry_xattr_reset(e);
    while (archive_entry_xattr_next(e, &name, &value, &len) == ARCHIVE_OK)
        if (strcmp(name, SAME) == 0)
            return true;
    return false;
}

static uint32_t fit(int64_t value)
{
    return value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static int take_item(struct archive_entry *e, struct tar_item *item,
                     struct vine_err *err)
{
    *item = (struct tar_item){.path = archive_entry_pathname(e),
                              .link_to = archive_entry_hardlink(e),
                              .mode = archive_entry_mode(e),
                              .uid = fit(archive_entry_uid(e)),
                              .gid = fit(archive_entry_gid(e)),
                              .mtime = fit(archive_entry_mtime(e)),
                              .same = has_same(e)};
    if (item->path == NULL)
        return vine_err_set(err, VINE_EINVAL, "an entry of the tar has no name");
    if (item->link_to != NULL)
        return 1;
    if (S_ISLNK(item->mode)) {
        item->target = archive_entry_symlink(e);
        if (item->target == NULL || item->target[0] == '\0')
            return vine_err_set(err, VINE_EINVAL, "'%s' has no target", item->path);
    } else if (S_ISREG(item->mode)) {
        item->size = archive_entry_size(e) < 0 ? 0 : (uint64_t)archive_entry_size(e);
    } else if (!S_ISDIR(item->mode)) {
        return vine_err_set(err, VINE_EINVAL, "'%s' is no file, directory or link",
                            item->path);
    }
    return 1;
}

int tar_in_next(struct tar_in *tar, struct tar_item *item, struct vine_err *err)
{
    struct archive_entry *e;
    int result = archive_read_next_header(tar->archive, &e);

    if (result == ARCHIVE_EOF) {
        while (tar->zeros < END_BYTES) { /* the end may lie in two reads */
            const void *bytes;
            la_ssize_t n = on_read(tar->archive, tar, &bytes);

            if (n < 0)
                return fail(tar, err);
            if (n == 0)
                return vine_err_set(err, VINE_EINVAL, "the tar ends early");
        }
        return 0;
    }
    if (result != ARCHIVE_OK)
        return fail(tar, err);
    return take_item(e, item, err);
}

int tar_in_data(struct tar_in *tar,
                int (*add)(void *ctx, const void *bytes, uint64_t len,
                           struct vine_err *err),
                void *ctx, struct vine_err *err)
{
    uint64_t at = 0;

    for (;;) {
        const void *bytes;
        size_t len;
        la_int64_t offset;
        int result = archive_read_data_block(tar->archive, &bytes, &len, &offset);

        if (result == ARCHIVE_EOF)
            return 0;
        if (result != ARCHIVE_OK || (uint64_t)offset < at)
            return fail(tar, err);
        if ((uint64_t)offset > at && add(ctx, NULL, (uint64_t)offset - at, err) < 0)
            return -1;
        if (len > 0 && add(ctx, bytes, len, err) < 0)
            return -1;
        at = (uint64_t)offset + len;
    }
}

void tar_in_free(struct tar_in *tar)
{
    if (tar == NULL)
        return;
    (void)archive_read_free(tar->archive);
    free(tar);
}

/* tar_out.c - a pax tar by libarchive, as vine-squash reads it.
 *
 * Restricted pax: plain ustar headers where they suffice, pax ones for long names,
 * large numbers and sparse maps. hdrcharset=BINARY: names are bytes and are never
 * converted. Owners are numbers; names of users would be looked up by the reader.
 * Each write to the pipe should be a large one, so what is small is collected; what is
 * large goes from the reader's buffer straight into the pipe. */
#include "daemon/image/tar_out.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/image/bytes.h"

#define COLLECT_BYTES (256u << 10)
#define LARGE_BYTES (64u << 10)
#define ZEROS_BYTES (1u << 20)

struct tar_out {
    struct archive *archive;
    struct archive_entry *entry;
    uint8_t *zeros, *collected;
    size_t collected_len;
    int fd;
    uint64_t bytes;
    bool given_up; /* nothing more is written */
};

static int put(struct tar_out *tar, const void *buf, size_t len)
{
    if (tar->given_up)
        return 0;
    tar->bytes += len;
    return write_whole(tar->fd, buf, len);
}

static int flush(struct tar_out *tar)
{
    size_t len = tar->collected_len;

    tar->collected_len = 0;
    return len > 0 ? put(tar, tar->collected, len) : 0;
}

/* libarchive gives headers, padding and the callers' data as they come. */
static la_ssize_t on_write(struct archive *archive, void *ctx, const void *buf,
                           size_t len)
{
    struct tar_out *tar = ctx;
    int result = 0;

    if (len > COLLECT_BYTES - tar->collected_len || len >= LARGE_BYTES)
        result = flush(tar);
    if (result == 0 && len >= LARGE_BYTES) {
        result = put(tar, buf, len);
    } else if (result == 0) {
        memcpy(tar->collected + tar->collected_len, buf, len);
        tar->collected_len += len;
    }
    if (result < 0) {
        archive_set_error(archive, errno, "%s", strerror(errno));
        return -1;
    }
    return (la_ssize_t)len;
}

static int failed(struct tar_out *tar, const char *path, struct vine_err *err)
{
    const char *why = archive_error_string(tar->archive);

    return vine_err_set(err, VINE_ESYS, "cannot write '%s' to the image builder: %s",
                        path, why != NULL ? why : "unknown reason");
}

struct tar_out *tar_out_new(int fd, struct vine_err *err)
{
    struct tar_out *tar = calloc(1, sizeof(*tar));

    if (tar == NULL || (tar->zeros = calloc(1, ZEROS_BYTES)) == NULL ||
        (tar->collected = malloc(COLLECT_BYTES)) == NULL ||
        (tar->archive = archive_write_new()) == NULL ||
        (tar->entry = archive_entry_new()) == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        tar_out_free(tar);
        return NULL;
    }
    tar->fd = fd;
    if (archive_write_set_format_pax_restricted(tar->archive) != ARCHIVE_OK ||
        archive_write_set_format_option(tar->archive, "pax", "hdrcharset", "BINARY") !=
            ARCHIVE_OK ||
        archive_write_set_bytes_per_block(tar->archive, 0) != ARCHIVE_OK ||
        archive_write_open2(tar->archive, tar, NULL, on_write, NULL, NULL) !=
            ARCHIVE_OK) {
        failed(tar, "tar", err);
        tar_out_free(tar);
        return NULL;
    }
    return tar;
}

/* Set-id bits must not arrive; the sticky bit of a file means nothing. On directories
 * both are harmless in a read-only nosuid mount and kept for sameness. */
static mode_t wanted_mode(mode_t mode)
{
    mode_t drop = S_ISDIR(mode) ? S_ISUID : S_ISUID | S_ISGID | S_ISVTX;

    return mode & ~drop;
}

static int64_t wanted_time(int64_t seconds)
{
    if (seconds < 0)
        return 0;
    return seconds > UINT32_MAX ? UINT32_MAX : seconds;
}

static void set_extents(struct archive_entry *e, const struct tar_entry *entry)
{
    for (size_t i = 0; i < entry->extent_count; i++)
        archive_entry_sparse_add_entry(e, (la_int64_t)entry->extents[i].offset,
                                       (la_int64_t)entry->extents[i].length);
}

int tar_out_entry(struct tar_out *tar, const struct tar_entry *entry,
                  struct vine_err *err)
{
    struct archive_entry *e = archive_entry_clear(tar->entry);
    bool is_file = S_ISREG(entry->mode) && entry->link_to == NULL;

    archive_entry_set_pathname(e, entry->path[0] != '\0' ? entry->path : "./");
    archive_entry_set_mode(e, wanted_mode(entry->mode));
    archive_entry_set_uid(e, entry->uid);
    archive_entry_set_gid(e, entry->gid);
    archive_entry_set_mtime(e, wanted_time(entry->mtime), 0);
    archive_entry_set_size(e, is_file ? (la_int64_t)entry->size : 0);
    if (entry->link_to != NULL)
        archive_entry_set_hardlink(e, entry->link_to);
    else if (S_ISLNK(entry->mode))
        archive_entry_set_symlink(e, entry->target);
    if (is_file)
        set_extents(e, entry);
    if (entry->same)
        archive_entry_xattr_add_entry(e, TAR_OUT_SAME, "1", 1);
    if (archive_write_header(tar->archive, e) != ARCHIVE_OK)
        return failed(tar, entry->path, err);
    return 0;
}

int tar_out_data(struct tar_out *tar, const void *data, size_t len,
                 struct vine_err *err)
{
    const char *next = data;

    while (len > 0) {
        la_ssize_t n = archive_write_data(tar->archive, next, len);
        if (n <= 0)
            return failed(tar, "data", err);
        next += n;
        len -= (size_t)n;
    }
    return 0;
}

int tar_out_zeros(struct tar_out *tar, uint64_t len, struct vine_err *err)
{
    while (len > 0) {
        size_t step = len < ZEROS_BYTES ? (size_t)len : ZEROS_BYTES;
        if (tar_out_data(tar, tar->zeros, step, err) < 0)
            return -1;
        len -= step;
    }
    return 0;
}

int tar_out_end(struct tar_out *tar, struct vine_err *err)
{
    if (archive_write_close(tar->archive) != ARCHIVE_OK)
        return failed(tar, "the end", err);
    if (flush(tar) < 0)
        return vine_err_sys(err, "cannot write the end to the image builder");
    return 0;
}

uint64_t tar_out_bytes(const struct tar_out *tar)
{
    return tar->bytes;
}

void tar_out_free(struct tar_out *tar)
{
    if (tar == NULL)
        return;
    /* libarchive closes what was not closed, which would write a good end: a tar that
     * was given up must not look whole. (archive_write_fail would do, but leaks.) */
    tar->given_up = true;
    if (tar->archive != NULL)
        archive_write_free(tar->archive);
    archive_entry_free(tar->entry);
    free(tar->zeros);
    free(tar->collected);
    free(tar);
}

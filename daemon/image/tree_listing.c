/* tree_listing.c - which files are as they were, and what they are for the next time.
 *
 * Both lists are in byte order of their paths, so one pass over both finds what is in
 * both. The same: the same inode, size, mtime and ctime. A file that changed in the
 * tick of the clock in which it was read could change once more and show the same
 * times, so what was that young when the walk ended is not listed. */
#include "daemon/image/tree_listing.h"

#include <string.h>

#include "daemon/image/bytes.h"
#include "daemon/image/listing.h"

#define TICK_MS 20 /* as long as a settled tree has been left alone (source.c) */
#define COARSE_TICK_MS 2000 /* of file systems that know no parts of a second */

static bool is_listed(const struct tree *tree, uint32_t i)
{
    const struct tree_entry *e = &tree->entry[i];
    int64_t tick = e->ctime_ns == 0 ? COARSE_TICK_MS : TICK_MS;

    return S_ISREG(e->mode) && e->link_to == i && e->size > 0 &&
           e->ctime < INT64_MAX / 1000 - 1 && e->ctime > INT64_MIN / 1000 + 1 &&
           e->ctime * 1000 + e->ctime_ns / 1000000 <= tree->ended_ms - tick;
}

static bool is_same(const struct tree_entry *e, const struct listing_file *file)
{
    return e->ino == file->ino && e->size == file->size && e->mtime == file->mtime &&
           e->mtime_ns == file->mtime_ns && e->ctime == file->ctime &&
           e->ctime_ns == file->ctime_ns;
}

static void unmark(struct tree *tree)
{
    for (uint32_t i = 0; i < tree->count; i++)
        tree->entry[i].same = false;
    tree->same_files = tree->same_bytes = 0;
}

static int mark(struct tree *tree, struct listing_in *in, struct vine_err *err)
{
    struct listing_file file;
    uint32_t i = 0;
    int more;

    while ((more = listing_in_next(in, &file, err)) == 1) {
        struct tree_entry *e;

        while (i < tree->count && strcmp(tree->entry[i].path, file.path) < 0)
            i++;
        if (i == tree->count)
            continue; /* the rest is gone; is the listing whole? */
        e = &tree->entry[i];
        if (strcmp(e->path, file.path) != 0 || !S_ISREG(e->mode) || e->link_to != i ||
            !is_same(e, &file))
            continue;
        e->same = true;
        tree->same_files++;
        tree->same_bytes += e->size;
    }
    return more;
}

int tree_mark_same(struct tree *tree, int fd, uint64_t offset, uint64_t length,
                   struct vine_err *err)
{
    auto_free uint8_t *body = NULL;
    struct listing_in *in;
    int result = -1;

    if (length > LISTING_BODY_MAX)
        return vine_err_set(err, VINE_ELIMIT, "a listing of %llu bytes",
                            (unsigned long long)length);
    body = malloc(length + 1);
    if (body == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (pread_whole(fd, body, length, offset) != (ssize_t)length)
        return vine_err_set(err, VINE_ECORRUPT, "cannot read the listing");
    in = listing_in_new(body, length, err);
    if (in != NULL)
        result = mark(tree, in, err);
    listing_in_free(in);
    if (result < 0)
        unmark(tree);
    return result;
}

int tree_write_listing(const struct tree *tree, int fd, uint64_t *length,
                       struct vine_err *err)
{
    struct listing_out *out = listing_out_new();
    int result = out != NULL ? 0 : -1;

    for (uint32_t i = 0; i < tree->count && result == 0; i++) {
        const struct tree_entry *e = &tree->entry[i];
        const struct listing_file file = {.path = e->path,
                                          .ino = e->ino,
                                          .size = e->size,
                                          .mtime = e->mtime,
                                          .ctime = e->ctime,
                                          .mtime_ns = e->mtime_ns,
                                          .ctime_ns = e->ctime_ns};
        if (is_listed(tree, i))
            result = listing_out_add(out, &file);
    }
    if (result < 0)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else
        result = listing_out_end(out, fd, length, err);
    listing_out_free(out);
    return result;
}

/* store_parts.c - parts of an image that is still being built, as objects of the store.
 *
 * What is fetched of one build goes to one file, each part where it will stand in the
 * image. When the image has its manifest, and every part is in it just there, that file
 * becomes the image's: nothing is copied, and what the parts still lack goes on as the
 * image's own. A build that took back what it had announced does not fit: then chunks
 * are copied, one by one, by whoever looks for them (reuse.c).
 *
 * What must hold: parts of one file do not overlap, and a file that became an image's
 * gets no further parts; so all who write to it write the same bytes to the same place.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/node/store_int.h"

struct store_ahead {
    struct store *store;
    uint64_t build;
    int fd;
    char name[32]; /* in tmp/ */
    bool taken;    /* it is an image's now */
    unsigned refs; /* parts */
    struct store_ahead *next;
};

static uint64_t begin_of(const struct store_object *part)
{
    return part->manifest.chunk[0].offset;
}

static struct store_ahead *ahead_get(struct store *store, uint64_t build)
{
    struct store_ahead *a = store->first_ahead;

    while (a != NULL && (a->build != build || a->taken))
        a = a->next;
    if (a != NULL)
        return a;
    a = calloc(1, sizeof(*a));
    if (a == NULL)
        return NULL;
    a->store = store;
    a->build = build;
    (void)snprintf(a->name, sizeof(a->name), "ahead-%llx", (unsigned long long)build);
    a->fd = openat(store->tmp_fd, a->name,
                   O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (a->fd < 0) {
        free(a);
        return NULL;
    }
    a->next = store->first_ahead;
    store->first_ahead = a;
    return a;
}

static void ahead_free(struct store_ahead *a)
{
    struct store_ahead **at = &a->store->first_ahead;

    while (*at != a)
        at = &(*at)->next;
    *at = a->next;
    if (!a->taken)
        store_temp_remove(a->store, a->name);
    (void)close(a->fd);
    free(a);
}

void ahead_put(struct store_ahead *a)
{
    if (a != NULL && --a->refs == 0)
        ahead_free(a);
}

static bool overlaps(const struct store_ahead *a, uint64_t offset, uint64_t size)
{
    const struct store_object *o = a->store->first;

    for (; o != NULL; o = o->next)
        if (o->ahead == a && offset < begin_of(o) + o->manifest.size &&
            begin_of(o) < offset + size)
            return true;
    return false;
}

int ahead_open(struct store_object *part, struct vine_err *err)
{
    part->image_fd = fcntl(part->ahead->fd, F_DUPFD_CLOEXEC, 3);
    if (part->image_fd < 0)
        return vine_err_sys(err, "cannot make files in the store");
    if (fallocate(part->image_fd, 0, (off_t)part->ahead_offset,
                  (off_t)part->manifest.size) == 0 ||
        errno == EOPNOTSUPP)
        return 0;
    return vine_err_sys(err, "cannot allocate %llu bytes in the store",
                        (unsigned long long)part->manifest.size);
}

int store_create_part(struct store *store, struct manifest *manifest, uint64_t build,
                      uint64_t offset, struct store_object **out, struct vine_err *err)
{
    struct store_object *part;
    struct store_ahead *a = NULL;

    if (manifest->count > 0 && offset <= VINE_OBJECT_MAX - manifest->size)
        a = ahead_get(store, build);
    if (a != NULL && overlaps(a, offset, manifest->size))
        a = NULL; /* an older build of that name: a file of its own */
    part = object_new(manifest, err);
    if (part != NULL && a != NULL) {
        part->ahead = a;
        part->ahead_offset = offset;
        a->refs++;
    } else if (a != NULL && a->refs == 0) {
        ahead_free(a);
    }
    if (part == NULL || store_create_object(store, part, manifest, err) < 0)
        return -1;
    for (uint32_t c = 0; part->ahead != NULL && c < part->manifest.count; c++)
        part->manifest.chunk[c].offset += offset;
    store_mark_part(store, part);
    *out = part;
    return 0;
}

/* The chunk of an image that begins there; count: none. */
static uint32_t chunk_at(const struct manifest *m, uint64_t offset)
{
    uint32_t low = 0, high = m->count;

    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (m->chunk[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low < m->count && m->chunk[low].offset == offset ? low : m->count;
}

static bool fits(const struct store_object *part, const struct manifest *image)
{
    uint32_t first = chunk_at(image, begin_of(part));
    uint32_t count = part->manifest.count;

    if (count > image->count - first)
        return false;
    for (uint32_t i = 0; i < count; i++) {
        const struct manifest_chunk *a = &part->manifest.chunk[i];
        const struct manifest_chunk *b = &image->chunk[first + i];
        if (a->length != b->length || !vine_digest_equal(&a->digest, &b->digest))
            return false;
    }
    return true;
}

static bool all_fit(const struct store_ahead *a, const struct manifest *image)
{
    const struct store_object *o = a->store->first;

    while (o != NULL && (o->ahead != a || fits(o, image)))
        o = o->next;
    return o == NULL;
}

bool ahead_become(struct store *store, int dir_fd, struct store_object *image)
{
    struct store_ahead *a = store->first_ahead;

    while (a != NULL && (a->taken || !all_fit(a, &image->manifest)))
        a = a->next;
    if (a == NULL)
        return false;
    image->image_fd = fcntl(a->fd, F_DUPFD_CLOEXEC, 3);
    if (image->image_fd < 0)
        return false;
    if (renameat(store->tmp_fd, a->name, dir_fd, "image") < 0) {
        (void)close(image->image_fd);
        image->image_fd = -1;
        return false;
    }
    a->taken = image->adopted = true;
    for (const struct store_object *o = store->first; o != NULL; o = o->next) {
        uint32_t first;
        if (o->ahead != a)
            continue;
        first = chunk_at(&image->manifest, begin_of(o));
        for (uint32_t c = 0; c < o->manifest.count; c++)
            if (store_has_chunk(o, c))
                store_mark_chunk(image, first + c);
    }
    return true;
}

void store_mark_part(struct store *store, struct store_object *object)
{
    char path[VINE_HEX_LEN + 8];
    int fd;

    object->part = true;
    index_add(store->index, object);
    object_name(object, path);
    (void)strcat(path, "/part");
    fd = openat(object->complete ? store->objects_fd : store->partial_fd, path,
                O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0) /* else it stays until it is the oldest */
        (void)close(fd);
}

int store_take_chunks(struct store_object *object, uint32_t first, uint32_t count,
                      const struct store_object *from, uint32_t from_first, void *buf,
                      struct vine_err *err)
{
    const struct manifest_chunk *c = &object->manifest.chunk[first];
    const struct manifest_chunk *last = c + count - 1;
    uint32_t length = (uint32_t)(last->offset + last->length - c->offset);

    if (disk_pread_all(from->image_fd, buf, length,
                       from->manifest.chunk[from_first].offset, err) < 0)
        return -1;
    if (!from->part)
        return store_write_chunks(object, first, count, buf, length, err);
    return disk_pwrite_all(object->image_fd, buf, length, c->offset, err);
}

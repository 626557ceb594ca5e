/* store.c - objects of a node: made, filled, published, removed.
 *
 * One struct an object, found by digest in a list (VINE_OBJECTS_MAX bounds it). The
 * files are store_disk.c's, a start's checks are store_scan.c's. What must hold: a name
 * in objects/ appears only by a rename of a finished directory, and no file in there is
 * written afterwards but meta.json, which is replaced whole. */
#include "daemon/node/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "daemon/core/bits.h"
#include "daemon/node/store_int.h"

#define LEASES_MAX (4u << 20)
#define PROBE_STEP                                                                     \
    (64u << 10)               /* read-ahead and eviction go by such steps or larger    \
                               */
#define WARM_STEP (32u << 10) /* on a worker's stack */

void object_name(const struct store_object *object, char name[VINE_HEX_LEN + 1])
{
    vine_digest_hex(&object->manifest.digest, name);
}

struct store_object *object_new(struct manifest *manifest, struct vine_err *err)
{
    struct store_object *object = calloc(1, sizeof(*object));

    if (object == NULL) {
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    object->image_fd = object->have_fd = -1;
    object->refs = 1;
    object->pieces = manifest_pieces(manifest);
    object->have = calloc(object->pieces, sizeof(bool));
    object->chunks = bits_new(manifest->count);
    if (object->have == NULL || object->chunks == NULL) {
        free(object->have);
        free(object->chunks);
        free(object);
        vine_err_set(err, VINE_ENOMEM, "out of memory");
        return NULL;
    }
    object->manifest = *manifest;
    memset(manifest, 0, sizeof(*manifest));
    return object;
}

void object_note_reads(struct store_object *object, uint32_t first, uint32_t count)
{
    if (first >= object->pieces || count > object->pieces - first)
        return;
    if (object->touched == NULL)
        object->touched = calloc(object->pieces, sizeof(bool));
    for (uint32_t p = first; object->touched != NULL && p < first + count; p++)
        object->touched[p] = true;
}

void object_free(struct store_object *object)
{
    if (object == NULL)
        return;
    if (object->image_fd >= 0)
        (void)close(object->image_fd);
    ahead_put(object->ahead);
    if (object->have_fd >= 0)
        (void)close(object->have_fd);
    manifest_free(&object->manifest);
    free(object->have);
    free(object->touched);
    free(object->chunks);
    free(object);
}

void store_get(struct store_object *object)
{
    object->refs++;
}

void store_put(struct store_object *object)
{
    if (--object->refs == 0)
        object_free(object);
}

/* The directory must be ours alone: whoever could write there could swap an image
 * between its check and its mount. */
static int check_dir(int fd, const char *dir, struct vine_err *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return vine_err_sys(err, "cannot examine '%s'", dir);
    if (st.st_uid != geteuid())
        return vine_err_set(err, VINE_EACCES,
                            "cache_dir '%s' belongs to uid %u: chown it to root", dir,
                            st.st_uid);
    if ((st.st_mode & 077) != 0 && fchmod(fd, 0700) < 0)
        return vine_err_sys(err, "cannot make '%s' private", dir);
    return 0;
}

static int lock_store(struct store *store, const char *dir, struct vine_err *err)
{
    store->lock_fd =
        openat(store->dir_fd, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (store->lock_fd < 0)
        return vine_err_sys(err, "cannot make '%s/lock'", dir);
    if (flock(store->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return vine_err_set(
            err, VINE_ELIMIT,
            "another daemon uses '%s': stop it, or give this one another "
            "cache_dir",
            dir);
    return 0;
}

static int open_dirs(struct store *store, const char *dir, struct vine_err *err)
{
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        return vine_err_sys(err, "cannot make cache_dir '%s'", dir);
    store->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (store->dir_fd < 0)
        return vine_err_sys(err, "cannot open cache_dir '%s'", dir);
    if (check_dir(store->dir_fd, dir, err) < 0 || lock_store(store, dir, err) < 0)
        return -1;
    store->objects_fd = disk_open_dir(store->dir_fd, "objects", true, err);
    store->partial_fd = disk_open_dir(store->dir_fd, "partial", true, err);
    store->tmp_fd = disk_open_dir(store->dir_fd, "tmp", true, err);
    return store->objects_fd < 0 || store->partial_fd < 0 || store->tmp_fd < 0 ? -1 : 0;
}

int store_open(const char *dir, struct store **out, struct vine_err *err)
{
    struct store *store = calloc(1, sizeof(*store));

    if (store == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    store->dir_fd = store->objects_fd = store->partial_fd = store->tmp_fd = -1;
    store->lock_fd = -1;
    store->index = index_new();
    if (store->index == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    if (store->index == NULL || open_dirs(store, dir, err) < 0 ||
        store_scan(store, err) < 0) {
        store_close(store);
        return -1;
    }
    *out = store;
    return 0;
}

void store_close(struct store *store)
{
    int fds[] = {store->dir_fd, store->objects_fd, store->partial_fd, store->tmp_fd,
                 store->lock_fd};

    while (store->first != NULL) {
        struct store_object *object = store->first;
        store->first = object->next;
        store_put(object);
    }
    for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
        if (fds[i] >= 0)
            (void)close(fds[i]);
    index_free(store->index);
    free(store);
}

int store_space(const struct store *store, uint64_t *total, uint64_t *available,
                struct vine_err *err)
{
    struct statvfs st;

    if (fstatvfs(store->dir_fd, &st) < 0)
        return vine_err_sys(err, "cannot examine the store's file system");
    *total = (uint64_t)st.f_blocks * st.f_frsize;
    *available = (uint64_t)st.f_bavail * st.f_frsize;
    return 0;
}

struct store_object *store_first(struct store *store)
{
    return store->first;
}

struct store_object *store_find(struct store *store, const struct vine_digest *digest)
{
    struct store_object *object = store->first;

    while (object != NULL &&
           memcmp(object->manifest.digest.b, digest->b, VINE_DIGEST_LEN) != 0)
        object = object->next;
    return object;
}

static int write_manifest(int dir_fd, const struct manifest *m, struct vine_err *err)
{
    size_t len = manifest_encoded_size(m->count);
    uint8_t *bytes = malloc(len);
    int result;

    if (bytes == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    manifest_encode(m, bytes);
    result = disk_write_file(dir_fd, "manifest", bytes, len, err);
    free(bytes);
    return result;
}

static int allocate(int fd, uint64_t size, struct vine_err *err)
{
    if (size == 0 || fallocate(fd, 0, 0, (off_t)size) == 0)
        return 0;
    if (errno == EOPNOTSUPP && ftruncate(fd, (off_t)size) == 0)
        return 0;
    return vine_err_sys(err, "cannot allocate %llu bytes in the store",
                        (unsigned long long)size);
}

static int new_file(int dir_fd, const char *name, int *fd, struct vine_err *err)
{
    *fd =
        openat(dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    return *fd < 0 ? vine_err_sys(err, "cannot make files in the store") : 0;
}

static int open_image(struct store *store, int dir_fd, struct store_object *object,
                      struct vine_err *err)
{
    if (object->ahead != NULL)
        return ahead_open(object, err);
    if ((object->alone || !ahead_become(store, dir_fd, object)) &&
        new_file(dir_fd, "image", &object->image_fd, err) < 0)
        return -1;
    return allocate(object->image_fd, object->manifest.size, err);
}

static int fill_partial(struct store *store, int dir_fd, struct store_object *object,
                        struct vine_err *err)
{
    if (write_manifest(dir_fd, &object->manifest, err) < 0 ||
        open_image(store, dir_fd, object, err) < 0 ||
        new_file(dir_fd, "have", &object->have_fd, err) < 0)
        return -1;
    if (ftruncate(object->have_fd, object->pieces) < 0)
        return vine_err_sys(err, "cannot make files in the store");
    store_mark(object, 0);
    return 0;
}

int store_create_object(struct store *store, struct store_object *object,
                        struct manifest *manifest, struct vine_err *err)
{
    char name[VINE_HEX_LEN + 1];
    int dir_fd, result = -1;

    object_name(object, name);
    disk_remove_tree(store->partial_fd, name);
    dir_fd = disk_open_dir(store->partial_fd, name, true, err);
    if (dir_fd >= 0) {
        result = fill_partial(store, dir_fd, object, err);
        (void)close(dir_fd);
    }
    if (result < 0) {
        disk_remove_tree(store->partial_fd, name);
        *manifest = object->manifest; /* as it was */
        memset(&object->manifest, 0, sizeof(object->manifest));
        object_free(object);
        return -1;
    }
    object->next = store->first;
    store->first = object;
    return 0;
}

int store_create(struct store *store, struct manifest *manifest, bool parts,
                 struct store_object **out, struct vine_err *err)
{
    struct store_object *object = object_new(manifest, err);

    if (object != NULL)
        object->alone = !parts;
    if (object == NULL || store_create_object(store, object, manifest, err) < 0)
        return -1;
    *out = object;
    return 0;
}

static int check_chunk(const struct manifest_chunk *c, uint32_t chunk,
                       const void *bytes, uint32_t length, struct vine_err *err)
{
    struct vine_digest digest;

    if (length < c->length)
        return vine_err_set(err, VINE_ECORRUPT, "chunk %u has %u bytes, not %u", chunk,
                            length, c->length);
    vine_digest_of(bytes, c->length, &digest);
    if (!vine_digest_equal(&digest, &c->digest))
        return vine_err_set(err, VINE_ECORRUPT, "chunk %u has the wrong bytes", chunk);
    return 0;
}

int store_write_chunks(struct store_object *object, uint32_t first, uint32_t count,
                       const void *bytes, uint32_t length, struct vine_err *err)
{
    const struct manifest *m = &object->manifest;
    uint32_t at = 0;

    if (count == 0 || first >= m->count || count > m->count - first)
        return vine_err_set(err, VINE_EPROTO, "chunks %u+%u are none of the object's",
                            first, count);
    for (uint32_t i = first; i < first + count; i++) {
        if (check_chunk(&m->chunk[i], i, (const char *)bytes + at, length - at, err) <
            0)
            return -1;
        at += m->chunk[i].length;
    }
    if (at != length)
        return vine_err_set(err, VINE_ECORRUPT, "chunks %u+%u have %u bytes, not %u",
                            first, count, length, at);
    return disk_pwrite_all(object->image_fd, bytes, length, m->chunk[first].offset,
                           err);
}

int store_write_chunk(struct store_object *object, uint32_t chunk, const void *bytes,
                      uint32_t length, struct vine_err *err)
{
    return store_write_chunks(object, chunk, 1, bytes, length, err);
}

int store_read_chunk(const struct store_object *object, uint32_t chunk, void *buf,
                     struct vine_err *err)
{
    const struct manifest_chunk *c = &object->manifest.chunk[chunk];

    return disk_pread_all(object->image_fd, buf, c->length, c->offset, err);
}

/* One byte, only if no disk is needed for it. */
static bool byte_cached(int fd, uint64_t offset)
{
    char byte;
    struct iovec one = {.iov_base = &byte, .iov_len = 1};

    return preadv2(fd, &one, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

static uint64_t end_of(const struct manifest *m, uint32_t first, uint32_t count)
{
    const struct manifest_chunk *last = &m->chunk[first + count - 1];

    return last->offset + last->length;
}

bool store_chunks_cached(const struct store_object *object, uint32_t first,
                         uint32_t count)
{
    uint64_t end = end_of(&object->manifest, first, count);

    for (uint64_t at = object->manifest.chunk[first].offset; at < end; at += PROBE_STEP)
        if (!byte_cached(object->image_fd, at))
            return false;
    return byte_cached(object->image_fd, end - 1);
}

int store_warm_chunks(const struct store_object *object, uint32_t first, uint32_t count,
                      struct vine_err *err)
{
    uint64_t end = end_of(&object->manifest, first, count);
    char step[WARM_STEP];

    for (uint64_t at = object->manifest.chunk[first].offset; at < end;
         at += WARM_STEP) {
        uint64_t left = end - at;
        if (disk_pread_all(object->image_fd, step, left < WARM_STEP ? left : WARM_STEP,
                           at, err) < 0)
            return -1;
    }
    return 0;
}

void store_mark_chunk(struct store_object *object, uint32_t chunk)
{
    if (object->chunks != NULL)
        bits_set(object->chunks, chunk);
}

bool store_has_chunk(const struct store_object *object, uint32_t chunk)
{
    return object->chunks == NULL || bits_get(object->chunks, chunk);
}

void store_mark(struct store_object *object, uint32_t piece)
{
    static const uint8_t yes = 1;
    uint32_t first, count;

    object->have[piece] = true;
    if (piece > 0) {
        manifest_piece(&object->manifest, piece, &first, &count);
        for (uint32_t c = first; c < first + count; c++)
            store_mark_chunk(object, c);
    }
    /* A mark that is lost costs one piece after a crash, so its error is no event. */
    (void)disk_pwrite_all(object->have_fd, &yes, 1, piece, NULL);
}

/* Hints only: an error costs a hash or a build after the next start. */
static void save_meta(struct store *store, const struct store_object *object)
{
    char name[VINE_HEX_LEN + 1];
    int dir_fd;

    object_name(object, name);
    dir_fd = disk_open_dir(store->objects_fd, name, false, NULL);
    if (dir_fd < 0)
        return;
    (void)meta_save(dir_fd, object, object->synced, NULL);
    (void)close(dir_fd);
}

/* From here on nobody holds a descriptor that could change the image. The number stays
 * the same, so a worker that still reads is not disturbed. */
static int make_read_only(int dir_fd, struct store_object *object, struct vine_err *err)
{
    int fd = openat(dir_fd, "image", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int result = 0;

    if (fd < 0)
        return vine_err_sys(err, "cannot open the new image");
    if (dup3(fd, object->image_fd, O_CLOEXEC) < 0)
        result = vine_err_sys(err, "cannot close the new image for writing");
    (void)close(fd);
    return result;
}

static uint64_t wall_ms(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void store_complete(struct store *store, struct store_object *object)
{
    for (uint32_t p = 0; p < object->pieces; p++)
        object->have[p] = true;
    free(object->chunks);
    object->chunks = NULL;
    object->complete = true;
    if (object->used_ms == 0)
        object->used_ms = wall_ms();
    if (object->trusted && !object->part && !object->manifest.file)
        (void)listing_find(object->image_fd, object->manifest.size, &object->listing,
                           NULL);
    index_add(store->index, object);
}

int store_publish(struct store *store, struct store_object *object, bool trusted,
                  struct vine_err *err)
{
    char name[VINE_HEX_LEN + 1];
    int dir_fd, result;

    object_name(object, name);
    object->trusted = trusted;
    dir_fd = disk_open_dir(store->partial_fd, name, false, err);
    if (dir_fd < 0)
        return -1;
    result = meta_save(dir_fd, object, false, err);
    if (result == 0 && object->ahead == NULL)
        result = make_read_only(dir_fd, object, err);
    (void)close(dir_fd);
    if (result < 0)
        return -1;
    if (renameat(store->partial_fd, name, store->objects_fd, name) < 0)
        return vine_err_sys(err, "cannot publish object %.8s", name);
    (void)close(object->have_fd);
    object->have_fd = -1;
    store_complete(store, object);
    return 0;
}

void store_synced(struct store *store, struct store_object *object)
{
    object->synced = true;
    if (!object->removed)
        save_meta(store, object);
}

int store_sync(struct store *store, struct store_object *object, struct vine_err *err)
{
    char name[VINE_HEX_LEN + 1];
    int dir_fd, result = 0;

    object_name(object, name);
    if (fsync(object->image_fd) < 0)
        return vine_err_sys(err, "cannot sync object %.8s", name);
    dir_fd = disk_open_dir(store->objects_fd, name, false, err);
    if (dir_fd < 0)
        return -1;
    if (fsync(dir_fd) < 0 || fsync(store->objects_fd) < 0)
        result = vine_err_sys(err, "cannot sync object %.8s", name);
    (void)close(dir_fd);
    return result;
}

int store_temp(struct store *store, uint64_t ticket, char name[32], int *fd,
               struct vine_err *err)
{
    (void)snprintf(name, 32, "build-%llx", (unsigned long long)ticket);
    *fd = openat(store->tmp_fd, name,
                 O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (*fd < 0)
        return vine_err_sys(err, "cannot make a file in the store");
    return 0;
}

void store_temp_remove(struct store *store, const char *name)
{
    (void)unlinkat(store->tmp_fd, name, 0);
}

/* Make objects/NAME with the finished file in it, by way of partial/. */
static int adopt_files(struct store *store, const char *temporary,
                       struct store_object *object, struct vine_err *err)
{
    char name[VINE_HEX_LEN + 1];
    int dir_fd, result;

    object_name(object, name);
    disk_remove_tree(store->partial_fd, name);
    dir_fd = disk_open_dir(store->partial_fd, name, true, err);
    if (dir_fd < 0)
        return -1;
    result = write_manifest(dir_fd, &object->manifest, err);
    if (result == 0)
        result = meta_save(dir_fd, object, false, err);
    if (result == 0 && renameat(store->tmp_fd, temporary, dir_fd, "image") < 0)
        result = vine_err_sys(err, "cannot rename the new image");
    if (result == 0)
        object->image_fd = openat(dir_fd, "image", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (result == 0 && object->image_fd < 0)
        result = vine_err_sys(err, "cannot open the new image");
    (void)close(dir_fd);
    if (result == 0 && renameat(store->partial_fd, name, store->objects_fd, name) < 0)
        result = vine_err_sys(err, "cannot publish object %.8s", name);
    if (result < 0)
        disk_remove_tree(store->partial_fd, name);
    return result;
}

int store_adopt(struct store *store, const char *name, struct manifest *manifest,
                bool trusted, struct store_object **out, struct vine_err *err)
{
    struct store_object *object = store_find(store, &manifest->digest);

    if (object != NULL && object->complete) {
        object->trusted = object->trusted || trusted;
        store_temp_remove(store, name);
        manifest_free(manifest);
        *out = object;
        return 0;
    }
    if (object != NULL)
        store_remove(store, object);
    object = object_new(manifest, err);
    if (object == NULL)
        return -1;
    object->trusted = trusted;
    if (adopt_files(store, name, object, err) < 0) {
        *manifest = object->manifest;
        memset(&object->manifest, 0, sizeof(object->manifest));
        object_free(object);
        return -1;
    }
    store_complete(store, object);
    object->next = store->first;
    store->first = object;
    *out = object;
    return 0;
}

void store_add_key(struct store *store, struct store_object *object,
                   const struct vine_digest *key)
{
    for (uint32_t i = 0; i < object->key_count; i++)
        if (vine_digest_equal(&object->keys[i], key))
            return;
    if (object->key_count == VINE_KEYS_MAX)
        memmove(object->keys, object->keys + 1,
                --object->key_count * sizeof(object->keys[0]));
    object->keys[object->key_count++] = *key;
    if (object->complete) /* else store_publish writes it down */
        save_meta(store, object);
}

void store_note_reads(struct store *store, struct store_object *object, uint32_t first,
                      uint32_t count)
{
    object_note_reads(object, first, count);
}

void store_save_reads(struct store *store, struct store_object *object)
{
    if (object->complete && !object->removed) /* else store_publish does */
        save_meta(store, object);
}

void store_touch(struct store *store, struct store_object *object)
{
    char path[VINE_HEX_LEN + 16];

    object->used_ms = wall_ms();
    object_name(object, path);
    (void)strcat(path, "/meta.json");
    (void)utimensat(store->objects_fd, path, NULL, AT_SYMLINK_NOFOLLOW);
}

void store_remove(struct store *store, struct store_object *object)
{
    char name[VINE_HEX_LEN + 1];
    struct store_object **at = &store->first;

    object_name(object, name);
    while (*at != NULL && *at != object)
        at = &(*at)->next;
    if (*at != NULL)
        *at = object->next;
    (void)index_remove(store->index, object);
    /* Out of objects/ by one rename, so that a crash in between leaves no half. */
    if (object->complete) {
        disk_remove_tree(store->tmp_fd, name);
        if (renameat(store->objects_fd, name, store->tmp_fd, name) == 0)
            disk_remove_tree(store->tmp_fd, name);
    } else {
        disk_remove_tree(store->partial_fd, name);
    }
    object->removed = true;
    store_put(object);
}

int store_save_leases(struct store *store, const char *text, struct vine_err *err)
{
    return disk_write_file(store->dir_fd, "leases.json", text, strlen(text), err);
}

int store_load_leases(struct store *store, char **text, struct vine_err *err)
{
    uint8_t *bytes = NULL;
    size_t len;

    *text = NULL;
    if (faccessat(store->dir_fd, "leases.json", F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (disk_read_file(store->dir_fd, "leases.json", LEASES_MAX, &bytes, &len, err) < 0)
        return -1;
    *text = (char *)bytes;
    return 0;
}

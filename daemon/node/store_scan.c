/* store_scan.c - what a start finds in the store.
 *
 * Nothing found is believed without a reason: a manifest must hash to its directory's
 * name, an image must have the manifest's size, an object that was never synced and the
 * pieces a partial object claims are hashed again. What fails is removed: it can be
 * fetched again, a wrong byte could not be taken back. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/node/store_int.h"
#include "vine/log.h"

/* Manifest of VINE_CHUNKS_MAX chunks. */
#define MANIFEST_MAX (36u * VINE_CHUNKS_MAX + 64u)

static int load_manifest(int dir_fd, const char *name, struct manifest *m,
                         struct vine_err *err)
{
    struct vine_digest expected;
    uint8_t *bytes = NULL;
    size_t len;
    int result;

    if (vine_digest_parse(name, &expected) < 0)
        return vine_err_set(err, VINE_ECORRUPT, "'%.80s' is not a digest", name);
    if (disk_read_file(dir_fd, "manifest", MANIFEST_MAX, &bytes, &len, err) < 0)
        return -1;
    result = manifest_decode(bytes, len, m, err);
    free(bytes);
    if (result == 0 && !vine_digest_equal(&m->digest, &expected)) {
        manifest_free(m);
        return vine_err_set(err, VINE_ECORRUPT, "the manifest has another digest");
    }
    return result;
}

/* Hash a data piece where it lies. */
static bool piece_is_right(const struct store_object *object, uint32_t piece, void *buf)
{
    struct vine_digest digest;
    uint32_t first, count;

    manifest_piece(&object->manifest, piece, &first, &count);
    for (uint32_t c = first; c < first + count; c++) {
        const struct manifest_chunk *chunk = &object->manifest.chunk[c];
        if (store_read_chunk(object, c, buf, NULL) < 0)
            return false;
        vine_digest_of(buf, chunk->length, &digest);
        if (!vine_digest_equal(&digest, &chunk->digest))
            return false;
    }
    return true;
}

static int open_image(int dir_fd, struct store_object *object, int flags,
                      struct vine_err *err)
{
    struct stat st;

    object->image_fd = openat(dir_fd, "image", flags | O_NOFOLLOW | O_CLOEXEC);
    if (object->image_fd < 0)
        return vine_err_sys(err, "cannot open 'image' of the store");
    if (fstat(object->image_fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        (uint64_t)st.st_size != object->manifest.size)
        return vine_err_set(err, VINE_ECORRUPT, "'image' has not its manifest's size");
    return 0;
}

static int check_complete(struct store *store, int dir_fd, struct store_object *object,
                          bool synced, void *buf, struct vine_err *err)
{
    if (open_image(dir_fd, object, O_RDONLY, err) < 0)
        return -1;
    for (uint32_t p = 1; !synced && p < object->pieces; p++)
        if (!piece_is_right(object, p, buf))
            return vine_err_set(err, VINE_ECORRUPT, "piece %u is damaged", p);
    if (!synced && meta_save(dir_fd, object, true, err) < 0)
        return -1;
    object->synced = true;
    store_complete(store, object);
    return 0;
}

static int check_partial(int dir_fd, struct store_object *object, void *buf,
                         struct vine_err *err)
{
    uint8_t *claims = NULL;
    size_t len = 0;

    if (open_image(dir_fd, object, O_RDWR, err) < 0 ||
        disk_read_file(dir_fd, "have", VINE_PIECES_MAX, &claims, &len, err) < 0)
        return -1;
    object->have[0] = true;
    object->have_fd = openat(dir_fd, "have", O_RDWR | O_NOFOLLOW | O_CLOEXEC);
    if (object->have_fd < 0)
        vine_err_sys(err, "cannot open 'have' of the store");
    for (uint32_t p = 1; object->have_fd >= 0 && p < object->pieces && p < len; p++)
        if (claims[p] == 1 && piece_is_right(object, p, buf))
            store_mark(object, p);
    free(claims);
    return object->have_fd < 0 ? -1 : 0;
}

static int load_object(struct store *store, int at, const char *name, bool complete,
                       struct vine_err *err)
{
    struct store_object *object = NULL;
    struct manifest manifest = {0};
    void *buf = malloc(VINE_CHUNK_MAX);
    bool synced;
    int result = -1;
    int dir_fd = disk_open_dir(at, name, false, err);

    if (buf == NULL)
        vine_err_set(err, VINE_ENOMEM, "out of memory");
    else if (dir_fd >= 0 && faccessat(dir_fd, "part", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        vine_err_set(err, VINE_ENOENT, "a part of what was being built");
    else if (dir_fd >= 0 && load_manifest(dir_fd, name, &manifest, err) == 0)
        object = object_new(&manifest, err);
    if (object != NULL) {
        meta_load(dir_fd, object, &synced);
        result = complete ? check_complete(store, dir_fd, object, synced, buf, err)
                          : check_partial(dir_fd, object, buf, err);
    }
    if (result == 0) {
        object->next = store->first;
        store->first = object;
    } else {
        manifest_free(&manifest);
        object_free(object);
    }
    free(buf);
    if (dir_fd >= 0)
        (void)close(dir_fd);
    return result;
}

static int scan_dir(struct store *store, int at, bool complete, struct vine_err *err)
{
    struct dirent *entry;
    DIR *dir;
    int fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL)
        return vine_err_sys(err, "cannot list the store");
    while ((entry = readdir(dir)) != NULL) {
        struct vine_err why = {0};
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (load_object(store, at, entry->d_name, complete, &why) == 0)
            continue;
        if (why.code != VINE_ECORRUPT && why.code != VINE_ENOENT &&
            why.code != VINE_EPROTO && why.code != VINE_ELIMIT) {
            vine_log(VINE_LOG_ERR, "event=object-not-loaded object=%s reason=%s",
                     vine_q(entry->d_name), vine_q(why.text));
            continue; /* perhaps the next start can */
        }
        vine_log(VINE_LOG_WARNING, "event=discard object=%s complete=%d reason=%s",
                 vine_q(entry->d_name), complete, vine_q(why.text));
        disk_remove_tree(at, entry->d_name);
    }
    (void)closedir(dir);
    return 0;
}

static int empty_dir(int at, struct vine_err *err)
{
    struct dirent *entry;
    DIR *dir;
    int fd = openat(at, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL)
        return vine_err_sys(err, "cannot list the store");
    while ((entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            disk_remove_tree(at, entry->d_name);
    (void)closedir(dir);
    return 0;
}

int store_scan(struct store *store, struct vine_err *err)
{
    if (empty_dir(store->tmp_fd, err) < 0 ||
        scan_dir(store, store->objects_fd, true, err) < 0)
        return -1;
    return scan_dir(store, store->partial_fd, false, err);
}

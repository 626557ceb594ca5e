/* store_disk.c - files of the store: every path is one name below an open directory. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/node/store_int.h"
#include "vine/log.h"

#define META_NAME "meta.json"
#define META_MAX (64u << 10)

int disk_open_dir(int at, const char *name, bool create, struct vine_err *err)
{
    int fd;

    if (create && mkdirat(at, name, 0700) < 0 && errno != EEXIST)
        return vine_err_sys(err, "cannot make directory '%s' in the store", name);
    fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return vine_err_sys(err, "cannot open directory '%s' of the store", name);
    return fd;
}

int disk_pwrite_all(int fd, const void *buf, size_t len, uint64_t offset,
                    struct vine_err *err)
{
    const char *p = buf;

    while (len > 0) {
        ssize_t n = pwrite(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vine_err_sys(err, "cannot write to the store");
        p += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int disk_pread_all(int fd, void *buf, size_t len, uint64_t offset, struct vine_err *err)
{
    char *p = buf;

    while (len > 0) {
        ssize_t n = pread(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return vine_err_sys(err, "cannot read from the store");
        if (n == 0)
            return vine_err_set(err, VINE_ECORRUPT, "a file of the store is too short");
        p += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int disk_write_file(int at, const char *name, const void *bytes, size_t len,
                    struct vine_err *err)
{
    char temporary[80];
    int fd, result;

    (void)snprintf(temporary, sizeof(temporary), "%.60s.new", name);
    fd = openat(at, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC,
                0600);
    if (fd < 0)
        return vine_err_sys(err, "cannot make '%s' in the store", name);
    result = disk_pwrite_all(fd, bytes, len, 0, err);
    (void)close(fd);
    if (result == 0 && renameat(at, temporary, at, name) < 0)
        result = vine_err_sys(err, "cannot rename '%s' in the store", name);
    if (result < 0)
        (void)unlinkat(at, temporary, 0);
    return result;
}

int disk_read_file(int at, const char *name, size_t max, uint8_t **out, size_t *len,
                   struct vine_err *err)
{
    struct stat st;
    uint8_t *bytes;
    int fd = openat(at, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return vine_err_sys(err, "cannot open '%s' of the store", name);
    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || (uint64_t)st.st_size > max) {
        (void)close(fd);
        return vine_err_set(err, VINE_ECORRUPT,
                            "'%s' of the store is no file of at most %zu bytes", name,
                            max);
    }
    bytes = calloc(1, (size_t)st.st_size + 1);
    if (bytes == NULL) {
        (void)close(fd);
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    }
    if (disk_pread_all(fd, bytes, (size_t)st.st_size, 0, err) < 0) {
        (void)close(fd);
        free(bytes);
        return -1;
    }
    (void)close(fd);
    *out = bytes;
    *len = (size_t)st.st_size;
    return 0;
}

void disk_remove_tree(int at, const char *name)
{
    struct dirent *entry;
    DIR *dir;
    int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0) {
        (void)unlinkat(at, name, 0);
        return;
    }
    dir = fdopendir(fd);
    if (dir == NULL) {
        (void)close(fd);
        return;
    }
    while ((entry = readdir(dir)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            (void)unlinkat(fd, entry->d_name, 0);
    (void)closedir(dir);
    if (unlinkat(at, name, AT_REMOVEDIR) < 0)
        vine_log(VINE_LOG_WARNING, "event=remove-failed name=%s reason=%s",
                 vine_q(name), vine_q(strerror(errno)));
}

/* Runs of pieces that starts read: [[first, count], ...]. */
static json_t *reads_of(const struct store_object *object)
{
    json_t *list = json_array();
    uint32_t p = 0;

    while (object->touched != NULL && p < object->pieces) {
        uint32_t first = p;
        while (p < object->pieces && object->touched[p])
            p++;
        if (p > first)
            (void)json_array_append_new(
                list, json_pack("[I, I]", (json_int_t)first, (json_int_t)(p - first)));
        p++;
    }
    return list;
}

static void load_reads(const json_t *list, struct store_object *object)
{
    for (size_t i = 0; i < json_array_size(list) && i < VINE_PIECES_MAX; i++) {
        const json_t *run = json_array_get(list, i);
        json_int_t first = json_integer_value(json_array_get(run, 0));
        json_int_t count = json_integer_value(json_array_get(run, 1));
        if (first > 0 && first < VINE_PIECES_MAX && count > 0 &&
            count <= VINE_PIECES_MAX)
            object_note_reads(object, (uint32_t)first, (uint32_t)count);
    }
}

int meta_save(int dir_fd, const struct store_object *object, bool synced,
              struct vine_err *err)
{
    json_t *keys = json_array();
    json_t *root = json_pack("{s:b, s:b, s:o, s:o}", "trusted", object->trusted,
                             "synced", synced, "keys", keys, "reads", reads_of(object));
    char hex[VINE_HEX_LEN + 1], *text;
    int result;

    for (uint32_t i = 0; root != NULL && i < object->key_count; i++) {
        vine_digest_hex(&object->keys[i], hex);
        (void)json_array_append_new(keys, json_string(hex));
    }
    text = root != NULL ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (text == NULL)
        return vine_err_set(err, VINE_ENOMEM, "out of memory");
    result = disk_write_file(dir_fd, META_NAME, text, strlen(text), err);
    free(text);
    return result;
}

static void load_keys(const json_t *list, struct store_object *object)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *hex = json_string_value(json_array_get(list, i));
        if (hex != NULL && object->key_count < VINE_KEYS_MAX &&
            vine_digest_parse(hex, &object->keys[object->key_count]) == 0)
            object->key_count++;
    }
}

void meta_load(int dir_fd, struct store_object *object, bool *synced)
{
    struct stat st;
    uint8_t *text = NULL;
    size_t len;
    json_t *root = NULL;

    object->trusted = false;
    object->key_count = 0;
    object->used_ms = 0;
    *synced = false;
    if (disk_read_file(dir_fd, META_NAME, META_MAX, &text, &len, NULL) == 0)
        root = json_loadb((char *)text, len, 0, NULL);
    free(text);
    if (root == NULL)
        return;
    object->trusted = json_is_true(json_object_get(root, "trusted"));
    *synced = json_is_true(json_object_get(root, "synced"));
    load_keys(json_object_get(root, "keys"), object);
    load_reads(json_object_get(root, "reads"), object);
    if (fstatat(dir_fd, META_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0)
        object->used_ms =
            (uint64_t)st.st_mtim.tv_sec * 1000 + (uint64_t)st.st_mtim.tv_nsec / 1000000;
    json_decref(root);
}

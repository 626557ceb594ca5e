/* test_store.c - the store on a real directory: a restart believes nothing it finds. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/node/store.h"
#include "vine/log.h"

#define OBJECT_BYTES (3u << 20)

struct fixture {
    char dir[64];
    uint8_t *bytes;
    struct store *store;
};

/* The same bytes in each test, not the same in each chunk. */
static void fill(uint8_t *bytes, size_t len)
{
    uint64_t x = 88172645463325252ull;

    for (size_t i = 0; i < len; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes[i] = (uint8_t)x;
    }
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct vine_err err = {0};

    vine_log_set_level(VINE_LOG_ERR);
    (void)strcpy(f->dir, "/tmp/vine-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    f->bytes = malloc(OBJECT_BYTES);
    fill(f->bytes, OBJECT_BYTES);
    assert_int_equal(store_open(f->dir, &f->store, &err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char command[128];

    if (f->store != NULL)
        store_close(f->store);
    (void)snprintf(command, sizeof(command), "rm -rf %s", f->dir);
    assert_int_equal(system(command), 0);
    free(f->bytes);
    free(f);
    return 0;
}

static void make_manifest(const struct fixture *f, struct manifest *m)
{
    struct manifest_builder *b = manifest_builder_new();

    assert_int_equal(manifest_builder_add(b, f->bytes, OBJECT_BYTES, NULL), 0);
    assert_int_equal(manifest_builder_end(b, m, NULL), 0);
    manifest_builder_free(b);
}

static struct store_object *create_from(struct fixture *f, bool parts)
{
    struct store_object *o = NULL;
    struct vine_err err = {0};
    struct manifest m;

    make_manifest(f, &m);
    assert_int_equal(store_create(f->store, &m, parts, &o, &err), 0);
    return o;
}

static struct store_object *create(struct fixture *f)
{
    return create_from(f, true);
}

static void write_piece(struct fixture *f, struct store_object *o, uint32_t piece)
{
    uint32_t first, count;

    manifest_piece(&o->manifest, piece, &first, &count);
    for (uint32_t c = first; c < first + count; c++) {
        const struct manifest_chunk *chunk = &o->manifest.chunk[c];
        assert_int_equal(
            store_write_chunk(o, c, f->bytes + chunk->offset, chunk->length, NULL), 0);
    }
    store_mark(o, piece);
}

static struct store_object *create_published(struct fixture *f, bool sync)
{
    struct store_object *o = create(f);
    struct vine_err err = {0};

    for (uint32_t p = 1; p < o->pieces; p++)
        write_piece(f, o, p);
    assert_int_equal(store_publish(f->store, o, true, &err), 0);
    if (sync)
        assert_int_equal(store_sync(f->store, o, &err), 0);
    return o;
}

static void restart(struct fixture *f)
{
    struct vine_err err = {0};

    store_close(f->store);
    f->store = NULL;
    assert_int_equal(store_open(f->dir, &f->store, &err), 0);
}

/* Path of a file of the object in `folder`. */
static void path_in(const struct fixture *f, const char *folder, const char *hex,
                    const char *name, char out[256])
{
    (void)snprintf(out, 256, "%s/%s/%s/%s", f->dir, folder, hex, name);
}

static void damage(const char *path, off_t offset)
{
    int fd = open(path, O_RDWR);
    uint8_t byte;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, offset), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, offset), 1);
    assert_int_equal(close(fd), 0);
}

static void test_wrong_chunks_are_refused(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = create(f);
    const struct manifest_chunk *c = &o->manifest.chunk[0];
    struct vine_err short_err = {0}, wrong_err = {0}, none_err = {0};

    assert_int_equal(store_write_chunk(o, 0, f->bytes, c->length - 1, &short_err), -1);
    assert_int_equal(short_err.code, VINE_ECORRUPT);
    f->bytes[0] ^= 1;
    assert_int_equal(store_write_chunk(o, 0, f->bytes, c->length, &wrong_err), -1);
    assert_int_equal(wrong_err.code, VINE_ECORRUPT);
    f->bytes[0] ^= 1;
    assert_int_equal(
        store_write_chunk(o, o->manifest.count, f->bytes, c->length, &none_err), -1);
    assert_int_equal(none_err.code, VINE_EPROTO);
    assert_int_equal(store_write_chunk(o, 0, f->bytes, c->length, NULL), 0);
}

static void test_chunks_are_found_after_a_restart(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = create_published(f, true);
    const struct vine_digest wanted = o->manifest.chunk[2].digest;
    struct store_source found[STORE_SOURCES_MAX];
    struct store_object *again;

    assert_int_equal(store_lookup(f->store, &wanted, found), 1);
    assert_ptr_equal(found[0].object, o);
    store_synced(f->store, o);
    restart(f);
    assert_int_equal(store_lookup(f->store, &wanted, found), 1);
    assert_int_equal(found[0].chunk, 2);
    again = found[0].object;
    store_get(again);
    store_remove(f->store, again);
    assert_int_equal(store_lookup(f->store, &wanted, found), 0);
    assert_int_equal(store_read_chunk(again, 2, f->bytes, NULL), 0);
    store_put(again);
}

static void test_parts_of_pieces_are_known_by_chunk(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = create(f);
    uint32_t first, count;

    manifest_piece(&o->manifest, 2, &first, &count);
    assert_false(store_has_chunk(o, first));
    store_mark_chunk(o, first);
    assert_true(store_has_chunk(o, first));
    store_mark(o, 1);
    assert_true(store_has_chunk(o, 0));
    restart(f); /* what a mark alone claims is hashed, and a part is forgotten */
    o = store_first(f->store);
    assert_false(store_has_chunk(o, first) || store_has_chunk(o, 0));
}

static void test_partial_object_resumes(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = create(f);

    assert_true(o->pieces > 3);
    write_piece(f, o, 2);
    restart(f);
    o = store_first(f->store);
    assert_non_null(o);
    assert_false(o->complete);
    assert_true(o->have[0]);
    assert_false(o->have[1]);
    assert_true(o->have[2]);
}

static void test_claimed_piece_is_hashed_again(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = create(f);
    char hex[VINE_HEX_LEN + 1], path[256];
    uint32_t first, count;

    write_piece(f, o, 1);
    write_piece(f, o, 2);
    manifest_piece(&o->manifest, 1, &first, &count);
    vine_digest_hex(&o->manifest.digest, hex);
    path_in(f, "partial", hex, "image", path);
    damage(path, (off_t)o->manifest.chunk[first].offset);
    restart(f);
    o = store_first(f->store);
    assert_non_null(o);
    assert_false(o->have[1]);
    assert_true(o->have[2]);
}

static void test_published_object_comes_back(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = create_published(f, true);
    struct vine_digest key = {{7}}, digest = o->manifest.digest;
    uint8_t *buf = malloc(VINE_CHUNK_MAX);

    o->synced = true;
    store_add_key(f->store, o, &key);
    restart(f);
    o = store_find(f->store, &digest);
    assert_non_null(o);
    assert_true(o->complete && o->trusted && o->synced);
    assert_int_equal(o->key_count, 1);
    assert_true(vine_digest_equal(&o->keys[0], &key));
    assert_int_equal(store_read_chunk(o, 1, buf, NULL), 0);
    assert_memory_equal(buf, f->bytes + o->manifest.chunk[1].offset,
                        o->manifest.chunk[1].length);
    free(buf);
}

static void test_unsynced_damage_is_found(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = create_published(f, false);
    char hex[VINE_HEX_LEN + 1], path[256];

    vine_digest_hex(&o->manifest.digest, hex);
    path_in(f, "objects", hex, "image", path);
    damage(path, 1000);
    restart(f);
    assert_null(store_first(f->store));
    assert_int_equal(access(path, F_OK), -1);
}

static void break_and_restart(struct fixture *f, const char *name, bool truncate_it)
{
    struct store_object *o = create_published(f, true);
    char hex[VINE_HEX_LEN + 1], path[256];

    vine_digest_hex(&o->manifest.digest, hex);
    path_in(f, "objects", hex, name, path);
    assert_int_equal(truncate_it ? truncate(path, 100) : unlink(path), 0);
    restart(f);
    if (strcmp(name, "meta.json") == 0) { /* only hints are lost */
        o = store_first(f->store);
        assert_non_null(o);
        assert_false(o->trusted);
        store_remove(f->store, o);
    }
    assert_null(store_first(f->store));
    path_in(f, "objects", hex, "", path);
    assert_int_equal(access(path, F_OK), -1);
}

/* All are right, or none is written. */
static void test_chunks_are_taken_together(void **state)
{
    struct fixture *f = *state;
    struct store_object *from = create_published(f, true);
    uint8_t *buf = malloc(VINE_CHUNK_MAX), *zeros = calloc(1, VINE_CHUNK_MAX);
    const struct manifest_chunk *c = &from->manifest.chunk[1];
    uint32_t length = c[0].length + c[1].length;
    char hex[VINE_HEX_LEN + 1], path[256];
    struct store_object o = *from;
    struct vine_err err = {0};

    assert_true(from->manifest.count > 3 && length <= VINE_CHUNK_MAX);
    vine_digest_hex(&from->manifest.digest, hex);
    path_in(f, "objects", hex, "image", path);
    o.image_fd = memfd_create("taken", MFD_CLOEXEC);
    assert_int_equal(ftruncate(o.image_fd, OBJECT_BYTES), 0);
    damage(path, (off_t)c[1].offset);
    assert_int_equal(store_take_chunks(&o, 1, 2, from, 1, buf, &err), -1);
    assert_int_equal(err.code, VINE_ECORRUPT);
    assert_int_equal(pread(o.image_fd, buf, length, (off_t)c->offset), length);
    assert_memory_equal(buf, zeros, length);
    damage(path, (off_t)c[1].offset);
    assert_int_equal(store_take_chunks(&o, 1, 2, from, 1, buf, NULL), 0);
    assert_int_equal(pread(o.image_fd, buf, length, (off_t)c->offset), length);
    assert_memory_equal(buf, f->bytes + c->offset, length);
    (void)close(o.image_fd);
    free(buf);
    free(zeros);
}

static void test_any_file_missing_or_short(void **state)
{
    static const char *const names[] = {"image", "manifest", "meta.json"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        break_and_restart(*state, names[i], true);
        break_and_restart(*state, names[i], false);
    }
}

static void test_foreign_names_are_removed(void **state)
{
    struct fixture *f = *state;
    char path[256];

    path_in(f, "objects", "not-a-digest", "", path);
    assert_int_equal(mkdir(path, 0700), 0);
    path_in(f, "tmp", "", "build-9", path);
    assert_int_equal(close(open(path, O_CREAT | O_WRONLY, 0600)), 0);
    restart(f);
    assert_int_equal(access(path, F_OK), -1);
    assert_null(store_first(f->store));
}

static void test_removed_object_lives_until_put(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = create_published(f, true);
    uint8_t *buf = malloc(VINE_CHUNK_MAX);

    store_get(o);
    store_remove(f->store, o);
    assert_null(store_first(f->store));
    assert_int_equal(store_read_chunk(o, 0, buf, NULL), 0); /* open file */
    store_put(o);
    free(buf);
}

static void test_second_daemon_is_refused(void **state)
{
    struct fixture *f = *state;
    struct vine_err err = {0};
    struct store *second = NULL;

    assert_int_equal(store_open(f->dir, &second, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    assert_non_null(strstr(err.text, f->dir));
}

static void test_link_as_cache_dir_is_refused(void **state)
{
    struct fixture *f = *state;
    struct vine_err err = {0};
    struct store *second = NULL;
    char link_path[80];

    (void)snprintf(link_path, sizeof(link_path), "%s/link", f->dir);
    assert_int_equal(symlink("/tmp", link_path), 0);
    assert_int_equal(store_open(link_path, &second, &err), -1);
}

static void test_adopted_file_becomes_object(void **state)
{
    struct fixture *f = *state;
    struct store_object *o = NULL;
    struct vine_err err = {0};
    struct manifest m;
    char name[32];
    int fd;

    make_manifest(f, &m);
    assert_int_equal(store_temp(f->store, 5, name, &fd, &err), 0);
    assert_int_equal(write(fd, f->bytes, OBJECT_BYTES), OBJECT_BYTES);
    assert_int_equal(store_adopt(f->store, name, &m, true, &o, &err), 0);
    assert_int_equal(close(fd), 0);
    restart(f); /* unsynced: hashed and found right */
    o = store_first(f->store);
    assert_non_null(o);
    assert_true(o->complete && o->trusted);
}

static void test_leases_round_trip(void **state)
{
    struct fixture *f = *state;
    char *text = NULL;

    assert_int_equal(store_load_leases(f->store, &text, NULL), 0);
    assert_null(text);
    assert_int_equal(store_save_leases(f->store, "[1]", NULL), 0);
    restart(f);
    assert_int_equal(store_load_leases(f->store, &text, NULL), 0);
    assert_string_equal(text, "[1]");
    free(text);
}

/* Chunks first..first + count of the object, as a part of build 7; some are written. */
static struct store_object *create_part(struct fixture *f, uint32_t first,
                                        uint32_t count, uint32_t written, bool wrong)
{
    struct manifest whole, m = {.count = count};
    struct store_object *o = NULL;
    uint64_t offset;

    make_manifest(f, &whole);
    offset = whole.chunk[first].offset;
    m.chunk = calloc(count, sizeof(*m.chunk));
    for (uint32_t c = 0; c < count; c++) {
        m.chunk[c] = whole.chunk[first + c];
        m.chunk[c].offset = m.size;
        m.size += m.chunk[c].length;
    }
    if (wrong)
        m.chunk[count - 1].digest.b[0] ^= 1;
    manifest_free(&whole);
    assert_int_equal(manifest_finish(&m, NULL), 0);
    assert_int_equal(store_create_part(f->store, &m, 7, offset, &o, NULL), 0);
    for (uint32_t c = 0; c < written; c++) {
        const struct manifest_chunk *chunk = &o->manifest.chunk[c];
        assert_int_equal(chunk->offset >= offset, 1); /* as in the image */
        assert_int_equal(
            store_write_chunk(o, c, f->bytes + chunk->offset, chunk->length, NULL), 0);
        store_mark_chunk(o, c);
    }
    return o;
}

static bool found_in(struct fixture *f, const struct store_object *o, uint32_t chunk)
{
    struct store_source found[STORE_SOURCES_MAX];
    uint32_t count = store_lookup(f->store, &o->manifest.chunk[chunk].digest, found);

    for (uint32_t i = 0; i < count; i++)
        if (found[i].object == o)
            return true;
    return false;
}

static void test_parts_become_the_image(void **state)
{
    struct fixture *f = *state;
    struct store_object *a = create_part(f, 1, 3, 3, false);
    struct store_object *b = create_part(f, 5, 2, 1, false), *o;
    char path[256];

    assert_int_equal(store_publish(f->store, a, false, NULL), 0);
    assert_true(found_in(f, a, 2) && found_in(f, b, 0) && !found_in(f, b, 1));
    o = create(f);
    for (uint32_t c = 0; c < o->manifest.count; c++) {
        bool here = (c >= 1 && c < 4) || c == 5;
        const struct manifest_chunk *chunk = &o->manifest.chunk[c];
        assert_int_equal(store_has_chunk(o, c), here);
        if (here) {
            uint8_t *buf = malloc(chunk->length);
            assert_int_equal(store_read_chunk(o, c, buf, NULL), 0);
            assert_memory_equal(buf, f->bytes + chunk->offset, chunk->length);
            free(buf);
        }
    }
    assert_true(o->adopted);
    path_in(f, "tmp", "", "ahead-7", path);
    assert_int_equal(access(path, F_OK), -1);
    store_remove(f->store, a);
    store_remove(f->store, b);
    for (uint32_t p = 1; p < o->pieces; p++)
        write_piece(f, o, p);
    assert_int_equal(store_publish(f->store, o, true, NULL), 0);
    restart(f);
    o = store_first(f->store);
    assert_true(o != NULL && o->complete && o->next == NULL); /* hashed by the start */
}

/* Its source has not shown yet that it has what its manifest names. */
static void test_an_image_of_unknown_source_takes_nothing_from_parts(void **state)
{
    struct fixture *f = *state;
    struct store_object *a = create_part(f, 1, 3, 3, false), *o;

    assert_true(found_in(f, a, 2));
    o = create_from(f, false);
    for (uint32_t c = 0; c < o->manifest.count; c++)
        assert_false(store_has_chunk(o, c));
    assert_false(o->adopted);
}

static void test_parts_that_were_taken_back_are_copied_from(void **state)
{
    struct fixture *f = *state;
    struct store_object *a = create_part(f, 1, 3, 2, true);
    struct store_object *o = create(f);
    uint8_t *buf = malloc(VINE_CHUNK_MAX);
    char path[256];

    assert_false(o->adopted || store_has_chunk(o, 1));
    assert_int_equal(store_take_chunks(o, 1, 1, a, 0, buf, NULL), 0);
    memset(buf, 0, VINE_CHUNK_MAX);
    assert_int_equal(store_read_chunk(o, 1, buf, NULL), 0);
    assert_memory_equal(buf, f->bytes + o->manifest.chunk[1].offset,
                        o->manifest.chunk[1].length);
    free(buf);
    path_in(f, "tmp", "", "ahead-7", path);
    assert_int_equal(access(path, F_OK), 0);
    store_remove(f->store, a);
    assert_int_equal(access(path, F_OK), -1); /* with its last part */
}

static void test_parts_do_not_overlap_in_one_file(void **state)
{
    struct fixture *f = *state;
    struct store_object *a = create_part(f, 1, 3, 3, false);
    struct store_object *b = create_part(f, 2, 3, 0, false);

    assert_non_null(a->ahead);
    assert_null(b->ahead); /* of another build under the same number */
    assert_int_equal(b->manifest.chunk[0].offset, 0);
    restart(f);
    assert_null(store_first(f->store)); /* parts are for this daemon's life */
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(test_wrong_chunks_are_refused),
        T(test_partial_object_resumes),
        T(test_parts_become_the_image),
        T(test_an_image_of_unknown_source_takes_nothing_from_parts),
        T(test_parts_that_were_taken_back_are_copied_from),
        T(test_parts_do_not_overlap_in_one_file),
        T(test_claimed_piece_is_hashed_again),
        T(test_published_object_comes_back),
        T(test_unsynced_damage_is_found),
        T(test_chunks_are_taken_together),
        T(test_any_file_missing_or_short),
        T(test_foreign_names_are_removed),
        T(test_removed_object_lives_until_put),
        T(test_second_daemon_is_refused),
        T(test_link_as_cache_dir_is_refused),
        T(test_adopted_file_becomes_object),
        T(test_leases_round_trip),
        T(test_chunks_are_found_after_a_restart),
        T(test_parts_of_pieces_are_known_by_chunk),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

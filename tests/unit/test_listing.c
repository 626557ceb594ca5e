/* test_listing.c - listings: damaged ones first, then what is written is read. */
#include "daemon/image/listing.h"
#include "daemon/image/tree_listing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define FILES 500u

static const struct listing_file odd[] = {
    {"\x01", 1, 1, 0, 0, 0, 0},
    {"a", UINT64_MAX, UINT64_MAX, INT64_MIN, INT64_MAX, 999999999, 0},
    {"a/b", 0, 1, INT64_MAX, INT64_MIN, 0, 999999999},
    {"a/bb", 7, 131072, -1, 1700000000, 5, 6},
    {"a\x7f", 8, 1, 1, 2, 3, 4},
    {"\xff\xfe", 9, 2, 1, 2, 3, 4},
};
#define ODD (sizeof(odd) / sizeof(odd[0]))

static bool is_equal(const struct listing_file *a, const struct listing_file *b)
{
    return strcmp(a->path, b->path) == 0 && a->ino == b->ino && a->size == b->size &&
           a->mtime == b->mtime && a->mtime_ns == b->mtime_ns && a->ctime == b->ctime &&
           a->ctime_ns == b->ctime_ns;
}

/* The body of these files, on the heap. */
static uint8_t *body_of(const struct listing_file *files, size_t count, size_t *len)
{
    struct listing_out *out = listing_out_new();
    int fd = memfd_create("listing", MFD_CLOEXEC);
    struct vine_err err = {0};
    uint64_t length = 0;
    uint8_t *body;

    for (size_t i = 0; i < count; i++)
        assert_int_equal(listing_out_add(out, &files[i]), 0);
    assert_int_equal(listing_out_end(out, fd, &length, &err), 0);
    listing_out_free(out);
    assert_true(length > 0);
    body = malloc(length);
    assert_int_equal(pread(fd, body, length, 0), (ssize_t)length);
    close(fd);
    *len = length;
    return body;
}

/* Read to the end; how many files there were, or -1. */
static int read_all(const uint8_t *body, size_t len)
{
    uint8_t *exact = malloc(len + !len); /* ASan sees a byte too many */
    struct listing_file file;
    struct vine_err err = {0};
    struct listing_in *in;
    int count = 0, more = -1;

    memcpy(exact, body, len);
    in = listing_in_new(exact, len, &err);
    while (in != NULL && (more = listing_in_next(in, &file, &err)) == 1)
        count++;
    listing_in_free(in);
    free(exact);
    assert_true(more == 0 || err.code == VINE_ECORRUPT);
    return more == 0 ? count : -1;
}

static void test_a_body_cut_or_longer_is_refused(void **state)
{
    size_t len;
    uint8_t *body = body_of(odd, ODD, &len), *longer = calloc(1, len + 1);

    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(read_all(body, cut), -1);
    memcpy(longer, body, len);
    assert_int_equal(read_all(longer, len + 1), -1);
    assert_int_equal(read_all(body, len), ODD);
    free(body);
    free(longer);
}

static void test_any_changed_byte_harms_nobody(void **state)
{
    size_t len;
    uint8_t *body = body_of(odd, ODD, &len);

    for (size_t i = 0; i < len; i++)
        for (int bit = 0; bit < 8; bit++) {
            body[i] ^= (uint8_t)(1u << bit);
            (void)read_all(body, len);
            body[i] ^= (uint8_t)(1u << bit);
        }
    free(body);
}

static void test_paths_must_rise(void **state)
{
    const struct listing_file twice[] = {odd[1], odd[1]};
    const struct listing_file falling[] = {odd[4], odd[1]};
    size_t len;
    uint8_t *body = body_of(twice, 2, &len);

    assert_int_equal(read_all(body, len), -1);
    free(body);
    body = body_of(falling, 2, &len);
    assert_int_equal(read_all(body, len), -1);
    free(body);
}

static void test_what_is_written_is_read_again(void **state)
{
    struct vine_err err = {0};
    struct listing_file file;
    struct listing_in *in;
    size_t len;
    uint8_t *body = body_of(odd, ODD, &len);

    in = listing_in_new(body, len, &err);
    for (size_t i = 0; i < ODD; i++) {
        assert_int_equal(listing_in_next(in, &file, &err), 1);
        assert_true(is_equal(&file, &odd[i]));
    }
    assert_int_equal(listing_in_next(in, &file, &err), 0);
    assert_int_equal(listing_in_next(in, &file, &err), 0);
    listing_in_free(in);
    free(body);
    body = body_of(NULL, 0, &len);
    assert_int_equal(read_all(body, len), 0);
    free(body);
}

/* An image of 5000 bytes with a listing and an info block; its size. */
static uint64_t make_object(int fd, const struct listing_head *head)
{
    struct image_info *info = calloc(1, sizeof(*info));
    int body_fd = memfd_create("body", MFD_CLOEXEC);
    struct vine_err err = {0};
    uint64_t size = 0;
    size_t len;
    uint8_t *body = body_of(odd, ODD, &len);

    assert_int_equal(write(body_fd, body, len), (ssize_t)len);
    assert_int_equal(ftruncate(fd, 5000), 0);
    (void)snprintf(info->prefix, sizeof(info->prefix), "/p");
    if (head != NULL)
        assert_int_equal(listing_append(fd, head, body_fd, len, info, &err), 0);
    assert_int_equal(image_info_write(fd, info, &size, &err), 0);
    free(body);
    free(info);
    close(body_fd);
    return size;
}

static void test_a_listing_is_found_in_its_object(void **state)
{
    const struct listing_head user = {.uid = 20001, .path = {{1, 2, 3}}};
    struct listing_head all = user, found = {.length = 99};
    int fd = memfd_create("image", MFD_CLOEXEC);
    struct vine_err err = {0};
    uint64_t size = make_object(fd, NULL);
    uint8_t magic;

    assert_int_equal(listing_find(fd, size, &found, &err), 0);
    assert_int_equal(found.length, 0);
    size = make_object(fd, &user);
    assert_int_equal(listing_find(fd, size, &found, &err), 0);
    assert_int_equal(found.offset, 8192 + LISTING_HEAD_BYTES);
    assert_false(found.everybody);
    assert_int_equal(found.uid, 20001);
    assert_memory_equal(&found.path, &user.path, sizeof(found.path));
    all.everybody = true;
    size = make_object(fd, &all);
    assert_int_equal(listing_find(fd, size, &found, &err), 0);
    assert_true(found.everybody);
    assert_int_equal(found.uid, 0);
    for (off_t at = 8192; at < 8192 + LISTING_HEAD_BYTES; at++) {
        if (at >= 8192 + 16 && at < 8192 + 48)
            continue; /* another path: no matter */
        assert_int_equal(pread(fd, &magic, 1, at), 1);
        magic ^= 0x81;
        assert_int_equal(pwrite(fd, &magic, 1, at), 1);
        assert_int_equal(listing_find(fd, size, &found, &err), -1);
        assert_int_equal(err.code, VINE_ECORRUPT);
        magic ^= 0x81;
        assert_int_equal(pwrite(fd, &magic, 1, at), 1);
        err.code = VINE_OK;
    }
    close(fd);
}

static void test_a_listing_outside_its_object_is_refused(void **state)
{
    static const uint64_t places[][2] = {
        {1ull << 40, 100}, {0, 1ull << 40}, {0, 55}, {0, 56}, {UINT64_MAX >> 1, 100}};
    struct listing_head found = {.length = 99};

    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        struct image_info *info = calloc(1, sizeof(*info));
        int fd = memfd_create("image", MFD_CLOEXEC);
        struct vine_err err = {0};
        uint64_t size;

        info->listing_offset = places[i][0];
        info->listing_bytes = places[i][1];
        assert_int_equal(image_info_write(fd, info, &size, &err), 0);
        assert_int_equal(listing_find(fd, size, &found, &err), -1);
        assert_int_equal(err.code, VINE_ECORRUPT);
        assert_int_equal(found.length, 99);
        free(info);
        close(fd);
    }
}

static struct tree_entry entry_of(const char *path, uint32_t index)
{
    return (struct tree_entry){.path = path,
                               .ino = 1000 + index,
                               .size = 10 + index,
                               .mtime = 1600000000,
                               .mtime_ns = index,
                               .ctime = 1700000000 + index,
                               .ctime_ns = 1 + index,
                               .mode = S_IFREG | 0644,
                               .nlink = 1,
                               .link_to = index};
}

/* "" and then FILES files, in order. */
static struct tree *make_tree(void)
{
    struct tree *tree = calloc(1, sizeof(*tree));

    tree->entry = calloc(FILES + 1, sizeof(*tree->entry));
    tree->entry[0] = entry_of("", 0);
    tree->entry[0].mode = S_IFDIR | 0755;
    for (uint32_t i = 1; i <= FILES; i++) {
        char name[32];
        int n = snprintf(name, sizeof(name), "dir/file-%06u", i);
        char *kept = malloc((size_t)n + 1);
        memcpy(kept, name, (size_t)n + 1);
        tree->entry[i] = entry_of(kept, i);
    }
    tree->count = FILES + 1;
    tree->ended_ms = 1800000000000;
    return tree;
}

static void drop_tree(struct tree *tree)
{
    for (uint32_t i = 1; i < tree->count; i++)
        free((char *)tree->entry[i].path);
    free(tree->entry);
    free(tree);
}

static void test_only_what_is_the_same_is_marked(void **state)
{
    struct tree *tree = make_tree();
    int fd = memfd_create("listing", MFD_CLOEXEC);
    struct vine_err err = {0};
    uint64_t length = 0;

    assert_int_equal(tree_write_listing(tree, fd, &length, &err), 0);
    tree->entry[1].ino++;
    tree->entry[2].size++;
    tree->entry[3].mtime++;
    tree->entry[4].mtime_ns++;
    tree->entry[5].ctime++;
    tree->entry[6].ctime_ns++;
    tree->entry[7].mode = S_IFLNK | 0777;
    tree->entry[8].link_to = 9; /* it has become another name */
    assert_int_equal(tree_mark_same(tree, fd, 0, length, &err), 0);
    assert_int_equal(tree->same_files, FILES - 8);
    for (uint32_t i = 0; i <= FILES; i++)
        assert_int_equal(tree->entry[i].same, i > 8);
    /* Damaged: none is. */
    assert_int_equal(tree_mark_same(tree, fd, 0, length - 1, &err), -1);
    drop_tree(tree);
    close(fd);
}

static void test_what_comes_and_goes_is_passed_over(void **state)
{
    struct tree *tree = make_tree(), *next = make_tree();
    int fd = memfd_create("listing", MFD_CLOEXEC);
    struct vine_err err = {0};
    uint64_t length = 0;

    /* The first, one in the middle and the last are gone; one has come. */
    assert_int_equal(tree_write_listing(tree, fd, &length, &err), 0);
    next->entry[1].mode = S_IFDIR | 0755;
    free((char *)next->entry[100].path);
    next->entry[100].path = strdup("dir/file-000099-more");
    next->count--;
    assert_int_equal(tree_mark_same(next, fd, 0, length, &err), 0);
    assert_int_equal(next->same_files, FILES - 3);
    assert_false(next->entry[100].same);
    assert_true(next->entry[99].same && next->entry[101].same);
    free((char *)next->entry[FILES].path);
    drop_tree(next);
    drop_tree(tree);
    close(fd);
}

static void test_links_empty_and_young_files_are_not_listed(void **state)
{
    struct tree *tree = make_tree();
    int fd = memfd_create("listing", MFD_CLOEXEC);
    struct vine_err err = {0};
    uint64_t length = 0;

    tree->entry[1].link_to = 2;
    tree->entry[3].size = 0;
    tree->entry[4].ctime = 1800000000;
    tree->entry[5].ctime = 1799999999;
    tree->entry[5].ctime_ns = 0; /* of a clock of whole seconds, perhaps */
    tree->entry[6].ctime = 1799999999;
    assert_int_equal(tree_write_listing(tree, fd, &length, &err), 0);
    assert_int_equal(tree_mark_same(tree, fd, 0, length, &err), 0);
    assert_int_equal(tree->same_files, FILES - 4);
    assert_true(tree->entry[2].same && tree->entry[6].same);
    assert_false(tree->entry[1].same || tree->entry[3].same || tree->entry[4].same ||
                 tree->entry[5].same);
    drop_tree(tree);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_body_cut_or_longer_is_refused),
        cmocka_unit_test(test_any_changed_byte_harms_nobody),
        cmocka_unit_test(test_paths_must_rise),
        cmocka_unit_test(test_what_is_written_is_read_again),
        cmocka_unit_test(test_a_listing_is_found_in_its_object),
        cmocka_unit_test(test_a_listing_outside_its_object_is_refused),
        cmocka_unit_test(test_only_what_is_the_same_is_marked),
        cmocka_unit_test(test_what_comes_and_goes_is_passed_over),
        cmocka_unit_test(test_links_empty_and_young_files_are_not_listed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

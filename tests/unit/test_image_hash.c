/* A manifest made by several threads is the one that a single stream gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/image/hash.h"

/* Bytes that the same seed repeats; no pattern that a cut could lock on. */
static uint8_t *make_bytes(size_t size)
{
    uint8_t *bytes = malloc(size + 1);
    uint32_t state = 1;

    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++) {
        state = state * 1664525u + 1013904223u;
        bytes[i] = (uint8_t)(state >> 24);
    }
    return bytes;
}

static int make_file(const uint8_t *bytes, size_t size)
{
    int fd = memfd_create("vine-test", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, size), (ssize_t)size);
    return fd;
}

static void check_size(size_t size)
{
    uint8_t *bytes = make_bytes(size);
    int fd = make_file(bytes, size);
    struct manifest_builder *b = manifest_builder_new();
    struct manifest expected;

    assert_int_equal(manifest_builder_add(b, bytes, size, NULL), 0);
    assert_int_equal(manifest_builder_end(b, &expected, NULL), 0);
    for (unsigned threads = 0; threads <= 3; threads++) {
        const struct image_hash_options options = {.threads = threads};
        struct manifest made;
        assert_int_equal(image_hash_file(fd, size, &options, &made, NULL), 0);
        assert_int_equal(made.size, size);
        assert_int_equal(made.count, expected.count);
        assert_memory_equal(&made.digest, &expected.digest, sizeof(made.digest));
        for (uint32_t i = 0; i < made.count; i++) {
            assert_int_equal(made.chunk[i].offset, expected.chunk[i].offset);
            assert_int_equal(made.chunk[i].length, expected.chunk[i].length);
        }
        manifest_free(&made);
    }
    manifest_free(&expected);
    manifest_builder_free(b);
    close(fd);
    free(bytes);
}

static void test_any_number_of_threads_gives_one_manifest(void **state)
{
    static const size_t sizes[] = {
        0, 1, VINE_CHUNK_MIN, VINE_CHUNK_MAX, VINE_CHUNK_MAX + 1, (9u << 20) + 12345};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        check_size(sizes[i]);
}

static void test_a_file_that_ends_early_is_an_error(void **state)
{
    size_t size = 3u << 20;
    uint8_t *bytes = make_bytes(size);
    int fd = make_file(bytes, size);
    struct manifest untouched = {.size = 7};

    for (unsigned threads = 1; threads <= 2; threads++) {
        const struct image_hash_options options = {.threads = threads};
        struct vine_err err = {0};
        assert_int_equal(image_hash_file(fd, size + 1, &options, &untouched, &err), -1);
        assert_int_not_equal(err.code, VINE_OK);
        assert_int_equal(untouched.size, 7);
    }
    close(fd);
    free(bytes);
}

/* Wait until the follower has hashed most of what is there; 10 s at most. */
static const struct image_hint *followed(struct image_follow **f, int fd, size_t least,
                                         size_t *count)
{
    const struct image_hint *hints = NULL;

    for (int tries = 0; tries < 200; tries++) {
        *f = image_follow_start(fd);
        assert_non_null(*f);
        (void)usleep((useconds_t)(60000 + 5000 * tries)); /* it looks every 50 ms */
        *count = image_follow_end(*f, &hints);
        if (*count > 0 && hints[*count - 1].chunk.offset >= least)
            return hints;
        image_follow_free(*f);
    }
    fail_msg("the follower hashed nothing");
    return NULL;
}

/* Bytes at `offset` are changed after they were followed; then the file is hashed. */
static void check_followed(size_t size, size_t offset, size_t length)
{
    uint8_t *bytes = make_bytes(size);
    int fd = make_file(bytes, size);
    const struct image_hash_options plain = {.threads = 1};
    struct image_hash_options options = {.threads = 1};
    struct manifest expected, made;
    size_t count;

    (void)followed(&options.follow, fd, size / 2, &count);
    for (size_t i = 0; i < length; i++)
        bytes[offset + i] ^= 0x5a;
    assert_int_equal(pwrite(fd, bytes + offset, length, (off_t)offset),
                     (ssize_t)length);
    assert_int_equal(image_hash_file(fd, size, &options, &made, NULL), 0);
    assert_int_equal(image_hash_file(fd, size, &plain, &expected, NULL), 0);
    assert_int_equal(made.count, expected.count);
    assert_int_equal(made.pieces, expected.pieces);
    assert_memory_equal(&made.digest, &expected.digest, sizeof(made.digest));
    image_follow_free(options.follow);
    manifest_free(&made);
    manifest_free(&expected);
    close(fd);
    free(bytes);
}

static void test_what_was_hashed_while_written_is_used_only_if_it_is_so(void **state)
{
    const size_t size = (8u << 20) + 4321;

    check_followed(size, 0, 0);               /* nothing changed */
    check_followed(size, 0, 96);              /* the superblock */
    check_followed(size, 3u << 20, 1);        /* one byte */
    check_followed(size, 1u << 20, 3u << 20); /* a long stretch: other chunks there */
    check_followed(size, size - 10, 10);      /* what was not hashed before */
}

static void test_a_file_cut_back_while_followed(void **state)
{
    const size_t size = 8u << 20, less = (5u << 20) + 99;
    uint8_t *bytes = make_bytes(size);
    int fd = make_file(bytes, size);
    const struct image_hash_options plain = {.threads = 2};
    struct image_hash_options options = {.threads = 2};
    struct manifest expected, made;
    size_t count;

    (void)followed(&options.follow, fd, size / 2, &count);
    assert_int_equal(ftruncate(fd, (off_t)less), 0);
    assert_int_equal(image_hash_file(fd, less, &options, &made, NULL), 0);
    assert_int_equal(image_hash_file(fd, less, &plain, &expected, NULL), 0);
    assert_memory_equal(&made.digest, &expected.digest, sizeof(made.digest));
    image_follow_free(options.follow);
    manifest_free(&made);
    manifest_free(&expected);
    close(fd);
    free(bytes);
}

/* Given up in the middle: the thread must not touch what is gone (ASan sees it). */
static void test_a_follower_that_nobody_waits_for(void **state)
{
    uint8_t *bytes = make_bytes(4u << 20);
    int fd = make_file(bytes, 4u << 20);

    for (int i = 0; i < 20; i++)
        image_follow_free(image_follow_start(fd));
    close(fd);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_hashed_while_written_is_used_only_if_it_is_so),
        cmocka_unit_test(test_a_file_cut_back_while_followed),
        cmocka_unit_test(test_a_follower_that_nobody_waits_for),
        cmocka_unit_test(test_any_number_of_threads_gives_one_manifest),
        cmocka_unit_test(test_a_file_that_ends_early_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

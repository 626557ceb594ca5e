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
        struct manifest made;
        assert_int_equal(image_hash_file(fd, size, threads, &made, NULL), 0);
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
        struct vine_err err = {0};
        assert_int_equal(image_hash_file(fd, size + 1, threads, &untouched, &err), -1);
        assert_int_not_equal(err.code, VINE_OK);
        assert_int_equal(untouched.size, 7);
    }
    close(fd);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_number_of_threads_gives_one_manifest),
        cmocka_unit_test(test_a_file_that_ends_early_is_an_error),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

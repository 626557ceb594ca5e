/* test_image_info.c - the block an image says about itself: damaged ones first. */
#include "daemon/image/info.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static const struct image_info sample = {
    .prefix = "/shared/envs/\xff odd\n%41/ml",
    .tool = "vine-squash zstd level=3 131072",
    .created_by = "vine-env 0.1.0",
    .activate = IMAGE_ACTIVATE_CONDA,
    .env = IMAGE_ENV_CONDA_PACK,
    .files = 61003,
    .entries = 68492,
    .bytes = 1300000000,
};

/* Decode from a heap block of exactly len bytes, so that ASan sees any overread. */
static int decode(const uint8_t *bytes, size_t len, struct image_info *info,
                  bool *found, struct vine_err *err)
{
    uint8_t *exact = malloc(len + !len);
    int result;

    memcpy(exact, bytes, len);
    result = image_info_decode(exact, len, info, found, err);
    free(exact);
    return result;
}

static size_t encode(const struct image_info *info, uint8_t *out)
{
    struct vine_err err = {0};
    size_t len = image_info_encode(info, out, &err);

    assert_int_equal(err.code, VINE_OK);
    assert_true(len > 0 && len % IMAGE_INFO_BLOCK == 0);
    return len;
}

static void test_a_block_cut_anywhere_is_never_taken(void **state)
{
    static uint8_t block[IMAGE_INFO_MAX];
    size_t len = encode(&sample, block);
    struct image_info *info = calloc(1, sizeof(*info));

    for (size_t cut = 1; cut <= len; cut++) {
        bool found = true;
        int front = decode(block + cut, len - cut, info, &found, NULL);
        assert_true(front < 0 || !found);
        found = true;
        assert_int_equal(decode(block, len - cut, info, &found, NULL), 0);
        assert_false(found); /* the end is gone: an image without a block */
    }
    free(info);
}

static void test_any_changed_byte_is_refused_or_harmless(void **state)
{
    static uint8_t block[IMAGE_INFO_MAX];
    size_t len = encode(&sample, block);
    struct image_info *info = calloc(1, sizeof(*info));

    for (size_t i = 0; i < len; i++)
        for (int bit = 0; bit < 8; bit++) {
            struct vine_err err = {0};
            bool found = false;
            int result;

            block[i] ^= (uint8_t)(1u << bit);
            result = decode(block, len, info, &found, &err);
            assert_int_equal(err.code, result < 0 ? VINE_ECORRUPT : VINE_OK);
            block[i] ^= (uint8_t)(1u << bit);
        }
    free(info);
}

static void put_frame(uint8_t block[IMAGE_INFO_BLOCK], const char *json)
{
    static const uint8_t length[8] = {0, 0, 0, 0, 0, 0, 0x10, 0};
    size_t len = strlen(json);

    memset(block, 0, IMAGE_INFO_BLOCK);
    memcpy(block, "VNINFO1\n", 8);
    block[10] = (uint8_t)(len >> 8);
    block[11] = (uint8_t)len;
    memcpy(block + 12, json, len);
    memcpy(block + IMAGE_INFO_BLOCK - 16, length, 8);
    memcpy(block + IMAGE_INFO_BLOCK - 8, "VNINFEND", 8);
}

#define REST                                                                           \
    "\"tool\":\"t\",\"activate\":\"none\",\"entries\":1,\"bytes\":2,\"created_by\":"   \
    "\"c\""

static void test_wrong_json_is_refused(void **state)
{
    static const char *const wrong[] = {
        "",
        "[]",
        "{}",
        "{\"prefix\":\"/p\"}",
        "{\"prefix\":7," REST "}",
        "{\"prefix\":\"relative\"," REST "}",
        "{\"prefix\":\"/%00\"," REST "}",
        "{\"prefix\":\"/%4\"," REST "}",
        "{\"prefix\":\"/a\\u0000b\"," REST "}",
        "{\"prefix\":\"/p\",\"prefix\":\"/q\"," REST "}",
        "{\"prefix\":\"/p\",\"tool\":\"t\",\"activate\":\"sh -c\",\"entries\":1,"
        "\"bytes\":2,\"created_by\":\"c\"}",
        "{\"prefix\":\"/p\",\"tool\":\"t\\n\",\"activate\":\"none\",\"entries\":1,"
        "\"bytes\":2,\"created_by\":\"c\"}",
        "{\"prefix\":\"/p\",\"tool\":\"t\",\"activate\":\"none\",\"entries\":-1,"
        "\"bytes\":2,\"created_by\":\"c\"}",
        "{\"prefix\":\"/p\",\"tool\":\"t\",\"activate\":\"none\",\"entries\":1.5,"
        "\"bytes\":2,\"created_by\":\"c\"}",
        "{\"prefix\":\"/p\",\"env\":\"venv\"," REST "}",
        "{\"prefix\":\"/p\",\"env\":\"venv\",\"files\":-1," REST "}",
        "{\"prefix\":\"/p\",\"env\":7,\"files\":1," REST "}",
        "{\"prefix\":\"/p\"," REST "} trailing",
    };
    uint8_t block[IMAGE_INFO_BLOCK];
    struct image_info *info = calloc(1, sizeof(*info));

    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        struct vine_err err = {0};
        bool found = false;

        put_frame(block, wrong[i]);
        assert_int_equal(decode(block, sizeof(block), info, &found, &err), -1);
        assert_int_equal(err.code, VINE_ECORRUPT);
        assert_false(found);
    }
    put_frame(block, "{\"prefix\":\"/p\",\"later\":[]," REST "}");
    bool found = false;
    assert_int_equal(decode(block, sizeof(block), info, &found, NULL), 0);
    assert_true(found);
    free(info);
}

static void test_an_unknown_environment_is_unknown(void **state)
{
    uint8_t block[IMAGE_INFO_BLOCK];
    struct image_info *info = calloc(1, sizeof(*info));
    bool found = false;

    put_frame(block, "{\"prefix\":\"/p\",\"env\":\"later\",\"files\":3," REST "}");
    assert_int_equal(decode(block, sizeof(block), info, &found, NULL), 0);
    assert_int_equal(info->env, IMAGE_ENV_UNKNOWN);
    assert_int_equal(info->files, 3);
    put_frame(block, "{\"prefix\":\"/p\"," REST "}");
    assert_int_equal(decode(block, sizeof(block), info, &found, NULL), 0);
    assert_int_equal(info->env, IMAGE_ENV_UNKNOWN);
    free(info);
}

static void test_marks_tell_what_made_a_tree(void **state)
{
    static const struct {
        struct image_marks marks;
        enum image_env env;
        enum image_activate activate;
    } cases[] = {
        {{0}, IMAGE_ENV_NONE, IMAGE_ACTIVATE_NONE},
        {{.pyvenv = true}, IMAGE_ENV_VENV, IMAGE_ACTIVATE_VENV},
        {{.conda_meta = true, .pyvenv = true}, IMAGE_ENV_CONDA, IMAGE_ACTIVATE_CONDA},
        {{.conda_meta = true, .conda_unpack = true},
         IMAGE_ENV_CONDA_PACK,
         IMAGE_ACTIVATE_CONDA},
        {{.conda_meta = true, .pixi = true}, IMAGE_ENV_PIXI, IMAGE_ACTIVATE_CONDA},
        {{.conda_unpack = true}, IMAGE_ENV_NONE, IMAGE_ACTIVATE_NONE},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_int_equal(image_env_of(&cases[i].marks), cases[i].env);
        assert_int_equal(image_activate_of(&cases[i].marks), cases[i].activate);
    }
}

static void test_what_is_written_is_read_again(void **state)
{
    int fd = memfd_create("image", MFD_CLOEXEC);
    struct image_info *info = calloc(1, sizeof(*info));
    struct vine_err err = {0};
    uint64_t size = 0;
    bool found = false;

    assert_int_equal(ftruncate(fd, 5000), 0);
    assert_int_equal(image_info_read(fd, 5000, info, &found, &err), 0);
    assert_false(found);
    assert_int_equal(image_info_write(fd, &sample, &size, &err), 0);
    assert_int_equal(size, 8192 + IMAGE_INFO_BLOCK);
    assert_int_equal(lseek(fd, 0, SEEK_END), (off_t)size);
    assert_int_equal(image_info_read(fd, size, info, &found, &err), 0);
    assert_true(found);
    assert_memory_equal(info, &sample, sizeof(sample));
    /* More bytes after the object do not disturb. */
    assert_int_equal(ftruncate(fd, (off_t)size + 100), 0);
    assert_int_equal(image_info_read(fd, size, info, &found, &err), 0);
    assert_true(found);
    free(info);
    close(fd);
}

static void test_the_longest_prefix_fits(void **state)
{
    static uint8_t block[IMAGE_INFO_MAX];
    struct image_info *info = calloc(1, sizeof(*info)),
                      *read = calloc(1, sizeof(*read));
    bool found = false;
    size_t len;

    *info = sample;
    memset(info->prefix, 0xff, sizeof(info->prefix) - 1);
    info->prefix[0] = '/';
    len = encode(info, block);
    assert_int_equal(decode(block, len, read, &found, NULL), 0);
    assert_memory_equal(info, read, sizeof(*info));
    free(info);
    free(read);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_block_cut_anywhere_is_never_taken),
        cmocka_unit_test(test_any_changed_byte_is_refused_or_harmless),
        cmocka_unit_test(test_wrong_json_is_refused),
        cmocka_unit_test(test_an_unknown_environment_is_unknown),
        cmocka_unit_test(test_marks_tell_what_made_a_tree),
        cmocka_unit_test(test_what_is_written_is_read_again),
        cmocka_unit_test(test_the_longest_prefix_fits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

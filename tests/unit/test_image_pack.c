/* test_image_pack.c - trailers of packed files: damaged ones first. */
#include "daemon/image/pack.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define OBJECT_BYTES 300000u
#define FOOT_BYTES 56u

struct packed {
    int fd;
    uint64_t size;
    struct manifest manifest;
    struct vine_digest signature;
};

static void make_manifest(struct manifest *m)
{
    struct manifest_builder *b = manifest_builder_new();
    uint8_t *object = malloc(OBJECT_BYTES);

    for (size_t i = 0; i < OBJECT_BYTES; i++)
        object[i] = (uint8_t)(i * i >> 7);
    assert_int_equal(manifest_builder_add(b, object, OBJECT_BYTES, NULL), 0);
    assert_int_equal(manifest_builder_end(b, m, NULL), 0);
    manifest_builder_free(b);
    free(object);
}

static int setup(void **state)
{
    struct packed *p = calloc(1, sizeof(*p));
    uint8_t *trailer;
    size_t len;

    make_manifest(&p->manifest);
    image_sign("key", 3, &p->manifest.digest, &p->signature);
    trailer = image_trailer_encode(&p->manifest, &p->signature, &len);
    p->fd = memfd_create("packed", MFD_CLOEXEC);
    p->size = OBJECT_BYTES + len;
    assert_int_equal(ftruncate(p->fd, OBJECT_BYTES), 0);
    assert_int_equal(pwrite(p->fd, trailer, len, OBJECT_BYTES), (ssize_t)len);
    free(trailer);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct packed *p = *state;

    manifest_free(&p->manifest);
    close(p->fd);
    free(p);
    return 0;
}

/* 1 = found, 0 = not there, -1 = refused, and then nothing was touched. */
static int read_trailer(int fd, uint64_t size)
{
    struct image_trailer trailer = {.object_size = 77};
    struct manifest manifest = {.size = 77};
    struct vine_err err = {0};
    bool found = false;
    int result = image_trailer_read(fd, size, &trailer, &manifest, &found, &err);

    assert_int_equal(err.code, result < 0 ? VINE_ECORRUPT : VINE_OK);
    if (result < 0 || !found) {
        assert_int_equal(trailer.object_size, 77);
        assert_int_equal(manifest.size, 77);
        return result;
    }
    manifest_free(&manifest);
    return 1;
}

static void test_a_file_cut_anywhere_is_never_taken(void **state)
{
    struct packed *p = *state;

    for (uint64_t size = 0; size < p->size; size++)
        assert_true(read_trailer(p->fd, size) <= 0);
    assert_int_equal(read_trailer(p->fd, p->size), 1);
}

static void test_bytes_before_or_after_are_refused(void **state)
{
    struct packed *p = *state;
    uint8_t *all = malloc(p->size + 1);
    int fd = memfd_create("shifted", MFD_CLOEXEC);

    assert_int_equal(pread(p->fd, all, p->size, 0), (ssize_t)p->size);
    assert_int_equal(pwrite(fd, all, p->size, 1), (ssize_t)p->size);
    assert_int_equal(read_trailer(fd, p->size + 1), -1);
    assert_int_equal(ftruncate(p->fd, (off_t)p->size + 1), 0);
    assert_int_equal(read_trailer(p->fd, p->size + 1), 0);
    close(fd);
    free(all);
}

static void test_any_changed_byte_is_noticed(void **state)
{
    struct packed *p = *state;

    for (uint64_t at = OBJECT_BYTES; at < p->size; at++) {
        bool is_signature =
            at >= p->size - FOOT_BYTES && at < p->size - FOOT_BYTES + 32;
        /* Of a manifest's digests any bytes are digests: the object's digest changes.
         */
        bool is_manifest = at >= OBJECT_BYTES + 8 && at < p->size - FOOT_BYTES;
        uint8_t byte, changed;

        assert_int_equal(pread(p->fd, &byte, 1, (off_t)at), 1);
        changed = byte ^ 0x10;
        assert_int_equal(pwrite(p->fd, &changed, 1, (off_t)at), 1);
        int result = read_trailer(p->fd, p->size);
        if (is_signature)
            assert_int_equal(result, 1);
        else if (!is_manifest)
            assert_true(result <= 0);
        assert_int_equal(pwrite(p->fd, &byte, 1, (off_t)at), 1);
    }
}

static void test_huge_lengths_are_refused(void **state)
{
    struct packed *p = *state;
    static const uint64_t lengths[] = {0,  1,          63,        64,
                                       79, UINT32_MAX, INT64_MAX, UINT64_MAX};

    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        uint8_t be[8];
        for (int k = 0; k < 8; k++)
            be[k] = (uint8_t)(lengths[i] >> (56 - 8 * k));
        assert_int_equal(pwrite(p->fd, be, 8, (off_t)p->size - 16), 8);
        assert_int_equal(read_trailer(p->fd, p->size), -1);
        assert_int_equal(pwrite(p->fd, be, 8, (off_t)p->size - 24), 8);
        assert_int_equal(read_trailer(p->fd, p->size), -1);
    }
}

static void test_the_trailer_says_what_was_written(void **state)
{
    struct packed *p = *state;
    struct image_trailer trailer;
    struct manifest manifest;
    bool found;

    assert_int_equal(
        image_trailer_read(p->fd, p->size, &trailer, &manifest, &found, NULL), 0);
    assert_true(found && trailer.is_signed);
    assert_int_equal(trailer.object_size, OBJECT_BYTES);
    assert_int_equal(trailer.manifest_bytes, manifest_encoded_size(manifest.count));
    assert_true(vine_digest_equal(&manifest.digest, &p->manifest.digest));
    assert_true(image_signature_valid("key", 3, &manifest.digest, &trailer.signature));
    manifest_free(&manifest);
}

static void test_signatures_hold_for_one_key_and_object_only(void **state)
{
    struct packed *p = *state;
    struct vine_digest other = p->manifest.digest, zero = {{0}};

    other.b[31] ^= 1;
    assert_false(image_signature_valid("kex", 3, &p->manifest.digest, &p->signature));
    assert_false(image_signature_valid("key", 3, &other, &p->signature));
    assert_false(image_signature_valid("key", 3, &p->manifest.digest, &zero));
}

static void test_an_unsigned_trailer_is_not_signed(void **state)
{
    struct packed *p = *state;
    struct image_trailer trailer;
    size_t len;
    uint8_t *bytes = image_trailer_encode(&p->manifest, NULL, &len);
    bool found = false;

    assert_int_equal(pwrite(p->fd, bytes, len, OBJECT_BYTES), (ssize_t)len);
    assert_int_equal(image_trailer_find(p->fd, p->size, &trailer, &found, NULL), 0);
    assert_true(found && !trailer.is_signed);
    free(bytes);
}

static void test_superblocks(void **state)
{
    uint8_t super[96] = "hsqs";
    uint64_t used = 0;

    super[13] = 0;
    super[14] = 2; /* block size 131072 */
    super[22] = 17;
    super[28] = 4;
    super[41] = 0x10; /* bytes used 4096 */
    assert_true(image_superblock_valid(super, 4096, &used));
    assert_int_equal(used, 4096);
    assert_false(image_superblock_valid(super, 4095, &used));
    for (size_t i = 0; i < 32; i++) {
        bool matters = i < 4 || (i >= 12 && i < 16) || i == 22 || i == 23 || i >= 28;
        super[i] ^= 0x40;
        assert_int_equal(image_superblock_valid(super, 4096, &used), !matters);
        super[i] ^= 0x40;
    }
}

int main(void)
{
#define WITH_FILE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        WITH_FILE(test_a_file_cut_anywhere_is_never_taken),
        WITH_FILE(test_bytes_before_or_after_are_refused),
        WITH_FILE(test_any_changed_byte_is_noticed),
        WITH_FILE(test_huge_lengths_are_refused),
        WITH_FILE(test_the_trailer_says_what_was_written),
        WITH_FILE(test_signatures_hold_for_one_key_and_object_only),
        WITH_FILE(test_an_unsigned_trailer_is_not_signed),
        cmocka_unit_test(test_superblocks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

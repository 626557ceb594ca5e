/* Manifests: what a decoder must refuse, where chunks are cut, pieces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "vine/manifest.h"

/* Reproducible bytes. */
static uint8_t *noise(size_t len, uint64_t seed)
{
    uint8_t *data = malloc(len + 8);

    for (size_t i = 0; i < len; i += 8) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z ^= z >> 27;
        memcpy(data + i, &z, 8);
    }
    return data;
}

static struct manifest build(const uint8_t *data, size_t len, size_t portion)
{
    struct manifest_builder *b = manifest_builder_new();
    struct manifest m;

    for (size_t i = 0; i < len; i += portion)
        assert_int_equal(manifest_builder_add(
                             b, data + i, portion < len - i ? portion : len - i, NULL),
                         0);
    assert_int_equal(manifest_builder_end(b, &m, NULL), 0);
    manifest_builder_free(b);
    return m;
}

static uint8_t *encode(const struct manifest *m, size_t *len)
{
    uint8_t *buf;

    *len = manifest_encoded_size(m->count);
    buf = malloc(*len);
    manifest_encode(m, buf);
    return buf;
}

static int decode_exact(const uint8_t *buf, size_t len, struct vine_err *err)
{
    struct manifest m = {.size = 12345};
    uint8_t *exact = malloc(len + !len);
    int rc;

    *err = (struct vine_err){0};
    memcpy(exact, buf, len);
    rc = manifest_decode(exact, len, &m, err);
    free(exact);
    if (rc == 0)
        manifest_free(&m);
    else
        assert_int_equal(m.size, 12345); /* untouched */
    return rc;
}

static void test_every_truncation_is_refused(void **state)
{
    uint8_t *data = noise(3 << 20, 1);
    struct manifest m = build(data, 3 << 20, 3 << 20);
    struct vine_err err;
    size_t len;
    uint8_t *buf = encode(&m, &len);

    for (size_t cut = 0; cut < len; cut++)
        assert_int_equal(decode_exact(buf, cut, &err), -1);
    assert_int_equal(decode_exact(buf, len, &err), 0);
    buf = realloc(buf, len + 1);
    buf[len] = 0;
    assert_int_equal(decode_exact(buf, len + 1, &err), -1);
    free(buf);
    free(data);
    manifest_free(&m);
}

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 3; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}

static void test_every_bound_is_kept(void **state)
{
    uint8_t *data = noise(2 << 20, 2);
    struct manifest m = build(data, 2 << 20, 2 << 20);
    struct vine_err err;
    size_t len;
    uint8_t *buf = encode(&m, &len), saved[4];
    static const uint32_t bad[] = {0, 1, VINE_CHUNK_MIN - 1, VINE_CHUNK_MAX + 1,
                                   UINT32_MAX};

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        memcpy(saved, buf + 16, 4);
        put32(buf + 16, bad[i]);
        assert_int_equal(decode_exact(buf, len, &err), -1);
        assert_int_equal(err.code, VINE_EPROTO);
        memcpy(buf + 16, saved, 4);
    }
    put32(buf + 12, UINT32_MAX); /* count */
    assert_int_equal(decode_exact(buf, len, &err), -1);
    put32(buf + 12, m.count + 1);
    assert_int_equal(decode_exact(buf, len, &err), -1);
    put32(buf + 12, m.count);
    buf[4] = 0xff; /* size */
    assert_int_equal(decode_exact(buf, len, &err), -1);
    buf[4] = 0;
    buf[11] ^= 1; /* sum is not the size */
    assert_int_equal(decode_exact(buf, len, &err), -1);
    buf[11] ^= 1;
    buf[0] = 'X';
    assert_int_equal(decode_exact(buf, len, &err), -1);
    free(buf);
    free(data);
    manifest_free(&m);
}

static void test_what_was_encoded_comes_back(void **state)
{
    uint8_t *data = noise(5 << 20, 3);
    struct manifest m = build(data, (5 << 20) - 3, 1 << 16), n;
    size_t len;
    uint8_t *buf = encode(&m, &len);
    uint64_t offset = 0;
    struct vine_digest digest;

    assert_int_equal(manifest_decode(buf, len, &n, NULL), 0);
    assert_true(vine_digest_equal(&m.digest, &n.digest));
    assert_int_equal(n.size, (5 << 20) - 3);
    for (uint32_t i = 0; i < n.count; i++) {
        assert_int_equal(n.chunk[i].offset, offset);
        vine_digest_of(data + offset, n.chunk[i].length, &digest);
        assert_true(vine_digest_equal(&digest, &n.chunk[i].digest));
        offset += n.chunk[i].length;
    }
    assert_int_equal(offset, n.size);
    manifest_free(&m);
    manifest_free(&n);
    free(buf);
    free(data);
}

static void test_an_empty_object_has_one_piece(void **state)
{
    struct manifest m = build(NULL, 0, 1), n;
    size_t len;
    uint8_t *buf = encode(&m, &len);

    assert_int_equal(m.count, 0);
    assert_int_equal(len, 16);
    assert_int_equal(manifest_pieces(&m), 1);
    assert_int_equal(manifest_decode(buf, len, &n, NULL), 0);
    manifest_free(&m);
    manifest_free(&n);
    free(buf);
}

/* The same bytes as an image and as a file of data are two objects. */
static void test_a_file_of_data_is_another_object(void **state)
{
    uint8_t *data = noise(1 << 20, 6);
    struct manifest image = build(data, 1 << 20, 1 << 20), file, back;
    size_t len;
    uint8_t *buf;

    file = build(data, 1 << 20, 1 << 20);
    file.file = true;
    assert_int_equal(manifest_seal(&file, NULL), 0);
    assert_false(vine_digest_equal(&image.digest, &file.digest));
    buf = encode(&file, &len);
    assert_int_equal(manifest_decode(buf, len, &back, NULL), 0);
    assert_true(back.file);
    assert_true(vine_digest_equal(&back.digest, &file.digest));
    manifest_free(&back);
    free(buf);
    buf = encode(&image, &len);
    assert_int_equal(manifest_decode(buf, len, &back, NULL), 0);
    assert_false(back.file);
    manifest_free(&back);
    free(buf);
    free(data);
    manifest_free(&image);
    manifest_free(&file);
}

static void test_portions_make_no_difference(void **state)
{
    static const size_t portions[] = {1,     63,     64,      65,     4095,
                                      65536, 262144, 1 << 20, 1 << 30};
    size_t size = (4 << 20) + 17;
    uint8_t *data = noise(size, 4);
    struct manifest first = build(data, size, size);

    for (size_t i = 0; i < sizeof(portions) / sizeof(portions[0]); i++) {
        struct manifest m = build(data, size, portions[i]);
        assert_true(vine_digest_equal(&m.digest, &first.digest));
        manifest_free(&m);
    }
    manifest_free(&first);
    free(data);
}

/* The cut is part of the format: who changes it changes every digest. */
static void test_the_digest_of_known_bytes(void **state)
{
    uint8_t *data = noise(8 << 20, 5);
    struct manifest m = build(data, 8 << 20, 100000);
    char hex[VINE_HEX_LEN + 1];

    vine_digest_hex(&m.digest, hex);
    assert_string_equal(hex, "fe3858ceb211ec592e065c5d2f259a9c"
                             "c1d4a5d5cf9fdc917f76be833a01bf9e");
    manifest_free(&m);
    free(data);
}

static void test_lengths_are_bounded_and_average(void **state)
{
    size_t size = 64 << 20;
    uint8_t *data = noise(size, 6);
    struct manifest m = build(data, size, 1 << 20);
    double average = (double)size / m.count;

    for (uint32_t i = 0; i < m.count; i++) {
        assert_in_range(m.chunk[i].length, i + 1 < m.count ? VINE_CHUNK_MIN : 1,
                        VINE_CHUNK_MAX);
    }
    assert_true(average > 0.75 * VINE_CHUNK_AVG && average < 1.25 * VINE_CHUNK_AVG);
    manifest_free(&m);
    /* No content to cut at: as long as may be. */
    memset(data, 0, size);
    m = build(data, size, 1 << 20);
    assert_true(m.count >= size / VINE_CHUNK_MAX && m.count <= size / VINE_CHUNK_MIN);
    manifest_free(&m);
    free(data);
}

static uint32_t count_new_chunks(const struct manifest *old, const struct manifest *new)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < new->count; i++) {
        bool found = false;
        for (uint32_t j = 0; j < old->count && !found; j++)
            found = vine_digest_equal(&new->chunk[i].digest, &old->chunk[j].digest);
        count += !found;
    }
    return count;
}

static void test_an_insertion_changes_few_chunks(void **state)
{
    size_t size = 32 << 20, half = size / 2 + 12345;
    uint8_t *data = noise(size, 7), *more = malloc(size + 1000);
    struct manifest old = build(data, size, size), new;

    memcpy(more, data, half);
    memset(more + half, 'x', 1000);
    memcpy(more + half + 1000, data + half, size - half);
    new = build(more, size + 1000, size);
    assert_in_range(count_new_chunks(&old, &new), 1, 4);
    manifest_free(&old);
    manifest_free(&new);
    free(data);
    free(more);
}

#define FRAME 40000u

/* As an image is: frames, one behind the other. */
static uint8_t *frames(size_t size, int seed)
{
    static const uint8_t magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    uint8_t *data = noise(size, seed);

    for (size_t at = 0; at + FRAME <= size; at += FRAME)
        memcpy(data + at, magic, sizeof(magic));
    return data;
}

/* All of what changed is in the frames that did, whatever became of their size. */
static void test_a_change_costs_its_frame(void **state)
{
    size_t size = 200 * FRAME, at = 77 * FRAME;
    uint8_t *data = frames(size, 9), *other = malloc(size + 99);
    struct manifest old = build(data, size, size), new;

    assert_in_range(old.count, 200, 201);
    memcpy(other, data, size);
    memset(other + at + 1000, 'x', 1000);
    new = build(other, size, 7777);
    assert_int_equal(count_new_chunks(&old, &new), 1);
    manifest_free(&new);
    memcpy(other + at + 99, data + at, size - at); /* longer, by what is before `at` */
    new = build(other, size + 99, size);
    assert_int_equal(count_new_chunks(&old, &new), 1);
    manifest_free(&new);
    manifest_free(&old);
    free(data);
    free(other);
}

/* A frame that begins too early is no cut: bounds hold whatever the bytes are. */
static void test_small_frames_go_together(void **state)
{
    static const uint8_t magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    size_t size = 4 << 20;
    uint8_t *data = malloc(size);
    struct manifest m;

    for (size_t at = 0; at < size; at++)
        data[at] = magic[at % 4];
    m = build(data, size, 12345);
    for (uint32_t i = 0; i + 1 < m.count; i++)
        assert_int_equal(m.chunk[i].length, VINE_CHUNK_MIN);
    manifest_free(&m);
    free(data);
}

static void test_runs_are_of_one_piece_and_bounded(void **state)
{
    size_t size = 600 * FRAME;
    uint8_t *data = frames(size, 10);
    struct manifest m = build(data, size, size);
    uint32_t runs = 0, length;

    for (uint32_t c = 0; c < m.count; runs++) {
        uint32_t count = manifest_run(&m, c, m.count, &length), sum = 0;
        assert_in_range(count, 1, m.count - c);
        assert_int_equal(manifest_piece_of(&m, c),
                         manifest_piece_of(&m, c + count - 1));
        for (uint32_t i = 0; i < count; i++)
            sum += m.chunk[c + i].length;
        assert_int_equal(length, sum);
        assert_true(length <= VINE_CHUNK_AVG || count == 1);
        c += count;
    }
    assert_true(runs < m.count / 3);
    assert_int_equal(manifest_run(&m, 0, 2, &length), 2);
    assert_int_equal(manifest_run(&m, m.count - 1, m.count, &length), 1);
    manifest_free(&m);
    free(data);
}

static void test_pieces_cover_all_chunks_in_order(void **state)
{
    static const size_t sizes[] = {1, 100, 300 << 10, 5 << 20, 200 << 20};

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        uint8_t *data = noise(sizes[i], 8);
        struct manifest m = build(data, sizes[i], 1 << 20);
        uint32_t pieces = manifest_pieces(&m), next = 0;
        assert_in_range(pieces, 2, 1 + VINE_PIECES_TARGET);
        for (uint32_t p = 1; p < pieces; p++) {
            uint32_t first, count;
            manifest_piece(&m, p, &first, &count);
            assert_int_equal(first, next);
            assert_true(count > 0);
            for (next = first; next < first + count; next++)
                assert_int_equal(manifest_piece_of(&m, next), p);
        }
        assert_int_equal(next, m.count);
        manifest_free(&m);
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_every_bound_is_kept),
        cmocka_unit_test(test_what_was_encoded_comes_back),
        cmocka_unit_test(test_an_empty_object_has_one_piece),
        cmocka_unit_test(test_a_file_of_data_is_another_object),
        cmocka_unit_test(test_portions_make_no_difference),
        cmocka_unit_test(test_the_digest_of_known_bytes),
        cmocka_unit_test(test_lengths_are_bounded_and_average),
        cmocka_unit_test(test_an_insertion_changes_few_chunks),
        cmocka_unit_test(test_a_change_costs_its_frame),
        cmocka_unit_test(test_small_frames_go_together),
        cmocka_unit_test(test_runs_are_of_one_piece_and_bounded),
        cmocka_unit_test(test_pieces_cover_all_chunks_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

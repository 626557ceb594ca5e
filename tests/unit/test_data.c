/* test_data.c - bodies of the data service: malformed ones first, then there and back.
 */
#include "daemon/wire/data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/wire/message.h"
#include "daemon/wire/session.h"

static const struct data_frame valid[] = {
    {.kind = DATA_GET, .tag = 1, .digest = {{9}}, .first_chunk = 0, .count = 1},
    {.kind = DATA_GET,
     .tag = UINT32_MAX,
     .digest = {{9}},
     .first_chunk = 1,
     .count = VINE_CHUNKS_MAX - 1},
    {.kind = DATA_GET_MANIFEST, .tag = 3, .digest = {{0xff, 1}}},
    {.kind = DATA_ASK, .tag = 4, .digest = {{9}}, .first_chunk = 5, .count = 6},
    {.kind = DATA_HERE, .tag = 4, .chunk = 5, .count = VINE_CHUNKS_MAX - 5},
    {.kind = DATA_CHUNK,
     .chunk = VINE_CHUNKS_MAX - 1,
     .count = 1,
     .bulk_len = VINE_CHUNK_MAX},
    {.kind = DATA_CHUNK, .tag = 5, .count = 7, .bulk_len = 1},
    {.kind = DATA_MANIFEST, .tag = 6, .total = DATA_MANIFEST_MIN, .bulk_len = 16},
    {.kind = DATA_MANIFEST,
     .total = DATA_MANIFEST_MAX,
     .offset = DATA_MANIFEST_MAX - 1,
     .bulk_len = 1},
    {.kind = DATA_REFUSED, .tag = 8, .code = VINE_ENOENT},
    {.kind = DATA_REFUSED, .tag = 9, .code = VINE_CODES - 1},
};
#define VALID (sizeof(valid) / sizeof(*valid))

static int decode_exact(uint8_t kind, const uint8_t *buf, size_t len, uint32_t bulk,
                        struct data_frame *out, struct vine_err *err)
{
    uint8_t *exact = malloc(len + !len);
    int rc;

    memcpy(exact, buf, len);
    rc = data_decode(kind, exact, len, bulk, out, err);
    free(exact);
    return rc;
}

static void test_every_other_length_is_refused(void **state)
{
    for (size_t i = 0; i < VALID; i++) {
        uint8_t buf[DATA_BODY_MAX + 1] = {0};
        struct data_frame out = {.tag = 77};
        size_t len = 0;

        assert_int_equal(data_encode(&valid[i], buf, &len, NULL), 0);
        for (size_t n = 0; n <= DATA_BODY_MAX + 1; n++) {
            struct vine_err err = {0};

            if (n == len)
                continue;
            assert_int_equal(
                decode_exact(valid[i].kind, buf, n, valid[i].bulk_len, &out, &err), -1);
            assert_int_equal(err.code, VINE_EPROTO);
            assert_int_equal(out.tag, 77);
        }
    }
}

static void test_unknown_kinds_are_refused(void **state)
{
    static const uint8_t buf[DATA_BODY_MAX];

    for (unsigned kind = 0; kind < 256; kind++) {
        struct data_frame out;
        struct vine_err err = {0};

        if (kind >= DATA_GET && kind < DATA_KINDS_END)
            continue;
        assert_int_equal(data_decode((uint8_t)kind, buf, 8, 0, &out, &err), -1);
        assert_non_null(strstr(err.text, "unknown data frame"));
    }
    assert_true(MESSAGE_KIND < DATA_GET && DATA_KINDS_END <= SESSION_KIND_MAX);
    assert_true(DATA_BODY_MAX <= SESSION_DATA_FRAME_MAX);
}

/* The encoder refuses these fields, and the decoder the bytes that would mean them. */
static void test_fields_out_of_range_are_refused(void **state)
{
    static const struct data_frame bad[] = {
        {.kind = DATA_GET, .count = 0},
        {.kind = DATA_GET, .first_chunk = VINE_CHUNKS_MAX, .count = 1},
        {.kind = DATA_GET, .first_chunk = UINT32_MAX, .count = 2},
        {.kind = DATA_GET, .first_chunk = 1, .count = VINE_CHUNKS_MAX},
        {.kind = DATA_GET, .first_chunk = 1, .count = UINT32_MAX},
        {.kind = DATA_GET, .count = 1, .bulk_len = 1},
        {.kind = DATA_ASK, .first_chunk = 1, .count = VINE_CHUNKS_MAX},
        {.kind = DATA_ASK, .count = 0},
        {.kind = DATA_HERE, .chunk = VINE_CHUNKS_MAX, .count = 1},
        {.kind = DATA_HERE, .chunk = 1, .count = 1, .bulk_len = 1},
        {.kind = DATA_GET_MANIFEST, .bulk_len = 1},
        {.kind = DATA_CHUNK, .count = 1, .bulk_len = 0},
        {.kind = DATA_CHUNK, .count = 1, .bulk_len = VINE_CHUNK_MAX + 1},
        {.kind = DATA_CHUNK, .chunk = VINE_CHUNKS_MAX, .count = 1, .bulk_len = 1},
        {.kind = DATA_CHUNK, .count = 0, .bulk_len = 1},
        {.kind = DATA_CHUNK, .chunk = 1, .count = VINE_CHUNKS_MAX, .bulk_len = 1},
        {.kind = DATA_CHUNK, .chunk = 1, .count = UINT32_MAX, .bulk_len = 1},
        {.kind = DATA_MANIFEST, .total = 100, .bulk_len = 0},
        {.kind = DATA_MANIFEST, .total = 15, .bulk_len = 15},
        {.kind = DATA_MANIFEST, .total = 100, .bulk_len = 101},
        {.kind = DATA_MANIFEST, .total = 100, .offset = 100, .bulk_len = 1},
        {.kind = DATA_MANIFEST, .total = 100, .offset = UINT32_MAX, .bulk_len = 2},
        {.kind = DATA_MANIFEST, .total = DATA_MANIFEST_MAX + 1, .bulk_len = 1},
        {.kind = DATA_REFUSED, .code = VINE_OK},
        {.kind = DATA_REFUSED, .code = VINE_CODES},
        {.kind = DATA_REFUSED, .code = VINE_EDOWN, .bulk_len = 1},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        const struct data_frame *b = &bad[i];
        bool run = b->kind == DATA_CHUNK || b->kind == DATA_HERE;
        bool asks = b->kind == DATA_GET || b->kind == DATA_ASK;
        uint32_t words[3] = {0,
                             __builtin_bswap32(run ? b->chunk
                                               : b->kind == DATA_MANIFEST
                                                   ? b->total
                                                   : (uint32_t)b->code),
                             __builtin_bswap32(run ? b->count : b->offset)};
        uint8_t buf[DATA_BODY_MAX] = {0};
        struct data_frame out;
        struct vine_err err = {0};
        size_t len = 0;

        assert_int_equal(data_encode(b, buf, &len, &err), -1);
        assert_int_equal(err.code, VINE_EINVAL);
        err = (struct vine_err){0};
        if (asks || b->kind == DATA_GET_MANIFEST) {
            words[0] = __builtin_bswap32(b->first_chunk);
            words[1] = __builtin_bswap32(b->count);
            memcpy(buf + 36, words, 8);
            len = asks ? 44 : 36;
        } else {
            memcpy(buf, words, 12);
            len = b->kind == DATA_REFUSED ? 8 : 12;
        }
        assert_int_equal(decode_exact(b->kind, buf, len, b->bulk_len, &out, &err), -1);
        assert_non_null(strstr(err.text, "out of range"));
    }
}

static void test_every_kind_comes_back_as_it_went(void **state)
{
    for (size_t i = 0; i < VALID; i++) {
        uint8_t buf[DATA_BODY_MAX];
        struct data_frame out;
        size_t len = 0;

        assert_int_equal(data_encode(&valid[i], buf, &len, NULL), 0);
        assert_int_equal(
            decode_exact(valid[i].kind, buf, len, valid[i].bulk_len, &out, NULL), 0);
        assert_true(out.kind == valid[i].kind && out.tag == valid[i].tag &&
                    out.first_chunk == valid[i].first_chunk &&
                    out.count == valid[i].count && out.chunk == valid[i].chunk &&
                    out.total == valid[i].total && out.offset == valid[i].offset &&
                    out.code == valid[i].code && out.bulk_len == valid[i].bulk_len);
        assert_memory_equal(&out.digest, &valid[i].digest, VINE_DIGEST_LEN);
    }
}

static void test_bytes_are_as_documented(void **state)
{
    static const uint8_t chunk[12] = {0, 0, 1, 2, 0, 3, 4, 5, 0, 6, 7, 8};
    struct data_frame f = {.kind = DATA_CHUNK,
                           .tag = 0x102,
                           .chunk = 0x30405,
                           .count = 0x60708,
                           .bulk_len = 1};
    uint8_t buf[DATA_BODY_MAX];
    size_t len = 0;

    assert_int_equal(data_encode(&f, buf, &len, NULL), 0);
    assert_int_equal(len, sizeof(chunk));
    assert_memory_equal(buf, chunk, sizeof(chunk));
    assert_string_equal(data_kind_name(DATA_GET_MANIFEST), "get_manifest");
    assert_string_equal(data_kind_name(1), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_other_length_is_refused),
        cmocka_unit_test(test_unknown_kinds_are_refused),
        cmocka_unit_test(test_fields_out_of_range_are_refused),
        cmocka_unit_test(test_every_kind_comes_back_as_it_went),
        cmocka_unit_test(test_bytes_are_as_documented),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

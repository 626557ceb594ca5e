/* test_local.c - frames of the local socket: what a hostile user may send comes first.
 */
#include "daemon/wire/local.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* A frame of `text` with the length it has. Caller frees. */
static uint8_t *frame_of(const char *text, size_t len)
{
    uint8_t *frame = malloc(4 + len);

    frame[0] = (uint8_t)(len >> 24);
    frame[1] = (uint8_t)(len >> 16);
    frame[2] = (uint8_t)(len >> 8);
    frame[3] = (uint8_t)len;
    memcpy(frame + 4, text, len);
    return frame;
}

/* Feed a whole frame in portions; the decoder takes exact-size heap blocks. */
static int feed(struct local_decoder *d, const uint8_t *bytes, size_t len,
                size_t portion, json_t **out, struct vine_err *err)
{
    size_t done = 0, used;

    *out = NULL;
    while (done < len && *out == NULL) {
        size_t n = len - done < portion ? len - done : portion;
        uint8_t *exact = malloc(n);
        int rc;

        memcpy(exact, bytes + done, n);
        rc = local_feed(d, exact, n, &used, out, err);
        free(exact);
        if (rc < 0)
            return -1;
        assert_true(used > 0);
        done += used;
    }
    return 0;
}

static void assert_refused(const char *text, size_t len, const char *words)
{
    struct local_decoder *d = local_decoder_new(0);
    uint8_t *frame = frame_of(text, len);
    struct vine_err err = {0};
    json_t *out;
    size_t used;

    assert_int_equal(feed(d, frame, 4 + len, SIZE_MAX, &out, &err), -1);
    if (strstr(err.text, words) == NULL)
        fail_msg("expected '%s', got '%s'", words, err.text);
    /* latched */
    assert_int_equal(local_feed(d, "\0\0\0\2{}", 6, &used, &out, NULL), -1);
    assert_int_equal(used, 0);
    free(frame);
    local_decoder_free(d);
}

static void test_malformed_requests_are_refused_for_good(void **state)
{
    static const char *const cases[][2] = {
        {"{]", "cannot parse"},      {"[]", "not a JSON object"},
        {"12", "cannot parse"},      {"{}x", "cannot parse"},
        {"{}{}", "cannot parse"},    {"{\"a\":\"\xff\"}", "cannot parse"},
        {"{\"a\":", "cannot parse"}, {"{\"a\":1,\"a\":2}", "cannot parse"},
        {"x", "allowed are 2"},      {"", "allowed are 2"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_refused(cases[i][0], strlen(cases[i][0]), cases[i][1]);
    assert_refused("{}\0", 3, "cannot parse");
}

static void test_lengths_over_the_limit_take_no_memory(void **state)
{
    struct local_decoder *d = local_decoder_new(0);
    struct vine_err err = {0};
    json_t *out;
    size_t used;

    assert_int_equal(local_feed(d, "\x00\x10\x00\x01", 4, &used, &out, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    assert_non_null(strstr(err.text, "1048577"));
    local_decoder_free(d);

    d = local_decoder_new(100);
    err = (struct vine_err){0};
    assert_int_equal(local_feed(d, "\0\0\0\x65", 4, &used, &out, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    local_decoder_free(d);
}

static void test_too_many_values_are_refused_before_parsing(void **state)
{
    size_t len = 3 * (LOCAL_VALUES_MAX + 1), used = 0;
    char *text = malloc(len + 16);

    used = (size_t)sprintf(text, "{\"a\":[");
    for (size_t i = 0; i < LOCAL_VALUES_MAX; i++)
        used += (size_t)sprintf(text + used, "0,");
    used += (size_t)sprintf(text + used, "0]}");
    assert_refused(text, used, "values");
    free(text);
}

static void test_commas_in_strings_are_no_values(void **state)
{
    struct local_decoder *d = local_decoder_new(0);
    size_t used;
    char *text = malloc(LOCAL_VALUES_MAX + 64);
    uint8_t *frame;
    json_t *out;

    used = (size_t)sprintf(text, "{\"a\\\"[\\\\\":\"");
    memset(text + used, ',', LOCAL_VALUES_MAX + 8);
    used += LOCAL_VALUES_MAX + 8;
    used += (size_t)sprintf(text + used, "\"}");
    frame = frame_of(text, used);
    assert_int_equal(feed(d, frame, 4 + used, SIZE_MAX, &out, NULL), 0);
    assert_non_null(out);
    json_decref(out);
    free(frame);
    free(text);
    local_decoder_free(d);
}

static void test_every_truncation_waits_for_more(void **state)
{
    static const char text[] = "{\"op\":\"ping\",\"path\":\"/a\"}";
    uint8_t *frame = frame_of(text, sizeof(text) - 1);
    size_t len = 4 + sizeof(text) - 1;
    json_t *out;

    for (size_t cut = 0; cut < len; cut++) {
        struct local_decoder *d = local_decoder_new(0);

        assert_int_equal(feed(d, frame, cut, SIZE_MAX, &out, NULL), 0);
        assert_null(out);
        assert_int_equal(feed(d, frame + cut, len - cut, SIZE_MAX, &out, NULL), 0);
        assert_non_null(out);
        json_decref(out);
        local_decoder_free(d);
    }
    free(frame);
}

static void test_frames_in_one_buffer_come_out_one_by_one(void **state)
{
    static const uint8_t two[] = "\0\0\0\2{}\0\0\0\7{\"a\":1}\0\0";
    struct local_decoder *d = local_decoder_new(0);
    size_t used;
    json_t *out;

    assert_int_equal(local_feed(d, two, 19, &used, &out, NULL), 0);
    assert_int_equal(used, 6);
    assert_non_null(out);
    json_decref(out);
    assert_int_equal(local_feed(d, two + 6, 13, &used, &out, NULL), 0);
    assert_int_equal(used, 11);
    assert_int_equal(json_integer_value(json_object_get(out, "a")), 1);
    json_decref(out);
    assert_int_equal(local_feed(d, two + 17, 2, &used, &out, NULL), 0);
    assert_int_equal(used, 2);
    assert_null(out);
    local_decoder_free(d);
}

static void test_what_is_encoded_decodes(void **state)
{
    size_t portions[] = {1000, SIZE_MAX};
    char *big = malloc(LOCAL_FRAME_MAX);
    json_t *object;
    char *frame = NULL;
    size_t len = 0;

    memset(big, 'x', LOCAL_FRAME_MAX);
    object = json_pack("{s:s#}", "text", big, (int)(LOCAL_FRAME_MAX - 11));
    assert_int_equal(local_encode(object, &frame, &len, NULL), 0);
    assert_int_equal(len, 4 + LOCAL_FRAME_MAX);
    for (int i = 0; i < 2; i++) {
        struct local_decoder *d = local_decoder_new(0);
        json_t *out;

        assert_int_equal(feed(d, (uint8_t *)frame, len, portions[i], &out, NULL), 0);
        assert_true(json_equal(out, object));
        json_decref(out);
        local_decoder_free(d);
    }
    free(frame);
    json_decref(object);

    object = json_pack("{s:s#}", "text", big, (int)(LOCAL_FRAME_MAX - 10));
    assert_int_equal(local_encode(object, &frame, &len, NULL), -1);
    json_decref(object);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_malformed_requests_are_refused_for_good),
        cmocka_unit_test(test_lengths_over_the_limit_take_no_memory),
        cmocka_unit_test(test_too_many_values_are_refused_before_parsing),
        cmocka_unit_test(test_commas_in_strings_are_no_values),
        cmocka_unit_test(test_every_truncation_waits_for_more),
        cmocka_unit_test(test_frames_in_one_buffer_come_out_one_by_one),
        cmocka_unit_test(test_what_is_encoded_decodes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

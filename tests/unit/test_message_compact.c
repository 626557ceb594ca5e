/* test_message_compact.c - the frequent types as bytes: there and back, cut, longer,
 * and with every kind of wrong value. */
#include "tests/unit/messages.h"

static const enum msg_type frequent[] = {MSG_HAVE, MSG_FETCH, MSG_REVOKE, MSG_PING,
                                         MSG_PONG};

static void test_frequent_types_are_compact(void **state)
{
    for (size_t i = 0; i < sizeof(frequent) / sizeof(*frequent); i++) {
        struct msg m = full(frequent[i]);
        struct vine_err err = {0};
        size_t len, len_again, len_text;
        char *bytes = message_encode(&m, &len, &err), *again;
        char *text = message_encode_text(&m, &len_text, &err);
        struct message *message = decode(bytes, len, &err);
        const struct msg *back;

        if (message == NULL)
            fail_msg("%s: %s", msg_type_name(m.type), err.text);
        back = message_msg(message);
        assert_int_equal(back->type, m.type);
        assert_true(back->has_digest == (len > 1));
        if (len > 1)
            assert_memory_equal(&back->digest, &m.digest, VINE_DIGEST_LEN);
        assert_same_lists(&m, back);
        again = message_encode(back, &len_again, &err);
        assert_int_equal(len_again, len);
        assert_memory_equal(again, bytes, len);
        assert_true(len < len_text / 2);
        free(text);
        free(again);
        free(bytes);
        message_free(message);
    }
}

static void test_cut_or_longer_compact_messages_are_refused(void **state)
{
    for (size_t i = 0; i < sizeof(frequent) / sizeof(*frequent); i++) {
        struct msg m = full(frequent[i]);
        size_t len;
        char *bytes = message_encode(&m, &len, NULL), *longer = calloc(1, len + 1);
        struct vine_err err = {0};

        for (size_t cut = 0; cut < len; cut++)
            assert_null(decode(bytes, cut, NULL));
        memcpy(longer, bytes, len);
        assert_null(decode(longer, len + 1, &err));
        assert_int_equal(err.code, VINE_EPROTO);
        assert_non_null(strstr(err.text, "1 bytes too many"));
        free(longer);
        free(bytes);
    }
}

/* One byte of a FETCH or HAVE made wrong. */
static void assert_byte_refused(enum msg_type type, long at, char byte,
                                const char *words)
{
    struct msg m = full(type);
    struct vine_err err = {0};
    size_t len;
    char *bytes = message_encode(&m, &len, NULL);

    bytes[at < 0 ? (long)len + at : at] = byte;
    assert_null(decode(bytes, len, &err));
    assert_int_equal(err.code, VINE_EPROTO);
    if (strstr(err.text, words) == NULL)
        fail_msg("expected '%s', got: %s", words, err.text);
    free(bytes);
}

static void test_wrong_compact_values_are_refused(void **state)
{
    /* number, digest, count of ranges; then first and count of each */
    assert_byte_refused(MSG_HAVE, 0, 0, "unknown type 0");
    assert_byte_refused(MSG_HAVE, 0, 9, "unknown type 9");
    assert_byte_refused(MSG_HAVE, 33, 1, "'ranges' is cut off");
    assert_byte_refused(MSG_HAVE, 36, 1, "8 bytes too many");
    assert_byte_refused(MSG_HAVE, 37, 1, "'first' is 16777216");
    assert_byte_refused(MSG_HAVE, 44, 0, "'count' is 0");
    assert_byte_refused(MSG_HAVE, 48, 8, "'ranges' has a range past");
    assert_byte_refused(MSG_HAVE, -1, 2, "'reusing' is not true or false");
    assert_byte_refused(MSG_FETCH, 49, '/', "'peer' is not a name");
    assert_byte_refused(MSG_FETCH, 49, 0, "'peer' is not a name");
    assert_byte_refused(MSG_FETCH, 52, 'x', "'addr' is not a numeric IP");
    assert_byte_refused(MSG_FETCH, -1, 2, "'feed' is not true or false");
    assert_byte_refused(MSG_FETCH, -2, 0, "'port' is 0");
}

static void test_compact_lists_hold_their_limit_and_no_more(void **state)
{
    struct msg_assign *many = calloc(MESSAGE_ASSIGNS_MAX, sizeof(*many));
    char name[VINE_NAME_MAX + 1] = {0};
    struct vine_err err = {0};
    struct msg m = full(MSG_FETCH);
    struct message *message;
    size_t len;
    char *bytes;

    memset(name, 'n', VINE_NAME_MAX - 1);
    for (unsigned i = 0; i < MESSAGE_ASSIGNS_MAX; i++)
        many[i] = (struct msg_assign){{i, 1}, name, "2001:db8::1", 1, true};
    m.assigns = many;
    m.assign_count = MESSAGE_ASSIGNS_MAX;
    bytes = message_encode(&m, &len, &err);
    message = decode(bytes, len, &err);
    assert_non_null(message);
    assert_same_lists(&m, message_msg(message));
    message_free(message);
    bytes[39] = 1, bytes[40] = 1; /* 257 of them */
    assert_null(decode(bytes, len, &err));
    assert_non_null(strstr(err.text, "257 entries"));
    free(bytes);
    free(many);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frequent_types_are_compact),
        cmocka_unit_test(test_cut_or_longer_compact_messages_are_refused),
        cmocka_unit_test(test_wrong_compact_values_are_refused),
        cmocka_unit_test(test_compact_lists_hold_their_limit_and_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

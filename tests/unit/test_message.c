/* test_message.c - messages: malformed ones first, then every type there and back.
 *
 * Valid messages are made by the encoder; each mutation of their JSON that the protocol
 * does not allow must be refused, with the field named. */
#include "tests/unit/messages.h"

#include <jansson.h>

/* Every type, and the types whose fields hang on code and has_digest again. */
#define SHAPES (MSG_TYPES + 4)

static struct msg shape(int i)
{
    struct msg m;

    if (i < MSG_TYPES)
        return full((enum msg_type)i);
    m = full(i == MSG_TYPES + 1   ? MSG_BUILT
             : i == MSG_TYPES + 2 ? MSG_BINDING
                                  : MSG_RESOLVED);
    if (i == MSG_TYPES + 3)
        m.has_digest = false;
    else
        m.code = VINE_ECHANGED;
    return m;
}

static char *encode(const struct msg *m)
{
    struct vine_err err = {0};
    size_t len = 0;
    char *text = message_encode_text(m, &len, &err);

    if (text == NULL)
        fail_msg("%s", err.text);
    assert_int_equal(len, strlen(text));
    return text;
}

static void assert_refused(const char *text, const char *words)
{
    struct vine_err err = {0};
    struct message *message = decode(text, strlen(text), &err);

    if (message != NULL)
        fail_msg("accepted: %s", text);
    if (strstr(err.text, words) == NULL)
        fail_msg("expected '%s' for %s, got: %s", words, text, err.text);
    assert_true(err.code == VINE_EPROTO || err.code == VINE_ELIMIT);
}

/* ---- malformed text ---- */

static void test_every_truncation_is_refused(void **state)
{
    for (int i = 0; i < SHAPES; i++) {
        struct msg m = shape(i);
        char *text = encode(&m);

        for (size_t cut = 0; cut < strlen(text); cut++)
            assert_null(decode(text, cut, NULL));
        free(text);
    }
}

static void test_text_that_is_no_message_is_refused(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"", "cannot parse"},
        {"null", "unknown type 110"},
        {"[]", "unknown type 91"},
        {"{}", "no field 'type'"},
        {"{\"type\":1}", "no field 'type'"},
        {"{\"type\":\"\"}", "unknown type ''"},
        {"{\"type\":\"Ping\"}", "unknown type 'Ping'"},
        {"{\"type\":\"ping\"}x", "cannot parse"},
        {"{\"type\":\"ping\"}{}", "cannot parse"},
        {"{\"type\":\"ping\",\"type\":\"ping\"}", "cannot parse"},
        {"{\"type\":\"ping\\u0000\"}", "cannot parse"},
        {"{\"type\":\"pi\xffng\"}", "cannot parse"},
        {"{\"type\":\"ping\",\"job\":\"1\"}", "'job' does not belong there"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_refused(cases[i].text, cases[i].words);
    assert_null(decode("{\"type\":\"ping\"}\0", 16, NULL));
}

/* ---- mutations of every field of every type, list elements included ---- */

static void assert_tree_refused(const json_t *root, const char *words)
{
    char *text = json_dumps(root, JSON_COMPACT);

    assert_refused(text, words);
    free(text);
}

static void mutate_object(json_t *root, json_t *object)
{
    json_t *wrong[] = {json_null(), json_real(1.5), json_object(), json_array()};
    json_t *copy = json_copy(object), *value;
    const char *name;

    assert_int_equal(json_object_set_new(object, "zzz", json_null()), 0);
    assert_tree_refused(root, "zzz");
    assert_int_equal(json_object_del(object, "zzz"), 0);
    json_object_foreach(copy, name, value)
    {
        assert_int_equal(json_object_del(object, name), 0);
        assert_tree_refused(root, name);
        for (int i = 0; i < 4; i++) {
            if (json_is_array(value) && json_is_array(wrong[i]))
                continue;
            assert_int_equal(json_object_set(object, name, wrong[i]), 0);
            assert_tree_refused(root, name);
        }
        assert_int_equal(json_object_set_new(object, name,
                                             json_is_string(value) ? json_integer(1)
                                                                   : json_string("1")),
                         0);
        assert_tree_refused(root, name);
        assert_int_equal(json_object_set(object, name, value), 0);
    }
    for (int i = 0; i < 4; i++)
        json_decref(wrong[i]);
    json_decref(copy);
}

static void mutate_tree(json_t *root, json_t *node)
{
    json_t *value;
    const char *name;
    void *tmp;
    size_t i;

    if (json_is_object(node)) {
        mutate_object(root, node);
        json_object_foreach_safe(node, tmp, name, value) mutate_tree(root, value);
    }
    json_array_foreach(node, i, value)
    {
        mutate_tree(root, value);
        value = json_incref(json_array_get(node, i));
        assert_int_equal(json_array_set_new(node, i, json_integer(1)), 0);
        assert_tree_refused(root, "field '");
        assert_int_equal(json_array_set_new(node, i, value), 0);
    }
}

static void test_every_missing_extra_or_mistyped_field_is_refused(void **state)
{
    for (int i = 0; i < SHAPES; i++) {
        struct msg m = shape(i);
        char *text = encode(&m);
        json_t *root = json_loads(text, 0, NULL);

        mutate_tree(root, root);
        free(text);
        json_decref(root);
    }
}

/* ---- values that fit their type and are wrong all the same ---- */

#define D64 "00000000000000000000000000000000000000000000000000000000000000aa"

static void test_values_out_of_bounds_are_refused(void **state)
{
    static const struct {
        const char *text, *words;
    } cases[] = {
        {"{\"type\":\"release\",\"job\":\"\"}", "'job' is not a number"},
        {"{\"type\":\"release\",\"job\":\"01\"}", "'job' is not a number"},
        {"{\"type\":\"release\",\"job\":\"A\"}", "'job' is not a number"},
        {"{\"type\":\"release\",\"job\":\"-1\"}", "'job' is not a number"},
        {"{\"type\":\"release\",\"job\":\"10000000000000000\"}",
         "'job' is not a number"},
        {"{\"type\":\"evicted\",\"digest\":\"ab\"}", "'digest' is not a digest"},
        {"{\"type\":\"evicted\",\"digest\":\"" D64 "0\"}", "'digest' is not a digest"},
        {"{\"type\":\"evicted\",\"digest\":"
         "\"AA00000000000000000000000000000000000000000000"
         "000000000000000000\"}",
         "'digest' is not a digest"},
        {"{\"type\":\"registered\",\"heartbeat_ms\":0}", "'heartbeat_ms' is 0"},
        {"{\"type\":\"registered\",\"heartbeat_ms\":-1}", "'heartbeat_ms' is negative"},
        {"{\"type\":\"registered\",\"heartbeat_ms\":4294967296}",
         "'heartbeat_ms' is 42"},
        {"{\"type\":\"registered\",\"heartbeat_ms\":99999999999999999999}",
         "cannot parse"},
        {"{\"type\":\"staged\",\"ticket\":\"1\",\"code\":\"nope\",\"text\":\"\"}",
         "'code' is not a known code"},
        {"{\"type\":\"staged\",\"ticket\":\"1\",\"code\":\"\",\"text\":\"\"}",
         "'code' is not a known code"},
        {"{\"type\":\"staged\",\"ticket\":\"1\",\"code\":\"ok\",\"text\":"
         "\"a\\u0000b\"}",
         "cannot parse"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_refused(cases[i].text, cases[i].words);
}

static void test_uids_that_mean_nobody_are_refused(void **state)
{
    assert_refused("{\"type\":\"want\",\"job\":\"1\",\"uid\":4294967295,\"gid\":1,"
                   "\"path\":\"/a\"}",
                   "'uid' is 4294967295");
    assert_refused("{\"type\":\"want\",\"job\":\"1\",\"uid\":1,\"gid\":4294967295,"
                   "\"path\":\"/a\"}",
                   "'gid' is 4294967295");
}

static void assert_path_refused(const char *path, const char *words)
{
    json_t *root = json_pack("{s:s,s:s,s:i,s:i,s:s}", "type", "want", "job", "1", "uid",
                             1, "gid", 1, "path", path);

    assert_non_null(root);
    assert_tree_refused(root, words);
    json_decref(root);
}

static void test_bad_paths_are_refused(void **state)
{
    char *longest = malloc(VINE_PATH_MAX + 1), *escaped = malloc(4 * VINE_PATH_MAX);

    assert_path_refused("", "'path' is neither an absolute path nor a URL");
    assert_path_refused("a/b", "'path' is neither an absolute path nor a URL");
    assert_path_refused("data:", "'path' is neither an absolute path nor a URL");
    assert_path_refused("data:a", "'path' is neither an absolute path nor a URL");
    assert_path_refused("data:data:/a", "'path' is neither an absolute path nor a URL");
    assert_path_refused("DATA:/a", "'path' is neither an absolute path nor a URL");
    assert_path_refused("%2Fa", "'path' is not escaped in the one right way");
    assert_path_refused("/a%", "'path' has a bad percent escape");
    assert_path_refused("/a%2", "'path' has a bad percent escape");
    assert_path_refused("/a%zz", "'path' has a bad percent escape");
    assert_path_refused("/a%00b", "'path' has a bad percent escape");
    assert_path_refused("/a%41", "'path' is not escaped in the one right way");
    assert_path_refused("/a%ff", "'path' is not escaped in the one right way");
    assert_path_refused("/a\n", "'path' is not escaped in the one right way");
    assert_path_refused("/\xc3\xa9", "'path' is not escaped in the one right way");
    memset(longest, 'a', VINE_PATH_MAX);
    longest[0] = '/';
    longest[VINE_PATH_MAX] = '\0';
    assert_path_refused(longest, "'path' is too long");
    strcpy(escaped, "/");
    for (int i = 1; i < VINE_PATH_MAX; i++)
        strcpy(escaped + 3 * i - 2, "%FF");
    assert_path_refused(escaped, "'path' is too long");
    free(longest);
    free(escaped);
}

static void test_data_has_a_path_as_well(void **state)
{
    struct msg m = {
        .type = MSG_WANT, .job = 1, .uid = 1, .gid = 1, .path = "data:/a \xc3%:b"};
    struct message *back;
    size_t len;
    char *text = message_encode(&m, &len, NULL);

    assert_non_null(text);
    back = message_decode(text, len, NULL);
    assert_non_null(back);
    assert_string_equal(message_msg(back)->path, m.path);
    message_free(back);
    free(text);
}

static void assert_fetch_refused(const char *assign, const char *words)
{
    char text[512];

    (void)snprintf(text, sizeof(text),
                   "{\"type\":\"fetch\",\"digest\":\"" D64 "\",\"heartbeat_ms\":1,"
                   "\"assigns\":[{%s}]}",
                   assign);
    assert_refused(text, words);
}

static void test_bad_assignments_are_refused(void **state)
{
    assert_fetch_refused("\"first\":4096,\"count\":1,\"peer\":\"a\",\"addr\":\"::1\","
                         "\"port\":1,\"feed\":false",
                         "'first' is 4096");
    assert_fetch_refused("\"first\":0,\"count\":0,\"peer\":\"a\",\"addr\":\"::1\","
                         "\"port\":1,\"feed\":false",
                         "'count' is 0");
    assert_fetch_refused("\"first\":1,\"count\":4096,\"peer\":\"a\",\"addr\":\"::1\","
                         "\"port\":1,\"feed\":false",
                         "'assigns' has a range past");
    assert_fetch_refused("\"first\":1,\"count\":1,\"peer\":\"\",\"addr\":\"::1\","
                         "\"port\":1,\"feed\":false",
                         "'peer' is not a name");
    assert_fetch_refused("\"first\":1,\"count\":1,\"peer\":\"a/b\",\"addr\":\"::1\","
                         "\"port\":1,\"feed\":false",
                         "'peer' is not a name");
    assert_fetch_refused(
        "\"first\":1,\"count\":1,\"peer\":\"a\",\"addr\":\"localhost\","
        "\"port\":1,\"feed\":false",
        "'addr' is not a numeric IP");
    assert_fetch_refused(
        "\"first\":1,\"count\":1,\"peer\":\"a\",\"addr\":\"fe80::1%eth0\","
        "\"port\":1,\"feed\":false",
        "'addr' is not a numeric IP");
    assert_fetch_refused("\"first\":1,\"count\":1,\"peer\":\"a\",\"addr\":\"10.0.0.1\","
                         "\"port\":0,\"feed\":false",
                         "'port' is 0");
    assert_fetch_refused("\"first\":1,\"count\":1,\"peer\":\"a\",\"addr\":\"10.0.0.1\","
                         "\"port\":65536,\"feed\":false",
                         "'port' is 65536");
}

/* ---- bounds of lists ---- */

static void test_lists_hold_their_limit_and_no_more(void **state)
{
    struct msg_range *many = calloc(VINE_PIECES_MAX + 1, sizeof(*many));
    struct msg m = full(MSG_HAVE);
    struct vine_err err = {0};
    struct message *message;
    char *text;
    json_t *root;
    size_t len;

    for (unsigned i = 0; i <= VINE_PIECES_MAX; i++)
        many[i].count = 1;
    m.ranges = many;
    m.range_count = VINE_PIECES_MAX;
    text = encode(&m);
    message = decode(text, strlen(text), &err);
    assert_non_null(message);
    assert_int_equal(message_msg(message)->range_count, VINE_PIECES_MAX);
    message_free(message);

    root = json_loads(text, 0, NULL);
    json_array_append_new(json_object_get(root, "ranges"),
                          json_pack("{s:i,s:i}", "first", 0, "count", 1));
    assert_tree_refused(root, "'ranges' has 4097 entries, limit 4096");
    json_decref(root);
    free(text);

    m.range_count = VINE_PIECES_MAX + 1;
    assert_null(message_encode(&m, &len, &err));
    assert_non_null(strstr(err.text, "4097 entries"));
    free(many);
}

static void test_the_encoder_refuses_what_the_decoder_would(void **state)
{
    struct msg_range past = {1, VINE_PIECES_MAX};
    struct msg_assign nowhere = {{0, 1}, "n1", "host.example", 1, false};
    const char *bad_names[] = {"a b"}, *no_names[] = {NULL};
    struct msg cases[12];
    size_t len = 77;

    for (size_t i = 0; i < 12; i++)
        cases[i] = full(i < 6 ? MSG_WANT : MSG_STAGE);
    cases[0].path = NULL;
    cases[1].path = "relative";
    cases[2].path = "";
    cases[3].uid = UINT32_MAX;
    cases[4].gid = UINT32_MAX;
    cases[5].type = MSG_TYPES;
    cases[6].names = bad_names, cases[6].name_count = 1;
    cases[7].names = no_names, cases[7].name_count = 1;
    cases[8].names = NULL;
    cases[9].type = MSG_HAVE, cases[9].ranges = &past, cases[9].range_count = 1;
    cases[10].type = MSG_FETCH, cases[10].assigns = &nowhere,
    cases[10].assign_count = 1;
    cases[11].type = MSG_RESOLVED, cases[11].estimate = (uint64_t)INT64_MAX + 1;
    for (size_t i = 0; i < 12; i++) {
        struct vine_err err = {0};

        assert_null(message_encode(&cases[i], &len, &err));
        assert_int_equal(err.code, VINE_EINVAL);
        assert_int_equal(len, 77);
    }
}

static void test_messages_over_the_frame_limit_are_refused(void **state)
{
    char *text = malloc(VINE_FRAME_MAX + 2);
    struct msg m = full(MSG_STATUS);
    struct vine_err err = {0};
    size_t len;

    memset(text, 'x', VINE_FRAME_MAX + 1);
    text[VINE_FRAME_MAX + 1] = '\0';
    m.text = text;
    assert_null(message_encode(&m, &len, &err));
    assert_int_equal(err.code, VINE_ELIMIT);
    text[VINE_FRAME_MAX - 5] = '\0';
    err = (struct vine_err){0};
    assert_null(message_encode(&m, &len, &err));
    assert_int_equal(err.code, VINE_ELIMIT);
    memset(text, ' ', VINE_FRAME_MAX + 1);
    err = (struct vine_err){0};
    assert_null(message_decode(text, VINE_FRAME_MAX + 1, &err));
    assert_int_equal(err.code, VINE_ELIMIT);
    free(text);
}

/* ---- there and back ---- */

static void test_every_type_comes_back_as_it_went(void **state)
{
    for (int i = 0; i < SHAPES; i++) {
        struct msg m = shape(i);
        struct vine_err err = {0};
        char *text = encode(&m), *again;
        struct message *message = decode(text, strlen(text), &err);
        const struct msg *back;

        if (message == NULL)
            fail_msg("%s: %s", text, err.text);
        back = message_msg(message);
        assert_int_equal(back->type, m.type);
        assert_same_lists(&m, back);
        again = encode(back);
        assert_string_equal(text, again);
        free(text);
        free(again);
        message_free(message);
    }
}

static void test_fields_arrive_by_type(void **state)
{
    struct msg m = full(MSG_BINDING);
    char *text = encode(&m);
    struct message *message = decode(text, strlen(text), NULL);
    const struct msg *back = message_msg(message);

    assert_true(back->job == m.job && back->uid == m.uid && back->size == m.size);
    assert_true(back->pieces == m.pieces && back->trusted && back->has_digest);
    assert_int_equal(back->claim, MSG_CLAIM_OPEN);
    assert_string_equal(back->path, m.path);
    assert_string_equal(back->text, m.text);
    assert_memory_equal(&back->digest, &m.digest, VINE_DIGEST_LEN);
    assert_int_equal(back->gid, 0); /* not of this type */
    assert_null(back->peer);
    message_free(message);
    free(text);

    m.code = VINE_ENOSPC;
    text = encode(&m);
    message = decode(text, strlen(text), NULL);
    assert_int_equal(message_msg(message)->code, VINE_ENOSPC);
    assert_false(message_msg(message)->has_digest);
    message_free(message);
    free(text);
}

static void test_paths_keep_every_byte(void **state)
{
    struct msg m = full(MSG_WANT);
    char *path = calloc(1, VINE_PATH_MAX);
    struct message *message;
    char *text;

    path[0] = '/';
    for (int i = 1; i < VINE_PATH_MAX - 1; i++)
        path[i] = (char)(i % 255 + 1);
    m.path = path;
    text = encode(&m);
    message = decode(text, strlen(text), NULL);
    assert_non_null(message);
    assert_string_equal(message_msg(message)->path, path);
    message_free(message);
    free(text);
    free(path);
}

static void test_text_that_is_no_utf8_is_shown(void **state)
{
    struct msg m = full(MSG_STAGED);
    struct message *message;
    char *text;

    m.text = "cannot open '/a\xff'";
    text = encode(&m);
    message = decode(text, strlen(text), NULL);
    assert_string_equal(message_msg(message)->text, "cannot open '/a\\xff'");
    message_free(message);
    free(text);
    m.text = NULL;
    text = encode(&m);
    message = decode(text, strlen(text), NULL);
    assert_string_equal(message_msg(message)->text, "");
    message_free(message);
    free(text);
}

static void test_every_type_has_a_name_of_its_own(void **state)
{
    for (int i = 0; i < MSG_TYPES; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(msg_type_name((enum msg_type)i),
                                    msg_type_name((enum msg_type)j));
    assert_string_equal(msg_type_name(MSG_ASK_STATUS), "ask_status");
    assert_string_equal(msg_type_name(MSG_TYPES), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_truncation_is_refused),
        cmocka_unit_test(test_text_that_is_no_message_is_refused),
        cmocka_unit_test(test_every_missing_extra_or_mistyped_field_is_refused),
        cmocka_unit_test(test_values_out_of_bounds_are_refused),
        cmocka_unit_test(test_uids_that_mean_nobody_are_refused),
        cmocka_unit_test(test_bad_paths_are_refused),
        cmocka_unit_test(test_data_has_a_path_as_well),
        cmocka_unit_test(test_bad_assignments_are_refused),
        cmocka_unit_test(test_lists_hold_their_limit_and_no_more),
        cmocka_unit_test(test_the_encoder_refuses_what_the_decoder_would),
        cmocka_unit_test(test_messages_over_the_frame_limit_are_refused),
        cmocka_unit_test(test_every_type_comes_back_as_it_went),
        cmocka_unit_test(test_fields_arrive_by_type),
        cmocka_unit_test(test_paths_keep_every_byte),
        cmocka_unit_test(test_text_that_is_no_utf8_is_shown),
        cmocka_unit_test(test_every_type_has_a_name_of_its_own),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* What conda-pack's list of files is taken for, and what is written into them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/image/relocate.h"

#define HEAD "#!/usr/bin/env python\n\n_prefix_records = [\n"
#define TAIL "\n]\n\nif __name__ == '__main__':\n"

static const char good[] =
    HEAD "('bin/tool', '/was/here', 'text'),\n"
         "('lib/it\\'s \"x\".so', \"/pl'ace\", 'binary'),\n"
         "(\"share/it's\\t\\x01\\\\\", '/was/here', 'text')" TAIL;

/* In a block of its exact size, so that a byte too far is seen. */
static int parse(const char *text, size_t len, struct relocate **out)
{
    char *exact = malloc(len + (len == 0));
    int result;

    memcpy(exact, text, len);
    result = relocate_parse(exact, len, out, NULL);
    free(exact);
    return result;
}

static void test_a_list_is_read(void **state)
{
    struct relocate *r = NULL;

    assert_int_equal(parse(good, strlen(good), &r), 0);
    assert_true(relocate_has(r, "bin/tool"));
    assert_true(relocate_has(r, "lib/it's \"x\".so"));
    assert_true(relocate_has(r, "share/it's\t\x01\\"));
    assert_false(relocate_has(r, "bin"));
    assert_false(relocate_has(NULL, "bin/tool"));
    relocate_free(r);
    assert_int_equal(parse(HEAD "]", strlen(HEAD "]"), &r), 0);
    assert_false(relocate_has(r, "bin/tool"));
    relocate_free(r);
}

static void test_what_is_no_list_is_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "_prefix_records = []",
        HEAD,
        HEAD "('a', '/b', 'text')",
        HEAD "('a', '/b', 'other')" TAIL,
        HEAD "('a', '', 'text')" TAIL,
        HEAD "('', '/b', 'text'" TAIL,
        HEAD "('../a', '/b', 'text')" TAIL,
        HEAD "('/a', '/b', 'text')" TAIL,
        HEAD "('a', '/b')" TAIL,
        HEAD "('a', '/b', 'text', 'more')" TAIL,
        HEAD "('a', '/b', 'text') ('c', '/b', 'text')" TAIL,
        HEAD "('a\\u00e4', '/b', 'text')" TAIL,
        HEAD "('a\\xe4', '/b', 'text')" TAIL,
        HEAD "('a\\x00', '/b', 'text')" TAIL,
        HEAD "('a\\",
        HEAD "('a\\x",
        HEAD "(open('a'), '/b', 'text')" TAIL,
    };
    struct relocate *r = NULL;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(parse(bad[i], strlen(bad[i]), &r), -1);
    /* Cut before its end, wherever. */
    for (size_t cut = 0; cut < strlen(good) - strlen(TAIL) + 2; cut++)
        assert_int_equal(parse(good, cut, &r), -1);
    assert_null(r);
}

static void check(const struct relocate *r, const char *path, const char *prefix,
                  const void *before, size_t len, const void *after, size_t after_len)
{
    uint8_t *data = malloc(len + (len == 0));
    size_t now = len;

    memcpy(data, before, len);
    assert_int_equal(relocate_apply(r, path, prefix, &data, &now, NULL), 0);
    assert_int_equal(now, after_len);
    assert_memory_equal(data, after, after_len);
    free(data);
}

#define CHECK(r, path, prefix, before, after)                                          \
    check(r, path, prefix, before, sizeof(before) - 1, after, sizeof(after) - 1)

static void test_prefixes_are_written(void **state)
{
    static const char list[] =
        HEAD "('t', '/was', 'text'), ('b', '/wasthere', 'binary')" TAIL;
    struct vine_err err = {0};
    struct relocate *r = NULL;
    uint8_t *data = malloc(4);
    size_t len = 4;

    assert_int_equal(parse(list, strlen(list), &r), 0);
    CHECK(r, "t", "/is/longer", "#!/was/bin:/was\n/wa",
          "#!/is/longer/bin:/is/longer\n/wa");
    CHECK(r, "t", "/x", "/was\0/was", "/x\0/x");
    CHECK(r, "t", "/x", "", "");
    CHECK(r, "other", "/x", "/was", "/was");
    /* Two in one string, one in the next, and one that has no end. */
    CHECK(r, "b", "/now", "\1/wasthere/a:/wasthere/b\0/wasthere\0z/wasthere/c",
          "\1/now/a:/now/b\0\0\0\0\0\0\0\0\0\0\0/now\0\0\0\0\0\0z/wasthere/c");
    CHECK(r, "b", "/wasthere", "/wasthere\0", "/wasthere\0");
    memcpy(data, "abc", 4);
    assert_int_equal(relocate_apply(r, "b", "/was/there", &data, &len, &err), -1);
    assert_int_equal(err.code, VINE_EINVAL);
    assert_non_null(strstr(err.text, "give a shorter one"));
    free(data);
    relocate_free(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_list_is_read),
        cmocka_unit_test(test_what_is_no_list_is_refused),
        cmocka_unit_test(test_prefixes_are_written),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_trace.c - traces: wrong ones first, each error with its line. */
#include "daemon/image/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FIRST TRACE_FIRST_LINE "\n"

static int parse(const char *text, size_t len, struct trace *out, struct vine_err *err)
{
    char *exact = malloc(len + 1);

    memcpy(exact, text, len);
    exact[len] = '\0';
    return trace_parse(exact, len, "t.trace", out, err);
}

static void test_wrong_traces_are_refused(void **state)
{
    static const struct {
        const char *text, *where;
    } cases[] = {
        {"", "'t.trace' is no trace"},
        {"a\nb\n", "'t.trace' is no trace"},
        {"# vine-env trace 2\na\n", "'t.trace' is no trace"},
        {FIRST "/etc/passwd\n", "line 2: its name is absolute"},
        {FIRST "a\n\nb/../c\n", "line 4: its name has '..'"},
        {FIRST "a%4\n", "line 2: a '%'"},
        {FIRST "a%00b\n", "line 2: a '%'"},
        {FIRST "./\n", "line 2: no path"},
        {FIRST "# prefix relative\n", "line 2: the prefix"},
    };
    struct trace trace = {.count = 77};

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct vine_err err = {0};

        assert_int_equal(parse(cases[i].text, strlen(cases[i].text), &trace, &err), -1);
        assert_int_equal(err.code, VINE_EINVAL);
        if (strstr(err.text, cases[i].where) == NULL)
            fail_msg("case %zu: %s", i, err.text);
        assert_int_equal(trace.count, 77);
    }
    assert_int_equal(parse(FIRST "a\0b\n", strlen(FIRST) + 4, &trace, NULL), -1);
}

static void test_a_trace_is_read(void **state)
{
    static const char text[] = FIRST "# prefix /shared/a%0Ab\n# more\n\nbin/python\n"
                                     "./lib//x%25\nlast";
    struct trace trace = {.path = NULL};

    assert_int_equal(parse(text, strlen(text), &trace, NULL), 0);
    assert_string_equal(trace.prefix, "/shared/a\nb");
    assert_int_equal(trace.count, 3);
    assert_string_equal(trace.path[0], "bin/python");
    assert_string_equal(trace.path[1], "lib/x%");
    assert_string_equal(trace.path[2], "last");
    trace_free(&trace);
}

static void test_a_trace_may_be_empty(void **state)
{
    struct trace trace = {.path = NULL};

    assert_int_equal(parse(FIRST, strlen(FIRST), &trace, NULL), 0);
    assert_int_equal(trace.count, 0);
    trace_free(&trace);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_traces_are_refused),
        cmocka_unit_test(test_a_trace_is_read),
        cmocka_unit_test(test_a_trace_may_be_empty),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_hostlist.c - node lists, hostile ones first. */
#include "daemon/base/hostlist.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void test_wrong_lists_are_refused(void **state)
{
    static const char *const wrong[] = {
        "",
        ",",
        "n1,",
        ",n1",
        "n1,,n2",
        "n[",
        "n[1",
        "n]",
        "n[]",
        "n[1-]",
        "n[-1]",
        "n[2-1]",
        "n[1,]",
        "n[,1]",
        "n[a]",
        "n[1 2]",
        "n 1",
        "n[[1]]",
        "n[1]]",
        "n[1-2-3]",
        "n1;id",
        "n\n",
        "n/1",
        "n[1--2]",
        "n[1],",
        "a[1-2][1-2][1-2][1-2][1-2]",
        "n[9999999999]",
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct hostlist list = {.count = 77};
        struct vine_err err = {0};
        char *exact = strdup(wrong[i]);

        if (hostlist_parse(exact, &list, &err) == 0)
            fail_msg("'%s' was accepted", wrong[i]);
        assert_int_equal(err.code, VINE_EINVAL);
        assert_int_equal(list.count, 77);
        free(exact);
    }
}

static void test_too_many_names_are_refused(void **state)
{
    static const char *const wrong[] = {"n[0-8192]", "n[1-100][1-100]",
                                        "n[0-999999999]", "n[1-8000],m[1-193]"};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct hostlist list = {0};
        struct vine_err err = {0};

        assert_int_equal(hostlist_parse(wrong[i], &list, &err), -1);
        assert_int_equal(err.code, VINE_ELIMIT);
    }
}

static void test_a_long_name_is_refused(void **state)
{
    char name[VINE_NAME_MAX + 2];
    struct hostlist list = {0};

    memset(name, 'n', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    assert_int_equal(hostlist_parse(name, &list, NULL), -1);
    memcpy(name + VINE_NAME_MAX - 5, "[100]", 6);
    assert_int_equal(hostlist_parse(name, &list, NULL), 0);
    hostlist_free(&list);
    memcpy(name + VINE_NAME_MAX - 3, "[100]", 5);
    name[VINE_NAME_MAX + 1] = '\0';
    assert_int_equal(hostlist_parse(name, &list, NULL), -1);
}

static void expect_names(const char *text, const char *want)
{
    struct hostlist list = {0};
    struct vine_err err = {0};
    char got[512] = "";

    if (hostlist_parse(text, &list, &err) < 0)
        fail_msg("'%s': %s", text, err.text);
    for (size_t i = 0; i < list.count; i++) {
        size_t used = strlen(got);
        (void)snprintf(got + used, sizeof(got) - used, "%s%s", i > 0 ? " " : "",
                       list.names[i]);
    }
    assert_string_equal(got, want);
    hostlist_free(&list);
}

static void test_lists_are_expanded(void **state)
{
    expect_names("n1", "n1");
    expect_names("n1,n2", "n1 n2");
    expect_names("n[1-4,7]", "n1 n2 n3 n4 n7");
    expect_names("n[08-10]", "n08 n09 n10");
    expect_names("n[1-2],login-1.site,n[2-3]", "n1 n2 login-1.site n3");
    expect_names("r[1-2]n[1,3]", "r1n1 r1n3 r2n1 r2n3");
    expect_names("n[1-2]-ib", "n1-ib n2-ib");
    expect_names("[1-2]", "1 2");
}

static void test_the_largest_list(void **state)
{
    struct hostlist list = {0};

    assert_int_equal(hostlist_parse("n[0-8191]", &list, NULL), 0);
    assert_int_equal(list.count, VINE_NODES_MAX);
    assert_string_equal(list.names[VINE_NODES_MAX - 1], "n8191");
    hostlist_free(&list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_lists_are_refused),
        cmocka_unit_test(test_too_many_names_are_refused),
        cmocka_unit_test(test_a_long_name_is_refused),
        cmocka_unit_test(test_lists_are_expanded),
        cmocka_unit_test(test_the_largest_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_image_names.c - names out of archives: hostile ones first. */
#include "daemon/image/names.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/image/builder.h"

static void test_names_that_lead_out_are_refused(void **state)
{
    static const char *const wrong[] = {"/",      "/etc/passwd", "..",
                                        "../x",   "a/..",        "a/../b",
                                        "./../x", "a/b/../../c", "//x"};
    char out[VINE_PATH_MAX], longer[2 * VINE_PATH_MAX];

    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_non_null(names_make_plain(wrong[i], out));
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    assert_non_null(names_make_plain(longer, out)); /* one part */
    for (size_t i = 100; i < sizeof(longer) - 1; i += 100)
        longer[i] = '/';
    assert_non_null(names_make_plain(longer, out)); /* all of it */
}

static void test_names_become_plain(void **state)
{
    static const char *const plain[][2] = {{"", ""},
                                           {".", ""},
                                           {"./", ""},
                                           {"./a", "a"},
                                           {"a/", "a"},
                                           {"a//b", "a/b"},
                                           {"././a/./b/", "a/b"},
                                           {"...", "..."},
                                           {"..a/b..", "..a/b.."},
                                           {"a\n\xff", "a\n\xff"}};
    char out[VINE_PATH_MAX];

    for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++) {
        assert_null(names_make_plain(plain[i][0], out));
        assert_string_equal(out, plain[i][1]);
    }
}

static void test_what_is_twice_or_below_no_directory_is_refused(void **state)
{
    struct names *n = names_new();
    bool again;

    assert_null(names_add(n, "file", NAME_FILE, &again));
    assert_null(names_add(n, "link", NAME_LINK, &again));
    assert_null(names_add(n, "dir", NAME_DIR, &again));
    assert_non_null(names_add(n, "file", NAME_FILE, &again));
    assert_non_null(names_add(n, "file", NAME_DIR, &again));
    assert_non_null(names_add(n, "dir", NAME_LINK, &again));
    assert_non_null(names_add(n, "file/x", NAME_FILE, &again));
    assert_non_null(names_add(n, "link/x", NAME_FILE, &again));
    assert_non_null(names_add(n, "link/x/y", NAME_DIR, &again));
    assert_null(names_add(n, "dir", NAME_DIR, &again));
    assert_true(again);
    names_free(n);
}

static int count_implied(void *ctx, const char *path)
{
    char *all = ctx;

    strcat(strcat(all, path), ";");
    return 0;
}

static void test_missing_directories_are_remembered(void **state)
{
    struct names *n = names_new();
    char all[64] = "";
    bool again;

    assert_null(names_add(n, "a/b/c", NAME_FILE, &again));
    assert_int_equal(names_find(n, "a/b"), NAME_IMPLIED);
    assert_null(names_add(n, "a", NAME_DIR, &again)); /* listed later */
    assert_false(again);
    assert_non_null(names_add(n, "a/b", NAME_FILE, &again));
    assert_int_equal(names_each_implied(n, count_implied, all), 0);
    assert_string_equal(all, "a/b;");
    names_free(n);
}

static void test_many_names_are_found(void **state)
{
    struct names *n = names_new();
    char path[64];
    bool again;

    for (int i = 0; i < 20000; i++) {
        (void)snprintf(path, sizeof(path), "d%d/f%d", i % 100, i);
        assert_null(names_add(n, path, NAME_FILE, &again));
    }
    assert_int_equal(names_count(n), 20100);
    for (int i = 0; i < 20000; i++) {
        (void)snprintf(path, sizeof(path), "d%d/f%d", i % 100, i);
        assert_int_equal(names_find(n, path), NAME_FILE);
    }
    assert_int_equal(names_find(n, "d1/f2"), NAME_NONE);
    names_free(n);
}

static void test_the_builder_is_told_its_threads(void **state)
{
    struct image_builder b = {.program = "/x/builder"};
    struct image_argv argv;

    image_builder_argv(&b, &argv);
    assert_string_equal(argv.argv[0], "/x/builder");
    assert_null(argv.argv[1]);
    b.jobs = UINT32_MAX;
    image_builder_argv(&b, &argv);
    assert_string_equal(argv.argv[1], "--jobs");
    assert_string_equal(argv.argv[2], "4294967295");
    assert_null(argv.argv[3]);
    b.base = true;
    image_builder_argv(&b, &argv);
    assert_string_equal(argv.argv[1], "--base");
    assert_string_equal(argv.argv[3], "4294967295");
    assert_null(argv.argv[4]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_that_lead_out_are_refused),
        cmocka_unit_test(test_names_become_plain),
        cmocka_unit_test(test_what_is_twice_or_below_no_directory_is_refused),
        cmocka_unit_test(test_missing_directories_are_remembered),
        cmocka_unit_test(test_many_names_are_found),
        cmocka_unit_test(test_the_builder_is_told_its_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* test_globs.c - what --exclude leaves out. */
#include "daemon/image/globs.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static bool fits(const char *glob, const char *path, bool directory)
{
    struct globs *globs = globs_new(&glob, 1, NULL);
    bool result;

    assert_non_null(globs);
    result = globs_match(globs, path, directory);
    globs_free(globs);
    return result;
}

static void test_wrong_globs_are_refused(void **state)
{
    char *longest = malloc(GLOB_BYTES_MAX + 1);
    const char *wrong[] = {"", "/", "//", "a//b", "../a", "a/./b", "a//", longest};
    const char *many[GLOBS_MAX + 1];

    memset(longest, 'x', GLOB_BYTES_MAX);
    longest[GLOB_BYTES_MAX] = '\0';
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        struct vine_err err = {0};

        assert_null(globs_new(&wrong[i], 1, &err));
        assert_int_equal(err.code, VINE_EINVAL);
        assert_non_null(strstr(err.text, "cannot exclude '"));
    }
    for (size_t i = 0; i <= GLOBS_MAX; i++)
        many[i] = "x";
    assert_null(globs_new(many, GLOBS_MAX + 1, NULL));
    free(longest);
}

static void test_globs_fit(void **state)
{
    static const struct {
        const char *glob, *path;
        bool fits;
    } cases[] = {
        /* a name, wherever it is */
        {"tests", "tests", true},
        {"tests", "lib/x/tests", true},
        {"tests", "lib/tests/x", false}, /* goes with its directory */
        {"*.pyc", "a/b.pyc", true},
        {"*.pyc", "a/b.py", false},
        {"?", "a/bb", false},
        {"[ab]*", "x/bar", true},
        {"*", "x/y", true},
        {"\\*", "x/y", false},
        {"\\*", "x/*", true},
        /* a path from the root */
        {"/tests", "tests", true},
        {"/tests", "lib/tests", false},
        {"lib/tests", "lib/tests", true},
        {"lib/tests", "x/lib/tests", false},
        {"lib/*", "lib/a", true},
        {"lib/*", "lib/a/b", false},
        {"lib/*/c", "lib/a/c", true},
        {"lib/*/c", "lib/a/b/c", false},
        {"lib/**/c", "lib/a/b/c", true},
        {"lib/**/c", "lib/c", true},
        {"lib/**/c", "lib/c/d", false},
        {"**/c", "c", true},
        {"**/c", "a/b/c", true},
        {"**/a/**/c", "x/a/b/a/y/c", true},
        {"**/a/**/c", "x/b/y/c", false},
        {"lib/**", "lib", false},
        {"lib/**", "lib/a/b", true},
        {"**", "a", true},
        {"a/b/c", "a/b", false},
        {"a/b", "a/b/c", false},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        if (fits(cases[i].glob, cases[i].path, false) != cases[i].fits)
            fail_msg("'%s' and '%s'", cases[i].glob, cases[i].path);
}

static void test_a_slash_at_the_end_means_directories(void **state)
{
    assert_true(fits("tests/", "lib/tests", true));
    assert_false(fits("tests/", "lib/tests", false));
    assert_true(fits("lib/x/", "lib/x", true));
    assert_false(fits("lib/x/", "lib/x", false));
}

static void test_with_a_directory_goes_what_is_in_it(void **state)
{
    const char *globs[] = {"tests/", "/doc/**"};
    struct globs *g = globs_new(globs, 2, NULL);

    assert_true(globs_match_above(g, "lib/tests/a/b", false));
    assert_false(globs_match_above(g, "lib/tests", false));
    assert_true(globs_match_above(g, "doc/a/b", false));
    assert_false(globs_match_above(g, "doc", true));
    assert_false(globs_match_above(g, "lib/a", false));
    assert_false(globs_match_above(NULL, "lib/a", false));
    globs_free(g);
}

/* As many stars as there may be against a path where each could stand anywhere. */
static void test_many_stars_end_soon(void **state)
{
    char glob[GLOB_BYTES_MAX] = "", path[2048] = "";

    for (int i = 0; i < 31; i++)
        strcat(glob, "**/a/");
    strcat(glob, "b");
    for (int i = 0; i < 500; i++)
        strcat(path, "a/");
    strcat(path, "c");
    assert_false(fits(glob, path, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wrong_globs_are_refused),
        cmocka_unit_test(test_globs_fit),
        cmocka_unit_test(test_a_slash_at_the_end_means_directories),
        cmocka_unit_test(test_with_a_directory_goes_what_is_in_it),
        cmocka_unit_test(test_many_stars_end_soon),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

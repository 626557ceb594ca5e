/* test_inspect.c - lists of images, and the packages their files belong to. */
#include "daemon/cli/contents.c"
#include "daemon/cli/packages.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define META_JSON                                                                      \
    "{\"name\":\"blas\",\"version\":\"3.9\",\"files\":[\"lib/libblas.so\",7]}"

static const char whole[] = "f 10 bin/python\0"
                            "f 64 conda-meta/blas.json\0"
                            "c 64 conda-meta/blas.json\0" META_JSON "    "
                            "f 500 lib/libblas.so\0"
                            "f 7 lib/python3.11/site-packages/numpy/x.py\0"
                            "e";

static int parse(const char *bytes, size_t len, struct contents *out,
                 struct vine_err *err)
{
    char *exact = malloc(len + !len);
    FILE *list;
    int result;

    memcpy(exact, bytes, len);
    list = fmemopen(exact, len + !len, "r");
    assert_non_null(list);
    *out = (struct contents){0};
    result = contents_parse(list, out, err);
    (void)fclose(list);
    free(exact);
    return result;
}

static void test_a_list_cut_anywhere_is_refused(void **state)
{
    struct contents contents;

    for (size_t cut = 1; cut < sizeof(whole); cut++) {
        struct vine_err err = {0};

        assert_int_equal(parse(whole, cut, &contents, &err), -1);
        assert_int_equal(err.code, VINE_EPROTO);
        contents_free(&contents);
    }
}

static void test_malformed_records_are_refused(void **state)
{
    static const char *const wrong[] = {
        "f",      "x 1 path", "f 1",           "f 1 ",
        "f -1 x", "f  1 x",   "f 1x x",        "f1 x",
        "ee",     "c 9 few",  "c 999999999 x", "f 99999999999999999999 x"};

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        struct contents contents;

        assert_int_equal(parse(wrong[i], strlen(wrong[i]) + 1, &contents, NULL), -1);
        contents_free(&contents);
    }
}

static void test_a_list_becomes_packages(void **state)
{
    struct contents contents;
    const struct package *list;
    size_t count;

    assert_int_equal(parse(whole, sizeof(whole), &contents, NULL), 0);
    assert_int_equal(contents.files, 4);
    assert_int_equal(contents.bytes, 581);
    assert_int_equal(contents.bad_lists, 0);
    list = packages_sorted(contents.packages, &count);
    assert_int_equal(count, 4);
    assert_string_equal(list[0].name, "blas");
    assert_string_equal(list[0].version, "3.9");
    assert_int_equal(list[0].bytes, 500);
    assert_string_equal(list[1].name, "conda-meta/");
    assert_string_equal(list[2].name, "bin/");
    assert_string_equal(list[3].name, "numpy");
    contents_free(&contents);
}

static void test_what_is_no_list_is_left_out(void **state)
{
    static const char *const none[] = {
        "", "[]", "{}", "{\"name\":3}", "{\"name\":\"\"}", "{\"name\":\"a\""};
    struct packages *p = packages_new();
    size_t count;

    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        assert_false(packages_add_list(p, none[i], strlen(none[i])));
    (void)packages_sorted(p, &count);
    assert_int_equal(count, 0);
    packages_free(p);
}

static void test_paths_find_their_package(void **state)
{
    static const struct {
        const char *path, *name;
    } cases[] = {
        {"lib/python3.11/site-packages/numpy/core/x.so", "numpy"},
        {"lib/python3.11/site-packages/numpy.libs/libx.so", "numpy"},
        {"lib/python3.11/site-packages/numpy-2.1.dist-info/RECORD", "numpy"},
        {"lib/python3.11/site-packages/__pycache__/six.cpython-311.pyc", "six"},
        {"lib/python3.11/site-packages/six.py", "six"},
        {"lib/python3.11/site-packages/.hidden", ".hidden"},
        {"lib64/python3/dist-packages/apt/x.py", "apt"},
        {"site-packages/x/y", "x"},
        {"lib/python3.11/json/decoder.py", "python"},
        {"lib/python3.11", "lib/"},
        {"my-site-packages/x", "my-site-packages/"},
        {"bin/tool", "bin/"},
        {"pyvenv.cfg", "./"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct packages *p = packages_new();
        size_t count;

        assert_int_equal(packages_add_file(p, cases[i].path, 1, i % 2 == 0), 0);
        assert_string_equal(packages_sorted(p, &count)->name, cases[i].name);
        assert_int_equal(packages_sorted(p, &count)->opened_files, i % 2 == 0);
        assert_int_equal(count, 1);
        packages_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_list_cut_anywhere_is_refused),
        cmocka_unit_test(test_malformed_records_are_refused),
        cmocka_unit_test(test_a_list_becomes_packages),
        cmocka_unit_test(test_what_is_no_list_is_left_out),
        cmocka_unit_test(test_paths_find_their_package),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The option grammar: what is refused, and with which words; what is tidied; round
 * trip. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "vine/spec.h"

static struct vine_spec *parse(const char *text, struct vine_err *err)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));

    *err = (struct vine_err){0};
    spec->count = 77;
    if (vine_spec_parse(text, spec, err) == 0)
        return spec;
    assert_int_equal(spec->count, 77); /* untouched */
    free(spec);
    return NULL;
}

static void assert_refused(const char *text, const char *word)
{
    struct vine_err err;

    assert_null(parse(text, &err));
    assert_int_equal(err.code, VINE_EINVAL);
    if (strstr(err.text, word) == NULL)
        fail_msg("'%.40s' gives '%s', not '%s'", text, err.text, word);
    assert_non_null(strstr(err.text, "; write SRC[:DST][,SRC[:DST]...], for example "
                                     "--vine-env=/shared/envs/ml"));
}

static void test_what_is_malformed_is_refused(void **state)
{
    static const struct {
        const char *text, *word;
    } cases[] = {
        {"", "no source"},
        {",", "empty source"},
        {"/a,", "empty source"},
        {",/a", "empty source"},
        {"/a,,/b", "empty source"},
        {":", "empty source"},
        {":/b", "empty source"},
        {"/a:", "empty destination"},
        {"/a:,/b", "empty destination"},
        {"envs/ml", "'envs/ml' is not an absolute path"},
        {"./a", "not an absolute path"},
        {"~/a", "not an absolute path"},
        {"/a:b", "'b' is not an absolute path"},
        {" /a", "not an absolute path"},
        {"/a:/b:/c", "more than one ':'"},
        {"/a:/b:", "more than one ':'"},
        {"/a/../b", "'.' or '..'"},
        {"/a/.", "'.' or '..'"},
        {"/..", "'.' or '..'"},
        {"/a:/b/./c", "'.' or '..'"},
        {"/", "'/' cannot be a source"},
        {"///", "'/' cannot be a source"},
        {"/a:/", "'/' cannot be a destination"},
        {"/a\n", "control character 0x0a at position 3"},
        {"/a\x7f", "control character 0x7f"},
        {"\x01", "control character 0x01"},
        {"/a,/a", "source '/a' is named twice"},
        {"/a,/a/", "source '/a' is named twice"},
        {"/a:/x,/b:/x", "destination '/x' is named twice"},
        {"/a,/b:/a", "destination '/a' is named twice"},
        {"sftp://host/a", "no image and no archive"},
        {"/a,https://host/a.sqsh?x", "must not have a query"},
        {"sftp://me:pw@host/a.tar", "must not hold a password"},
        {"gopher://host/a.tar", "only sftp:// and https://"},
        {"/1,/2,/3,/4,/5,/6,/7,/8,/9,/a,/b,/c,/d,/e,/f,/g,/h", "more than 16 sources"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_refused(cases[i].text, cases[i].word);
}

static void test_what_is_too_long_is_refused(void **state)
{
    char *text = malloc(100001);

    memset(text, 'a', 100000);
    text[0] = '/';
    text[100000] = '\0';
    assert_refused(text, "longer than 4096");
    text[VINE_SPEC_MAX + 1] = '\0';
    assert_refused(text, "longer than 4096");
    text[VINE_SPEC_MAX] = '\0'; /* fits the option, not a path */
    assert_refused(text, "longer than 4095");
    text[VINE_PATH_MAX - 1] = '\0';
    struct vine_err err;
    struct vine_spec *spec = parse(text, &err);
    assert_non_null(spec);
    assert_string_equal(spec->source[0].path, text);
    free(spec);
    memset(text + 1, '\\', 3000); /* twice as long when written back */
    text[3001] = '\0';
    spec = parse(text, &err); /* pairs: halved, so it fits */
    assert_non_null(spec);
    free(spec);
    for (int i = 1; i + 1 < 3000; i += 2)
        text[i + 1] = 'x';
    assert_refused(text, "doubled");
    free(text);
}

/* Each cut of a valid text is read from a block of exactly its size, so that ASan sees
 * a byte read past its end. */
static void test_every_cut_is_read_within_its_bounds(void **state)
{
    static const char text[] = "/a\\,b/c:/d\\:e,/f\\\\,/shared/x.tar.gz:/g";

    for (size_t cut = 0; cut < sizeof(text); cut++) {
        struct vine_err err;
        char *exact = malloc(cut + 1);
        memcpy(exact, text, cut);
        exact[cut] = '\0';
        free(parse(exact, &err));
        free(exact);
    }
}

static void test_parts_are_taken_and_tidied(void **state)
{
    struct vine_err err;
    struct vine_spec *spec =
        parse("//shared//envs/ml///,/b/c\\,d\\:e\\\\f:/run//x/,/odd\\name,/...", &err);

    assert_non_null(spec);
    assert_int_equal(spec->count, 4);
    assert_string_equal(spec->source[0].path, "/shared/envs/ml");
    assert_string_equal(spec->source[0].dst, "");
    assert_string_equal(spec->source[1].path, "/b/c,d:e\\f");
    assert_string_equal(spec->source[1].dst, "/run/x");
    assert_string_equal(spec->source[2].path, "/odd\\name");
    assert_string_equal(spec->source[3].path, "/...");
    free(spec);
}

static void test_images_of_one_name_do_not_collide(void **state)
{
    struct vine_err err;
    struct vine_spec *spec = parse("/a/x.sqsh,/b/x.sqsh", &err);

    assert_non_null(spec); /* each may record another prefix */
    free(spec);
}

static struct vine_spec *parse_both(const char *env, const char *data,
                                    struct vine_err *err)
{
    struct vine_spec *spec = parse(env, err);
    unsigned before = spec->count;

    if (vine_spec_add_data(data, spec, err) == 0)
        return spec;
    assert_int_equal(spec->count, before); /* untouched */
    free(spec);
    return NULL;
}

static void test_data_comes_behind_environments(void **state)
{
    struct vine_err err;
    struct vine_spec *spec =
        parse_both("/shared/envs/ml,/b.sqsh", "/shared/x.tar,/b.sqsh:/c/d\\:e", &err);
    char id[VINE_PATH_MAX], *text;
    bool data;

    assert_non_null(spec);
    assert_int_equal(spec->count, 4);
    assert_false(spec->source[1].data);
    assert_true(spec->source[2].data && spec->source[3].data);
    text = vine_spec_text(spec);
    assert_string_equal(text, "/shared/envs/ml,/b.sqsh");
    free(text);
    text = vine_spec_data_text(spec);
    assert_string_equal(text, "/shared/x.tar,/b.sqsh:/c/d\\:e");
    free(text);
    /* One file as both: two names. */
    vine_source_id(&spec->source[1], id);
    assert_string_equal(id, "/b.sqsh");
    assert_string_equal(vine_source_id_path(id, &data), "/b.sqsh");
    assert_false(data);
    vine_source_id(&spec->source[3], id);
    assert_string_equal(id, "data:/b.sqsh");
    assert_string_equal(vine_source_id_path(id, &data), "/b.sqsh");
    assert_true(data);
    assert_null(vine_source_id_path("data:b", &data));
    assert_null(vine_source_id_path("vine:b", &data));
    assert_null(vine_source_id_path("more:/b", &data));
    free(spec);
}

static void test_names_of_a_jobs_files(void **state)
{
    static const char *const bad[] = {"data:vine:",
                                      "vine:a",
                                      "data:vine:a#",
                                      "data:vine:a#00",
                                      "data:vine:a#00000000000000000000000G",
                                      "data:vine:a#000000000000000000000000#",
                                      "data:vine:a\nb"};
    bool data, versioned;
    char name[1026];
    struct vine_err err = {0};
    struct vine_spec *spec = calloc(1, sizeof(*spec));

    assert_string_equal(vine_source_id_path("data:vine:/a/b", &data), "vine:/a/b");
    assert_true(vine_source_is_named("data:vine:/a/b", &versioned) && !versioned);
    assert_true(
        vine_source_is_named("data:vine:a#0123456789abcdef01234567", &versioned));
    assert_true(versioned);
    assert_false(vine_source_is_named("data:/vine:a", &versioned));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(vine_source_is_named(bad[i], &versioned));
    memset(name, 'x', sizeof(name));
    name[1024] = '\0';
    assert_int_equal(vine_named_check(name, &err), 0);
    name[1024] = 'x';
    name[1025] = '\0';
    assert_int_equal(vine_named_check(name, &err), -1);
    assert_int_equal(err.code, VINE_EINVAL);
    /* Not to be had by the options. */
    assert_int_equal(vine_spec_add_data("vine:a", spec, NULL), -1);
    assert_int_equal(vine_spec_parse("vine:a", spec, NULL), -1);
    free(spec);
}

static void test_data_alone_has_no_environments(void **state)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    char *text;

    assert_int_equal(vine_spec_add_data("/a", spec, NULL), 0);
    assert_int_equal(spec->count, 1);
    text = vine_spec_text(spec);
    assert_string_equal(text, "");
    free(text);
    free(spec);
}

static void test_data_that_does_not_fit_is_refused(void **state)
{
    static const struct {
        const char *env, *data, *word;
    } cases[] = {
        {"/a", "/a", "destination '/a' is named twice"},
        {"/a:/x", "/b:/x", "destination '/x' is named twice"},
        {"/a", "/b.tar,/c:/b.tar", "destination '/b.tar' is named twice"},
        {"/a", "/b,/b:/c", "source '/b' is named twice"},
        {"/a", "b", "'b' is not an absolute path"},
        {"/a", "", "no source is named"},
        {"/1,/2,/3,/4,/5,/6,/7,/8,/9", "/a,/b,/c,/d,/e,/f,/g,/h", "more than 16"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vine_err err;
        assert_null(parse_both(cases[i].env, cases[i].data, &err));
        assert_int_equal(err.code, VINE_EINVAL);
        if (strstr(err.text, cases[i].word) == NULL)
            fail_msg("'%s' gives '%s'", cases[i].data, err.text);
        assert_non_null(strstr(err.text, "for example --vine-data=/shared/sets/a.h5"));
    }
}

static void test_the_longest_path_of_data_has_a_name(void **state)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    char text[VINE_PATH_MAX], id[VINE_PATH_MAX];
    struct vine_err err = {0};

    memset(text, 'a', sizeof(text));
    text[0] = '/';
    text[4091] = '\0';
    assert_int_equal(vine_spec_add_data(text, spec, &err), -1);
    assert_non_null(strstr(err.text, "longer than 4090"));
    text[4090] = '\0';
    assert_int_equal(vine_spec_add_data(text, spec, NULL), 0);
    vine_source_id(&spec->source[0], id);
    assert_string_equal(id + 5, text);
    free(spec);
}

static void test_text_gives_the_same_spec_back(void **state)
{
    static const char *const texts[] = {"/a",      "/a:/b", "/a,/b:/c", "/a\\,b:/c\\:d",
                                        "//x//y/", "/\\\\", "/a\\b",    "/\xff\xfe"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct vine_err err;
        struct vine_spec *one = parse(texts[i], &err), *two;
        char *text = vine_spec_text(one), *again;
        two = parse(text, &err);
        assert_non_null(two);
        again = vine_spec_text(two);
        assert_string_equal(text, again);
        assert_string_equal(one->source[0].path, two->source[0].path);
        assert_string_equal(one->source[0].dst, two->source[0].dst);
        free(text);
        free(again);
        free(one);
        free(two);
    }
}

static void test_kinds_and_names(void **state)
{
    static const struct {
        const char *path;
        enum vine_source_kind kind;
        const char *name;
    } cases[] = {
        {"/a/ml", VINE_SOURCE_DIR, "ml"},
        {"/a/ml.sqsh", VINE_SOURCE_IMAGE, "ml"},
        {"/a/ml.squashfs", VINE_SOURCE_IMAGE, "ml"},
        {"/a/ml.v2.tar.gz", VINE_SOURCE_ARCHIVE, "ml.v2"},
        {"/a/ml.tgz", VINE_SOURCE_ARCHIVE, "ml"},
        {"/a/ml.tar", VINE_SOURCE_ARCHIVE, "ml"},
        {"/a/ml.tar.zst", VINE_SOURCE_ARCHIVE, "ml"},
        {"/a/ml.tar.xz", VINE_SOURCE_ARCHIVE, "ml"},
        {"/a/ml.tar.bz2", VINE_SOURCE_ARCHIVE, "ml"},
        {"/a/ml.zip", VINE_SOURCE_ARCHIVE, "ml"},
        {"/a/ml.ZIP", VINE_SOURCE_DIR, "ml.ZIP"},
        {"/a.sqsh/ml", VINE_SOURCE_DIR, "ml"},
        {"/a/.tar", VINE_SOURCE_DIR, ".tar"},
        {"/a/ml.gz", VINE_SOURCE_DIR, "ml.gz"},
    };
    char name[VINE_PATH_MAX];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(vine_source_kind_of(cases[i].path), cases[i].kind);
        vine_source_name(cases[i].path, name);
        assert_string_equal(name, cases[i].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_malformed_is_refused),
        cmocka_unit_test(test_what_is_too_long_is_refused),
        cmocka_unit_test(test_every_cut_is_read_within_its_bounds),
        cmocka_unit_test(test_parts_are_taken_and_tidied),
        cmocka_unit_test(test_images_of_one_name_do_not_collide),
        cmocka_unit_test(test_data_comes_behind_environments),
        cmocka_unit_test(test_names_of_a_jobs_files),
        cmocka_unit_test(test_data_alone_has_no_environments),
        cmocka_unit_test(test_data_that_does_not_fit_is_refused),
        cmocka_unit_test(test_the_longest_path_of_data_has_a_name),
        cmocka_unit_test(test_text_gives_the_same_spec_back),
        cmocka_unit_test(test_kinds_and_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

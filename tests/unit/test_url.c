/* What is in a URL, and which texts are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "vine/spec.h"
#include "vine/url.h"

#define DIGEST "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

static void test_parts(void **state)
{
    static struct vine_url url;
    struct vine_err err = {0};

    assert_int_equal(
        vine_url_parse("sftp://me@h.x:2222/a b/c.tar#sha256=" DIGEST, &url, &err), 0);
    assert_false(url.https);
    assert_string_equal(url.user, "me");
    assert_string_equal(url.host, "h.x");
    assert_int_equal(url.port, 2222);
    assert_string_equal(url.path, "/a b/c.tar");
    assert_string_equal(url.sha256, DIGEST);
    assert_int_equal(vine_url_parse("https://[::1]/a%20b.tar", &url, &err), 0);
    assert_true(url.https);
    assert_string_equal(url.user, "");
    assert_string_equal(url.host, "::1");
    assert_int_equal(url.port, 443);
    assert_string_equal(url.path, "/a%20b.tar");
    assert_string_equal(url.sha256, "");
}

static void test_what_is_refused_leaves_the_struct_alone(void **state)
{
    static const char *const cases[] = {
        "",
        "/a",
        "sftp:/h/a",
        "ftp://h/a",
        "sftp://h",
        "sftp://h/",
        "sftp://h/a/",
        "sftp:///a",
        "sftp://@h/a",
        "sftp://a:b@h/a",
        "sftp://-h/a",
        "sftp://h h/a",
        "sftp://h:/a",
        "sftp://h:0/a",
        "sftp://h:65536/a",
        "sftp://h:00022222222/a",
        "sftp://[::1/a",
        "sftp://h/a#",
        "sftp://h/a#sha256=" DIGEST "0",
        "https://me@h/a",
        "https://h/a?b",
        "https://h/a b",
        "https://h/\xc3\xa4",
    };
    static struct vine_url url, before;

    memset(&url, 7, sizeof(url));
    before = url;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vine_err err = {0};
        if (vine_url_parse(cases[i], &url, &err) == 0)
            fail_msg("'%s' was taken", cases[i]);
        assert_int_equal(err.code, VINE_EINVAL);
    }
    assert_memory_equal(&url, &before, sizeof(url));
}

static void test_names_of_sources(void **state)
{
    char name[VINE_PATH_MAX];
    const char *const url = "https://h/x/ml.tar.gz#sha256=" DIGEST;
    bool data;

    assert_int_equal(vine_source_kind_of(url), VINE_SOURCE_ARCHIVE);
    vine_source_name(url, name);
    assert_string_equal(name, "ml");
    assert_true(vine_source_is_remote(url));
    assert_false(vine_source_is_remote("/a/sftp://h/b"));
    assert_ptr_equal(vine_source_id_path(url, &data), url);
    assert_null(vine_source_id_path("data:h/a", &data));
    /* A file's own name may have what would be a fragment. */
    vine_source_name("/x/a#b.tar", name);
    assert_string_equal(name, "a#b");
}

static void test_logins_are_not_shown(void **state)
{
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"sftp://me@h:22/a@b.tar", "sftp://h:22/a@b.tar"},
        {"sftp://h/a@b.tar", "sftp://h/a@b.tar"},
        {"https://h/a.tar", "https://h/a.tar"},
        {"/a/me@h", "/a/me@h"},
        {"sftp://me@h", "sftp://h"},
    };
    char shown[VINE_PATH_MAX];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        vine_url_shown(cases[i].text, shown);
        assert_string_equal(shown, cases[i].shown);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_what_is_refused_leaves_the_struct_alone),
        cmocka_unit_test(test_names_of_sources),
        cmocka_unit_test(test_logins_are_not_shown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

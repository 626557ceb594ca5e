/* test_environ.c - activation leaves the environment that `activate` would, once. */
#include "spank/environ.c"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static void expect_path(const char *path, const char *dir, const char *want)
{
    char *got = environ_path_front(path, dir);

    assert_string_equal(got, want);
    free(got);
}

static void test_path_gets_dir_in_front_once(void **state)
{
    expect_path("/usr/bin:/bin", "/e/bin", "/e/bin:/usr/bin:/bin");
    expect_path("/e/bin:/usr/bin", "/e/bin", "/e/bin:/usr/bin");
    expect_path("/usr/bin:/e/bin:/bin:/e/bin", "/e/bin", "/e/bin:/usr/bin:/bin");
    expect_path("/e/bin", "/e/bin", "/e/bin");
    expect_path("/e/bin2:/e/bi", "/e/bin", "/e/bin:/e/bin2:/e/bi");
}

static void test_path_keeps_empty_parts(void **state)
{
    expect_path(":/bin", "/e/bin", "/e/bin::/bin");
    expect_path("/bin:", "/e/bin", "/e/bin:/bin:");
    expect_path("::", "/e/bin", "/e/bin:::");
}

static void test_absent_path_gets_a_default(void **state)
{
    expect_path(NULL, "/e/bin", "/e/bin:" DEFAULT_PATH);
    expect_path("", "/e/bin", "/e/bin:" DEFAULT_PATH);
}

static void test_find_wants_the_whole_name(void **state)
{
    char *env[] = {(char *)"PATHX=1", (char *)"XPATH=2", (char *)"PATH=/bin", NULL};

    assert_string_equal(environ_find(env, "PATH"), "/bin");
    assert_null(environ_find(env, "PAT"));
    assert_null(environ_find(NULL, "PATH"));
}

/* An environment as a list of settings, in the order they came. */
struct settings {
    char text[1024];
    bool fail;
};

static int record(void *arg, const char *name, const char *value)
{
    struct settings *s = arg;
    size_t used = strlen(s->text);

    if (s->fail)
        return -1;
    (void)snprintf(s->text + used, sizeof(s->text) - used, "%s%s%s;", name,
                   value != NULL ? "=" : "-", value != NULL ? value : "");
    return 0;
}

static void expect_activation(enum environ_kind kind, const char *dst, const char *want)
{
    struct settings s = {.fail = false};

    assert_int_equal(environ_activate(kind, dst, "/bin", record, &s), 0);
    assert_string_equal(s.text, want);
}

static void test_activation_of_each_kind(void **state)
{
    expect_activation(ENVIRON_NONE, "/e", "");
    expect_activation(ENVIRON_VENV, "/e",
                      "PATH=/e/bin:/bin;VIRTUAL_ENV=/e;PYTHONHOME-;");
    expect_activation(ENVIRON_CONDA, "/s/envs/ml",
                      "PATH=/s/envs/ml/bin:/bin;CONDA_PREFIX=/s/envs/ml;CONDA_SHLVL=1;"
                      "CONDA_DEFAULT_ENV=ml;");
    expect_activation(ENVIRON_CONDA, "/s/ml",
                      "PATH=/s/ml/bin:/bin;CONDA_PREFIX=/s/ml;CONDA_SHLVL=1;"
                      "CONDA_DEFAULT_ENV=/s/ml;");
    expect_activation(ENVIRON_CONDA, "/a",
                      "PATH=/a/bin:/bin;CONDA_PREFIX=/a;CONDA_SHLVL=1;"
                      "CONDA_DEFAULT_ENV=/a;");
}

static void test_a_failing_set_is_told(void **state)
{
    struct settings s = {.fail = true};

    assert_int_equal(environ_activate(ENVIRON_VENV, "/e", "/bin", record, &s), -1);
}

static void test_kinds_by_word(void **state)
{
    assert_int_equal(environ_kind_of("venv"), ENVIRON_VENV);
    assert_int_equal(environ_kind_of("conda"), ENVIRON_CONDA);
    assert_int_equal(environ_kind_of("none"), ENVIRON_NONE);
    assert_int_equal(environ_kind_of("VENV"), ENVIRON_NONE);
    assert_int_equal(environ_kind_of(NULL), ENVIRON_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_path_gets_dir_in_front_once),
        cmocka_unit_test(test_path_keeps_empty_parts),
        cmocka_unit_test(test_absent_path_gets_a_default),
        cmocka_unit_test(test_find_wants_the_whole_name),
        cmocka_unit_test(test_activation_of_each_kind),
        cmocka_unit_test(test_a_failing_set_is_told),
        cmocka_unit_test(test_kinds_by_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

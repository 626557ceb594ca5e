/* test_plugin_options.c - what srun, sbatch and salloc refuse, with SPANK played here.
 */
#include "spank/options.c"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static struct spank_option *registered[8];
static int registered_count;
static const char *job_variable;
static const char *carried_variable; /* VINE_ENV_SPEC in the job */
static char *option_value;           /* what the job was given as --vine-env */

spank_err_t spank_option_register(spank_t sp, struct spank_option *opt)
{
    registered[registered_count++] = opt;
    return ESPANK_SUCCESS;
}

spank_err_t spank_option_getopt(spank_t sp, struct spank_option *opt, char **value)
{
    if (opt->val != OPTION_ENV || option_value == NULL)
        return ESPANK_ERROR;
    *value = option_value;
    return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t sp, const char *name, char *buf, int len)
{
    const char *value = strcmp(name, "VINE_ENV_SPEC") == 0 ? job_variable
                        : strcmp(name, "SLURM_SPANK__SLURM_SPANK_OPTION_vine_env_"
                                       "vine_env") == 0
                            ? carried_variable
                            : NULL;

    if (value == NULL)
        return ESPANK_ENV_NOEXIST;
    if (snprintf(buf, (size_t)len, "%s", value) >= len)
        return ESPANK_NOSPACE;
    return ESPANK_SUCCESS;
}

static int give(const char *name, const char *value, int remote)
{
    for (int i = 0; i < registered_count; i++)
        if (strcmp(registered[i]->name, name) == 0)
            return registered[i]->cb(registered[i]->val, value, remote);
    fail_msg("no option '%s'", name);
    return -1;
}

static int reset(void **state)
{
    free(client.spec);
    free(client.fallback);
    client.spec = client.fallback = NULL;
    registered_count = 0;
    job_variable = NULL;
    option_value = NULL;
    unsetenv(OPTIONS_SPEC_VARIABLE);
    return options_register(NULL);
}

static void expect_refused(const char *value, enum vine_code code, const char *part)
{
    struct vine_err err = {0};

    assert_int_equal(give("vine-env", value, 0), 0);
    if (options_check_client(&err) == 0)
        fail_msg("'%.60s' was accepted", value);
    assert_int_equal(err.code, code);
    if (strstr(err.text, part) == NULL)
        fail_msg("'%s' does not tell '%s'", err.text, part);
}

static void test_malformed_values_are_refused(void **state)
{
    static const char *const wrong[] = {"",       "rel",        "/a:/b:/c", ",",
                                        "/a,,/b", "/a\n",       "/\x1b",    "/a/../b",
                                        "/",      "sftp://h/p", "/a,/a",    ":/a"};
    char *large = malloc(100001);

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        expect_refused(wrong[i], VINE_EINVAL, "SRC");
    memset(large, 'a', 100000);
    large[0] = '/';
    large[100000] = '\0';
    expect_refused(large, VINE_EINVAL, "4096");
    free(large);
}

static void test_absent_sources_are_refused(void **state)
{
    expect_refused("/nonexistent/env", VINE_ENOENT,
                   "'/nonexistent/env' does not exist");
    expect_refused("/dev/null/env", VINE_ENOENT, "does not exist");
    expect_refused("/usr,/nonexistent", VINE_ENOENT, "'/nonexistent'");
}

static void test_good_values_pass(void **state)
{
    struct vine_err err = {0};

    assert_int_equal(options_check_client(&err), 0);
    assert_int_equal(give("vine-env", "/usr/bin:/run/vine/env/x,/usr/lib", 0), 0);
    assert_int_equal(give("vine-fallback", "fail", 0), 0);
    assert_int_equal(give("vine-quiet", NULL, 0), 0);
    assert_int_equal(options_check_client(&err), 0);
}

static void test_the_last_value_wins(void **state)
{
    struct vine_err err = {0};

    assert_int_equal(give("vine-env", "inherited", 0), 0);
    assert_int_equal(give("vine-env", "/usr", 0), 0);
    assert_int_equal(options_check_client(&err), 0);
}

static void test_wrong_fallback_is_refused(void **state)
{
    struct vine_err err = {0};

    assert_int_equal(give("vine-fallback", "maybe", 0), 0);
    assert_int_equal(options_check_client(&err), -1);
    assert_non_null(strstr(err.text, "origin or fail"));
}

static void test_the_variable_counts_unless_the_option_is_given(void **state)
{
    struct vine_err err = {0};

    setenv(OPTIONS_SPEC_VARIABLE, "rel", 1);
    assert_int_equal(options_check_client(&err), -1);
    assert_int_equal(give("vine-env", "/usr", 0), 0);
    err = (struct vine_err){0};
    assert_int_equal(options_check_client(&err), 0);
}

static void test_remote_values_leave_the_client_alone(void **state)
{
    struct vine_err err = {0};

    assert_int_equal(give("vine-env", "rel", 1), 0);
    assert_int_equal(options_check_client(&err), 0);
}

static void test_remote_text_prefers_the_option(void **state)
{
    struct vine_err err = {0};
    char *text = NULL, large[VINE_SPEC_MAX + 2];

    assert_int_equal(options_spec_text(NULL, true, &text, &err), 0);
    assert_null(text);
    job_variable = "/from/env";
    assert_int_equal(options_spec_text(NULL, false, &text, &err), 0);
    assert_null(text);
    assert_int_equal(options_spec_text(NULL, true, &text, &err), 0);
    assert_string_equal(text, "/from/env");
    free(text);
    carried_variable = "/from/sbatch"; /* --export=NONE: the option's own variable */
    assert_int_equal(options_spec_text(NULL, true, &text, &err), 0);
    assert_string_equal(text, "/from/sbatch");
    free(text);
    carried_variable = NULL;
    option_value = (char *)"/from/option";
    assert_int_equal(options_spec_text(NULL, true, &text, &err), 0);
    assert_string_equal(text, "/from/option");
    free(text);
    option_value = NULL;
    memset(large, 'a', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    job_variable = large;
    assert_int_equal(options_spec_text(NULL, true, &text, &err), -1);
    assert_int_equal(err.code, VINE_EINVAL);
}

#define TEST(f) cmocka_unit_test_setup(f, reset)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_malformed_values_are_refused),
        TEST(test_absent_sources_are_refused),
        TEST(test_good_values_pass),
        TEST(test_the_last_value_wins),
        TEST(test_wrong_fallback_is_refused),
        TEST(test_the_variable_counts_unless_the_option_is_given),
        TEST(test_remote_values_leave_the_client_alone),
        TEST(test_remote_text_prefers_the_option),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

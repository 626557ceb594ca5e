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
static const char *data_variable;    /* VINE_DATA_SPEC in the job */
static const char *carried_data;     /* what carries --vine-data there */
static char *data_value;             /* what the job was given as --vine-data */

spank_err_t spank_option_register(spank_t sp, struct spank_option *opt)
{
    registered[registered_count++] = opt;
    return ESPANK_SUCCESS;
}

spank_err_t spank_option_getopt(spank_t sp, struct spank_option *opt, char **value)
{
    char *given = opt->val == OPTION_ENV    ? option_value
                  : opt->val == OPTION_DATA ? data_value
                                            : NULL;

    if (given == NULL)
        return ESPANK_ERROR;
    *value = given;
    return ESPANK_SUCCESS;
}

spank_err_t spank_getenv(spank_t sp, const char *name, char *buf, int len)
{
#define CARRIED "SLURM_SPANK__SLURM_SPANK_OPTION_vine_env_"
    const struct {
        const char *name, *value;
    } variables[] = {{"VINE_ENV_SPEC", job_variable},
                     {CARRIED "vine_env", carried_variable},
                     {"VINE_DATA_SPEC", data_variable},
                     {CARRIED "vine_data", carried_data}};
    const char *value = NULL;

    for (int i = 0; i < 4; i++)
        if (strcmp(variables[i].name, name) == 0)
            value = variables[i].value;

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
    free(client.data);
    free(client.fallback);
    client.spec = client.data = client.fallback = NULL;
    registered_count = 0;
    job_variable = carried_variable = data_variable = carried_data = NULL;
    option_value = data_value = NULL;
    unsetenv(OPTIONS_SPEC_VARIABLE);
    unsetenv(OPTIONS_DATA_VARIABLE);
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

/* The path of the one source that the job is found to want; "" none. */
static const char *wanted(bool env)
{
    static char path[VINE_PATH_MAX];
    struct vine_spec *spec = NULL;
    struct vine_err err = {0};

    assert_int_equal(options_spec(NULL, env, &spec, &err), 0);
    assert_true(spec == NULL || spec->count == 1);
    (void)snprintf(path, sizeof(path), "%s", spec != NULL ? spec->source[0].path : "");
    free(spec);
    return path;
}

static void test_remote_values_prefer_the_option(void **state)
{
    char large[VINE_SPEC_MAX + 2];
    struct vine_spec *spec = NULL;
    struct vine_err err = {0};

    assert_string_equal(wanted(true), "");
    job_variable = "/from/env";
    assert_string_equal(wanted(false), "");
    assert_string_equal(wanted(true), "/from/env");
    carried_variable = "/from/sbatch"; /* --export=NONE: the option's own variable */
    assert_string_equal(wanted(true), "/from/sbatch");
    carried_variable = NULL;
    option_value = (char *)"/from/option";
    assert_string_equal(wanted(true), "/from/option");
    option_value = NULL;
    memset(large, 'a', sizeof(large) - 1);
    large[sizeof(large) - 1] = '\0';
    job_variable = large;
    assert_int_equal(options_spec(NULL, true, &spec, &err), -1);
    assert_int_equal(err.code, VINE_EINVAL);
    assert_non_null(strstr(err.text, "VINE_ENV_SPEC"));
}

static void test_remote_data_is_found_in_the_same_places(void **state)
{
    struct vine_spec *spec = NULL;
    struct vine_err err = {0};

    data_variable = "/d/env";
    assert_string_equal(wanted(false), "");
    assert_string_equal(wanted(true), "/d/env");
    carried_data = "/d/sbatch";
    assert_string_equal(wanted(true), "/d/sbatch");
    data_value = (char *)"/d/option:/x,/d/two";
    option_value = (char *)"/from/option";
    assert_int_equal(options_spec(NULL, false, &spec, &err), 0);
    assert_int_equal(spec->count, 3);
    assert_false(spec->source[0].data);
    assert_true(spec->source[1].data && spec->source[2].data);
    assert_string_equal(spec->source[1].dst, "/x");
    free(spec);
    /* Each half's own place: an option of one leaves the other's variable alone. */
    data_value = NULL;
    assert_int_equal(options_spec(NULL, true, &spec, &err), 0);
    assert_int_equal(spec->count, 2);
    assert_string_equal(spec->source[1].path, "/d/sbatch");
    free(spec);
    carried_data = NULL;
    data_variable = "rel";
    assert_int_equal(options_spec(NULL, true, &spec, &err), -1);
    assert_null(spec);
    assert_non_null(strstr(err.text, "--vine-data="));
}

static void test_data_is_checked_with_the_environment(void **state)
{
    struct vine_err err = {0};

    assert_int_equal(give("vine-data", "/etc/passwd:/x,/usr/lib", 0), 0);
    assert_int_equal(options_check_client(&err), 0);
    assert_int_equal(give("vine-env", "/usr/lib", 0), 0);
    assert_int_equal(options_check_client(&err), -1);
    assert_non_null(strstr(err.text, "'/usr/lib' is named twice"));
    err = (struct vine_err){0};
    assert_int_equal(give("vine-data", "/nonexistent/a.h5", 0), 0);
    assert_int_equal(options_check_client(&err), -1);
    assert_int_equal(err.code, VINE_ENOENT);
    assert_non_null(strstr(err.text, "a directory or file"));
    free(client.data);
    client.data = NULL;
    err = (struct vine_err){0};
    setenv(OPTIONS_DATA_VARIABLE, "rel", 1);
    assert_int_equal(options_check_client(&err), -1);
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
        TEST(test_remote_values_prefer_the_option),
        TEST(test_remote_data_is_found_in_the_same_places),
        TEST(test_data_is_checked_with_the_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

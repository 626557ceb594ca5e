/* test_conf.c - the configuration file: each fault is named with file, line and mend.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "vine/conf.h"

static int load(const char *text, struct vine_conf *conf, struct vine_err *err)
{
    char path[] = "/tmp/vine-conf-XXXXXX";
    int fd = mkstemp(path), result;

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    assert_int_equal(close(fd), 0);
    result = vine_conf_load(path, conf, err);
    assert_int_equal(unlink(path), 0);
    return result;
}

static void test_faults_are_named(void **state)
{
    static const struct {
        const char *text, *line, *word;
    } faults[] = {
        {"[nodes]\n", "line 1", "[node]"},
        {"[node\n", "line 1", "[node]"},
        {"cache_dir = /x\n", "line 1", "cache_dir"},
        {"[node]\n\ncash_dir = /x\n", "line 3", "cash_dir"},
        {"[manager]\ncache_dir = /x\n", "line 2", "cache_dir"},
        {"[node]\ncache_dir /x\n", "line 2", "key = value"},
        {"[node]\ncache_dir = x\n", "line 2", "absolute path"},
        {"[node]\nstall_ms = -1\n", "line 2", "100 to 600000"},
        {"[node]\nstall_ms = 99\n", "line 2", "100 to 600000"},
        {"[node]\nstall_ms = 5000x\n", "line 2", "100 to 600000"},
        {"[node]\nstall_ms = 99999999999999999999\n", "line 2", "100 to 600000"},
        {"[node]\ntrust_user_images = maybe\n", "line 2", "yes or no"},
        {"[node]\nsource_caching = no\n", "line 2", "coherent"},
        {"[plugin]\nfallback = never\n", "line 2", "origin or fail"},
        {"[plugin]\nstart = soon\n", "line 2", "full or lazy"},
        {"[node]\nlazy_timeout = 0\n", "line 2", "1 to 59"},
        {"[node]\nlazy_timeout = 60\n", "line 2", "UnkillableStepTimeout"},
        {"[node]\nnice = 1\nnice = 2\n", "line 3", "twice"},
    };

    for (size_t i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {
        struct vine_err err = {0};
        struct vine_conf conf;
        assert_int_equal(load(faults[i].text, &conf, &err), -1);
        assert_int_equal(err.code, VINE_EINVAL);
        assert_non_null(strstr(err.text, faults[i].line));
        assert_non_null(strstr(err.text, faults[i].word));
        assert_int_equal(conf.stall_ms, 5000); /* defaults, nothing half-applied */
    }
}

static void test_too_long_a_value_is_refused(void **state)
{
    char text[2000] = "[cluster]\nmanagers = ";
    struct vine_err err = {0};
    struct vine_conf conf;

    memset(text + strlen(text), 'm', 1000);
    assert_int_equal(load(text, &conf, &err), -1);
    assert_non_null(strstr(err.text, "511 bytes"));
}

static void test_values_are_taken(void **state)
{
    struct vine_err err = {0};
    struct vine_conf conf;

    assert_int_equal(load("# comment\n; comment\n\n [cluster] \n"
                          "managers = a:1, b\r\n[node]\n cache_dir=/x y \nnice=19\n"
                          "trust_user_images = yes\n[plugin]\nfallback=fail",
                          &conf, &err),
                     0);
    assert_string_equal(conf.managers, "a:1, b");
    assert_string_equal(conf.cache_dir, "/x y");
    assert_int_equal(conf.nice, 19);
    assert_true(conf.trust_user_images);
    assert_true(conf.build_ahead);
    assert_false(conf.fallback_origin);
    assert_int_equal(conf.stage_timeout_s, 600);
    assert_int_equal(conf.lazy_timeout_s, 30);
}

static void test_absent_file_gives_defaults(void **state)
{
    struct vine_err err = {0};
    struct vine_conf conf;

    assert_int_equal(vine_conf_load("/nonexistent/vine.conf", &conf, &err), 0);
    assert_string_equal(conf.cache_dir, "/var/cache/vine-env");
    assert_int_equal(vine_conf_load("/proc/self/mem", &conf, &err), -1);
}

static void test_host_port(void **state)
{
    static const char *const wrong[] = {"",    ":1",   "a:",     "a:0", "a:65536",
                                        "a:x", "[::1", "[::1]x", "[]:1"};
    struct vine_err err = {0};
    char host[256];
    uint16_t port;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(vine_conf_host_port(wrong[i], 7, host, &port, NULL), -1);
    assert_int_equal(vine_conf_host_port("ctl", 7, host, &port, &err), 0);
    assert_string_equal(host, "ctl");
    assert_int_equal(port, 7);
    assert_int_equal(vine_conf_host_port("[fe80::1]:65535", 7, host, &port, &err), 0);
    assert_string_equal(host, "fe80::1");
    assert_int_equal(port, 65535);
}

static void test_size(void **state)
{
    static const char *const wrong[] = {
        "",           "x", "-1", "1X", "0%", "101%", "1GB", "99999999999999999999",
        "9999999999T"};
    uint64_t bytes = 1;

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(vine_conf_size(wrong[i], 1000, &bytes, NULL), -1);
    assert_int_equal(bytes, 1);
    assert_int_equal(vine_conf_size("80%", 1000, &bytes, NULL), 0);
    assert_int_equal(bytes, 800);
    assert_int_equal(vine_conf_size("3G", 0, &bytes, NULL), 0);
    assert_int_equal(bytes, 3ull << 30);
    assert_int_equal(vine_conf_size("4096", 0, &bytes, NULL), 0);
    assert_int_equal(bytes, 4096);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_faults_are_named),
        cmocka_unit_test(test_too_long_a_value_is_refused),
        cmocka_unit_test(test_values_are_taken),
        cmocka_unit_test(test_absent_file_gives_defaults),
        cmocka_unit_test(test_host_port),
        cmocka_unit_test(test_size),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

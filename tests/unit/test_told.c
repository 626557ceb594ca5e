/* The place for which an environment was made, as its scripts tell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/image/told.h"

static void take(struct told *told, const char *path, const char *text)
{
    size_t len = strlen(text);
    char *exact = malloc(len + (len == 0)); /* a byte too far is seen */

    memcpy(exact, text, len);
    told_take(told, path, exact, len);
    free(exact);
}

static const char *tells(const char *path, const char *text)
{
    static struct told told;

    told = (struct told){.differ = false};
    take(&told, path, text);
    return told_prefix(&told);
}

static void test_scripts_tell_it(void **state)
{
    assert_string_equal(tells("bin/pip", "#!/s/envs/ml/bin/python3.11\nimport x"),
                        "/s/envs/ml");
    assert_string_equal(tells("bin/pip", "#! /s/ml/bin/python -E\n"), "/s/ml");
    assert_string_equal(tells("bin/activate", "a\nVIRTUAL_ENV=\"/s/v\"\nb"), "/s/v");
    assert_string_equal(tells("bin/activate", "VIRTUAL_ENV='/s/my v'\n"), "/s/my v");
    assert_string_equal(tells("bin/activate", "if a\n  export VIRTUAL_ENV=$(p /s)\n"
                                              "else\n  export VIRTUAL_ENV=/s/v\nfi\n"),
                        "/s/v");
}

static void test_others_do_not(void **state)
{
    static const char *const scripts[] = {
        "",
        "#!",
        "#!\n",
        "#!/",
        "#!/\n",
        "#!python3\n",
        "#!bin/python3\n",
        "#!/bin/python3\n",
        "#!/usr/bin/python3\n",
        "#!/usr/local/bin/python3\n",
        "#!/usr/bin/env python3\n",
        "#!/s/ml/bin/perl\n",
        "#!/s/ml/sbin/python\n",
        "#!/s/../ml/bin/python\n",
        "#!/s//ml/bin/python\n",
        "#!s/ml/bin/python\n",
        "#!/s/ml/bin/python", /* without an end */
    };
    static const char *const activates[] = {
        "VIRTUAL_ENV=",        "VIRTUAL_ENV=\"",          "VIRTUAL_ENV=\"/s/v",
        "VIRTUAL_ENV=/s/v",    "VIRTUAL_ENV=$place\n",    "VIRTUAL_ENV=\"$place\"\n",
        "VIRTUAL_ENV='/a'b\n", "VIRTUAL_ENV='/a/../b'\n",
    };

    for (size_t i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++)
        assert_string_equal(tells("bin/x", scripts[i]), "");
    for (size_t i = 0; i < sizeof(activates) / sizeof(activates[0]); i++)
        assert_string_equal(tells("bin/activate", activates[i]), "");
    assert_string_equal(tells("lib/x", "#!/s/ml/bin/python\n"), "");
    assert_string_equal(tells("bin/x/y", "#!/s/ml/bin/python\n"), "");
}

static void test_all_must_tell_the_same(void **state)
{
    struct told told = {.differ = false};

    take(&told, "bin/a", "#!/s/ml/bin/python\n");
    take(&told, "bin/b", "#!/usr/bin/env python\n");
    take(&told, "bin/activate", "VIRTUAL_ENV=/s/ml\n");
    assert_string_equal(told_prefix(&told), "/s/ml");
    take(&told, "bin/c", "#!/s/other/bin/python\n");
    assert_string_equal(told_prefix(&told), "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scripts_tell_it),
        cmocka_unit_test(test_others_do_not),
        cmocka_unit_test(test_all_must_tell_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

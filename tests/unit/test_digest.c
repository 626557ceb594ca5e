/* Keyed sums tell bytes apart, and nothing outside the process can know them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "vine/digest.h"

static void test_equal_bytes_have_equal_sums(void **state)
{
    struct vine_sums *sums = vine_sums_new();
    struct vine_digest one, two;
    uint8_t bytes[300], copy[300];

    assert_non_null(sums);
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = copy[i] = (uint8_t)(i * 7);
    for (size_t len = 0; len <= sizeof(bytes); len++) {
        vine_sums_of(sums, bytes, len, &one);
        vine_sums_of(sums, copy, len, &two);
        assert_true(vine_digest_equal(&one, &two));
        if (len == 0)
            continue;
        copy[len - 1] ^= 1;
        vine_sums_of(sums, copy, len, &two);
        assert_false(vine_digest_equal(&one, &two));
        copy[len - 1] ^= 1;
        vine_sums_of(sums, copy, len - 1, &two);
        assert_false(vine_digest_equal(&one, &two));
    }
    vine_sums_free(sums);
}

static void test_another_key_gives_other_sums(void **state)
{
    struct vine_sums *a = vine_sums_new(), *b = vine_sums_new();
    struct vine_digest one, two;

    assert_non_null(a);
    assert_non_null(b);
    vine_sums_of(a, "vine", 4, &one);
    vine_sums_of(b, "vine", 4, &two);
    assert_false(vine_digest_equal(&one, &two));
    vine_sums_free(a);
    vine_sums_free(b);
    vine_sums_free(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equal_bytes_have_equal_sums),
        cmocka_unit_test(test_another_key_gives_other_sums),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

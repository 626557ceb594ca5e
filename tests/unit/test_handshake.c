/* test_handshake.c - offers as bytes, and what session keys depend on. */
#include "daemon/wire/handshake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_keys_differ_by_direction_and_by_every_input(void **state)
{
    struct handshake_offer hello = {.step = HANDSHAKE_HELLO,
                                    .service = 1,
                                    .self = "n1",
                                    .peer = "n2"},
                           welcome = {.step = HANDSHAKE_WELCOME};
    struct vine_digest a, b, c, d;

    handshake_keys(&hello, &welcome, &a, &b);
    assert_false(vine_digest_equal(&a, &b));
    for (int i = 0; i < 6; i++) {
        struct handshake_offer h = hello, w = welcome;

        switch (i) {
        case 0:
            h.nonce[31] = 1;
            break;
        case 1:
            h.half[31] = 1;
            break;
        case 2:
            w.nonce[31] = 1;
            break;
        case 3:
            w.half[31] = 1;
            break;
        case 4:
            h.service = 2;
            break;
        default:
            h.self[1] = '3';
            break;
        }
        handshake_keys(&h, &w, &c, &d);
        assert_false(vine_digest_equal(&a, &c));
        assert_false(vine_digest_equal(&b, &d));
    }
}

/* Cut, lengthen and change an offer: none of it decodes. */
static void test_malformed_offers_are_refused(void **state)
{
    struct handshake_offer o = {.step = HANDSHAKE_HELLO,
                                .version = 1,
                                .service = 1,
                                .self = "n1",
                                .peer = "n2"},
                           out;
    uint8_t buf[HANDSHAKE_OFFER_MAX], *exact;
    size_t len = handshake_encode(&o, buf);

    for (size_t cut = 0; cut <= len + 1; cut++) {
        exact = calloc(1, cut + !cut);
        memcpy(exact, buf, cut < len ? cut : len);
        assert_int_equal(handshake_decode(exact, cut, &out, NULL), cut == len ? 0 : -1);
        free(exact);
    }
    for (size_t at = 4; at < 10; at++) { /* lengths and characters of the names */
        buf[at] ^= 0x80;
        assert_int_equal(handshake_decode(buf, len, &out, NULL), -1);
        buf[at] ^= 0x80;
    }
    buf[0] = 3;
    assert_int_equal(handshake_decode(buf, len, &out, NULL), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keys_differ_by_direction_and_by_every_input),
        cmocka_unit_test(test_malformed_offers_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

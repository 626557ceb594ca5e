/* session_pair.h - moves bytes between two sessions in memory; for tests of sessions.
 */
#ifndef TESTS_SESSION_PAIR_H
#define TESTS_SESSION_PAIR_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/wire/session.h"

/* Move all output of one to the other, in portions; stops at a frame or at death. Each
 * portion is an exact-size heap block, so an overread is seen. */
static inline bool move(struct session *from, struct session *to, size_t portion)
{
    bool moved = false;
    const uint8_t *out;
    size_t len, used;

    while (!session_needs_work(to) && (out = session_output(from, &len)) != NULL) {
        size_t n = len < portion ? len : portion;
        uint8_t *copy = malloc(n);
        int rc;

        memcpy(copy, out, n);
        rc = session_feed(to, copy, n, &used, NULL);
        free(copy);
        session_output_taken(from, used);
        moved |= used > 0;
        if (rc < 0 || used == 0)
            return moved;
    }
    return moved;
}

/* Until nothing moves any more. */
static inline void pump(struct session *a, struct session *b, size_t portion)
{
    bool moved = true;

    while (moved) {
        moved = session_needs_work(a) || session_needs_work(b);
        if (session_needs_work(a))
            (void)session_work(a, NULL);
        if (session_needs_work(b))
            (void)session_work(b, NULL);
        moved |= move(a, b, portion);
        moved |= move(b, a, portion);
    }
}

static inline void assert_dead(const struct session *s, enum vine_code code,
                               const char *words)
{
    const struct vine_err *err = session_error(s);

    if (err->code != code || strstr(err->text, words) == NULL)
        fail_msg("expected %s '%s', got %s '%s'", vine_code_name(code), words,
                 vine_code_name(err->code), err->text);
    assert_false(session_ready(s));
    assert_false(session_needs_work(s));
}

#endif

/* Who holds others up: silence is found before the connection is, and a manager that
 * was itself late believes nobody slow. */
#include "tests/unit/mgr_world.h"

/* n1 has the object; n2 wants it, has the manifest, and is to fetch from n1. */
static struct world *begin_pair(void)
{
    struct world *w = begin_seeded(1, PIECES);

    have(w, 2, 1, 0, 1);
    assert_non_null(sent_last(&w->log, 2, MSG_FETCH));
    return w;
}

/* n2 goes on to talk, n1 does not. */
static void wait_silently(struct world *w, uint32_t steps)
{
    struct msg ping = {.type = MSG_PING};

    for (uint32_t i = 0; i < steps; i++) {
        say(w, 2, &ping);
        wait_ms(w, 50);
    }
}

static void test_what_a_silent_node_owes_is_taken_back(void **state)
{
    struct world *w = begin_pair();

    sent_clear(&w->log);
    wait_silently(w, 20);
    assert_non_null(sent_last(&w->log, 1, MSG_PING));
    assert_non_null(sent_last(&w->log, 2, MSG_REVOKE));
    assert_null(sent_last(&w->log, 2, MSG_FETCH)); /* nor asked for more */
    end(w);
}

static void test_a_silent_node_that_speaks_serves_again(void **state)
{
    struct msg pong = {.type = MSG_PONG};
    struct world *w = begin_pair();

    wait_silently(w, 20);
    sent_clear(&w->log);
    say(w, 1, &pong);
    assert_non_null(sent_last(&w->log, 2, MSG_FETCH));
    end(w);
}

/* Nobody was heard meanwhile, because nobody was listened to. */
static void test_a_manager_that_was_late_finds_nobody_silent(void **state)
{
    struct world *w = begin_pair();

    wait_silently(w, 4);
    sent_clear(&w->log);
    w->now += 900;
    mgr_tick(w->mgr, w->now);
    assert_null(sent_last(&w->log, 2, MSG_REVOKE));
    end(w);
}

/* ---- by manifests ---- */

#define MANY 40u /* enough for trees */
#define LAST (1 + MANY)

/* n1 has the object and all others want it. Whoever is told to fetch the manifest has
 * it `usual` ms later, each `more` than the one before, n41 as many as `late`. */
static struct world *begin_manifests(uint32_t usual, uint32_t more, uint32_t late)
{
    struct world *w = begin_seeded(MANY, PIECES);
    uint64_t told[LAST + 1] = {0};
    bool has[LAST + 1] = {0};

    for (uint32_t got = 0, seen = 0, steps = 0; got < MANY; steps++) {
        assert_true(steps < 400);
        for (; seen < w->log.count; seen++)
            if (w->log.at[seen].m.type == MSG_FETCH)
                told[w->log.at[seen].conn] = w->now;
        wait_ms(w, 1);
        for (uint32_t i = 2; i <= LAST; i++) {
            uint32_t takes = i < LAST ? usual + more * i : late;
            if (told[i] == 0 || has[i] || w->now < told[i] + takes)
                continue;
            has[i] = true;
            got++;
            have(w, i, 1, 0, 1);
        }
    }
    return w;
}

static void test_who_gets_its_manifest_late_is_slow(void **state)
{
    struct world *w = begin_manifests(10, 0, 100);

    assert_int_equal(w->slow, 1);
    end(w);
}

/* Many times the usual, and yet nothing: the manifests of a large crowd queue. */
static void test_few_milliseconds_make_no_manifest_late(void **state)
{
    struct world *w = begin_manifests(2, 0, 25);

    assert_int_equal(w->slow, 0);
    end(w);
}

/* It is twice the mean, as others are nearly. */
static void test_where_all_differ_nobody_is_late(void **state)
{
    struct world *w = begin_manifests(10, 2, 100);

    assert_int_equal(w->slow, 0);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_a_silent_node_owes_is_taken_back),
        cmocka_unit_test(test_a_silent_node_that_speaks_serves_again),
        cmocka_unit_test(test_a_manager_that_was_late_finds_nobody_silent),
        cmocka_unit_test(test_who_gets_its_manifest_late_is_slow),
        cmocka_unit_test(test_few_milliseconds_make_no_manifest_late),
        cmocka_unit_test(test_where_all_differ_nobody_is_late),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The manager's part in lazy starts: what is urgent comes first, what was read is
 * remembered. */
#include "tests/unit/mgr_world.h"

#define MANY 100u

static int tell(struct world *w, uint32_t conn, enum msg_type type, uint32_t first,
                uint32_t count)
{
    struct msg_range range = {first, count};
    struct msg m = {
        .type = type, .digest = digest_no(1), .ranges = &range, .range_count = 1};

    return say(w, conn, &m);
}

/* The next piece that `conn` is told to fetch when it has told of `done`. */
static uint32_t next_piece(struct world *w, uint32_t conn, uint32_t done)
{
    const struct sent *s;

    w->log.count = 0;
    assert_int_equal(have(w, conn, 1, done, 1), 0);
    s = sent_last(&w->log, conn, MSG_FETCH);
    return s == NULL ? UINT32_MAX : s->assigns[0].range.first;
}

static void test_urgent_pieces_come_before_others(void **state)
{
    struct world *w = begin_seeded(1, MANY);
    const struct sent *s;
    uint32_t window;

    assert_int_equal(tell(w, 2, MSG_URGENT, 70, 3), 0);
    assert_int_equal(have(w, 2, 1, 0, 1), 0);
    s = sent_last(&w->log, 2, MSG_FETCH);
    assert_non_null(s);
    assert_int_equal(s->assigns[0].range.first, 70);
    assert_int_equal(s->assigns[0].range.count, 3);
    window = 0;
    for (uint32_t i = 0; i < s->m.assign_count; i++)
        window += s->assigns[i].range.count;
    assert_in_range(window, 4, 6);
    /* One that comes later passes all that is not out yet. */
    assert_int_equal(tell(w, 2, MSG_URGENT, 90, 1), 0);
    assert_int_equal(next_piece(w, 2, 70), 90);
    end(w);
}

static void test_urgent_is_asked_of_nobody_who_is_not_supplied(void **state)
{
    struct world *w = begin_seeded(1, MANY);

    join(w, 3);
    assert_int_equal(tell(w, 3, MSG_URGENT, 5, 1), 0);
    assert_null(sent_last(&w->log, 3, MSG_FETCH));
    end(w);
}

static void test_pieces_that_are_none_are_refused(void **state)
{
    struct world *w = begin_seeded(1, MANY);

    assert_int_equal(tell(w, 2, MSG_URGENT, MANY, 1), -1);
    assert_int_equal(tell(w, 2, MSG_URGENT, MANY - 1, 2), -1);
    assert_int_equal(tell(w, 2, MSG_TOUCHED, MANY, 1), -1);
    end(w);
}

static void test_what_was_read_is_told_to_the_next(void **state)
{
    struct world *w = begin_seeded(1, MANY);
    const struct sent *s;

    assert_null(sent_last(&w->log, 2, MSG_TOUCHED));
    assert_int_equal(tell(w, 1, MSG_TOUCHED, 10, 4), 0);
    assert_int_equal(tell(w, 2, MSG_TOUCHED, 13, 2), 0);
    join(w, 3);
    want(w, 3, JOB, 5);
    s = sent_last(&w->log, 3, MSG_TOUCHED);
    assert_non_null(s);
    assert_int_equal(s->m.range_count, 1);
    assert_int_equal(s->ranges[0].first, 10);
    assert_int_equal(s->ranges[0].count, 5);
    end(w);
}

static void test_an_origin_that_streams_is_told(void **state)
{
    struct world *w = begin(2);
    struct msg_range range = {3, 1};
    struct msg m = {
        .type = MSG_URGENT, .digest = digest_no(1), .ranges = &range, .range_count = 1};

    want(w, 1, JOB, 5);
    want(w, 2, JOB, 5);
    resolved_packed(w, 1, ticket_of(w, 1), 3, 1);
    w->log.count = 0;
    assert_int_equal(say(w, 2, &m), 0);
    assert_non_null(sent_last(&w->log, 1, MSG_URGENT));
    /* What it waits for itself it knows. */
    w->log.count = 0;
    assert_int_equal(say(w, 1, &m), 0);
    assert_null(sent_last(&w->log, 1, MSG_URGENT));
    end(w);
}

static int hold(struct world *w, uint32_t conn, bool held)
{
    struct msg m = {.type = MSG_HOLD, .digest = digest_no(1), .hold = held};

    return say(w, conn, &m);
}

static uint32_t pieces_sent(struct world *w, uint32_t conn)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_FETCH);
    uint32_t count = 0;

    for (uint32_t i = 0; s != NULL && i < s->m.assign_count; i++)
        count += s->assigns[i].range.count;
    return count;
}

static void test_who_holds_gets_what_is_urgent_and_no_more(void **state)
{
    struct world *w = begin_seeded(1, MANY);

    assert_int_equal(hold(w, 2, true), 0);
    w->log.count = 0;
    assert_int_equal(have(w, 2, 1, 0, 1), 0);
    assert_int_equal(pieces_sent(w, 2), 0);
    assert_int_equal(tell(w, 2, MSG_URGENT, 70, 2), 0);
    assert_int_equal(pieces_sent(w, 2), 2);
    w->log.count = 0;
    assert_int_equal(have(w, 2, 1, 70, 2), 0);
    wait_ms(w, 2000);
    assert_int_equal(pieces_sent(w, 2), 0);
    assert_int_equal(hold(w, 2, false), 0);
    assert_true(pieces_sent(w, 2) > 2);
    end(w);
}

/* What its own store has is not fetched: it tells when it has looked. */
static void test_who_holds_and_reuses_gets_nothing(void **state)
{
    struct world *w = begin_seeded(1, MANY);
    struct msg_range manifest = {0, 1};
    struct msg m = {.type = MSG_HAVE,
                    .digest = digest_no(1),
                    .ranges = &manifest,
                    .range_count = 1,
                    .reusing = true};

    assert_int_equal(hold(w, 2, true), 0);
    assert_int_equal(tell(w, 2, MSG_URGENT, 70, 2), 0);
    w->log.count = 0;
    assert_int_equal(say(w, 2, &m), 0);
    assert_int_equal(pieces_sent(w, 2), 0);
    m.reusing = false;
    assert_int_equal(say(w, 2, &m), 0);
    assert_int_equal(pieces_sent(w, 2), 2);
    end(w);
}

static void test_what_one_needs_the_others_get_too(void **state)
{
    struct world *w = begin_seeded(1, MANY);

    join(w, 3);
    want(w, 3, JOB, 5);
    assert_int_equal(hold(w, 2, true), 0);
    assert_int_equal(hold(w, 3, true), 0);
    assert_int_equal(have(w, 2, 1, 0, 1), 0);
    assert_int_equal(have(w, 3, 1, 0, 1), 0);
    w->log.count = 0;
    assert_int_equal(tell(w, 2, MSG_AWAITED, 40, 1), 0);
    assert_int_equal(sent_last(&w->log, 2, MSG_FETCH)->assigns[0].range.first, 40);
    assert_int_equal(sent_last(&w->log, 3, MSG_FETCH)->assigns[0].range.first, 40);
    end(w);
}

static uint32_t first_piece(struct world *w, uint32_t conn)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_FETCH);

    return s == NULL ? UINT32_MAX : s->assigns[0].range.first;
}

/* What is urgent fills the window but for what tasks wait for. */
static void test_awaited_pieces_pass_urgent_ones(void **state)
{
    struct world *w = begin_seeded(1, MANY);

    assert_int_equal(hold(w, 2, true), 0);
    assert_int_equal(tell(w, 2, MSG_URGENT, 10, 30), 0);
    assert_int_equal(have(w, 2, 1, 0, 1), 0);
    w->log.count = 0;
    assert_int_equal(tell(w, 2, MSG_AWAITED, 90, 1), 0);
    assert_int_equal(first_piece(w, 2), 90);
    w->log.count = 0;
    assert_int_equal(tell(w, 2, MSG_URGENT, 80, 1), 0);
    assert_null(sent_last(&w->log, 2, MSG_FETCH));
    end(w);
}

/* Whoever has read it first is followed, in its order. */
static void test_what_is_read_on_one_node_comes_to_the_others(void **state)
{
    struct world *w = begin_seeded(1, MANY);

    assert_int_equal(hold(w, 2, true), 0);
    assert_int_equal(have(w, 2, 1, 0, 1), 0);
    w->log.count = 0;
    assert_int_equal(tell(w, 1, MSG_TOUCHED, 60, 1), 0);
    assert_int_equal(first_piece(w, 2), 60);
    assert_int_equal(tell(w, 1, MSG_TOUCHED, 50, 1), 0);
    assert_int_equal(tell(w, 1, MSG_TOUCHED, 40, 1), 0);
    assert_int_equal(tell(w, 1, MSG_TOUCHED, 30, 9), 0);
    assert_int_equal(first_piece(w, 2), 30);
    assert_int_equal(next_piece(w, 2, 60), 31);
    end(w);
}

/* Those that have it next send it on: sooner than one that sends it to all. */
static void test_what_many_wait_for_spreads_from_those_that_have_it(void **state)
{
    struct world *w = begin_seeded(1, MANY);
    uint32_t sent = 0, one = 0;

    for (uint32_t conn = 3; conn <= 6; conn++) {
        join(w, conn);
        want(w, conn, JOB, 5);
    }
    for (uint32_t conn = 2; conn <= 6; conn++) {
        assert_int_equal(hold(w, conn, true), 0);
        assert_int_equal(have(w, conn, 1, 0, 1), 0);
    }
    w->log.count = 0;
    for (uint32_t conn = 2; conn <= 6; conn++)
        assert_int_equal(tell(w, conn, MSG_AWAITED, 40, 1), 0);
    for (uint32_t conn = 2; conn <= 6; conn++)
        if (first_piece(w, conn) == 40) {
            one = conn;
            sent++;
        }
    assert_int_equal(sent, 2);
    assert_int_equal(have(w, one, 1, 40, 1), 0);
    for (uint32_t conn = 2; conn <= 6; conn++)
        assert_int_equal(first_piece(w, conn), 40);
    end(w);
}

/* Whoever gets it now may be slow, or gone: then it is asked for without them. */
static void test_nobody_waits_long_for_others_to_have_it(void **state)
{
    struct world *w = begin_seeded(1, MANY);

    for (uint32_t conn = 2; conn <= 6; conn++) {
        if (conn > 2) {
            join(w, conn);
            want(w, conn, JOB, 5);
        }
        assert_int_equal(hold(w, conn, true), 0);
        assert_int_equal(have(w, conn, 1, 0, 1), 0);
        assert_int_equal(tell(w, conn, MSG_AWAITED, 40, 1), 0);
    }
    wait_ms(w, 500);
    for (uint32_t conn = 2; conn <= 6; conn++)
        assert_int_equal(first_piece(w, conn), 40);
    end(w);
}

static void test_an_origin_is_told_when_all_hold(void **state)
{
    struct world *w = begin(3);
    const struct sent *s;

    for (uint32_t conn = 1; conn <= 3; conn++)
        want(w, conn, JOB, 5);
    resolved_packed(w, 1, ticket_of(w, 1), 3, 1);
    assert_int_equal(hold(w, 1, true), 0);
    assert_int_equal(hold(w, 2, true), 0);
    /* n3 has not said what it wants. */
    s = sent_last(&w->log, 1, MSG_HOLD);
    assert_true(s != NULL && s->m.hold);
    assert_int_equal(have(w, 1, 1, 0, 1), 0);
    assert_int_equal(have(w, 3, 1, 0, 1), 0);
    assert_false(sent_last(&w->log, 1, MSG_HOLD)->m.hold);
    release(w, 3, JOB);
    wait_ms(w, 1000);
    assert_true(sent_last(&w->log, 1, MSG_HOLD)->m.hold);
    assert_null(sent_last(&w->log, 2, MSG_HOLD));
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_urgent_pieces_come_before_others),
        cmocka_unit_test(test_urgent_is_asked_of_nobody_who_is_not_supplied),
        cmocka_unit_test(test_pieces_that_are_none_are_refused),
        cmocka_unit_test(test_what_was_read_is_told_to_the_next),
        cmocka_unit_test(test_an_origin_that_streams_is_told),
        cmocka_unit_test(test_who_holds_gets_what_is_urgent_and_no_more),
        cmocka_unit_test(test_who_holds_and_reuses_gets_nothing),
        cmocka_unit_test(test_what_one_needs_the_others_get_too),
        cmocka_unit_test(test_awaited_pieces_pass_urgent_ones),
        cmocka_unit_test(test_what_is_read_on_one_node_comes_to_the_others),
        cmocka_unit_test(test_what_many_wait_for_spreads_from_those_that_have_it),
        cmocka_unit_test(test_nobody_waits_long_for_others_to_have_it),
        cmocka_unit_test(test_an_origin_is_told_when_all_hold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* Feeds: told together, served as they arrive. */
#include "tests/unit/node_world.h"

#define LONG 40u

/* The node wants object 1 of LONG pieces and has its manifest. */
static struct world *begin_long(void)
{
    struct msg m = {.type = MSG_BINDING,
                    .job = JOB,
                    .uid = UID,
                    .path = "/shared/ml",
                    .digest = digest_no(1),
                    .size = LONG * 1000,
                    .pieces = LONG};
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    assert_int_equal(tell(w, &m), 0);
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    sent_clear(&w->log);
    return w;
}

static void test_a_feed_is_told_when_it_is_done(void **state)
{
    struct world *w = begin_long();
    uint64_t t = feed(w, 1, 1, 16, "n2");

    for (uint32_t p = 1; p < 16; p++)
        node_piece_done(w->node, t, p, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), 0);
    node_piece_done(w->node, t, 16, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), 1);
    const struct sent *s = sent_last(&w->log, 0, MSG_HAVE);
    assert_int_equal(s->m.range_count, 1);
    assert_int_equal(s->ranges[0].first, 1);
    assert_int_equal(s->ranges[0].count, 16);
    end(w);
}

static void test_what_is_no_feed_is_told_at_once(void **state)
{
    struct world *w = begin_long();
    uint64_t t = fetch(w, 1, 1, 16, "n2");

    node_piece_done(w->node, t, 1, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), 1);
    end(w);
}

static void test_a_piece_does_not_wait_for_ever_to_be_told(void **state)
{
    struct world *w = begin_long();
    uint64_t t = feed(w, 1, 1, 16, "n2");

    node_piece_done(w->node, t, 1, w->now);
    assert_true(node_next_deadline(w->node) <= w->now + 1000);
    wait_ms(w, 1000);
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), 1);
    end(w);
}

static void test_nothing_overtakes_what_is_here(void **state)
{
    struct vine_err err = {0};
    struct world *w = begin_long();
    uint64_t t = feed(w, 1, 1, 16, "n2");

    node_piece_done(w->node, t, 1, w->now);
    vine_err_set(&err, VINE_EDOWN, "gone");
    node_transfer_failed(w->node, t, &err, w->now);
    assert_int_equal(w->log.count, 2);
    assert_int_equal(w->log.at[0].m.type, MSG_HAVE);
    assert_int_equal(w->log.at[1].m.type, MSG_FAILED);
    end(w);
}

static void test_a_request_may_wait_for_what_is_wanted(void **state)
{
    struct world *w = begin_long();
    struct vine_digest digest = digest_no(1), unknown = digest_no(2);
    struct msg_range range = {5, 3}, past = {LONG - 1, 2};

    assert_true(node_may_wait(w->node, &digest, range));
    assert_false(node_may_serve(w->node, &digest, range));
    assert_false(node_may_wait(w->node, &digest, past));
    assert_false(node_may_wait(w->node, &unknown, range));
    node_job_end(w->node, JOB, w->now); /* nobody here wants it now */
    assert_false(node_may_wait(w->node, &digest, range));
    end(w);
}

static void test_a_revoked_run_ends_though_it_has_begun(void **state)
{
    struct msg_range rest = {2, 15};
    struct msg m = {
        .type = MSG_REVOKE, .digest = digest_no(1), .ranges = &rest, .range_count = 1};
    struct world *w = begin_long();
    uint64_t t = feed(w, 1, 1, 16, "n2");

    node_piece_done(w->node, t, 1, w->now);
    rest.count = 14;
    assert_int_equal(tell(w, &m), 0);
    assert_int_equal(w->did[OP_CANCEL].count, 0); /* piece 16 is still to come */
    rest.count = 15;
    assert_int_equal(tell(w, &m), 0);
    assert_int_equal(w->did[OP_CANCEL].id, t);
    end(w);
}

static void test_feeds_that_end_together_are_told_together(void **state)
{
    struct world *w = begin_long();
    uint64_t one = feed(w, 1, 1, 16, "n2"), two = feed(w, 1, 17, 16, "n3");

    w->now += 160;
    for (uint32_t p = 1; p <= 16; p++)
        node_piece_done(w->node, one, p, w->now);
    w->now += 10;
    for (uint32_t p = 17; p <= 32; p++)
        node_piece_done(w->node, two, p, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), 0);
    wait_ms(w, 10); /* an eighth of what the first one took has passed */
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), 1);
    const struct sent *s = sent_last(&w->log, 0, MSG_HAVE);
    assert_int_equal(s->m.range_count, 1);
    assert_int_equal(s->ranges[0].count, 32);
    end(w);
}

static void test_a_fetch_says_how_often_to_report(void **state)
{
    struct msg seldom = {
        .type = MSG_FETCH, .digest = digest_no(1), .heartbeat_ms = 3000};
    struct world *w = begin_long();
    uint64_t t = feed(w, 1, 1, 16, "n2");

    assert_int_equal(tell(w, &seldom), 0);
    node_piece_done(w->node, t, 1, w->now);
    wait_ms(w, 2900);
    assert_int_equal(w->log.count, 0);
    wait_ms(w, 100);
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_PING), 0);
    end(w);
}

static void test_what_is_here_is_told_instead_of_a_ping(void **state)
{
    struct world *w = begin_long();
    uint64_t t = feed(w, 1, 1, 16, "n2");

    wait_ms(w, 900);
    assert_int_equal(w->log.count, 0);
    node_piece_done(w->node, t, 1, w->now);
    wait_ms(w, 1000);
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_PING), 0);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_feed_is_told_when_it_is_done),
        cmocka_unit_test(test_what_is_no_feed_is_told_at_once),
        cmocka_unit_test(test_a_piece_does_not_wait_for_ever_to_be_told),
        cmocka_unit_test(test_nothing_overtakes_what_is_here),
        cmocka_unit_test(test_a_request_may_wait_for_what_is_wanted),
        cmocka_unit_test(test_a_revoked_run_ends_though_it_has_begun),
        cmocka_unit_test(test_feeds_that_end_together_are_told_together),
        cmocka_unit_test(test_a_fetch_says_how_often_to_report),
        cmocka_unit_test(test_what_is_here_is_told_instead_of_a_ping),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

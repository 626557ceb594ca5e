/* The manager's planner: order, bounds, failures, blame. Schedules as a whole are the
 * simulator's. */
#include "tests/unit/mgr_world.h"

static int failed(struct world *w, uint32_t conn, uint32_t piece, const char *peer,
                  enum vine_code code)
{
    struct msg_range range = {piece, 1};
    struct msg m = {.type = MSG_FAILED,
                    .digest = digest_no(1),
                    .ranges = &range,
                    .range_count = 1,
                    .peer = peer,
                    .code = code};

    return say(w, conn, &m);
}

/* Pieces assigned to a connection in all messages so far. */
static uint32_t assigned(struct world *w, uint32_t conn)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < w->log.count; i++) {
        const struct sent *s = &w->log.at[i];
        for (uint32_t a = 0;
             s->m.type == MSG_FETCH && s->conn == conn && a < s->m.assign_count; a++)
            count += s->assigns[a].range.count;
    }
    return count;
}

static const struct sent *last_fetch(struct world *w, uint32_t conn)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_FETCH);

    assert_non_null(s);
    return s;
}

struct slots {
    uint32_t sending, receiving; /* the most of any node */
};

static void look_at_slots(void *arg, const struct mgr_node_info *n)
{
    struct slots *s = arg;

    s->sending = n->sending > s->sending ? n->sending : s->sending;
    s->receiving = n->receiving > s->receiving ? n->receiving : s->receiving;
}

static struct slots slots(struct world *w)
{
    struct slots s = {0};

    mgr_each_node(w->mgr, look_at_slots, &s);
    return s;
}

static void test_piece_0_comes_first_and_alone(void **state)
{
    struct world *w = begin_seeded(1, 50);

    assert_int_equal(assigned(w, 2), 1);
    assert_int_equal(last_fetch(w, 2)->assigns[0].range.first, 0);
    assert_string_equal(last_fetch(w, 2)->assign_peer[0], "n1");
    assert_int_equal(last_fetch(w, 2)->assigns[0].port, 7111);
    have(w, 2, 1, 0, 1);
    assert_int_equal(assigned(w, 2), 1 + 6); /* the window is full */
    end(w);
}

static void test_who_reuses_is_sent_no_data(void **state)
{
    struct world *w = begin_seeded(1, 50);
    struct msg_range ranges[] = {{0, 1}, {10, 30}};
    struct msg m = {.type = MSG_HAVE,
                    .digest = digest_no(1),
                    .ranges = ranges,
                    .range_count = 1,
                    .reusing = true};

    say(w, 2, &m);
    assert_int_equal(assigned(w, 2), 1); /* piece 0, before */
    m.reusing = false;
    m.range_count = 2;
    say(w, 2, &m);
    assert_int_equal(assigned(w, 2), 1 + 6);
    for (uint32_t i = 0; i < last_fetch(w, 2)->m.assign_count; i++)
        assert_true(last_fetch(w, 2)->assigns[i].range.first < 10 ||
                    last_fetch(w, 2)->assigns[i].range.first >= 40);
    end(w);
}

static void test_slots_are_bounded(void **state)
{
    struct world *w = begin_seeded(20, 200);
    struct slots s;

    for (uint32_t i = 2; i < 22; i++)
        (void)have(w, i, 1, 0, 1);
    s = slots(w);
    assert_int_equal(s.sending, 6);
    assert_true(s.receiving <= 6);
    for (uint32_t i = 2; i < 22; i++)
        (void)have(w, i, 1, 1 + i, 3);
    s = slots(w);
    assert_true(s.sending <= 6 && s.receiving <= 6);
    end(w);
}

static void test_only_what_is_verified_is_assigned(void **state)
{
    struct world *w = begin_seeded(2, 3);

    have(w, 2, 1, 0, 1);
    have(w, 3, 1, 0, 1);
    have(w, 2, 1, 1, 1); /* cut-through: n3 may have it from n2 now, n1 has all */
    for (uint32_t i = 0; i < w->log.count; i++) {
        const struct sent *s = &w->log.at[i];
        for (uint32_t a = 0; s->m.type == MSG_FETCH && a < s->m.assign_count; a++)
            if (strcmp(s->assign_peer[a], "n2") == 0)
                assert_true(s->assigns[a].range.first + s->assigns[a].range.count <= 2);
    }
    end(w);
}

static void test_a_dead_sender_is_replaced(void **state)
{
    struct world *w = begin_seeded(2, 3);

    have(w, 2, 1, 0, 3); /* n2 is whole: a second seed */
    have(w, 3, 1, 0, 1);
    const struct sent *s = last_fetch(w, 3);
    uint32_t sender = (uint32_t)atoi(s->assign_peer[0] + 1);
    sent_clear(&w->log);
    mgr_disconnected(w->mgr, sender, w->now);
    assert_non_null(sent_last(&w->log, 3, MSG_REVOKE));
    s = last_fetch(w, 3);
    assert_int_equal(atoi(s->assign_peer[0] + 1), 3 - sender);
    end(w);
}

static void test_an_evicted_source_sends_no_more(void **state)
{
    struct msg evicted = {.type = MSG_EVICTED, .digest = digest_no(1)};
    struct world *w = begin_seeded(1, 3);

    sent_clear(&w->log);
    say(w, 1, &evicted);
    assert_non_null(sent_last(&w->log, 2, MSG_REVOKE));
    assert_null(sent_last(&w->log, 2, MSG_FETCH));
    wait_ms(w, 4000); /* nobody has it: read it again */
    assert_non_null(sent_last(&w->log, 2, MSG_RESOLVE));
    end(w);
}

static void test_a_failure_is_tried_again_with_growing_pauses(void **state)
{
    struct world *w = begin_seeded(1, 3);
    uint64_t start = w->now;

    for (uint32_t i = 0; i < 5; i++) {
        uint32_t before = assigned(w, 2);
        failed(w, 2, 0, "n1", VINE_EDOWN);
        assert_int_equal(assigned(w, 2), before); /* not at once */
        for (int k = 0; k < 100 && assigned(w, 2) == before; k++)
            wait_ms(w, 250);
        assert_int_equal(assigned(w, 2), before + 1);
        say(w, 1, &(struct msg){.type = MSG_PING});
        say(w, 2, &(struct msg){.type = MSG_PING});
    }
    assert_true(w->now - start >= 100 + 200 + 400 + 800 + 1600);
    end(w);
}

static void test_what_was_taken_back_may_still_fail(void **state)
{
    struct world *w = begin_seeded(1, 3);

    assert_int_equal(failed(w, 2, 0, "n9", VINE_EDOWN), 0); /* not from there */
    assert_int_equal(failed(w, 2, 1, "n1", VINE_EDOWN), 0);
    assert_int_equal(slots(w).receiving, 1);
    assert_int_equal(failed(w, 2, 0, "", VINE_EDOWN), 0); /* whoever it was */
    assert_int_equal(slots(w).receiving, 0);
    release(w, 2, JOB);
    assert_int_equal(failed(w, 2, 0, "n1", VINE_EDOWN), 0);
    end(w);
}

static void test_two_accusers_convict_a_liar(void **state)
{
    struct world *w = begin_seeded(3, 3);

    have(w, 4, 1, 0, 3); /* an honest seed */
    failed(w, 2, 0, "n1", VINE_ECORRUPT);
    failed(w, 3, 0, "n1", VINE_ECORRUPT);
    sent_clear(&w->log);
    join(w, 5);
    want(w, 5, JOB, 5);
    wait_ms(w, 300);
    assert_string_equal(last_fetch(w, 5)->assign_peer[0], "n4");
    end(w);
}

static void test_one_liar_alone_makes_the_source_be_read_again(void **state)
{
    struct world *w = begin_seeded(1, 3);

    failed(w, 2, 0, "n1", VINE_ECORRUPT);
    for (int i = 0; i < 12; i++) {
        wait_ms(w, 250);
        say(w, 2, &(struct msg){.type = MSG_PING});
    }
    assert_int_equal(sent_count(&w->log, 2, MSG_RESOLVE), 2);
    end(w);
}

/* What a task of the same job has put has the same bytes, but is nothing to read. */
static void test_the_source_that_can_be_read_is_read_again(void **state)
{
    static const char named[] = "data:vine:f#000000000000000000000001";
    struct msg m = {
        .type = MSG_WANT, .job = JOB, .uid = 5, .gid = 5, .path = (char *)named};
    struct world *w = begin(0);

    join_with_it(w, 1, 3000, 3);
    join(w, 2);
    say(w, 2, &m);
    resolved(w, 2, ticket_of(w, 2), 3);
    want(w, 2, JOB, 5);
    resolved(w, 2, ticket_of(w, 2), 3);
    failed(w, 2, 0, "n1", VINE_ECORRUPT);
    sent_clear(&w->log);
    for (int i = 0; i < 12; i++) {
        wait_ms(w, 250);
        say(w, 2, &(struct msg){.type = MSG_PING});
    }
    assert_int_equal(sent_count(&w->log, 2, MSG_RESOLVE), 1);
    assert_string_equal(sent_last(&w->log, 2, MSG_RESOLVE)->path, "/shared/ml");
    end(w);
}

static void test_who_accuses_everybody_is_told_so(void **state)
{
    struct world *w = begin_seeded(5, 3);

    for (uint32_t i = 2; i <= 5; i++)
        have(w, i, 1, 0, 3);
    for (int i = 0; i < 3; i++) {
        const struct sent *s = last_fetch(w, 6);
        char peer[16];
        strcpy(peer, s->assign_peer[0]);
        failed(w, 6, s->assigns[0].range.first, peer, VINE_ECORRUPT);
    }
    assert_binding(w, 6, VINE_ECORRUPT, 0);
    assert_int_equal(slots(w).receiving, 0);
    end(w);
}

static void test_the_endgame_asks_somebody_else(void **state)
{
    struct world *w = begin_seeded(2, 3);

    have(w, 2, 1, 0, 3);
    have(w, 3, 1, 0, 1);
    uint32_t before = assigned(w, 3);
    for (int i = 0; i < 10; i++) {
        for (uint32_t c = 1; c <= 3; c++)
            say(w, c, &(struct msg){.type = MSG_PING});
        wait_ms(w, 300);
    }
    assert_true(assigned(w, 3) > before);
    assert_true(assigned(w, 3) <= before + 2); /* each piece twice at most */
    have(w, 3, 1, 1, 2);
    assert_int_equal(slots(w).sending, 0);
    end(w);
}

static void test_a_silent_seed_is_asked_whether_it_lives(void **state)
{
    struct world *w = begin_seeded(2, 3);

    have(w, 2, 1, 0, 3);
    have(w, 3, 1, 0, 1);
    for (int i = 0; i < 30 && w->drops == 0; i++) {
        say(w, 2, &(struct msg){.type = MSG_PING});
        say(w, 3, &(struct msg){.type = MSG_PING});
        wait_ms(w, 300);
    }
    assert_int_equal(sent_count(&w->log, 1, MSG_PING), 1);
    assert_int_equal(w->drops, 1); /* n1, long before an idle node would be */
    end(w);
}

static void test_a_node_that_refuses_gets_nothing(void **state)
{
    struct msg_range all = {0, 3};
    struct msg refused = {.type = MSG_FAILED,
                          .digest = digest_no(1),
                          .ranges = &all,
                          .range_count = 1,
                          .peer = "",
                          .code = VINE_ENOSPC};
    struct world *w = begin_seeded(1, 3);

    say(w, 2, &refused);
    assert_int_equal(slots(w).receiving, 0);
    sent_clear(&w->log);
    wait_ms(w, 1000);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 0);
    want(w, 2, JOB, 5); /* the next step asks again */
    assert_binding(w, 2, VINE_OK, 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 1);
    end(w);
}

static void test_an_eviction_that_crossed_a_binding(void **state)
{
    struct msg evicted = {.type = MSG_EVICTED, .digest = digest_no(1)};
    struct world *w = begin_seeded(1, 3);

    have(w, 2, 1, 0, 3);
    release(w, 2, JOB);
    want(w, 2, JOB + 1, 5);
    resolved(w, 2, ticket_of(w, 2), 3); /* bound: it is whole there, for all we know */
    sent_clear(&w->log);
    say(w, 2, &evicted);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 1);
    end(w);
}

static void test_a_release_frees_the_slots(void **state)
{
    struct world *w = begin_seeded(3, 100);

    for (uint32_t i = 2; i <= 4; i++)
        have(w, i, 1, 0, 1);
    assert_true(slots(w).sending > 0);
    for (uint32_t i = 2; i <= 4; i++)
        release(w, i, JOB);
    assert_int_equal(slots(w).sending, 0);
    assert_int_equal(slots(w).receiving, 0);
    end(w);
}

/* Stopped and continued: what the nodes said meanwhile is not read yet. */
static void test_a_manager_that_stood_still_drops_nobody(void **state)
{
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    w->now += 60000;
    mgr_tick(w->mgr, w->now);
    assert_int_equal(w->drops, 0);
    wait_ms(w, 5250);
    assert_int_equal(w->drops, 1);
    end(w);
}

/* What was said during a short pause is not read yet either: the next tick judges. */
static void test_a_late_tick_leaves_it_to_the_next(void **state)
{
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    wait_ms(w, 4900);
    assert_int_equal(w->drops, 0);
    w->now += 600;
    mgr_tick(w->mgr, w->now);
    assert_int_equal(w->drops, 0);
    say(w, 1, &(struct msg){.type = MSG_PING});
    wait_ms(w, 4500);
    assert_int_equal(w->drops, 0);
    w->now += 600;
    mgr_tick(w->mgr, w->now);
    assert_int_equal(w->drops, 0);
    wait_ms(w, 250);
    assert_int_equal(w->drops, 1);
    end(w);
}

static void test_a_manager_that_is_always_late_judges_all_the_same(void **state)
{
    struct world *w = begin(2);
    uint32_t ticks = 0;

    want(w, 1, JOB, 5);
    for (uint64_t start = w->now; w->drops == 0; ticks++) {
        assert_true(w->now < start + 5000 + 8 * (250 + 100));
        w->now = mgr_next_deadline(w->mgr) + 100;
        mgr_tick(w->mgr, w->now);
    }
    assert_true(ticks > 8);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_piece_0_comes_first_and_alone),
        cmocka_unit_test(test_who_reuses_is_sent_no_data),
        cmocka_unit_test(test_slots_are_bounded),
        cmocka_unit_test(test_only_what_is_verified_is_assigned),
        cmocka_unit_test(test_a_dead_sender_is_replaced),
        cmocka_unit_test(test_an_evicted_source_sends_no_more),
        cmocka_unit_test(test_a_failure_is_tried_again_with_growing_pauses),
        cmocka_unit_test(test_what_was_taken_back_may_still_fail),
        cmocka_unit_test(test_two_accusers_convict_a_liar),
        cmocka_unit_test(test_one_liar_alone_makes_the_source_be_read_again),
        cmocka_unit_test(test_the_source_that_can_be_read_is_read_again),
        cmocka_unit_test(test_who_accuses_everybody_is_told_so),
        cmocka_unit_test(test_the_endgame_asks_somebody_else),
        cmocka_unit_test(test_a_silent_seed_is_asked_whether_it_lives),
        cmocka_unit_test(test_a_node_that_refuses_gets_nothing),
        cmocka_unit_test(test_an_eviction_that_crossed_a_binding),
        cmocka_unit_test(test_a_release_frees_the_slots),
        cmocka_unit_test(test_a_manager_that_stood_still_drops_nobody),
        cmocka_unit_test(test_a_late_tick_leaves_it_to_the_next),
        cmocka_unit_test(test_a_manager_that_is_always_late_judges_all_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

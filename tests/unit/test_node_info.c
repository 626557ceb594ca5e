/* The node's core: what people are told while they wait, and at the end. */
#include "tests/unit/node_world.h"

static void test_a_warm_start_is_called_cached(void **state)
{
    struct world *w = begin();

    make_complete(w, JOB, 1);
    assert_false(w->did[OP_REPLY].cached); /* it was fetched for this job */
    assert_true(w->did[OP_REPLY].first);
    w->now += 5;
    stage(w, 1, JOB + 1, UID);
    bind(w, JOB + 1, 1);
    assert_int_equal(w->did[OP_REPLY].id, 1);
    assert_true(w->did[OP_REPLY].cached);
    assert_true(w->did[OP_REPLY].first);
    stage(w, 2, JOB + 1, UID); /* the job's next step */
    assert_int_equal(w->did[OP_REPLY].id, 2);
    assert_true(w->did[OP_REPLY].cached);
    assert_false(w->did[OP_REPLY].first);
    end(w);
}

/* A job that goes on over a restart of the daemon heard it from the one before. */
static void test_a_restored_job_was_told(void **state)
{
    struct world *w = begin_with(UINT64_MAX);
    bool have[PIECES] = {true, true, true, true};
    struct msg_object object = {.digest = digest_no(1),
                                .size = SIZE,
                                .pieces = PIECES,
                                .complete = true,
                                .trusted = true};
    struct msg_binding binding = {
        .job = JOB, .uid = UID, .path = "/shared/ml", .digest = digest_no(1)};

    assert_int_equal(node_restore_object(w->node, &object, have, 1, NULL), 0);
    assert_int_equal(node_restore_binding(w->node, &binding, UID, NULL), 0);
    manager_up(w);
    stage(w, 1, JOB, UID);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].id, 1);
    assert_false(w->did[OP_REPLY].first);
    end(w);
}

static void tell_build(struct world *w, uint64_t bytes, uint64_t size)
{
    node_source_building(w->node, w->did[OP_BUILD].id, bytes, size, w->now);
}

static void test_a_build_tells_how_far_it_is(void **state)
{
    struct node_resolved r = {.key = digest_no(3), .estimate = 5000};
    struct msg m = {.type = MSG_RESOLVE,
                    .ticket = 9,
                    .job = JOB,
                    .uid = UID,
                    .gid = UID,
                    .path = "/shared/ml"};
    struct world *w = begin();
    struct node_progress p;

    stage(w, 1, JOB, UID);
    assert_int_equal(tell(w, &m), 0);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    tell_build(w, 1, 2); /* it has not begun */
    assert_int_equal(tell(w, &(struct msg){.type = MSG_BUILD, .ticket = 9}), 0);
    tell_build(w, 30, 100);
    assert_int_equal(sent_last(&w->log, 0, MSG_BUILDING)->m.ticket, 9);
    assert_int_equal(sent_last(&w->log, 0, MSG_BUILDING)->m.offset, 30);
    assert_int_equal(node_progress(w->node, 1, &p), 0);
    assert_string_equal(p.phase, "building");
    assert_int_equal(p.bytes_done, 30);
    assert_int_equal(p.bytes_total, 100);
    tell_build(w, 60, 100); /* at once: of interest here only */
    assert_int_equal(sent_count(&w->log, 0, MSG_BUILDING), 1);
    w->now += 1000;
    tell_build(w, 200, 100);
    assert_int_equal(sent_count(&w->log, 0, MSG_BUILDING), 2);
    assert_int_equal(sent_last(&w->log, 0, MSG_BUILDING)->m.offset, 100);
    w->now += 1000;
    tell_build(w, 1, VINE_OBJECT_MAX + 1); /* no such message */
    assert_int_equal(sent_count(&w->log, 0, MSG_BUILDING), 2);
    manager_down(w);
    w->now += 1000;
    tell_build(w, 2, 100); /* it goes on without one */
    assert_int_equal(sent_count(&w->log, 0, MSG_BUILDING), 2);
    node_source_building(w->node, 12345, 1, 2, w->now);
    end(w);
}

static void test_who_waits_may_ask_for_the_others(void **state)
{
    struct world *w = begin();
    const struct msg *asked;
    struct msg answer = {.type = MSG_STATUS, .text = "{}"};

    stage(w, 1, JOB, UID);
    assert_int_equal(node_ask_status(w->node, 1, JOB, UID, true, w->now, NULL), 0);
    asked = &sent_last(&w->log, 0, MSG_ASK_STATUS)->m;
    assert_true(asked->brief);
    assert_int_equal(asked->job, JOB);
    assert_int_equal(asked->uid, UID);
    answer.ticket = asked->ticket;
    tell(w, &answer);
    assert_int_equal(w->did[OP_ANSWER].count, 1);
    assert_int_equal(w->did[OP_ANSWER].id, 1);
    /* The next answer comes after the reply: nobody waits for it. */
    assert_int_equal(node_ask_status(w->node, 1, JOB, UID, true, w->now, NULL), 0);
    answer.ticket = sent_last(&w->log, 0, MSG_ASK_STATUS)->m.ticket;
    bind(w, JOB, 1);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    tell(w, &answer);
    assert_int_equal(w->did[OP_ANSWER].count, 1);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_warm_start_is_called_cached),
        cmocka_unit_test(test_a_restored_job_was_told),
        cmocka_unit_test(test_a_build_tells_how_far_it_is),
        cmocka_unit_test(test_who_waits_may_ask_for_the_others),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

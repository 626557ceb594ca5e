/* The node's core: what older objects have is taken before data is fetched. */
#include "tests/unit/node_world.h"

/* A node that reuses, its job bound to object 1, piece 0 there. */
static struct world *begin_reusing(void)
{
    struct world *w = begin_ops(UINT64_MAX, true);

    manager_up(w);
    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    assert_int_equal(w->did[OP_REUSE].count, 0);
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    return w;
}

/* Piece 1 whole, of piece 2 all but 100 bytes, of piece 3 nothing. */
static void reused(struct world *w)
{
    static const bool have[PIECES] = {false, true, false, false};
    static const uint32_t missing[PIECES] = {0, 0, 100, 1000};
    struct node_reused r = {.have = have, .missing = missing, .bytes = 1900};
    struct vine_digest d = digest_no(1);

    node_reused(w->node, &d, &r, w->now);
}

static const struct sent *last_have(struct world *w)
{
    const struct sent *s = sent_last(&w->log, 0, MSG_HAVE);

    assert_non_null(s);
    return s;
}

static void first_object(void *arg, const struct node_object_info *o)
{
    *(struct node_object_info *)arg = *o;
}

static struct node_object_info object(struct world *w)
{
    struct node_object_info o = {0};

    node_each_object(w->node, first_object, &o);
    return o;
}

static void test_the_manager_waits_until_it_is_over(void **state)
{
    struct world *w = begin_reusing();
    struct vine_digest d = digest_no(1);

    assert_int_equal(w->did[OP_REUSE].count, 1);
    assert_false(w->did[OP_REUSE].proved);
    assert_true(last_have(w)->m.reusing);
    assert_true(node_may_serve(w->node, &d, (struct msg_range){0, 1}));
    assert_false(node_may_serve(w->node, &d, (struct msg_range){1, 1}));
    reused(w);
    assert_false(last_have(w)->m.reusing);
    assert_int_equal(last_have(w)->ranges[0].first, 0);
    assert_int_equal(last_have(w)->ranges[0].count, 2);
    assert_true(node_may_serve(w->node, &d, (struct msg_range){1, 1}));
    assert_false(node_may_serve(w->node, &d, (struct msg_range){2, 1}));
    end(w);
}

static void test_what_is_proved_may_take_from_all(void **state)
{
    struct world *w = begin_ops(UINT64_MAX, true);
    struct msg m = {.type = MSG_BINDING,
                    .job = JOB,
                    .uid = UID,
                    .path = "/shared/ml",
                    .text = "",
                    .digest = digest_no(1),
                    .size = SIZE,
                    .pieces = PIECES,
                    .trusted = true,
                    .key = digest_no(9)};

    manager_up(w);
    stage(w, 1, JOB, UID);
    assert_int_equal(tell(w, &m), 0);
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    assert_true(w->did[OP_REUSE].proved);
    end(w);
}

/* Nothing is known of it but its digests: the edge is told so, and takes of a piece
 * what it can when the peer has that. */
static void test_what_is_not_proved_is_taken_by_piece(void **state)
{
    static const bool have[PIECES] = {false};
    static const uint32_t missing[PIECES] = {0, 1000, 1000, 1000};
    struct world *w = begin_reusing();
    struct node_reused nothing = {.have = have, .missing = missing};
    struct vine_digest d = digest_no(1);
    uint64_t t;

    assert_false(w->did[OP_REUSE].proved);
    node_reused(w->node, &d, &nothing, w->now);
    t = fetch(w, 1, 1, 3, "n2");
    node_transfer_reused(w->node, t, 1, 1000);
    node_transfer_reused(w->node, t, 2, 600);
    node_transfer_reused(w->node, t, 2, 600); /* more than there is */
    node_transfer_reused(w->node, t, 7, 1);
    node_transfer_reused(w->node, t + 1, 3, 1);
    assert_int_equal(object(w).bytes_done, 1600);
    for (uint32_t p = 1; p < PIECES; p++)
        node_piece_done(w->node, t, p, w->now);
    node_transfer_reused(w->node, t, 3, 100); /* late */
    assert_int_equal(object(w).bytes_reused, 1600);
    assert_int_equal(object(w).bytes_peer, 1400);
    assert_int_equal(totals(w).bytes_reused, 1600);
    assert_int_equal(totals(w).bytes_peer, 1400);
    end(w);
}

static void test_bytes_are_counted_as_they_came(void **state)
{
    struct world *w = begin_reusing();
    uint64_t t;

    reused(w);
    assert_int_equal(object(w).bytes_done, 1900);
    t = fetch(w, 1, 2, 2, "n2");
    node_piece_done(w->node, t, 2, w->now);
    assert_int_equal(object(w).bytes_done, 2000);
    node_piece_done(w->node, t, 3, w->now);
    assert_int_equal(object(w).bytes_reused, 1900);
    assert_int_equal(object(w).bytes_peer, 1100);
    assert_int_equal(totals(w).bytes_reused, 1900);
    assert_int_equal(totals(w).bytes_peer, 1100);
    assert_int_equal(w->did[OP_PUBLISH].count, 1);
    end(w);
}

static void test_all_of_it_was_here(void **state)
{
    static const bool have[PIECES] = {false, true, true, true};
    static const uint32_t missing[PIECES];
    struct world *w = begin_reusing();
    struct vine_digest d = digest_no(1);
    struct node_reused r = {.have = have, .missing = missing, .bytes = SIZE};

    node_reused(w->node, &d, &r, w->now);
    assert_int_equal(w->did[OP_PUBLISH].count, 1);
    node_published(w->node, &d, NULL, w->now);
    assert_string_equal(object(w).state, "complete");
    assert_int_equal(object(w).bytes_peer, 0);
    end(w);
}

static void test_a_silent_disk_does_not_hold_up_the_job(void **state)
{
    struct world *w = begin_reusing();
    struct vine_digest d = digest_no(1);
    uint64_t t;

    w->now += 4000;
    node_reuse_progress(w->node, &d, w->now);
    wait_ms(w, 4000);
    assert_true(last_have(w)->m.reusing);
    wait_ms(w, 2000);
    assert_false(last_have(w)->m.reusing);
    t = fetch(w, 1, 1, 3, "n2");
    assert_int_not_equal(t, 0);
    /* Late, and welcome: what is left of the transfer is what was not here. */
    reused(w);
    node_piece_done(w->node, t, 2, w->now);
    node_piece_done(w->node, t, 3, w->now);
    assert_int_equal(w->did[OP_PUBLISH].count, 1);
    assert_int_equal(w->did[OP_CANCEL].count, 1); /* piece 1 of it */
    end(w);
}

static void test_it_is_not_evicted_meanwhile(void **state)
{
    struct world *w = begin_reusing();
    struct vine_digest d = digest_no(1);
    struct vine_err err = {0};

    node_job_end(w->node, JOB, w->now);
    assert_int_equal(node_evict(w->node, &d, w->now, &err), -1);
    reused(w);
    assert_int_equal(node_evict(w->node, &d, w->now, NULL), 0);
    end(w);
}

static void test_a_restart_tries_again(void **state)
{
    struct world *w = begin_ops(UINT64_MAX, true);
    bool have[PIECES] = {true};
    struct msg_object partial = {
        .digest = digest_no(1), .size = SIZE, .pieces = PIECES, .trusted = true};
    struct msg_binding binding = {
        .job = JOB, .uid = UID, .path = "/shared/ml", .digest = digest_no(1)};

    assert_int_equal(node_restore_object(w->node, &partial, have, 1, NULL), 0);
    assert_int_equal(node_restore_binding(w->node, &binding, UID, NULL), 0);
    manager_up(w);
    assert_int_equal(w->did[OP_REUSE].count, 1);
    assert_true(last_have(w)->m.reusing);
    reused(w);
    assert_false(last_have(w)->m.reusing);
    end(w);
}

static void test_what_nobody_wants_is_not_filled(void **state)
{
    struct world *w = begin_ops(UINT64_MAX, true);
    bool have[PIECES] = {true};
    struct msg_object partial = {
        .digest = digest_no(1), .size = SIZE, .pieces = PIECES, .trusted = true};

    assert_int_equal(node_restore_object(w->node, &partial, have, 1, NULL), 0);
    manager_up(w);
    assert_int_equal(w->did[OP_REUSE].count, 0);
    assert_true(last_have(w)->m.reusing); /* it would, before data comes */
    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    assert_int_equal(w->did[OP_REUSE].count, 1);
    end(w);
}

static void test_a_stream_reads_what_the_store_has_not(void **state)
{
    struct world *w = begin_ops(UINT64_MAX, true);
    struct node_resolved r = {.key = digest_no(9),
                              .has_manifest = true,
                              .digest = digest_no(1),
                              .size = SIZE,
                              .pieces = PIECES,
                              .trusted = true};
    struct msg resolve = {
        .type = MSG_RESOLVE, .ticket = 5, .job = JOB, .uid = UID, .path = "/shared/ml"};
    struct msg build = {.type = MSG_BUILD, .ticket = 5};

    manager_up(w);
    stage(w, 1, JOB, UID);
    assert_int_equal(tell(w, &resolve), 0);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    assert_int_equal(tell(w, &build), 0);
    assert_int_equal(w->did[OP_FETCH_ORIGIN].count, 1);
    node_piece_done(w->node, w->did[OP_FETCH_ORIGIN].id, 0, w->now);
    assert_int_equal(w->did[OP_REUSE].count, 1);
    assert_false(w->did[OP_REUSE].proved); /* all of it is read here */
    assert_int_equal(w->did[OP_FETCH_ORIGIN].count, 1);
    reused(w);
    assert_int_equal(w->did[OP_FETCH_ORIGIN].count, 3); /* pieces 2 and 3 */
    assert_int_equal(w->did[OP_FETCH_ORIGIN].range.first, 3);
    end(w);
}

/* Left by a job before, when the manager forgot it: nobody else has it to assign, so it
 * would never be asked for. */
static void test_a_stream_tells_what_was_here(void **state)
{
    struct world *w = begin_ops(UINT64_MAX, true);
    bool have[PIECES] = {true};
    struct msg_object partial = {
        .digest = digest_no(1), .size = SIZE, .pieces = PIECES, .trusted = true};
    struct node_resolved r = {.key = digest_no(9),
                              .has_manifest = true,
                              .digest = digest_no(1),
                              .size = SIZE,
                              .pieces = PIECES,
                              .trusted = true};
    struct msg resolve = {
        .type = MSG_RESOLVE, .ticket = 5, .job = JOB, .uid = UID, .path = "/shared/ml"};
    struct msg build = {.type = MSG_BUILD, .ticket = 5};

    assert_int_equal(node_restore_object(w->node, &partial, have, 1, NULL), 0);
    manager_up(w);
    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    reused(w); /* of no use for the next source */
    node_job_end(w->node, JOB, w->now);
    stage(w, 2, JOB + 1, UID);
    resolve.job = JOB + 1;
    assert_int_equal(tell(w, &resolve), 0);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    sent_clear(&w->log);
    assert_int_equal(tell(w, &build), 0);
    assert_int_equal(last_have(w)->ranges[0].first, 0);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_manager_waits_until_it_is_over),
        cmocka_unit_test(test_what_is_proved_may_take_from_all),
        cmocka_unit_test(test_what_is_not_proved_is_taken_by_piece),
        cmocka_unit_test(test_bytes_are_counted_as_they_came),
        cmocka_unit_test(test_all_of_it_was_here),
        cmocka_unit_test(test_a_silent_disk_does_not_hold_up_the_job),
        cmocka_unit_test(test_it_is_not_evicted_meanwhile),
        cmocka_unit_test(test_a_restart_tries_again),
        cmocka_unit_test(test_what_nobody_wants_is_not_filled),
        cmocka_unit_test(test_a_stream_reads_what_the_store_has_not),
        cmocka_unit_test(test_a_stream_tells_what_was_here),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The manager's core: the life of sources, restarts, silence, stage requests. */
#include "tests/unit/mgr_world.h"

/* ---- sources ---- */

static void test_one_resolves_and_all_are_bound(void **state)
{
    struct world *w = begin(3);

    for (uint32_t i = 1; i <= 3; i++)
        want(w, i, JOB, 5);
    assert_int_equal(sent_count(&w->log, 0, MSG_RESOLVE), 1);
    resolved(w, 1, ticket_of(w, 1), 3);
    assert_int_equal(sent_count(&w->log, 1, MSG_BUILD), 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_BINDING), 0);
    built(w, 1, ticket_of(w, 1), 1);
    for (uint32_t i = 1; i <= 3; i++)
        assert_binding(w, i, VINE_OK, 1);
    want(w, 2, JOB, 5); /* the next step asks again */
    assert_int_equal(sent_count(&w->log, 0, MSG_RESOLVE), 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_BINDING), 2);
    for (uint32_t i = 1; i <= 3; i++)
        release(w, i, JOB);
    want(w, 2, JOB, 5); /* all had released: resolved anew */
    assert_int_equal(sent_count(&w->log, 0, MSG_RESOLVE), 2);
    end(w);
}

static void test_a_known_key_needs_no_build(void **state)
{
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    resolved(w, 1, ticket_of(w, 1), 3);
    built(w, 1, ticket_of(w, 1), 1);
    want(w, 2, JOB + 1, 6);
    resolved(w, 2, ticket_of(w, 2), 3);
    assert_int_equal(sent_count(&w->log, 2, MSG_BUILD), 0);
    assert_int_equal(sent_count(&w->log, 2, MSG_CLOSE), 1);
    assert_binding(w, 2, VINE_OK, 1);
    end(w);
}

static void test_one_build_a_key_at_a_time(void **state)
{
    struct world *w = begin(3);

    for (uint32_t i = 1; i <= 3; i++) {
        want(w, i, JOB + i, 5);
        resolved(w, i, ticket_of(w, i), 3);
    }
    assert_int_equal(sent_count(&w->log, 0, MSG_BUILD), 1);
    mgr_disconnected(w->mgr, 1, w->now); /* the builder dies: another takes over */
    assert_int_equal(sent_count(&w->log, 0, MSG_BUILD), 2);
    assert_int_equal(
        sent_count(&w->log, 3, MSG_BUILD) + sent_count(&w->log, 2, MSG_BUILD), 1);
    uint32_t builder = sent_count(&w->log, 2, MSG_BUILD) ? 2 : 3;
    built(w, builder, ticket_of(w, builder), 1);
    assert_binding(w, 2, VINE_OK, 1);
    assert_binding(w, 3, VINE_OK, 1);
    assert_int_equal(sent_count(&w->log, 5 - builder, MSG_CLOSE), 1);
    end(w);
}

static void test_users_never_share_a_resolve(void **state)
{
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    want(w, 2, JOB, 6);
    assert_int_equal(sent_count(&w->log, 0, MSG_RESOLVE), 2);
    assert_int_equal(sent_last(&w->log, 1, MSG_RESOLVE)->m.uid, 5);
    assert_int_equal(sent_last(&w->log, 2, MSG_RESOLVE)->m.uid, 6);
    resolved(w, 1, ticket_of(w, 1), 3);
    built(w, 1, ticket_of(w, 1), 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_BINDING), 0);
    ended(w, 2, MSG_RESOLVED, ticket_of(w, 2), VINE_EACCES, "cannot read it");
    assert_binding(w, 2, VINE_EACCES, 0);
    assert_string_equal(sent_last(&w->log, 2, MSG_BINDING)->text, "cannot read it");
    end(w);
}

static void test_a_stream_is_bound_at_once(void **state)
{
    struct world *w = begin(3);

    want(w, 1, JOB, 5);
    want(w, 2, JOB, 5);
    resolved_packed(w, 1, ticket_of(w, 1), 3, 1);
    assert_int_equal(sent_count(&w->log, 1, MSG_BUILD), 1);
    assert_binding(w, 2, VINE_OK, 1);
    want(w, 3, JOB + 1, 5); /* another job: served by the same stream */
    resolved_packed(w, 3, ticket_of(w, 3), 3, 1);
    assert_int_equal(sent_count(&w->log, 3, MSG_BUILD), 0);
    assert_int_equal(sent_count(&w->log, 3, MSG_CLOSE), 1);
    assert_binding(w, 3, VINE_OK, 1);
    end(w);
}

static void test_errors_go_to_all_or_to_the_next(void **state)
{
    struct world *w = begin(4);

    for (uint32_t i = 1; i <= 4; i++)
        want(w, i, JOB, 5);
    ended(w, 1, MSG_RESOLVED, ticket_of(w, 1), VINE_ENOSPC, "full");
    ended(w, 2, MSG_RESOLVED, ticket_of(w, 2), VINE_ENOSPC, "full");
    assert_int_equal(sent_count(&w->log, 0, MSG_BINDING), 0);
    ended(w, 3, MSG_RESOLVED, ticket_of(w, 3), VINE_ENOSPC, "full");
    assert_int_equal(sent_count(&w->log, 4, MSG_RESOLVE), 0); /* three tries */
    for (uint32_t i = 1; i <= 4; i++)
        assert_binding(w, i, VINE_ENOSPC, 0);
    want(w, 1, JOB, 5); /* who asks again may try again */
    ended(w, 1, MSG_RESOLVED, ticket_of(w, 1), VINE_ENOENT, "no such thing");
    assert_binding(w, 1, VINE_ENOENT, 0);
    end(w);
}

static void test_an_origin_that_leaves_is_replaced(void **state)
{
    struct world *w = begin(3);

    want(w, 1, JOB, 5);
    want(w, 2, JOB, 5);
    release(w, 1, JOB);
    assert_int_equal(sent_count(&w->log, 1, MSG_CLOSE), 1);
    wait_ms(w, 500);
    assert_int_equal(sent_count(&w->log, 2, MSG_RESOLVE), 1);
    want(w, 3, JOB, 5);
    mgr_disconnected(w->mgr, 2, w->now);
    wait_ms(w, 500);
    assert_int_equal(sent_count(&w->log, 3, MSG_RESOLVE), 1);
    mgr_disconnected(w->mgr, 3, w->now);
    wait_ms(w, 500);
    assert_int_equal(objects(w), 0);
    end(w);
}

static void test_lost_pieces_are_read_again(void **state)
{
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    want(w, 2, JOB, 5);
    resolved_packed(w, 1, ticket_of(w, 1), 3, 1);
    have(w, 1, 1, 0, 3);
    have(w, 2, 1, 0, 1);
    mgr_disconnected(w->mgr, 1, w->now);
    wait_ms(w, 3000);
    assert_int_equal(sent_count(&w->log, 2, MSG_RESOLVE), 1);
    resolved_packed(w, 2, ticket_of(w, 2), 3, 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_BUILD), 1);
    end(w);
}

static void test_a_source_that_changed_under_a_job(void **state)
{
    struct world *w = begin(3);

    for (uint32_t i = 1; i <= 3; i++)
        want(w, i, JOB, 5);
    resolved_packed(w, 1, ticket_of(w, 1), 3, 1);
    have(w, 1, 1, 0, PIECES - 1);
    have(w, 2, 1, 0, 1);
    mgr_disconnected(w->mgr, 1, w->now);
    wait_ms(w, 3000);
    uint32_t origin = sent_count(&w->log, 2, MSG_RESOLVE) ? 2 : 3;
    resolved_packed(w, origin, ticket_of(w, origin), 4, 2); /* new content */
    assert_binding(w, 2, VINE_OK, 2); /* nobody had the old whole: all move */
    assert_binding(w, 3, VINE_OK, 2);
    have(w, origin, 2, 0, PIECES); /* whole; then the other's pieces are lost */
    end(w);
}

static void test_who_has_the_first_version_keeps_it(void **state)
{
    struct msg evicted = {.type = MSG_EVICTED, .digest = digest_no(1)};
    struct world *w = begin(3);

    want(w, 1, JOB, 5);
    resolved(w, 1, ticket_of(w, 1), 3);
    built(w, 1, ticket_of(w, 1), 1);
    want(w, 2, JOB, 5);
    have(w, 2, 1, 0, PIECES);
    want(w, 3, JOB, 5);
    sent_clear(&w->log);
    mgr_disconnected(w->mgr, 1, w->now);
    say(w, 2, &evicted); /* nobody has it now */
    wait_ms(w, 3000);
    uint32_t origin = sent_count(&w->log, 2, MSG_RESOLVE) ? 2 : 3;
    resolved(w, origin, ticket_of(w, origin), 4);
    built(w, origin, ticket_of(w, origin), 2);
    assert_binding(w, 3, VINE_OK, 2);
    end(w);
}

/* ---- restarts, silence ---- */

static void test_a_new_manager_learns_all_from_the_nodes(void **state)
{
    struct vine_digest key = digest_no(3);
    struct msg_object object = {.digest = digest_no(1),
                                .size = SIZE,
                                .pieces = PIECES,
                                .complete = true,
                                .key_count = 1,
                                .keys = &key};
    struct msg_binding binding = {
        .job = JOB, .uid = 5, .path = "/shared/ml", .digest = digest_no(1)};
    struct world *w = begin(2);

    want(w, 1, JOB, 5); /* comes before the one that knows the answer */
    uint64_t ticket = ticket_of(w, 1);
    join_with(w, 3, &object, 1, &binding, 1);
    assert_int_equal(sent_last(&w->log, 1, MSG_CLOSE)->m.ticket, ticket);
    assert_binding(w, 1, VINE_OK, 1);
    assert_non_null(sent_last(&w->log, 1, MSG_FETCH));
    assert_int_equal(resolved(w, 1, ticket, 9), 0); /* crossed the CLOSE */
    want(w, 2, JOB + 1, 5);
    resolved(w, 2, ticket_of(w, 2), 3);
    assert_binding(w, 2, VINE_OK, 1); /* the key was told at registration */
    end(w);
}

static void test_silent_nodes_are_dropped(void **state)
{
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    wait_ms(w, 6000);
    assert_int_equal(w->drops, 1); /* it had work; the idle one may sleep on */
    assert_int_equal(say(w, 1, &(struct msg){.type = MSG_PING}), -1);
    assert_int_equal(say(w, 2, &(struct msg){.type = MSG_PING}), 0);
    assert_int_equal(sent_count(&w->log, 2, MSG_PONG), 1);
    wait_ms(w, 200000);
    assert_int_equal(w->drops, 2);
    assert_true(mgr_next_deadline(w->mgr) == UINT64_MAX);
    end(w);
}

static void test_a_second_connection_replaces_the_first(void **state)
{
    struct world *w = begin(1);

    assert_int_equal(mgr_connected(w->mgr, 9, "n1", "10.0.0.1", w->now, NULL), 0);
    assert_int_equal(w->drops, 1);
    assert_int_equal(say(w, 1, &(struct msg){.type = MSG_PING}), -1);
    assert_int_equal(mgr_connected(w->mgr, 9, "n2", "10.0.0.1", w->now, NULL), -1);
    assert_int_equal(mgr_connected(w->mgr, 8, "", "10.0.0.1", w->now, NULL), -1);
    mgr_disconnected(w->mgr, 77, w->now); /* unknown: nothing */
    end(w);
}

/* ---- stage ---- */

static int stage(struct world *w, uint32_t conn, uint64_t job, const char *const *names,
                 uint32_t count)
{
    struct msg m = {.type = MSG_STAGE,
                    .ticket = 4711,
                    .job = job,
                    .uid = 5,
                    .gid = 5,
                    .path = "/shared/ml",
                    .names = names,
                    .name_count = count};

    return say(w, conn, &m);
}

static void assert_staged(struct world *w, uint32_t conn, enum vine_code code)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_STAGED);

    assert_non_null(s);
    assert_int_equal(s->m.ticket, 4711);
    assert_int_equal(s->m.code, code);
}

static void test_stage_answers_when_all_have_it(void **state)
{
    static const char *const names[] = {"n2", "n3", "n2"};
    struct world *w = begin(3);

    assert_int_equal(stage(w, 1, JOB, names, 3), -1); /* a job of Slurm's */
    assert_int_equal(stage(w, 1, MADE_UP | 1, names, 3), 0);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANTED), 2);
    want(w, 2, MADE_UP | 1, 5);
    want(w, 3, MADE_UP | 1, 5);
    resolved(w, 2, ticket_of(w, 2), 3);
    built(w, 2, ticket_of(w, 2), 1);
    assert_null(sent_last(&w->log, 1, MSG_STAGED));
    release(w, 2, MADE_UP | 1);
    have(w, 3, 1, 0, PIECES);
    assert_staged(w, 1, VINE_OK);
    release(w, 3, MADE_UP | 1);
    end(w);
}

static void test_stage_answers_with_the_first_error(void **state)
{
    static const char *const known[] = {"n2"}, *const unknown[] = {"n2", "nowhere"};
    struct msg full = {.type = MSG_RELEASE, .code = VINE_ENOSPC, .text = "full"};
    struct world *w = begin(3);

    stage(w, 1, MADE_UP | 1, unknown, 2);
    assert_staged(w, 1, VINE_EDOWN);
    assert_non_null(strstr(sent_last(&w->log, 1, MSG_STAGED)->text, "'nowhere'"));
    stage(w, 1, MADE_UP | 2, known, 1);
    want(w, 2, MADE_UP | 2, 5);
    stage(w, 1, MADE_UP | 2, known, 1); /* goes on already */
    assert_staged(w, 1, VINE_EINVAL);
    ended(w, 2, MSG_RESOLVED, ticket_of(w, 2), VINE_ENOENT, "not there");
    assert_staged(w, 1, VINE_ENOENT);
    stage(w, 1, MADE_UP | 3, known, 1);
    full.job = MADE_UP | 3;
    say(w, 2, &full);
    assert_staged(w, 1, VINE_ENOSPC);
    assert_string_equal(sent_last(&w->log, 1, MSG_STAGED)->text, "n2: full");
    stage(w, 1, MADE_UP | 4, NULL, 0); /* all */
    mgr_disconnected(w->mgr, 3, w->now);
    assert_staged(w, 1, VINE_EDOWN);
    stage(w, 1, MADE_UP | 5, known, 1);
    mgr_disconnected(w->mgr, 1, w->now); /* the asker: nobody is told */
    mgr_disconnected(w->mgr, 2, w->now);
    end(w);
}

static void test_pieces_of_a_source_that_failed_meanwhile_do_no_harm(void **state)
{
    struct world *w = begin(2);
    uint64_t ticket;

    want(w, 1, JOB, 5);
    want(w, 2, JOB, 5);
    ticket = ticket_of(w, 1);
    resolved_packed(w, 1, ticket, 3, 1);
    have(w, 1, 1, 0, 1);
    assert_binding(w, 2, VINE_OK, 1);
    ended(w, 1, MSG_BUILT, ticket, VINE_ECHANGED, "it changed");
    assert_binding(w, 2, VINE_ECHANGED, 0);
    assert_int_equal(have(w, 2, 1, 0, 1), 0); /* was on its way */
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_resolves_and_all_are_bound),
        cmocka_unit_test(test_a_known_key_needs_no_build),
        cmocka_unit_test(test_one_build_a_key_at_a_time),
        cmocka_unit_test(test_users_never_share_a_resolve),
        cmocka_unit_test(test_a_stream_is_bound_at_once),
        cmocka_unit_test(test_errors_go_to_all_or_to_the_next),
        cmocka_unit_test(test_an_origin_that_leaves_is_replaced),
        cmocka_unit_test(test_lost_pieces_are_read_again),
        cmocka_unit_test(test_a_source_that_changed_under_a_job),
        cmocka_unit_test(test_who_has_the_first_version_keeps_it),
        cmocka_unit_test(test_a_new_manager_learns_all_from_the_nodes),
        cmocka_unit_test(test_silent_nodes_are_dropped),
        cmocka_unit_test(test_a_second_connection_replaces_the_first),
        cmocka_unit_test(test_stage_answers_when_all_have_it),
        cmocka_unit_test(test_stage_answers_with_the_first_error),
        cmocka_unit_test(test_pieces_of_a_source_that_failed_meanwhile_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The manager's core: who may have what others have. Object 1 is a packed image; keys 3
 * and 4 are two files whose trailers name it. */
#include "tests/unit/mgr_world.h"

/* As by key, then by what the trailer says. */
static void look(struct world *w, uint32_t conn, uint8_t key)
{
    uint64_t ticket = ticket_of(w, conn);

    assert_int_equal(resolved(w, conn, ticket, key), 0);
    if (sent_last(&w->log, conn, MSG_BUILD) != NULL)
        assert_int_equal(resolved_packed(w, conn, ticket, key, 1), 0);
}

/* n1 has staged file 3, read by itself. */
static struct world *begin_staged(uint32_t nodes)
{
    struct world *w = begin(nodes);

    want(w, 1, JOB, 5);
    look(w, 1, 3);
    assert_binding(w, 1, VINE_OK, 1);
    have(w, 1, 1, 0, PIECES);
    return w;
}

static void test_a_key_read_to_its_end_is_told_and_known(void **state)
{
    struct vine_digest key = digest_no(3), none = {{0}};
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    look(w, 1, 3);
    assert_int_equal(sent_count(&w->log, 1, MSG_BUILD), 2); /* look, then stream */
    assert_true(vine_digest_equal(&sent_last(&w->log, 1, MSG_BINDING)->m.key, &none));
    assert_int_equal(sent_last(&w->log, 1, MSG_BINDING)->m.claim, MSG_CLAIM_OWN);
    have(w, 1, 1, 0, PIECES);
    assert_int_equal(sent_count(&w->log, 1, MSG_BINDING), 2);
    assert_true(vine_digest_equal(&sent_last(&w->log, 1, MSG_BINDING)->m.key, &key));
    assert_int_equal(sent_last(&w->log, 1, MSG_BINDING)->m.claim, MSG_CLAIM_SHOWN);
    want(w, 2, JOB + 1, 5); /* a later job, resolved by a node that has nothing */
    resolved(w, 2, ticket_of(w, 2), 3);
    assert_int_equal(sent_count(&w->log, 2, MSG_BUILD), 0);
    assert_int_equal(sent_count(&w->log, 2, MSG_CLOSE), 1);
    assert_true(vine_digest_equal(&sent_last(&w->log, 2, MSG_BINDING)->m.key, &key));
    have(w, 2, 1, 0, PIECES);
    assert_int_equal(sent_count(&w->log, 2, MSG_BINDING), 1); /* it knew */
    end(w);
}

static void test_a_trailer_alone_gets_nothing(void **state)
{
    struct world *w = begin_staged(2);

    want(w, 2, JOB + 1, 6);
    look(w, 2, 4);
    assert_int_equal(sent_count(&w->log, 2, MSG_PROVE), 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_BINDING), 0);
    ended(w, 2, MSG_PROVED, ticket_of(w, 2), VINE_ECORRUPT, "wrong bytes");
    assert_binding(w, 2, VINE_ECORRUPT, 0);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 0);
    want(w, 2, JOB + 1, 6); /* nor the second time */
    look(w, 2, 4);
    assert_int_equal(sent_count(&w->log, 2, MSG_PROVE), 2);
    end(w);
}

static void test_who_can_read_it_all_gets_it_from_peers(void **state)
{
    struct world *w = begin_staged(2);

    want(w, 2, JOB + 1, 6);
    look(w, 2, 4);
    assert_int_equal(proved(w, 2), 0);
    assert_binding(w, 2, VINE_OK, 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_CLOSE), 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 1);
    release(w, 2, JOB + 1);
    want(w, 2, JOB + 2, 6); /* and is known from then on */
    look(w, 2, 4);
    assert_int_equal(sent_count(&w->log, 2, MSG_PROVE), 1);
    assert_binding(w, 2, VINE_OK, 1);
    end(w);
}

static void test_one_proof_a_key_at_a_time(void **state)
{
    struct world *w = begin_staged(4);
    uint32_t next;

    for (uint32_t i = 2; i <= 4; i++) {
        want(w, i, JOB + i, 6);
        look(w, i, 4);
    }
    assert_int_equal(sent_count(&w->log, 0, MSG_PROVE), 1);
    mgr_disconnected(w->mgr, 2, w->now); /* another takes over */
    wait_ms(w, 500);
    assert_int_equal(sent_count(&w->log, 0, MSG_PROVE), 1);
    next = sent_count(&w->log, 3, MSG_BUILD) > 0 ? 3 : 4;
    assert_int_equal(resolved_packed(w, next, ticket_of(w, next), 4, 1), 0);
    assert_int_equal(sent_count(&w->log, next, MSG_PROVE), 1);
    assert_int_equal(proved(w, next), 0);
    assert_binding(w, 3, VINE_OK, 1);
    assert_binding(w, 4, VINE_OK, 1);
    end(w);
}

/* n2's file has the trailer; it is asked for first. n1's bytes must not reach n2. */
static void test_an_unproved_stream_keeps_others_waiting(void **state)
{
    struct world *w = begin(2);

    want(w, 2, JOB + 1, 6);
    look(w, 2, 4);
    assert_binding(w, 2, VINE_OK, 1); /* all it gets is what it reads itself */
    have(w, 2, 1, 0, 2);
    want(w, 1, JOB, 5);
    look(w, 1, 3);
    assert_int_equal(sent_count(&w->log, 1, MSG_BINDING), 0);
    wait_ms(w, 1000);
    assert_int_equal(sent_count(&w->log, 1, MSG_PROVE), 0);
    ended(w, 2, MSG_BUILT, ticket_of(w, 2), VINE_ECORRUPT, "wrong bytes");
    assert_binding(w, 2, VINE_ECORRUPT, 0);
    wait_ms(w, 1000);
    assert_int_equal(sent_count(&w->log, 1, MSG_PROVE), 1);
    want(w, 2, JOB + 2, 6); /* it tries again: its own pieces are still there */
    look(w, 2, 4);
    assert_int_equal(proved(w, 1), 0);
    assert_int_equal(sent_count(&w->log, 1, MSG_BINDING), 0);
    release(w, 2, JOB + 2);
    wait_ms(w, 1000);
    assert_binding(w, 1, VINE_OK, 1);
    want(w, 2, JOB + 3, 6); /* but not with n1's beside them */
    look(w, 2, 4);
    assert_int_equal(sent_count(&w->log, 2, MSG_PROVE), 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 0);
    end(w);
}

static void test_two_that_read_the_same_both_get_it(void **state)
{
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    look(w, 1, 3);
    want(w, 2, JOB + 1, 6);
    look(w, 2, 4);
    have(w, 1, 1, 0, PIECES);
    wait_ms(w, 500);
    assert_int_equal(sent_count(&w->log, 2, MSG_PROVE), 1);
    assert_int_equal(proved(w, 2), 0);
    assert_binding(w, 2, VINE_OK, 1);
    end(w);
}

static void test_answers_nobody_asked_for_are_refused(void **state)
{
    struct world *w = begin_staged(2);

    want(w, 2, JOB + 1, 6);
    assert_int_equal(proved(w, 2), -1);
    assert_int_equal(resolved_packed(w, 2, ticket_of(w, 2), 4, 1), 0);
    assert_int_equal(resolved_packed(w, 2, ticket_of(w, 2), 4, 1), -1);
    assert_int_equal(ended(w, 2, MSG_PROVED, 4711, VINE_OK, ""), -1);
    end(w);
}

/* n1's stream of file 4 came to nothing but its manifest. What n2 builds later is of
 * the same name: that says nothing about file 4. */
static void test_what_another_builds_is_no_proof(void **state)
{
    struct world *w = begin(3);

    want(w, 1, JOB, 5);
    look(w, 1, 4);
    have(w, 1, 1, 0, 1);
    ended(w, 1, MSG_BUILT, ticket_of(w, 1), VINE_ECORRUPT, "wrong bytes");
    want(w, 2, JOB + 1, 6);
    resolved(w, 2, ticket_of(w, 2), 3);
    built(w, 2, ticket_of(w, 2), 1);
    assert_binding(w, 2, VINE_OK, 1);
    want(w, 3, JOB + 2, 5);
    look(w, 3, 4);
    assert_int_equal(sent_count(&w->log, 3, MSG_BINDING), 0);
    assert_int_equal(sent_count(&w->log, 3, MSG_PROVE), 1);
    end(w);
}

static uint32_t claim_told(struct world *w, uint32_t conn)
{
    return sent_last(&w->log, conn, MSG_BINDING)->m.claim;
}

/* n2 and n4 stage file 4, streamed by n2; n1 builds what its trailer names from a
 * directory. */
static struct world *begin_overtaken(void)
{
    struct world *w = begin(4);
    uint64_t build;

    want(w, 2, JOB + 1, 6);
    look(w, 2, 4);
    want(w, 4, JOB + 1, 6);
    have(w, 2, 1, 0, 2);
    assert_int_equal(claim_told(w, 2), MSG_CLAIM_OWN);
    assert_int_equal(claim_told(w, 4), MSG_CLAIM_OWN);
    want(w, 1, JOB, 5);
    build = ticket_of(w, 1);
    resolved(w, 1, build, 3);
    sent_clear(&w->log);
    built(w, 1, build, 1);
    return w;
}

static void test_who_streams_on_trust_must_prove_once_it_is_built(void **state)
{
    struct world *w = begin_overtaken();

    assert_int_equal(claim_told(w, 1), MSG_CLAIM_SHOWN);
    assert_int_equal(claim_told(w, 2), MSG_CLAIM_OPEN);
    assert_int_equal(claim_told(w, 4), MSG_CLAIM_OPEN);
    assert_int_equal(sent_count(&w->log, 2, MSG_CLOSE), 1);
    wait_ms(w, 500);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 0);
    assert_int_equal(sent_count(&w->log, 4, MSG_FETCH), 0);
    look(w, 2, 4);
    assert_int_equal(sent_count(&w->log, 2, MSG_PROVE), 1);
    ended(w, 2, MSG_PROVED, ticket_of(w, 2), VINE_ECORRUPT, "wrong bytes");
    assert_binding(w, 2, VINE_ECORRUPT, 0);
    assert_binding(w, 4, VINE_ECORRUPT, 0);
    want(w, 3, JOB + 2, 6); /* nothing was learned of its file */
    look(w, 3, 4);
    assert_int_equal(sent_count(&w->log, 3, MSG_PROVE), 1);
    end(w);
}

static void test_who_has_it_all_goes_on_after_the_proof(void **state)
{
    struct world *w = begin_overtaken();

    wait_ms(w, 500);
    look(w, 2, 4);
    assert_int_equal(proved(w, 2), 0);
    assert_binding(w, 2, VINE_OK, 1);
    assert_int_equal(claim_told(w, 2), MSG_CLAIM_SHOWN);
    assert_int_equal(claim_told(w, 4), MSG_CLAIM_SHOWN);
    assert_true(sent_count(&w->log, 4, MSG_FETCH) > 0);
    end(w);
}

/* The order to stream crosses the end of the build on the same node: the stream finds
 * all here, and has read nothing. */
static void test_a_stream_that_finds_all_teaches_nothing(void **state)
{
    struct world *w = begin(2);
    uint64_t stream;

    want(w, 1, JOB, 5);
    resolved(w, 1, ticket_of(w, 1), 3);
    stream = ticket_of(w, 1) + 1;
    want(w, 1, JOB + 1, 6);
    assert_int_equal(ticket_of(w, 1), stream);
    look(w, 1, 4);
    built(w, 1, stream - 1, 1);
    built(w, 1, stream, 1);
    wait_ms(w, 500);
    want(w, 2, JOB + 2, 6);
    look(w, 2, 4);
    assert_int_equal(sent_count(&w->log, 2, MSG_PROVE), 1);
    assert_int_equal(sent_count(&w->log, 2, MSG_BINDING), 0);
    end(w);
}

/* A daemon that was away brings it: that says nothing of the stream, either. */
static void test_who_comes_with_it_calls_for_proof(void **state)
{
    struct world *w = begin(2);

    want(w, 2, JOB + 1, 6);
    look(w, 2, 4);
    have(w, 2, 1, 0, 2);
    join_with_it(w, 3, SIZE, PIECES);
    assert_int_equal(claim_told(w, 2), MSG_CLAIM_OPEN);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 0);
    end(w);
}

/* n3 joins and has the manifest, for the source that this job names. */
static void join_with_part(struct world *w, uint64_t job)
{
    struct msg_object object = {.digest = digest_no(1), .size = SIZE, .pieces = PIECES};
    struct msg_binding binding = {
        .job = job, .uid = 6, .path = "/shared/ml", .digest = digest_no(1)};

    join_with(w, 3, &object, 1, &binding, 1);
    have(w, 3, 1, 0, 1);
}

/* After a restart of the manager: the first that comes streams, the next one has some
 * of it for another job, whose source may be another one's. */
static void test_who_comes_with_some_for_others_calls_for_proof(void **state)
{
    struct world *w = begin(2);

    want(w, 2, JOB + 1, 6);
    look(w, 2, 4);
    have(w, 2, 1, 0, 2);
    join_with_part(w, JOB + 7);
    assert_int_equal(claim_told(w, 2), MSG_CLAIM_OPEN);
    end(w);
}

static void test_who_comes_back_with_some_of_the_stream_does_not(void **state)
{
    struct world *w = begin(3);

    want(w, 2, JOB + 1, 6);
    want(w, 3, JOB + 1, 6);
    look(w, 2, 4);
    have(w, 2, 1, 0, 2);
    mgr_disconnected(w->mgr, 3, w->now);
    join_with_part(w, JOB + 1);
    assert_int_equal(claim_told(w, 2), MSG_CLAIM_OWN);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_key_read_to_its_end_is_told_and_known),
        cmocka_unit_test(test_a_trailer_alone_gets_nothing),
        cmocka_unit_test(test_who_can_read_it_all_gets_it_from_peers),
        cmocka_unit_test(test_one_proof_a_key_at_a_time),
        cmocka_unit_test(test_an_unproved_stream_keeps_others_waiting),
        cmocka_unit_test(test_two_that_read_the_same_both_get_it),
        cmocka_unit_test(test_answers_nobody_asked_for_are_refused),
        cmocka_unit_test(test_what_another_builds_is_no_proof),
        cmocka_unit_test(test_who_streams_on_trust_must_prove_once_it_is_built),
        cmocka_unit_test(test_who_has_it_all_goes_on_after_the_proof),
        cmocka_unit_test(test_a_stream_that_finds_all_teaches_nothing),
        cmocka_unit_test(test_who_comes_with_it_calls_for_proof),
        cmocka_unit_test(test_who_comes_with_some_for_others_calls_for_proof),
        cmocka_unit_test(test_who_comes_back_with_some_of_the_stream_does_not),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

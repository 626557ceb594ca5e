/* The node's core: the sources of one job are looked at as a whole before any is read.
 */
#include "tests/unit/node_world.h"

#define ROOM 10000u

static struct world *begin_small(void)
{
    struct world *w = begin_with(ROOM);

    manager_up(w);
    return w;
}

/* A job that names two files; returns the edge's ticket of each. */
static void name_two(struct world *w, uint64_t tickets[2])
{
    static const char *const paths[] = {"/shared/ml", "/shared/set"};

    stage_paths(w, 1, JOB, UID, paths[0], paths[1], NULL);
    for (unsigned i = 0; i < 2; i++) {
        struct msg m = {.type = MSG_RESOLVE,
                        .ticket = 9 + i,
                        .job = JOB,
                        .uid = UID,
                        .path = paths[i]};
        assert_int_equal(tell(w, &m), 0);
        tickets[i] = w->did[OP_RESOLVE].id;
    }
}

static void resolved(struct world *w, uint64_t ticket, uint64_t least)
{
    struct node_resolved r = {
        .key = digest_no((uint8_t)ticket), .estimate = 2 * ROOM, .least = least};

    node_source_resolved(w->node, ticket, &r, NULL, w->now);
}

static void expect_answers(const struct world *w, uint32_t count, enum vine_code code)
{
    assert_int_equal(sent_count(&w->log, 0, MSG_RESOLVED), count);
    if (count > 0)
        assert_int_equal(sent_last(&w->log, 0, MSG_RESOLVED)->m.code, code);
}

static void test_none_is_told_before_all_are_known(void **state)
{
    struct world *w = begin_small();
    uint64_t tickets[2];

    name_two(w, tickets);
    resolved(w, tickets[0], ROOM / 2);
    expect_answers(w, 0, VINE_OK);
    resolved(w, tickets[1], ROOM / 2);
    expect_answers(w, 2, VINE_OK);
    end(w);
}

static void test_what_cannot_be_there_together_is_refused(void **state)
{
    struct world *w = begin_small();
    uint64_t tickets[2];

    name_two(w, tickets);
    resolved(w, tickets[1], ROOM / 2);
    resolved(w, tickets[0], ROOM / 2 + 1000);
    expect_answers(w, 2, VINE_ENOSPC);
    assert_string_equal(sent_last(&w->log, 0, MSG_RESOLVED)->m.text,
                        "the job's 2 sources need 11.0 kB together, store "
                        "'/local/vine' holds 10.0 kB: raise cache_max or name less");
    assert_int_equal(w->did[OP_CLOSE].count, 2);
    assert_int_equal(w->did[OP_BUILD].count, 0);
    end(w);
}

/* A tree's size is known when its image is: what it takes now says nothing. */
static void test_what_is_not_known_is_not_counted(void **state)
{
    struct world *w = begin_small();
    uint64_t tickets[2];

    name_two(w, tickets);
    resolved(w, tickets[0], ROOM);
    resolved(w, tickets[1], 0);
    expect_answers(w, 2, VINE_OK);
    end(w);
}

static void test_what_is_bound_counts_with_its_size(void **state)
{
    struct world *w = begin_small();
    struct msg m = {.type = MSG_RESOLVE,
                    .ticket = 9,
                    .job = JOB,
                    .uid = UID,
                    .path = "/shared/set"};

    stage_paths(w, 1, JOB, UID, "/shared/ml", "/shared/set", NULL);
    assert_int_equal(bind_sized(w, JOB, 1, SIZE, true), 0);
    assert_int_equal(tell(w, &m), 0);
    resolved(w, w->did[OP_RESOLVE].id, ROOM - SIZE + 1);
    expect_answers(w, 1, VINE_ENOSPC);
    end(w);
}

static void test_another_that_fails_or_ends_is_not_waited_for(void **state)
{
    struct vine_err err = {.code = VINE_EACCES, .text = "no"};
    struct world *w = begin_small();
    uint64_t tickets[2];

    name_two(w, tickets);
    resolved(w, tickets[0], ROOM);
    node_source_resolved(w->node, tickets[1], NULL, &err, w->now);
    expect_answers(w, 2, VINE_OK);
    end(w);
    w = begin_small();
    name_two(w, tickets);
    resolved(w, tickets[1], ROOM);
    assert_int_equal(tell(w, &(struct msg){.type = MSG_CLOSE, .ticket = 9}), 0);
    expect_answers(w, 1, VINE_OK);
    end(w);
}

/* Two jobs have nothing to do with each other. */
static void test_another_job_is_not_waited_for(void **state)
{
    struct msg m = {.type = MSG_RESOLVE,
                    .ticket = 11,
                    .job = JOB + 1,
                    .uid = UID,
                    .path = "/shared/ml"};
    struct world *w = begin_small();
    uint64_t tickets[2];

    name_two(w, tickets);
    stage(w, 2, JOB + 1, UID);
    assert_int_equal(tell(w, &m), 0);
    resolved(w, tickets[0], ROOM);
    expect_answers(w, 0, VINE_OK);
    resolved(w, w->did[OP_RESOLVE].id, ROOM);
    expect_answers(w, 1, VINE_OK);
    assert_int_equal(sent_last(&w->log, 0, MSG_RESOLVED)->m.ticket, 11);
    end(w);
}

static void test_the_managers_end_forgets_what_was_held(void **state)
{
    struct world *w = begin_small();
    uint64_t tickets[2];

    name_two(w, tickets);
    resolved(w, tickets[0], ROOM);
    manager_down(w);
    resolved(w, tickets[1], ROOM);
    assert_int_equal(w->did[OP_CLOSE].count, 2);
    manager_up(w);
    expect_answers(w, 0, VINE_OK);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_none_is_told_before_all_are_known),
        cmocka_unit_test(test_what_cannot_be_there_together_is_refused),
        cmocka_unit_test(test_what_is_not_known_is_not_counted),
        cmocka_unit_test(test_what_is_bound_counts_with_its_size),
        cmocka_unit_test(test_another_that_fails_or_ends_is_not_waited_for),
        cmocka_unit_test(test_another_job_is_not_waited_for),
        cmocka_unit_test(test_the_managers_end_forgets_what_was_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

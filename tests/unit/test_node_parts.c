/* The node's core: parts of an image that is still being built. */
#include "tests/unit/node_world.h"

#define PART_SIZE 900u
#define PART_PIECES 3u

static int part(struct world *w, uint64_t job, uint8_t digest)
{
    struct msg m = {.type = MSG_PART,
                    .job = job,
                    .uid = UID,
                    .path = "/shared/ml",
                    .digest = digest_no(digest),
                    .size = PART_SIZE,
                    .pieces = PART_PIECES};

    return tell(w, &m);
}

static bool is_part(struct world *w, uint8_t digest)
{
    struct vine_digest d = digest_no(digest);
    uint64_t build, offset;

    return node_is_part(w->node, &d, &build, &offset);
}

/* This node builds for ticket 9; 0: nobody else waits. */
static uint64_t building(struct world *w, bool parts)
{
    struct node_resolved r = {.key = digest_no(3), .estimate = 5000};
    struct msg resolve = {.type = MSG_RESOLVE,
                          .ticket = 9,
                          .job = JOB,
                          .uid = UID,
                          .gid = UID,
                          .path = "/shared/ml"};
    struct msg build = {.type = MSG_BUILD, .ticket = 9, .parts = parts};

    stage(w, 1, JOB, UID);
    assert_int_equal(tell(w, &resolve), 0);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    assert_int_equal(tell(w, &build), 0);
    return w->did[OP_BUILD].id;
}

static void made(struct world *w, uint64_t ticket, uint8_t digest)
{
    struct msg_object object = {
        .digest = digest_no(digest), .size = PART_SIZE, .pieces = PART_PIECES};

    node_source_part(w->node, ticket, &object, 4096, w->now);
}

static void test_a_part_is_taken_and_goes_when_the_image_is_here(void **state)
{
    struct world *w = begin();
    uint64_t t;

    stage(w, 1, JOB, UID);
    part(w, JOB, 50);
    part(w, JOB, 50); /* told again */
    part(w, JOB, 51);
    assert_true(is_part(w, 50) && is_part(w, 51));
    assert_int_equal(totals(w).store_used, 2 * PART_SIZE);
    t = fetch(w, 50, 0, 1, "n2");
    assert_int_not_equal(t, 0);
    node_piece_done(w->node, t, 0, w->now);
    t = fetch(w, 50, 1, PART_PIECES - 1, "n2");
    assert_int_equal(bind(w, JOB, 1), 0);
    assert_int_equal(w->did[OP_CANCEL].count, 1); /* the image comes first now */
    assert_true(is_part(w, 50));                  /* its chunks may be of use */
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 0);
    fetch_all(w, 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 2);
    assert_int_equal(w->did[OP_REMOVE].count, 2);
    assert_int_equal(totals(w).objects, 1);
    end(w);
}

static void test_parts_go_with_the_job_and_with_its_failure(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    part(w, JOB, 50);
    bind_error(w, JOB, VINE_EACCES, "no");
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 1);
    assert_int_equal(totals(w).objects, 0);
    stage(w, 2, JOB + 1, UID);
    part(w, JOB + 1, 50);
    node_job_end(w->node, JOB + 1, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 2);
    assert_int_equal(totals(w).objects, 0);
    end(w);
}

static void test_a_part_that_is_of_no_use_is_answered(void **state)
{
    struct world *w = begin();

    part(w, JOB, 50); /* no such job */
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 1);
    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    part(w, JOB, 50); /* bound already */
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 2);
    assert_int_equal(totals(w).objects, 1);
    part(w, JOB, 1); /* an object that is here for itself stays */
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 2);
    assert_false(is_part(w, 1));
    end(w);
}

static void test_parts_never_stand_in_the_way(void **state)
{
    struct world *w = begin_with(SIZE + PART_SIZE);

    manager_up(w);
    stage(w, 1, JOB, UID);
    part(w, JOB, 50);
    part(w, JOB, 51);
    assert_true(is_part(w, 50) && is_part(w, 51));
    assert_int_equal(bind(w, JOB, 1), 0); /* needs the room of one of them */
    assert_int_equal(totals(w).objects, 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 2);
    end(w);
    w = begin_with(PART_SIZE + PART_SIZE / 2);
    manager_up(w);
    stage(w, 1, JOB, UID);
    part(w, JOB, 50); /* the image would not fit beside it */
    assert_false(is_part(w, 50));
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 1);
    end(w);
}

static void test_a_builder_tells_of_parts_and_drops_them(void **state)
{
    struct msg_object object = {.digest = digest_no(1),
                                .size = SIZE,
                                .pieces = PIECES,
                                .complete = true,
                                .trusted = true};
    struct msg_range all = {0, PART_PIECES};
    struct vine_digest d = digest_no(50);
    struct world *w = begin();
    uint64_t ticket = building(w, true);

    assert_true(node_wants_parts(w->node, ticket));
    made(w, ticket, 50);
    assert_int_equal(sent_last(&w->log, 0, MSG_PART_MADE)->m.ticket, 9);
    assert_true(node_may_serve(w->node, &d, all));
    node_source_built(w->node, ticket, &object, NULL, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_EVICTED), 1);
    assert_int_equal(w->did[OP_REMOVE].count, 1);
    assert_false(node_wants_parts(w->node, ticket));
    made(w, ticket, 51); /* too late: the edge is to remove it */
    assert_int_equal(w->did[OP_REMOVE].count, 2);
    assert_int_equal(sent_count(&w->log, 0, MSG_PART_MADE), 1);
    end(w);
}

static void test_a_build_for_this_node_alone_has_no_parts(void **state)
{
    struct world *w = begin();
    uint64_t ticket = building(w, false);

    assert_false(node_wants_parts(w->node, ticket));
    made(w, ticket, 50);
    assert_int_equal(w->did[OP_REMOVE].count, 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_PART_MADE), 0);
    end(w);
}

static void test_a_build_that_fails_leaves_no_part(void **state)
{
    struct vine_err err = {0};
    struct world *w = begin();
    uint64_t ticket = building(w, true);

    made(w, ticket, 50);
    vine_err_set(&err, VINE_ECHANGED, "changed");
    node_source_built(w->node, ticket, NULL, &err, w->now);
    assert_int_equal(w->did[OP_REMOVE].count, 1);
    assert_int_equal(totals(w).objects, 0);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_part_is_taken_and_goes_when_the_image_is_here),
        cmocka_unit_test(test_parts_go_with_the_job_and_with_its_failure),
        cmocka_unit_test(test_a_part_that_is_of_no_use_is_answered),
        cmocka_unit_test(test_parts_never_stand_in_the_way),
        cmocka_unit_test(test_a_builder_tells_of_parts_and_drops_them),
        cmocka_unit_test(test_a_build_for_this_node_alone_has_no_parts),
        cmocka_unit_test(test_a_build_that_fails_leaves_no_part),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

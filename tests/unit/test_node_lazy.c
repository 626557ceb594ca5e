/* The node's core: jobs that start before their object is there. */
#include "tests/unit/node_world.h"

static void stage_lazily(struct world *w, uint64_t client, uint64_t job)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));

    strcpy(spec->source[0].path, "/shared/ml");
    spec->count = 1;
    spec->lazy = true;
    assert_int_equal(node_stage(w->node, client, job, UID, UID, spec, w->now, NULL), 0);
    free(spec);
}

static uint64_t get(struct world *w, uint32_t piece)
{
    uint64_t t = fetch(w, 1, piece, 1, "n2");

    node_piece_done(w->node, t, piece, w->now);
    return t;
}

static void say_tables(struct world *w, uint32_t first, uint32_t count)
{
    struct vine_digest d = digest_no(1);

    node_lazy_tables(w->node, &d, (struct msg_range){first, count}, NULL, w->now);
}

static void say_mounted(struct world *w, enum vine_code code)
{
    struct vine_digest d = digest_no(1);
    struct vine_err err = {0};

    if (code != VINE_OK)
        vine_err_set(&err, code, "no FUSE");
    node_lazy_mounted(w->node, &d, &err, w->now);
}

/* A job that runs on pieces 0, 1 and the last one. */
static struct world *begin_running(void)
{
    struct world *w = begin();

    stage_lazily(w, 1, JOB);
    bind(w, JOB, 1);
    get(w, 0);
    get(w, 1);
    say_tables(w, PIECES - 1, 1);
    get(w, PIECES - 1);
    say_mounted(w, VINE_OK);
    return w;
}

static void complete(struct world *w)
{
    struct vine_digest d = digest_no(1);

    for (uint32_t p = 2; p < PIECES - 1; p++)
        get(w, p);
    assert_int_equal(w->did[OP_PUBLISH].count, 1);
    node_published(w->node, &d, NULL, w->now);
}

static const struct sent *urgent(struct world *w)
{
    return sent_last(&w->log, 0, MSG_URGENT);
}

static void test_a_job_starts_when_the_tables_are_there(void **state)
{
    struct world *w = begin();

    stage_lazily(w, 1, JOB);
    bind(w, JOB, 1);
    assert_int_equal(urgent(w)->ranges[0].first, 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_URGENT), 2); /* and the last one */
    get(w, 0);
    assert_int_equal(w->did[OP_LAZY_LOOK].count, 0);
    get(w, 1);
    assert_int_equal(w->did[OP_LAZY_LOOK].count, 1);
    say_tables(w, PIECES - 2, 2);
    assert_int_equal(urgent(w)->ranges[0].first, PIECES - 2);
    get(w, PIECES - 2);
    assert_int_equal(w->did[OP_LAZY_MOUNT].count, 0);
    get(w, PIECES - 1);
    assert_int_equal(w->did[OP_LAZY_MOUNT].count, 1);
    assert_int_equal(w->did[OP_REPLY].count, 0);
    say_mounted(w, VINE_OK);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    assert_int_equal(w->did[OP_REPLY].uid, NODE_ANY_UID);
    /* No second mount is made. */
    complete(w);
    assert_int_equal(w->did[OP_MOUNT].count, 0);
    end(w);
}

static void test_others_wait_for_all_of_it(void **state)
{
    struct world *w = begin_running();

    assert_int_equal(stage(w, 2, JOB + 1, UID), 0);
    bind(w, JOB + 1, 1);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    complete(w);
    assert_int_equal(w->did[OP_REPLY].count, 2);
    end(w);
}

static void test_what_is_untrusted_is_not_started_on(void **state)
{
    struct world *w = begin();

    stage_lazily(w, 1, JOB);
    bind_sized(w, JOB, 1, SIZE, false);
    get(w, 0);
    get(w, 1);
    assert_int_equal(w->did[OP_LAZY_LOOK].count, 0);
    assert_null(urgent(w));
    end(w);
}

static void test_without_fuse_the_job_starts_when_it_is_complete(void **state)
{
    struct world *w = begin();

    stage_lazily(w, 1, JOB);
    bind(w, JOB, 1);
    get(w, 0);
    get(w, 1);
    say_tables(w, PIECES - 1, 1);
    get(w, PIECES - 1);
    say_mounted(w, VINE_ESYS);
    assert_int_equal(w->did[OP_REPLY].count, 0);
    complete(w);
    assert_int_equal(w->did[OP_MOUNT].count, 1);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    end(w);
}

static void test_a_wait_is_told_each_time_what_follows_it_once(void **state)
{
    struct world *w = begin_running();
    struct vine_digest d = digest_no(1);
    uint32_t before = sent_count(&w->log, 0, MSG_URGENT);

    node_lazy_need(w->node, &d, (struct msg_range){2, 1}, w->now);
    assert_int_equal(sent_last(&w->log, 0, MSG_AWAITED)->ranges[0].first, 2);
    node_lazy_need(w->node, &d, (struct msg_range){2, 1}, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_AWAITED), 2);
    /* Nonsense is ignored, and so is what is there. */
    node_lazy_need(w->node, &d, (struct msg_range){0, 1}, w->now);
    node_lazy_need(w->node, &d, (struct msg_range){PIECES, 9}, w->now);
    node_lazy_need(w->node, &d, (struct msg_range){1, 1}, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_AWAITED), 2);
    assert_in_range(sent_count(&w->log, 0, MSG_URGENT), before, before + 1);
    end(w);
}

static void test_a_failing_source_does_not_take_it_from_a_running_job(void **state)
{
    struct world *w = begin_running();
    struct vine_digest d = digest_no(1);
    uint32_t before = sent_count(&w->log, 0, MSG_WANT);

    bind_error(w, JOB, VINE_EACCES, "cannot read it");
    assert_string_equal(node_lazy_trouble(w->node, &d), "cannot read it");
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), before);
    wait_ms(w, 6000);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), before + 1);
    bind(w, JOB, 1);
    complete(w);
    assert_string_equal(node_lazy_trouble(w->node, &d), "");
    end(w);
}

/* The daemon was restarted under them: nobody has asked since, but they read. */
static void test_nor_from_tasks_of_a_daemon_before(void **state)
{
    const bool have[PIECES] = {true, true};
    const struct msg_object partial = {
        .digest = digest_no(1), .size = SIZE, .pieces = PIECES, .trusted = true};
    const struct msg_binding binding = {
        .job = JOB, .uid = UID, .path = "/shared/ml", .digest = digest_no(1)};
    struct vine_digest d = digest_no(1);
    struct world *w = begin_with(UINT64_MAX);
    uint32_t before;

    assert_int_equal(node_restore_object(w->node, &partial, have, 1, NULL), 0);
    assert_int_equal(node_restore_binding(w->node, &binding, UID, NULL), 0);
    node_lazy_adopt(w->node, &d);
    manager_up(w);
    bind(w, JOB, 1);
    before = sent_count(&w->log, 0, MSG_WANT);
    bind_error(w, JOB, VINE_ECHANGED, "it changed");
    assert_string_equal(node_lazy_trouble(w->node, &d), "it changed");
    assert_int_equal(totals(w).objects, 1);
    wait_ms(w, 6000);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), before + 1);
    end(w);
}

static void test_the_mount_goes_with_the_last_job(void **state)
{
    struct world *w = begin_running();
    struct vine_digest d = digest_no(1);

    node_job_end(w->node, JOB, w->now);
    assert_int_equal(w->did[OP_LAZY_LEAVE].count, 1);
    /* The next one begins anew when the mount is gone. */
    stage_lazily(w, 2, JOB + 1);
    bind(w, JOB + 1, 1);
    assert_int_equal(w->did[OP_LAZY_MOUNT].count, 1);
    node_unmounted(w->node, &d, NODE_ANY_UID, w->now);
    assert_int_equal(w->did[OP_LAZY_LOOK].count, 2);
    say_tables(w, PIECES - 1, 1);
    assert_int_equal(w->did[OP_LAZY_MOUNT].count, 2);
    end(w);
}

static void test_what_was_read_is_wanted_first_the_next_time(void **state)
{
    struct world *w = begin();
    struct msg_range range = {2, 1};
    struct msg m = {.type = MSG_TOUCHED,
                    .digest = digest_no(1),
                    .ranges = &range,
                    .range_count = 1};

    stage_lazily(w, 1, JOB);
    bind(w, JOB, 1);
    assert_int_equal(tell(w, &m), 0);
    assert_int_equal(w->did[OP_TOUCHED].range.first, 2);
    assert_int_equal(urgent(w)->ranges[0].first, 1);
    get(w, 0);
    get(w, 1);
    say_tables(w, PIECES - 1, 1);
    get(w, PIECES - 1);
    assert_int_equal(urgent(w)->ranges[0].first, 2);
    range = (struct msg_range){PIECES, 1};
    assert_int_equal(tell(w, &m), -1);
    end(w);
}

static void test_an_origin_reads_first_what_is_waited_for(void **state)
{
    struct world *w = begin();
    struct msg_range range = {3, 1};
    struct msg m = {
        .type = MSG_URGENT, .digest = digest_no(1), .ranges = &range, .range_count = 1};

    /* Of an object that this node does not read it is no business. */
    assert_int_equal(tell(w, &m), 0);
    assert_int_equal(stage(w, 1, JOB, UID), 0);
    bind(w, JOB, 1);
    assert_int_equal(tell(w, &m), 0);
    range.first = PIECES;
    assert_int_equal(tell(w, &m), -1);
    end(w);
}

static void test_after_its_server_is_lost_nobody_begins_on_it(void **state)
{
    struct world *w = begin_running();
    struct vine_digest d = digest_no(1);

    node_lazy_lost(w->node, &d, w->now);
    stage_lazily(w, 2, JOB + 1);
    bind(w, JOB + 1, 1);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    complete(w);
    assert_int_equal(w->did[OP_REPLY].count, 2);
    end(w);
}

/* What the manager was told last: nothing but what is urgent? */
static bool holds(struct world *w)
{
    const struct sent *s = sent_last(&w->log, 0, MSG_HOLD);

    return s != NULL && s->m.hold;
}

static void read_for_ms(struct world *w, uint64_t ms)
{
    struct vine_digest d = digest_no(1);

    for (uint64_t end = w->now + ms; w->now < end;) {
        node_lazy_read(w->node, &d, (struct msg_range){2, 1}, w->now);
        wait_ms(w, 250);
    }
}

static void test_the_rest_waits_while_tasks_read(void **state)
{
    struct world *w = begin_running();

    assert_true(holds(w));
    read_for_ms(w, 10000);
    assert_true(holds(w));
    wait_ms(w, 3000);
    assert_false(holds(w));
    read_for_ms(w, 1000);
    assert_true(holds(w));
    complete(w);
    assert_int_equal(w->did[OP_LAZY_HAVE].id, PIECES - 2); /* the edge is told */
    end(w);
}

static void test_the_rest_does_not_wait_for_ever(void **state)
{
    struct world *w = begin_running();

    read_for_ms(w, 70000);
    assert_false(holds(w));
    end(w);
}

static void test_who_waits_for_all_of_it_is_not_held_back(void **state)
{
    struct world *w = begin_running();

    assert_true(holds(w));
    assert_int_equal(stage(w, 2, JOB + 1, UID), 0);
    bind(w, JOB + 1, 1);
    assert_false(holds(w));
    read_for_ms(w, 1000);
    assert_false(holds(w));
    node_job_end(w->node, JOB + 1, w->now);
    read_for_ms(w, 1000);
    assert_true(holds(w));
    /* Another step of the lazy job waits for all. */
    assert_int_equal(stage(w, 3, JOB, UID), 0);
    assert_false(holds(w));
    end(w);
}

static void test_a_start_that_fails_holds_nothing_back(void **state)
{
    struct world *w = begin();

    stage_lazily(w, 1, JOB);
    bind(w, JOB, 1);
    assert_true(holds(w));
    get(w, 0);
    get(w, 1);
    say_tables(w, PIECES - 1, 1);
    get(w, PIECES - 1);
    say_mounted(w, VINE_ESYS);
    assert_false(holds(w));
    end(w);
}

static void test_a_new_manager_is_told(void **state)
{
    struct world *w = begin_running();

    manager_down(w);
    w->log.count = 0;
    manager_up(w);
    assert_true(holds(w));
    end(w);
}

/* This node reads the source, lazily: which pieces it reads. */
static uint32_t streamed(struct world *w)
{
    return w->did[OP_FETCH_ORIGIN].count;
}

static void origin_piece(struct world *w, uint32_t piece)
{
    assert_int_equal(w->did[OP_FETCH_ORIGIN].range.first, piece);
    node_piece_done(w->node, w->did[OP_FETCH_ORIGIN].id, piece, w->now);
}

static void say_hold(struct world *w, bool hold)
{
    struct msg m = {.type = MSG_HOLD, .digest = digest_no(1), .hold = hold};

    assert_int_equal(tell(w, &m), 0);
}

static void test_a_stream_is_read_no_further_than_anybody_needs(void **state)
{
    struct node_resolved r = {.key = digest_no(3),
                              .has_manifest = true,
                              .digest = digest_no(1),
                              .size = SIZE,
                              .pieces = PIECES,
                              .trusted = true};
    struct msg resolve = {.type = MSG_RESOLVE,
                          .ticket = 9,
                          .job = JOB,
                          .uid = UID,
                          .gid = UID,
                          .path = "/shared/ml"};
    struct msg build = {.type = MSG_BUILD, .ticket = 9};
    struct world *w = begin();

    stage_lazily(w, 1, JOB);
    assert_int_equal(tell(w, &resolve), 0);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    assert_int_equal(tell(w, &build), 0);
    say_hold(w, true);
    bind(w, JOB, 1);
    origin_piece(w, 0);
    assert_int_equal(streamed(w), 3); /* the first and the last one with data */
    origin_piece(w, PIECES - 1);
    assert_int_equal(streamed(w), 3);
    /* Somebody else wants all of it. */
    say_hold(w, false);
    assert_int_equal(streamed(w), 4);
    end(w);
}

/* The daemon stops: who serves the tasks that run outlives it. */
static void test_the_end_of_the_daemon_leaves_tasks_alone(void **state)
{
    struct world *w = begin_running();

    node_free(w->node);
    assert_int_equal(w->did[OP_LAZY_LEAVE].count, 0);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_job_starts_when_the_tables_are_there),
        cmocka_unit_test(test_others_wait_for_all_of_it),
        cmocka_unit_test(test_what_is_untrusted_is_not_started_on),
        cmocka_unit_test(test_without_fuse_the_job_starts_when_it_is_complete),
        cmocka_unit_test(test_a_wait_is_told_each_time_what_follows_it_once),
        cmocka_unit_test(test_a_failing_source_does_not_take_it_from_a_running_job),
        cmocka_unit_test(test_nor_from_tasks_of_a_daemon_before),
        cmocka_unit_test(test_the_mount_goes_with_the_last_job),
        cmocka_unit_test(test_what_was_read_is_wanted_first_the_next_time),
        cmocka_unit_test(test_an_origin_reads_first_what_is_waited_for),
        cmocka_unit_test(test_after_its_server_is_lost_nobody_begins_on_it),
        cmocka_unit_test(test_the_rest_waits_while_tasks_read),
        cmocka_unit_test(test_the_rest_does_not_wait_for_ever),
        cmocka_unit_test(test_who_waits_for_all_of_it_is_not_held_back),
        cmocka_unit_test(test_a_start_that_fails_holds_nothing_back),
        cmocka_unit_test(test_a_new_manager_is_told),
        cmocka_unit_test(test_a_stream_is_read_no_further_than_anybody_needs),
        cmocka_unit_test(test_the_end_of_the_daemon_leaves_tasks_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

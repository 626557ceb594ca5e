/* The node's core: versions of a job's files that newer ones replace. */
#include "tests/unit/node_world.h"

#define V1 "data:vine:out#000000000000000100000001"

/* Object 1 is there as version 1; nobody waits for it any more. */
static struct world *begin_put(void)
{
    struct msg_object object = {.digest = digest_no(1),
                                .size = SIZE,
                                .pieces = PIECES,
                                .complete = true,
                                .trusted = true};
    struct msg_binding binding = {
        .job = JOB, .uid = UID, .path = V1, .digest = digest_no(1)};
    struct world *w = begin_with(UINT64_MAX);

    assert_int_equal(node_restore_object(w->node, &object, NULL, 1, NULL), 0);
    assert_int_equal(node_restore_binding(w->node, &binding, UID, NULL), 0);
    manager_up(w);
    sent_clear(&w->log);
    return w;
}

static void replaced(struct world *w, uint32_t uid, const char *path)
{
    struct msg m = {.type = MSG_REPLACED, .job = JOB, .uid = uid, .path = path};

    assert_int_equal(tell(w, &m), 0);
}

static void add_leases(void *arg, const struct node_object_info *o)
{
    *(uint32_t *)arg += o->leases;
}

static uint32_t leases(struct world *w)
{
    uint32_t count = 0;

    node_each_object(w->node, add_leases, &count);
    return count;
}

static void test_it_is_let_go(void **state)
{
    struct world *w = begin_put();

    assert_int_equal(leases(w), 1);
    replaced(w, UID, V1);
    assert_int_equal(sent_count(&w->log, 0, MSG_LEAVE), 1);
    assert_string_equal(sent_last(&w->log, 0, MSG_LEAVE)->path, V1);
    assert_int_equal(leases(w), 0);
    assert_false(node_has_job(w->node, JOB)); /* it had nothing else */
    replaced(w, UID, V1);
    assert_int_equal(sent_count(&w->log, 0, MSG_LEAVE), 1);
    end(w);
}

static void test_others_are_not(void **state)
{
    struct world *w = begin_put();

    replaced(w, UID + 1, V1);
    replaced(w, UID, "data:vine:out#000000000000000200000001");
    replaced(w, UID, "/shared/ml");
    assert_int_equal(sent_count(&w->log, 0, MSG_LEAVE), 0);
    assert_int_equal(leases(w), 1);
    end(w);
}

static void test_what_a_task_was_given_stays(void **state)
{
    struct world *w = begin_put();

    w->shown = digest_no(1);
    replaced(w, UID, V1);
    assert_int_equal(sent_count(&w->log, 0, MSG_LEAVE), 0);
    assert_int_equal(leases(w), 1);
    node_job_end(w->node, JOB, w->now);
    assert_int_equal(leases(w), 0);
    end(w);
}

static void test_what_a_task_waits_for_stays(void **state)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    struct world *w = begin_put();

    spec->count = 1;
    spec->source[0].data = true;
    strcpy(spec->source[0].path, &V1[strlen(VINE_DATA)]);
    assert_int_equal(node_stage(w->node, 1, JOB, UID, UID, spec, w->now, NULL), 0);
    free(spec);
    replaced(w, UID, V1);
    assert_int_equal(sent_count(&w->log, 0, MSG_LEAVE), 0);
    assert_int_equal(leases(w), 1);
    end(w);
}

static void test_a_copy_for_a_job_without_tasks_is_refused(void **state)
{
    struct msg wanted = {
        .type = MSG_WANTED, .job = JOB, .uid = UID, .gid = UID, .path = V1};
    struct world *w = begin();

    w->without_tasks = true;
    assert_int_equal(tell(w, &wanted), 0);
    assert_int_equal(sent_count(&w->log, 0, MSG_LEAVE), 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), 0);
    assert_false(node_has_job(w->node, JOB));
    wanted.job |= 1ull << 63; /* `vine-env stage` */
    assert_int_equal(tell(w, &wanted), 0);
    w->without_tasks = false;
    wanted.job = JOB;
    assert_int_equal(tell(w, &wanted), 0);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), 2);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_is_let_go),
        cmocka_unit_test(test_others_are_not),
        cmocka_unit_test(test_what_a_task_was_given_stays),
        cmocka_unit_test(test_what_a_task_waits_for_stays),
        cmocka_unit_test(test_a_copy_for_a_job_without_tasks_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

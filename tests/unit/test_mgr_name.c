/* The manager's core: names of a job's files. */
#include "daemon/core/mgr_name.c"

#include "tests/unit/mgr_world.h"

#define USER 5u
#define V1 "data:vine:out#000000000000000100000001"
#define V2 "data:vine:out#000000000000000200000001"
#define BARE "data:vine:out"

static int want_id(struct world *w, uint32_t conn, uint64_t job, const char *id)
{
    struct msg m = {.type = MSG_WANT, .job = job, .uid = USER, .gid = USER, .path = id};

    return say(w, conn, &m);
}

static int name(struct world *w, uint32_t conn, uint64_t job, const char *id,
                const char *const *names, uint32_t count, uint32_t copies)
{
    struct msg m = {.type = MSG_NAME,
                    .ticket = 4711,
                    .job = job,
                    .uid = USER,
                    .gid = USER,
                    .path = id,
                    .names = names,
                    .name_count = count,
                    .copies = copies};

    return say(w, conn, &m);
}

static const struct sent *answer(struct world *w, uint32_t conn)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_NAMED);

    assert_non_null(s);
    assert_int_equal(s->m.ticket, 4711);
    return s;
}

static void assert_named(struct world *w, uint32_t conn, enum vine_code code,
                         const char *text)
{
    const struct sent *s = answer(w, conn);

    assert_int_equal(s->m.code, code);
    assert_non_null(strstr(code == VINE_OK ? s->path : s->text, text));
}

/* Node `conn` makes and offers a version, of which object `digest` is the content. */
static void put(struct world *w, uint32_t conn, const char *id, uint8_t digest)
{
    want_id(w, conn, JOB, id);
    resolved(w, conn, ticket_of(w, conn), (uint8_t)(digest + 100));
    built(w, conn, ticket_of(w, conn), digest);
    assert_int_equal(name(w, conn, JOB, id, NULL, 0, 0), 0);
    assert_named(w, conn, VINE_OK, id);
}

/* A manager that was started some time ago. */
static struct world *begin_old(uint32_t nodes)
{
    struct world *w = begin(nodes);

    wait_ms(w, 10000);
    return w;
}

static void look(struct world *w, uint32_t conn, uint64_t job)
{
    assert_int_equal(name(w, conn, job, BARE, NULL, 0, 0), 0);
}

static void test_the_last_version_is_found(void **state)
{
    struct world *w = begin_old(3);

    look(w, 2, JOB);
    assert_named(w, 2, VINE_ENOENT, "no task of job 7 has put 'out'");
    put(w, 1, V1, 1);
    look(w, 2, JOB);
    assert_named(w, 2, VINE_OK, V1);
    put(w, 3, V2, 2);
    look(w, 2, JOB);
    assert_named(w, 2, VINE_OK, V2);
    name(w, 1, JOB, V1, NULL, 0, 0); /* by a clock that is behind */
    look(w, 2, JOB);
    assert_named(w, 2, VINE_OK, V1);
    look(w, 2, JOB + 1);
    assert_named(w, 2, VINE_ENOENT, "job 8");
    end(w);
}

static void test_another_user_finds_nothing(void **state)
{
    struct msg m = {
        .type = MSG_NAME, .ticket = 4711, .job = JOB, .uid = 6, .gid = 6, .path = BARE};
    struct world *w = begin_old(2);

    put(w, 1, V1, 1);
    say(w, 2, &m);
    assert_named(w, 2, VINE_ENOENT, "no task");
    m.path = V2;
    say(w, 2, &m);
    assert_int_equal(answer(w, 2)->m.code, VINE_ECANCELED);
    end(w);
}

static void test_what_nobody_has_has_no_name(void **state)
{
    struct world *w = begin_old(2);

    name(w, 1, JOB, V1, NULL, 0, 0);
    assert_named(w, 1, VINE_ECANCELED, "ended");
    want_id(w, 1, JOB, V1); /* being read */
    name(w, 1, JOB, V1, NULL, 0, 0);
    assert_named(w, 1, VINE_ECANCELED, "ended");
    look(w, 2, JOB);
    assert_named(w, 2, VINE_ENOENT, "no task");
    end(w);
}

static void test_malformed_ones_are_refused(void **state)
{
    static const char *const others[] = {"n2"};
    struct world *w = begin_old(2);

    assert_int_equal(name(w, 1, JOB, "/shared/ml", NULL, 0, 0), -1);
    assert_int_equal(name(w, 1, JOB, "data:/shared/ml", NULL, 0, 0), -1);
    assert_int_equal(name(w, 1, JOB, V1, others, 1, 2), -1);
    end(w);
}

static void test_it_is_lost_with_all_that_have_it(void **state)
{
    struct world *w = begin_old(3);

    put(w, 1, V1, 1);
    want_id(w, 2, JOB, V1);
    have(w, 2, 1, 0, PIECES);
    mgr_disconnected(w->mgr, 1, w->now);
    look(w, 3, JOB);
    assert_named(w, 3, VINE_OK, V1);
    mgr_disconnected(w->mgr, 2, w->now);
    look(w, 3, JOB);
    assert_named(w, 3, VINE_ETIMEDOUT, "do not answer");
    wait_ms(w, 10000);
    look(w, 3, JOB);
    assert_named(w, 3, VINE_ELOST, "'out' is lost");
    put(w, 3, V2, 2); /* the task that made it ran again */
    look(w, 3, JOB);
    assert_named(w, 3, VINE_OK, V2);
    end(w);
}

static void test_it_ends_with_the_job(void **state)
{
    struct world *w = begin_old(3);

    put(w, 1, V1, 1);
    want_id(w, 2, JOB, V1);
    have(w, 2, 1, 0, PIECES);
    release(w, 1, JOB);
    look(w, 2, JOB);
    assert_named(w, 2, VINE_OK, V1);
    release(w, 2, JOB);
    look(w, 2, JOB);
    assert_named(w, 2, VINE_ENOENT, "no task");
    end(w);
}

static void test_copies_are_answered_when_all_have_it(void **state)
{
    static const char *const others[] = {"n1", "n9", "n2", "n2", "n3"};
    const struct sent *s;
    struct world *w = begin_old(4);

    put(w, 1, V1, 1);
    sent_clear(&w->log);
    name(w, 1, JOB, V1, others, 5, 2);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANTED), 2);
    s = sent_last(&w->log, 2, MSG_WANTED);
    assert_non_null(s);
    assert_int_equal(s->m.job, JOB);
    assert_string_equal(s->path, V1);
    want_id(w, 2, JOB, V1);
    want_id(w, 3, JOB, V1);
    have(w, 3, 1, 0, PIECES);
    assert_null(sent_last(&w->log, 1, MSG_NAMED));
    have(w, 2, 1, 0, PIECES);
    assert_named(w, 1, VINE_OK, V1);
    sent_clear(&w->log);
    name(w, 1, JOB, V1, others + 2, 3, 2); /* they have it */
    assert_named(w, 1, VINE_OK, V1);
    assert_int_equal(sent_count(&w->log, 1, MSG_NAMED), 1);
    end(w);
}

static void test_copies_that_fail_are_told(void **state)
{
    static const char *const others[] = {"n2", "n3"};
    struct msg refused = {.type = MSG_FAILED,
                          .digest = digest_no(1),
                          .peer = "",
                          .code = VINE_ENOSPC,
                          .range_count = 1};
    const struct msg_range all = {0, PIECES};
    struct world *w = begin_old(3);

    put(w, 1, V1, 1);
    name(w, 1, JOB, V1, others, 1, 1);
    mgr_disconnected(w->mgr, 2, w->now);
    assert_named(w, 1, VINE_EDOWN, "not copied to n2: the node is gone");
    name(w, 1, JOB, V1, others, 2, 2); /* n2 is not there */
    assert_named(w, 1, VINE_EDOWN, "only 1 of");
    sent_clear(&w->log);
    name(w, 1, JOB, V1, others + 1, 1, 1);
    wait_ms(w, 11000);
    assert_named(w, 1, VINE_EDOWN, "did not begin to take it");
    sent_clear(&w->log);
    name(w, 1, JOB, V1, others + 1, 1, 1);
    want_id(w, 3, JOB, V1);
    refused.ranges = &all;
    say(w, 3, &refused);
    assert_named(w, 1, VINE_EDOWN, "not copied to n3");
    release(w, 3, JOB);
    sent_clear(&w->log);
    name(w, 1, JOB, V1, others + 1, 1, 1);
    release(w, 1, JOB);
    assert_named(w, 1, VINE_ECANCELED, "the job has ended");
    end(w);
}

/* A manager that is new learns them from the bindings. */
static void test_nodes_bring_them_along(void **state)
{
    struct msg_object objects[] = {
        {.digest = digest_no(1), .size = SIZE, .pieces = PIECES, .complete = true},
        {.digest = digest_no(2), .size = SIZE, .pieces = PIECES, .complete = true}};
    struct msg_binding bindings[] = {{JOB, USER, V2, digest_no(2)},
                                     {JOB, USER, V1, digest_no(1)}};
    struct world *w = begin_old(1);

    join_with(w, 2, objects, 2, bindings, 2);
    look(w, 1, JOB);
    assert_named(w, 1, VINE_OK, V2);
    end(w);
}

static void test_a_new_manager_may_not_know_the_last_version(void **state)
{
    struct msg_object object = {
        .digest = digest_no(1), .size = SIZE, .pieces = PIECES, .complete = true};
    struct msg_binding binding = {JOB, USER, V1, digest_no(1)};
    struct world *w = begin(2);

    look(w, 1, JOB);
    assert_named(w, 1, VINE_ETIMEDOUT, "just been started");
    join_with(w, 3, &object, 1, &binding, 1);
    look(w, 1, JOB);
    assert_named(w, 1, VINE_ETIMEDOUT, "just been started");
    put(w, 2, V2, 2);
    look(w, 1, JOB);
    assert_named(w, 1, VINE_OK, V2);
    end(w);
}

static void assert_replaced(struct world *w, uint32_t conn, const char *id)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_REPLACED);

    assert_non_null(s);
    assert_string_equal(s->path, id);
    assert_int_equal(s->m.job, JOB);
    assert_int_equal(s->m.uid, USER);
}

static int leave(struct world *w, uint32_t conn, const char *id)
{
    struct msg m = {.type = MSG_LEAVE, .job = JOB, .uid = USER, .path = id};

    return say(w, conn, &m);
}

/* Or a task that offers the same name for ever would fill the disks. */
static void test_a_replaced_version_is_let_go(void **state)
{
    struct world *w = begin_old(3);

    put(w, 1, V1, 1);
    want_id(w, 2, JOB, V1);
    have(w, 2, 1, 0, PIECES);
    sent_clear(&w->log);
    put(w, 3, V2, 2);
    assert_replaced(w, 1, V1);
    assert_replaced(w, 2, V1);
    assert_null(sent_last(&w->log, 3, MSG_REPLACED));
    assert_int_equal(leave(w, 1, V1), 0);
    assert_int_equal(leave(w, 1, V1), 0); /* twice: nothing more to leave */
    assert_int_equal(w->mgr->sources.count, 2);
    assert_int_equal(leave(w, 2, V1), 0);
    assert_int_equal(w->mgr->sources.count, 1);
    look(w, 1, JOB);
    assert_named(w, 1, VINE_OK, V2);
    end(w);
}

static void test_who_comes_back_with_an_older_version_is_told(void **state)
{
    struct vine_digest key = digest_no(101);
    struct msg_object object = {.digest = digest_no(1),
                                .size = SIZE,
                                .pieces = PIECES,
                                .complete = true,
                                .key_count = 1,
                                .keys = &key};
    struct msg_binding binding = {
        .job = JOB, .uid = USER, .path = V1, .digest = digest_no(1)};
    struct world *w = begin_old(2);

    put(w, 1, V1, 1);
    mgr_disconnected(w->mgr, 1, w->now);
    put(w, 2, V2, 2);
    join_with(w, 1, &object, 1, &binding, 1);
    assert_replaced(w, 1, V1);
    end(w);
}

static void test_copies_of_a_replaced_version_are_given_up(void **state)
{
    static const char *const names[] = {"n1", "n2"};
    struct world *w = begin_old(3);

    want_id(w, 1, JOB, V1);
    resolved(w, 1, ticket_of(w, 1), 101);
    built(w, 1, ticket_of(w, 1), 1);
    name(w, 1, JOB, V1, names, 2, 1);
    want_id(w, 2, JOB, V1); /* the copy begins */
    put(w, 3, V2, 2);
    assert_int_equal(leave(w, 2, V1), 0);
    assert_named(w, 1, VINE_EDOWN, "not copied to n2: a newer version came");
    end(w);
}

static int name_no(struct world *w, uint64_t job, uint32_t uid, uint32_t number)
{
    struct vine_err err = {0};
    char id[80];

    (void)snprintf(id, sizeof(id), "data:vine:f%u#000000000000000100000001", number);
    return name_set(w->mgr, job, uid, id, true, &err) == 0 ? 0 : (int)err.code;
}

static void fill(struct world *w, uint64_t job, uint32_t uid, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(name_no(w, job, uid, i), 0);
}

static void test_names_are_bounded(void **state)
{
    struct world *w = begin(1);

    fill(w, 1, 1000, VINE_JOB_NAMES_MAX);
    assert_int_equal(name_no(w, 1, 1000, VINE_JOB_NAMES_MAX), VINE_ELIMIT);
    assert_int_equal(name_no(w, 1, 1000, 7), 0); /* again, by a name it has */
    fill(w, 2, 1000, VINE_UID_NAMES_MAX - VINE_JOB_NAMES_MAX);
    assert_int_equal(name_no(w, 3, 1000, 0), VINE_ELIMIT);
    assert_int_equal(w->mgr->named_jobs.count, 2);
    assert_int_equal(name_no(w, 4, 1001, 0), 0); /* others are not concerned */
    for (uint32_t i = 0; w->mgr->named.count < VINE_NAMES_MAX; i++)
        assert_int_equal(name_no(w, 100 + i / VINE_JOB_NAMES_MAX,
                                 2000 + i / VINE_JOB_NAMES_MAX, i % VINE_JOB_NAMES_MAX),
                         0);
    assert_int_equal(name_no(w, 5, 3000, 0), VINE_ELIMIT);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_last_version_is_found),
        cmocka_unit_test(test_another_user_finds_nothing),
        cmocka_unit_test(test_what_nobody_has_has_no_name),
        cmocka_unit_test(test_malformed_ones_are_refused),
        cmocka_unit_test(test_it_is_lost_with_all_that_have_it),
        cmocka_unit_test(test_it_ends_with_the_job),
        cmocka_unit_test(test_copies_are_answered_when_all_have_it),
        cmocka_unit_test(test_copies_that_fail_are_told),
        cmocka_unit_test(test_nodes_bring_them_along),
        cmocka_unit_test(test_a_replaced_version_is_let_go),
        cmocka_unit_test(test_who_comes_back_with_an_older_version_is_told),
        cmocka_unit_test(test_copies_of_a_replaced_version_are_given_up),
        cmocka_unit_test(test_names_are_bounded),
        cmocka_unit_test(test_a_new_manager_may_not_know_the_last_version),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The node's core: how an object came here is told once for each job. */
#include "tests/unit/node_world.h"

static const struct msg *story(struct world *w)
{
    const struct sent *s = sent_last(&w->log, 0, MSG_STORY);

    return s == NULL ? NULL : &s->m;
}

static uint32_t stories(struct world *w)
{
    return sent_count(&w->log, 0, MSG_STORY);
}

static uint64_t sum(const struct msg *m)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < m->row_count; i++)
        bytes += m->rows[i].bytes;
    return bytes;
}

static void publish(struct world *w, uint8_t digest)
{
    struct vine_digest d = digest_no(digest);

    node_published(w->node, &d, NULL, w->now);
}

static void piece(struct world *w, uint32_t p, const char *peer)
{
    uint64_t t = fetch(w, 1, p, 1, peer);

    w->now += 100;
    node_piece_done(w->node, t, p, w->now);
}

static void test_each_sender_has_a_row(void **state)
{
    struct world *w = begin();
    const struct msg *m;

    stage(w, 1, JOB, UID);
    w->now += 50;
    bind(w, JOB, 1);
    piece(w, 0, "n2");
    piece(w, 1, "n2");
    piece(w, 2, "n3");
    piece(w, 3, "n2");
    assert_int_equal(stories(w), 0);
    w->now += 10;
    publish(w, 1);
    assert_int_equal(stories(w), 1);
    m = story(w);
    assert_true(m->job == JOB && m->uid == UID && m->size == SIZE);
    assert_string_equal(m->path, "/shared/ml");
    assert_int_equal(m->code, VINE_OK);
    assert_int_equal(m->row_count, 2);
    assert_int_equal(m->rows[0].from, MSG_FROM_PEER);
    assert_string_equal(m->rows[0].peer, "n2");
    assert_int_equal(m->rows[0].bytes, 2000);
    assert_int_equal(m->rows[0].first_ms, 310); /* ago; the manifest does not count */
    assert_int_equal(m->rows[0].last_ms, 10);
    assert_string_equal(m->rows[1].peer, "n3");
    assert_int_equal(m->rows[1].bytes, 1000);
    assert_int_equal(m->rows[1].first_ms, 210);
    assert_int_equal(m->rows[1].last_ms, 110);
    assert_int_equal(m->wanted_ms, 460);
    assert_int_equal(m->begun_ms, 310);
    assert_int_equal(m->ended_ms, 0);
    stage(w, 2, JOB, UID); /* another step: nothing new */
    assert_int_equal(stories(w), 1);
    end(w);
}

static void test_what_was_here_before_says_so(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    fetch_all(w, 1);
    w->now += 1000;
    stage(w, 2, JOB + 1, UID);
    bind(w, JOB + 1, 1);
    assert_int_equal(stories(w), 2);
    assert_int_equal(story(w)->job, JOB + 1);
    assert_int_equal(story(w)->row_count, 1);
    assert_int_equal(story(w)->rows[0].from, MSG_FROM_HERE);
    assert_int_equal(story(w)->rows[0].bytes, SIZE);
    end(w);
}

static void test_the_builder_made_it(void **state)
{
    struct node_resolved r = {.key = digest_no(3), .estimate = 5000};
    struct msg_object object = {
        .digest = digest_no(1), .size = SIZE, .pieces = PIECES, .complete = true};
    struct msg resolve = {.type = MSG_RESOLVE,
                          .ticket = 9,
                          .job = JOB,
                          .uid = UID,
                          .gid = UID,
                          .path = "/shared/ml"};
    struct msg build = {.type = MSG_BUILD, .ticket = 9};
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    tell(w, &resolve);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    tell(w, &build);
    w->now += 700;
    node_source_built(w->node, w->did[OP_BUILD].id, &object, NULL, w->now);
    assert_int_equal(stories(w), 0); /* whose it is the manager says */
    w->now += 5;
    bind(w, JOB, 1);
    assert_int_equal(stories(w), 1);
    assert_int_equal(story(w)->row_count, 1);
    assert_int_equal(story(w)->rows[0].from, MSG_FROM_BUILT);
    assert_int_equal(story(w)->rows[0].bytes, SIZE);
    assert_int_equal(story(w)->begun_ms, 705);
    assert_int_equal(story(w)->ended_ms, 5);
    end(w);
}

static void test_what_is_given_up_is_told_with_its_reason(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    piece(w, 0, "n2");
    piece(w, 1, "n2");
    bind_error(w, JOB, VINE_EACCES, "no");
    assert_int_equal(stories(w), 1);
    assert_int_equal(story(w)->code, VINE_EACCES);
    assert_int_equal(sum(story(w)), 1000);
    stage(w, 2, JOB + 1, UID); /* its story begins anew */
    bind(w, JOB + 1, 1);
    piece(w, 2, "n3");
    node_job_end(w->node, JOB + 1, w->now);
    assert_int_equal(stories(w), 2);
    assert_int_equal(story(w)->code, VINE_ECANCELED);
    assert_int_equal(sum(story(w)), 1000);
    assert_string_equal(story(w)->rows[0].peer, "n3");
    end(w);
}

static void test_a_manager_that_was_away_is_told_later(void **state)
{
    struct world *w = begin();
    struct vine_digest d = digest_no(1);

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    for (uint32_t p = 0; p < PIECES; p++)
        piece(w, p, "n2");
    manager_down(w);
    node_published(w->node, &d, NULL, w->now);
    assert_int_equal(stories(w), 0);
    w->now += 3000;
    manager_up(w);
    assert_int_equal(stories(w), 1);
    assert_int_equal(story(w)->ended_ms, 3000);
    assert_int_equal(sum(story(w)), SIZE);
    manager_down(w);
    manager_up(w);
    assert_int_equal(stories(w), 1);
    end(w);
}

static void test_jobs_that_a_daemon_made_up_have_no_log(void **state)
{
    struct world *w = begin();

    stage(w, 1, MADE_UP | 3, UID);
    bind(w, MADE_UP | 3, 1);
    fetch_all(w, 1);
    assert_int_equal(stories(w), 0);
    end(w);
}

/* Rows are bounded: the many beyond are one row, and no byte is lost. */
static void test_many_senders_are_others(void **state)
{
    const uint32_t pieces = 2 * VINE_STORY_MAX;
    struct msg m = {.type = MSG_BINDING,
                    .job = JOB,
                    .uid = UID,
                    .path = "/shared/ml",
                    .text = "",
                    .digest = digest_no(1),
                    .size = (uint64_t)(pieces - 1) * 10,
                    .pieces = pieces,
                    .trusted = true};
    struct world *w = begin();
    char peer[16];

    stage(w, 1, JOB, UID);
    tell(w, &m);
    for (uint32_t p = 0; p < pieces; p++) {
        (void)snprintf(peer, sizeof(peer), "p%u", p);
        piece(w, p, peer);
    }
    publish(w, 1);
    assert_int_equal(stories(w), 1);
    assert_int_equal(story(w)->row_count, VINE_STORY_MAX - 1);
    end(w);
}

static void test_older_objects_and_parts_have_their_rows(void **state)
{
    static const bool have[PIECES] = {false, true, false, false};
    static const uint32_t missing[PIECES] = {0, 0, 100, 1000};
    struct node_reused r = {
        .have = have, .missing = missing, .bytes = 900, .bytes_parts = 1000};
    struct msg part = {.type = MSG_PART,
                       .job = JOB,
                       .uid = UID,
                       .path = "/shared/ml",
                       .digest = digest_no(50),
                       .size = 900,
                       .pieces = 3};
    struct world *w = begin_ops(UINT64_MAX, true);
    struct vine_digest d = digest_no(1), part_digest = digest_no(50);
    uint64_t t;

    manager_up(w);
    stage(w, 1, JOB, UID);
    tell(w, &part);
    node_piece_done(w->node, fetch(w, 50, 0, 1, "n7"), 0, w->now);
    node_reused(w->node, &part_digest, NULL, w->now);
    t = fetch(w, 50, 1, 2, "n7");
    node_piece_done(w->node, t, 1, w->now);
    node_piece_done(w->node, t, 2, w->now);
    publish(w, 50);
    bind(w, JOB, 1);
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    node_reused(w->node, &d, &r, w->now);
    t = fetch(w, 1, 2, 2, "n2");
    node_piece_done(w->node, t, 2, w->now);
    node_piece_done(w->node, t, 3, w->now);
    publish(w, 1);
    assert_int_equal(stories(w), 1);
    assert_int_equal(story(w)->row_count, 3);
    assert_int_equal(story(w)->rows[0].from, MSG_FROM_REUSED);
    assert_int_equal(story(w)->rows[0].bytes, 900);
    assert_string_equal(story(w)->rows[1].peer, "n7");
    assert_int_equal(story(w)->rows[1].bytes, 1000);
    assert_string_equal(story(w)->rows[2].peer, "n2");
    assert_int_equal(story(w)->rows[2].bytes, 1100);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_sender_has_a_row),
        cmocka_unit_test(test_what_was_here_before_says_so),
        cmocka_unit_test(test_the_builder_made_it),
        cmocka_unit_test(test_what_is_given_up_is_told_with_its_reason),
        cmocka_unit_test(test_a_manager_that_was_away_is_told_later),
        cmocka_unit_test(test_jobs_that_a_daemon_made_up_have_no_log),
        cmocka_unit_test(test_many_senders_are_others),
        cmocka_unit_test(test_older_objects_and_parts_have_their_rows),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

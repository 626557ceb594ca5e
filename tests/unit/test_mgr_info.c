/* The manager's core: what it tells of a job's sources and its nodes. */
#include "tests/unit/mgr_world.h"

struct seen {
    uint32_t sources, nodes, ready;
    uint64_t bytes;
    struct mgr_source_info last;
    char slowest[64], origin[64];
};

static void see_source(void *arg, const struct mgr_source_info *s)
{
    struct seen *seen = arg;

    seen->sources++;
    seen->last = *s;
}

static void see_node(void *arg, const struct mgr_want_info *n)
{
    struct seen *seen = arg;

    seen->nodes++;
    seen->ready += n->ready;
    seen->bytes += n->bytes;
}

static struct seen look(struct world *w, uint64_t job, uint32_t uid)
{
    struct seen seen = {.sources = 0};

    mgr_each_source(w->mgr, job, uid, see_source, see_node, &seen);
    return seen;
}

static struct mgr_source_info longest(struct world *w, uint32_t conn)
{
    struct mgr_source_info info = {.nodes = 0};

    assert_true(mgr_longest_wait(w->mgr, conn, JOB, 5, &info));
    return info;
}

static void test_a_build_is_followed(void **state)
{
    struct world *w = begin(3);
    struct msg m = {.type = MSG_BUILDING, .offset = 30, .size = 100};
    struct mgr_source_info info;

    for (uint32_t i = 1; i <= 3; i++)
        want(w, i, JOB, 5);
    assert_string_equal(longest(w, 2).state, "resolving");
    assert_string_equal(longest(w, 2).origin, "n1");
    resolved(w, 1, ticket_of(w, 1), 3);
    info = longest(w, 3);
    assert_string_equal(info.state, "building");
    assert_int_equal(info.to_read, 0);
    m.ticket = ticket_of(w, 1);
    assert_int_equal(say(w, 2, &m), 0); /* not its ticket: not believed */
    assert_int_equal(longest(w, 3).to_read, 0);
    assert_int_equal(say(w, 1, &m), 0);
    info = longest(w, 3);
    assert_int_equal(info.read, 30);
    assert_int_equal(info.to_read, 100);
    m.offset = 120;
    assert_int_equal(say(w, 1, &m), 0);
    assert_int_equal(longest(w, 3).read, 100);
    built(w, 1, ticket_of(w, 1), 1);
    info = longest(w, 3);
    assert_string_equal(info.state, "bound");
    assert_null(info.origin);
    assert_int_equal(info.to_read, 0);
    assert_int_equal(say(w, 1, &m), 0); /* it crossed the end: no fault */
    end(w);
}

static void test_the_slowest_is_named(void **state)
{
    struct world *w = begin_seeded(3, PIECES);
    struct mgr_source_info info = longest(w, 2);

    assert_int_equal(info.nodes, 3);
    assert_int_equal(info.ready, 0);
    have(w, 2, 1, 0, PIECES);
    have(w, 3, 1, 0, 1);
    have(w, 4, 1, 0, 3);
    info = longest(w, 2);
    assert_int_equal(info.ready, 1);
    assert_string_equal(info.slowest, "n3");
    assert_int_equal(info.slowest_bytes, info.size / PIECES);
    have(w, 3, 1, 1, PIECES - 1);
    assert_string_equal(longest(w, 3).slowest, "n4");
    have(w, 4, 1, 3, PIECES - 3);
    info = longest(w, 4);
    assert_int_equal(info.ready, 3);
    assert_null(info.slowest);
    end(w);
}

static void test_a_job_is_listed_for_its_owner(void **state)
{
    struct world *w = begin_seeded(2, PIECES);
    struct mgr_source_info info;
    struct seen seen;

    have(w, 2, 1, 0, PIECES);
    have(w, 3, 1, 0, 1);
    want(w, 1, JOB + 1, 5);
    seen = look(w, JOB, 5);
    assert_int_equal(seen.sources, 1);
    assert_int_equal(seen.nodes, 2);
    assert_int_equal(seen.ready, 1);
    assert_int_equal(seen.bytes, PIECES * 1000 + 1000);
    assert_string_equal(seen.last.path, "/shared/ml");
    assert_true(seen.last.bound);
    assert_int_equal(look(w, JOB, 0).sources, 1); /* root */
    assert_int_equal(look(w, JOB, 6).sources, 0); /* somebody else */
    assert_int_equal(look(w, JOB + 9, 5).sources, 0);
    assert_false(mgr_longest_wait(w->mgr, 1, JOB, 5, &info)); /* n1 wants nothing */
    assert_false(mgr_longest_wait(w->mgr, 2, JOB, 6, &info));
    assert_false(mgr_longest_wait(w->mgr, 99, JOB, 5, &info));
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_build_is_followed),
        cmocka_unit_test(test_the_slowest_is_named),
        cmocka_unit_test(test_a_job_is_listed_for_its_owner),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The manager's core: parts of an image that is still being built. */
#include "tests/unit/mgr_world.h"

#define PART_SIZE 900u
#define PART_PIECES 3u

static int part_made(struct world *w, uint32_t conn, uint64_t ticket, uint8_t digest)
{
    struct msg m = {.type = MSG_PART_MADE,
                    .ticket = ticket,
                    .digest = digest_no(digest),
                    .size = PART_SIZE,
                    .pieces = PART_PIECES};

    return say(w, conn, &m);
}

static int evicted(struct world *w, uint32_t conn, uint8_t digest)
{
    struct msg m = {.type = MSG_EVICTED, .digest = digest_no(digest)};

    return say(w, conn, &m);
}

/* So many nodes want the source, the first builds it. */
static struct world *building(uint32_t nodes)
{
    struct world *w = begin(nodes + 1); /* and one that does not */

    for (uint32_t i = 1; i <= nodes; i++)
        want(w, i, JOB, 5);
    resolved(w, 1, ticket_of(w, 1), 3);
    return w;
}

/* Is this piece of the object among what the node was told to fetch last? */
static bool was_assigned(struct world *w, uint32_t conn, uint8_t digest)
{
    const struct sent *s = sent_last(&w->log, conn, MSG_FETCH);
    struct vine_digest d = digest_no(digest);

    return s != NULL && vine_digest_equal(&s->m.digest, &d);
}

static void test_parts_go_to_those_who_wait(void **state)
{
    struct world *w = building(2);

    assert_true(sent_last(&w->log, 1, MSG_BUILD)->m.parts);
    part_made(w, 1, ticket_of(w, 1), 50);
    assert_int_equal(sent_count(&w->log, 1, MSG_PART), 0); /* it has it */
    assert_int_equal(sent_count(&w->log, 2, MSG_PART), 1);
    assert_int_equal(sent_count(&w->log, 3, MSG_PART), 0);
    assert_string_equal(sent_last(&w->log, 2, MSG_PART)->path, "/shared/ml");
    assert_true(was_assigned(w, 2, 50));
    part_made(w, 1, ticket_of(w, 1), 50); /* told twice: once is enough */
    assert_int_equal(sent_count(&w->log, 2, MSG_PART), 1);
    want(w, 3, JOB, 5); /* late */
    assert_int_equal(sent_count(&w->log, 3, MSG_PART), 1);
    assert_true(was_assigned(w, 3, 50));
    end(w);
}

static void test_nobody_waits_no_parts(void **state)
{
    struct world *w = building(1);

    assert_false(sent_last(&w->log, 1, MSG_BUILD)->m.parts);
    end(w);
}

static void test_the_image_ends_its_parts(void **state)
{
    struct world *w = building(3);

    part_made(w, 1, ticket_of(w, 1), 50);
    have(w, 2, 50, 0, PART_PIECES);
    sent_clear(&w->log);
    assert_int_equal(objects(w), 1);
    mgr_tick(w->mgr, ++w->now);
    built(w, 1, 1, 1);
    assert_binding(w, 3, VINE_OK, 1);
    assert_false(was_assigned(w, 3, 50));
    have(w, 3, 50, 0, 1); /* was on its way: no offence */
    assert_int_equal(w->drops, 0);
    for (uint32_t i = 1; i <= 3; i++)
        assert_int_equal(evicted(w, i, 50), 0);
    assert_int_equal(objects(w), 1);             /* the image */
    assert_int_equal(part_made(w, 1, 1, 51), 0); /* too late, and no offence */
    assert_int_equal(objects(w), 1);
    end(w);
}

static void test_a_node_that_does_not_take_it(void **state)
{
    struct world *w = building(2);

    part_made(w, 1, ticket_of(w, 1), 50);
    evicted(w, 2, 50);
    sent_clear(&w->log);
    wait_ms(w, 2000);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 0);
    release(w, 2, JOB);
    release(w, 1, JOB);
    evicted(w, 1, 50);
    assert_int_equal(objects(w), 0);
    end(w);
}

static void test_another_builder_has_parts_of_its_own(void **state)
{
    struct world *w = building(3);

    part_made(w, 1, ticket_of(w, 1), 50);
    have(w, 2, 50, 0, 1);
    mgr_disconnected(w->mgr, 1, w->now);
    wait_ms(w, 2000); /* it looks for another origin */
    uint32_t next = sent_count(&w->log, 2, MSG_RESOLVE) > 0 ? 2 : 3;
    uint32_t other = 5 - next;
    resolved(w, next, ticket_of(w, next), 3);
    sent_clear(&w->log);
    part_made(w, next, next == 2 ? 2 : 2, 50);
    assert_int_equal(sent_count(&w->log, other, MSG_PART), 1);
    assert_int_equal(sent_count(&w->log, next, MSG_PART), 0);
    end(w);
}

static void test_parts_of_no_build_are_refused(void **state)
{
    struct world *w = begin(2);

    want(w, 1, JOB, 5);
    want(w, 2, JOB, 5);
    assert_int_equal(part_made(w, 1, 0, 50), -1);
    assert_int_equal(part_made(w, 1, 99, 50), -1);
    assert_int_equal(part_made(w, 1, ticket_of(w, 1), 50), -1); /* not resolved */
    end(w);
    w = building(2);
    assert_int_equal(part_made(w, 2, ticket_of(w, 1), 50), -1); /* not the builder */
    end(w);
    w = building(2);
    for (uint32_t i = 0; i < VINE_PARTS_MAX + 9; i++)
        assert_int_equal(part_made(w, 1, ticket_of(w, 1), (uint8_t)(50 + i)), 0);
    assert_int_equal(objects(w), VINE_PARTS_MAX);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_go_to_those_who_wait),
        cmocka_unit_test(test_nobody_waits_no_parts),
        cmocka_unit_test(test_the_image_ends_its_parts),
        cmocka_unit_test(test_a_node_that_does_not_take_it),
        cmocka_unit_test(test_another_builder_has_parts_of_its_own),
        cmocka_unit_test(test_parts_of_no_build_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

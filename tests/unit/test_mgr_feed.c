/* Trees: many receivers of one object are given pieces before their senders have them,
 * and what a tree does not bring comes from elsewhere. */
#include "tests/unit/mgr_world.h"

#define MANY 40u
#define MANY_PIECES 200u
#define CROWD 768u

/* n1 has the object, `receivers` from n2 on want it and have the manifest; of the last
 * `afar` of them each switch has ten. */
static struct world *begin_asking(uint32_t receivers, uint32_t afar)
{
    struct vine_digest key = digest_no(3);
    struct msg_object object = {.digest = digest_no(1),
                                .size = MANY_PIECES * 1000,
                                .pieces = MANY_PIECES,
                                .complete = true,
                                .key_count = 1,
                                .keys = &key};
    struct msg m = {.type = MSG_REGISTER, .port = 7111, .switch_name = "leaf0"};
    struct world *w = begin(0);
    char name[32];

    m.objects = &object;
    m.object_count = 1;
    join_silent(w, 1);
    assert_int_equal(say(w, 1, &m), 0);
    m.object_count = 0;
    for (uint32_t i = 2; i < 2 + receivers; i++) {
        uint32_t far =
            i >= 2 + receivers - afar ? 1 + (i - (2 + receivers - afar)) / 10 : 0;
        (void)snprintf(name, sizeof(name), "leaf%u", far);
        m.switch_name = name;
        join_silent(w, i);
        assert_int_equal(say(w, i, &m), 0);
        want(w, i, JOB, 5);
    }
    resolved(w, 2, ticket_of(w, 2), 3);
    return w;
}

static struct world *begin_crowd(uint32_t receivers, uint32_t afar)
{
    struct world *w = begin_asking(receivers, afar);

    for (uint32_t i = 2; i < 2 + receivers; i++)
        have(w, i, 1, 0, 1);
    wait_ms(w, 20); /* nobody joins any more */
    return w;
}

static struct world *begin_fed(uint32_t afar)
{
    return begin_crowd(MANY, afar);
}

/* Of all FETCHes to `conn`: who is to send this piece; 0: nobody. */
static uint32_t sender_of(struct world *w, uint32_t conn, uint32_t piece)
{
    uint32_t sender = 0;

    for (uint32_t i = 0; i < w->log.count; i++) {
        const struct sent *s = &w->log.at[i];
        for (uint32_t a = 0;
             s->m.type == MSG_FETCH && s->conn == conn && a < s->m.assign_count; a++)
            if (piece - s->assigns[a].range.first < s->assigns[a].range.count)
                sender = (uint32_t)atoi(s->assign_peer[a] + 1);
    }
    return sender;
}

static void test_everybody_is_given_the_first_segment_at_once(void **state)
{
    struct world *w = begin_fed(0);
    uint32_t from[2 + MANY] = {0}, seeded = 0;

    for (uint32_t i = 2; i < 2 + MANY; i++) {
        uint32_t sender = sender_of(w, i, 1);
        assert_int_not_equal(sender, 0);
        assert_int_not_equal(sender, i);
        seeded += sender == 1;
        from[sender]++;
    }
    assert_int_equal(seeded, 1); /* the seed sends each piece once */
    for (uint32_t i = 1; i < 2 + MANY; i++)
        assert_true(from[i] <= 2);
    end(w);
}

static void has_manifest_and_looks(struct world *w, uint32_t conn)
{
    struct msg_range manifest = {0, 1};
    struct msg m = {.type = MSG_HAVE,
                    .digest = digest_no(1),
                    .ranges = &manifest,
                    .range_count = 1,
                    .reusing = true};

    assert_int_equal(say(w, conn, &m), 0);
}

static void test_who_looks_at_older_objects_is_waited_for(void **state)
{
    struct world *w = begin_asking(MANY, 0);

    wait_ms(w, 20);
    for (uint32_t i = 2; i < 2 + MANY - 1; i++)
        have(w, i, 1, 0, 1);
    has_manifest_and_looks(w, 1 + MANY);
    assert_int_equal(sender_of(w, 2, 1), 0);
    w->now += 2;
    have(w, 1 + MANY, 1, 0, 1);
    for (uint32_t i = 2; i < 2 + MANY; i++)
        assert_int_not_equal(sender_of(w, i, 1), 0);
    end(w);
}

static void test_many_that_look_are_waited_for_longer(void **state)
{
    struct world *w = begin_asking(CROWD, 0);

    for (uint32_t i = 2; i < 2 + CROWD; i++)
        if (i % 16 == 0)
            has_manifest_and_looks(w, i);
        else
            have(w, i, 1, 0, 1);
    wait_ms(w, 30);
    assert_int_equal(sender_of(w, 2, 1), 0);
    wait_ms(w, 60); /* but not for ever */
    assert_int_not_equal(sender_of(w, 2, 1), 0);
    end(w);
}

static void test_a_crowd_reports_less_often(void **state)
{
    struct world *few = begin_fed(0), *many = begin_crowd(CROWD, 0);

    assert_int_equal(sent_last(&few->log, 2, MSG_FETCH)->m.heartbeat_ms, 1000);
    assert_int_equal(sent_last(&many->log, 2, MSG_FETCH)->m.heartbeat_ms,
                     1000 + (CROWD - 512) / 2);
    wait_ms(few, 500);
    wait_ms(many, 500);
    assert_true(sent_count(&few->log, 0, MSG_PING) > 0);
    assert_int_equal(sent_count(&many->log, 0, MSG_PING), 0);
    end(few);
    end(many);
}

static void test_a_long_look_at_older_objects_is_not_waited_for(void **state)
{
    struct world *w = begin_asking(MANY, 0);

    for (uint32_t i = 2; i < 2 + MANY - 1; i++)
        have(w, i, 1, 0, 1);
    has_manifest_and_looks(w, 1 + MANY);
    wait_ms(w, 30);
    for (uint32_t i = 2; i < 2 + MANY - 1; i++)
        assert_int_not_equal(sender_of(w, i, 1), 0);
    assert_int_equal(sender_of(w, 1 + MANY, 1), 0);
    end(w);
}

/* Each level takes what two pieces take: six levels are more than three segments. */
static void test_the_source_has_enough_to_send_until_the_first_are_through(void **state)
{
    struct world *w = begin_fed(0);

    for (uint32_t i = 2; i < 2 + MANY; i++) {
        for (uint32_t p = 1; p <= 40; p++)
            assert_int_not_equal(sender_of(w, i, p), 0);
        assert_int_equal(sender_of(w, i, 41), 0);
    }
    end(w);
}

static uint32_t given(struct world *w, uint32_t conn)
{
    uint32_t pieces = 0;

    for (uint32_t p = 1; p < MANY_PIECES; p++)
        pieces += sender_of(w, conn, p) != 0;
    return pieces;
}

/* A manager that is late hears of one half's pieces before the other's. */
static void test_no_segment_leaves_out_those_who_are_not_heard_yet(void **state)
{
    struct world *w = begin_fed(0);
    uint32_t half = 2 + MANY / 2 + 1, before;

    for (uint32_t first = 1; first < 40; first += 8)
        for (uint32_t i = 2; i < half; i++)
            have(w, i, 1, first, 8);
    before = given(w, 2);
    assert_int_equal(given(w, 1 + MANY), before);
    for (uint32_t i = half; i < 2 + MANY; i++)
        have(w, i, 1, 1, 40);
    wait_ms(w, 60);
    assert_true(given(w, 2) > before);
    assert_int_equal(given(w, 1 + MANY), given(w, 2));
    end(w);
}

static void test_the_unheard_are_not_waited_for_for_ever(void **state)
{
    struct msg ping = {.type = MSG_PING};
    struct world *w = begin_fed(0);
    uint32_t before = given(w, 2);

    for (uint32_t told = 1; told <= before; told = before + 1, before = given(w, 2))
        for (uint32_t i = 2; i < 2 + MANY / 2 + 1; i++)
            have(w, i, 1, told, before + 1 - told);
    sent_clear(&w->log);
    for (int round = 0; round < 12; round++) {
        for (uint32_t i = 1; i < 2 + MANY; i++)
            say(w, i, &ping);
        wait_ms(w, 50);
    }
    assert_non_null(sent_last(&w->log, 0, MSG_FETCH));
    end(w);
}

static void test_inside_one_tree_is_a_leaf_of_the_other(void **state)
{
    struct world *w = begin_fed(0);
    bool inside[2][2 + MANY] = {{false}};

    for (uint32_t i = 2; i < 2 + MANY; i++) {
        inside[0][sender_of(w, i, 1)] = true;
        inside[1][sender_of(w, i, 5)] = true; /* the second half of the first eight */
    }
    for (uint32_t i = 2; i < 2 + MANY; i++)
        assert_false(inside[0][i] && inside[1][i]);
    end(w);
}

static void test_waits_end_at_somebody_who_has_it(void **state)
{
    struct world *w = begin_fed(30);

    for (uint32_t i = 2; i < 2 + MANY; i++) {
        uint32_t at = i, steps = 0;
        while (at != 1 && steps++ < MANY)
            at = sender_of(w, at, 6);
        assert_int_equal(at, 1);
    }
    end(w);
}

static void test_a_stripe_enters_a_switch_once(void **state)
{
    struct world *w = begin_fed(30); /* leaf0: n1 to n11; leaf1 n12 to n21 and so on */
    uint32_t crossed = 0;

    for (uint32_t i = 2; i < 2 + MANY; i++) {
        uint32_t sender = sender_of(w, i, 1);
        uint32_t here = i < 12 ? 0 : 1 + (i - 12) / 10;
        uint32_t there = sender < 12 ? 0 : 1 + (sender - 12) / 10;
        crossed += here != there;
    }
    assert_int_equal(crossed, 3);
    end(w);
}

/* n2 to n5 are at the source's switch, n6 to n9 at another or, `afar` 0, there as well:
 * what n6 to n9 are given of a segment, and by whom. */
static void count_given(uint32_t afar, uint32_t *given, uint32_t *crossed)
{
    struct world *w = begin_crowd(8, afar);

    *given = *crossed = 0;
    for (uint32_t i = 6; i < 10; i++)
        for (uint32_t p = 1; p < 9; p++) {
            uint32_t sender = sender_of(w, i, p);
            *given += sender != 0;
            *crossed += sender != 0 && sender < 6;
        }
    end(w);
}

static void test_few_are_enough_across_switches(void **state)
{
    uint32_t given, crossed;

    count_given(4, &given, &crossed);
    assert_int_equal(given, 4 * 8);
    assert_int_equal(crossed, 8);
    count_given(0, &given, &crossed);
    assert_true(given < 8); /* one switch: what the only source has slots for */
}

static void test_children_of_the_dead_are_supplied_by_others(void **state)
{
    struct world *w = begin_fed(0);
    uint32_t dead = 0, child = 0;

    for (uint32_t i = 2; i < 2 + MANY && child == 0; i++)
        if (sender_of(w, i, 1) != 1) {
            dead = sender_of(w, i, 1);
            child = i;
        }
    for (uint32_t i = 2; i < 2 + MANY; i++)
        if (i != child)
            have(w, i, 1, 1, 1);
    sent_clear(&w->log);
    mgr_disconnected(w->mgr, dead, w->now);
    assert_non_null(sent_last(&w->log, child, MSG_REVOKE));
    assert_int_not_equal(sender_of(w, child, 1), 0);
    assert_int_not_equal(sender_of(w, child, 1), dead);
    end(w);
}

static void test_who_holds_others_up_is_left_out(void **state)
{
    struct world *w = begin_fed(0);
    uint32_t slow = sender_of(w, 2, 1) == 1 ? 3 : 2, fed = 0;

    for (uint32_t i = 2; i < 2 + MANY; i++)
        if (i != slow)
            have(w, i, 1, 1, 60);
    for (uint32_t i = 2; i < 2 + MANY; i++)
        say(w, i, &(struct msg){.type = MSG_PING});
    wait_ms(w, 1000);
    wait_ms(w, 1000);
    sent_clear(&w->log);
    for (uint32_t i = 2; i < 2 + MANY; i++)
        if (i != slow)
            have(w, i, 1, 61, 100);
    for (uint32_t i = 2; i < 2 + MANY; i++)
        for (uint32_t p = 161; p < MANY_PIECES; p++)
            fed += sender_of(w, i, p) == slow;
    assert_int_equal(fed, 0);
    end(w);
}

static void test_all_that_comes_ends_the_books(void **state)
{
    struct world *w = begin_fed(20);

    for (uint32_t i = 2; i < 2 + MANY; i++)
        have(w, i, 1, 1, MANY_PIECES - 1);
    sent_clear(&w->log);
    release(w, 2, JOB);
    wait_ms(w, 1000);
    assert_int_equal(sent_count(&w->log, 2, MSG_FETCH), 0);
    end(w);
}

/* The last piece that anybody was given so far. */
static uint32_t last_given(const struct world *w)
{
    uint32_t last = 0;

    for (uint32_t i = 0; i < w->log.count && i < SENT_MAX; i++)
        for (uint32_t a = 0; w->log.at[i].m.type == MSG_FETCH && a < SENT_ASSIGNS &&
                             a < w->log.at[i].m.assign_count;
             a++) {
            struct msg_range range = w->log.at[i].assigns[a].range;
            if (range.first + range.count > last + 1)
                last = range.first + range.count - 1;
        }
    return last;
}

/* What trees still bring would come late beside the matching, and they do not begin
 * again at once where nodes die. */
static void test_deaths_end_the_trees_and_take_back_what_they_bring(void **state)
{
    struct world *w = begin_fed(0);

    assert_true(last_given(w) > 0);
    sent_clear(&w->log);
    for (uint32_t i = 2; i < 5; i++)
        mgr_disconnected(w->mgr, i, w->now);
    for (uint32_t i = 5; i < 2 + MANY; i++)
        assert_non_null(sent_last(&w->log, i, MSG_REVOKE));
    sent_clear(&w->log);
    wait_ms(w, 600);
    for (uint32_t i = 0; i < w->log.count && i < SENT_MAX; i++)
        for (uint32_t a = 0; w->log.at[i].m.type == MSG_FETCH && a < SENT_ASSIGNS &&
                             a < w->log.at[i].m.assign_count;
             a++)
            assert_false(w->log.at[i].assigns[a].feed);
    end(w);
}

/* The source is kept for the trees, but not while a task waits for what it alone has.
 */
static void test_a_task_that_waits_is_served_by_the_top(void **state)
{
    struct world *w = begin_fed(0);
    struct msg_range range = {MANY_PIECES - 1, 1};
    struct msg m = {
        .type = MSG_URGENT, .digest = digest_no(1), .ranges = &range, .range_count = 1};

    assert_int_equal(sender_of(w, 9, MANY_PIECES - 1), 0);
    assert_int_equal(say(w, 9, &m), 0);
    assert_int_equal(sender_of(w, 9, MANY_PIECES - 1), 1);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everybody_is_given_the_first_segment_at_once),
        cmocka_unit_test(test_who_looks_at_older_objects_is_waited_for),
        cmocka_unit_test(test_many_that_look_are_waited_for_longer),
        cmocka_unit_test(test_a_crowd_reports_less_often),
        cmocka_unit_test(test_a_long_look_at_older_objects_is_not_waited_for),
        cmocka_unit_test(
            test_the_source_has_enough_to_send_until_the_first_are_through),
        cmocka_unit_test(test_no_segment_leaves_out_those_who_are_not_heard_yet),
        cmocka_unit_test(test_the_unheard_are_not_waited_for_for_ever),
        cmocka_unit_test(test_inside_one_tree_is_a_leaf_of_the_other),
        cmocka_unit_test(test_waits_end_at_somebody_who_has_it),
        cmocka_unit_test(test_a_stripe_enters_a_switch_once),
        cmocka_unit_test(test_few_are_enough_across_switches),
        cmocka_unit_test(test_children_of_the_dead_are_supplied_by_others),
        cmocka_unit_test(test_who_holds_others_up_is_left_out),
        cmocka_unit_test(test_all_that_comes_ends_the_books),
        cmocka_unit_test(test_deaths_end_the_trees_and_take_back_what_they_bring),
        cmocka_unit_test(test_a_task_that_waits_is_served_by_the_top),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The manager's core against nonsense: whatever a node says, no crash, and -1 where the
 * protocol is broken. */
#include "tests/unit/mgr_world.h"

static void test_before_registration_nothing_is_taken(void **state)
{
    for (int type = 0; type < MSG_TYPES; type++) {
        struct world *w = begin(0);
        struct msg m = {
            .type = (enum msg_type)type, .path = "/a", .text = "", .peer = ""};
        join_silent(w, 1);
        assert_int_equal(
            say(w, 1, &m),
            type == MSG_REGISTER || type == MSG_PING || type == MSG_PONG ? 0 : -1);
        end(w);
    }
}

static void test_what_a_node_never_says_is_refused(void **state)
{
    static const enum msg_type types[] = {
        MSG_REGISTER, MSG_REGISTERED, MSG_RESOLVE, MSG_BUILD,  MSG_CLOSE, MSG_BINDING,
        MSG_FETCH,    MSG_REVOKE,     MSG_WANTED,  MSG_STAGED, MSG_STATUS};
    struct world *w = begin(1);

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        struct msg m = {.type = types[i], .path = "/a", .text = "", .switch_name = ""};
        assert_int_equal(say(w, 1, &m), -1);
    }
    assert_int_equal(say(w, 99, &(struct msg){.type = MSG_PING}), -1);
    end(w);
}

static void test_registrations_that_contradict_are_refused(void **state)
{
    struct msg_object objects_[2] = {
        {.digest = digest_no(1), .size = SIZE, .pieces = PIECES, .complete = true},
        {.digest = digest_no(1), .size = SIZE, .pieces = PIECES, .complete = true}};
    struct msg_binding binding = {
        .job = JOB, .uid = 5, .path = "/shared/ml", .digest = digest_no(9)};
    struct msg m = {.type = MSG_REGISTER,
                    .port = 1,
                    .switch_name = "",
                    .objects = objects_,
                    .object_count = 2};
    struct world *w = begin(0);

    join_silent(w, 1);
    assert_int_equal(say(w, 1, &m), -1); /* one object twice */
    mgr_disconnected(w->mgr, 1, w->now);
    m.object_count = 1;
    join_silent(w, 2);
    assert_int_equal(say(w, 2, &m), 0);
    objects_[0].size++;
    join_silent(w, 3);
    assert_int_equal(say(w, 3, &m), -1); /* another size than n2 told */
    objects_[0].size--;
    objects_[0].pieces = VINE_PIECES_MAX + 1;
    objects_[0].digest = digest_no(4);
    join_silent(w, 4);
    assert_int_equal(say(w, 4, &m), -1);
    m.object_count = 0;
    m.bindings = &binding;
    m.binding_count = 1;
    join_silent(w, 5);
    assert_int_equal(say(w, 5, &m), -1); /* bound to what it does not have */
    end(w);
}

static void test_pieces_out_of_range_are_refused(void **state)
{
    struct world *w = begin(2);
    struct msg_range range = {PIECES, 1};
    struct msg failed = {.type = MSG_FAILED,
                         .digest = digest_no(1),
                         .ranges = &range,
                         .range_count = 1,
                         .peer = "n1",
                         .code = VINE_EDOWN};

    assert_int_equal(have(w, 1, 1, 0, 1), 0); /* forgotten meanwhile, perhaps */
    assert_int_equal(say(w, 1, &failed), 0);  /* perhaps forgotten meanwhile */
    want(w, 1, JOB, 5);
    want(w, 2, JOB, 5);
    resolved_packed(w, 1, ticket_of(w, 1), 3, 1);
    assert_int_equal(have(w, 1, 1, 0, 1), 0);
    assert_int_equal(have(w, 1, 1, 0, 1), 0); /* twice: no harm */
    assert_int_equal(have(w, 1, 1, PIECES, 1), -1);
    assert_int_equal(have(w, 1, 1, 0, PIECES + 1), -1);
    assert_int_equal(have(w, 1, 1, 1, UINT32_MAX), -1);
    assert_int_equal(say(w, 2, &failed), -1);
    range = (struct msg_range){1, UINT32_MAX};
    assert_int_equal(say(w, 2, &failed), -1);
    range = (struct msg_range){1, 1}; /* was not assigned */
    assert_int_equal(say(w, 2, &failed), 0);
    end(w);
}

static void test_tickets_of_others_are_refused(void **state)
{
    struct world *w = begin(2);
    uint64_t ticket;

    want(w, 1, JOB, 5);
    ticket = ticket_of(w, 1);
    assert_int_equal(resolved(w, 2, ticket, 3), -1);
    assert_int_equal(resolved(w, 1, 0, 3), -1);
    assert_int_equal(resolved(w, 1, ticket + 1, 3), -1);
    assert_int_equal(built(w, 1, ticket, 1), -1); /* not told to build */
    assert_int_equal(resolved(w, 1, ticket, 3), 0);
    assert_int_equal(resolved(w, 1, ticket, 3), -1); /* twice */
    assert_int_equal(built(w, 2, ticket, 1), -1);
    assert_int_equal(built(w, 1, ticket, 1), 0);
    assert_int_equal(built(w, 1, ticket, 1), 0); /* closed by now: it has it, fine */
    assert_int_equal(resolved(w, 1, ticket, 3), 0);
    end(w);
}

/* Any message with any numbers, from three nodes, with time going on: whoever is
 * refused is thrown out and comes back. ASan and the counters of the planner do the
 * judging. */
static void test_random_nonsense_does_no_harm(void **state)
{
    struct world *w = begin(3);
    uint64_t random = 1;

    for (int i = 0; i < 60000; i++) {
        struct msg_range ranges[2];
        struct msg_object object;
        struct vine_digest key;
        uint32_t r[12], conn;
        for (int k = 0; k < 12; k++) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;
            r[k] = (uint32_t)(random >> 33);
        }
        conn = 1 + r[0] % 3;
        key = digest_no((uint8_t)(r[1] % 3));
        ranges[0] = (struct msg_range){r[2] % (PIECES + 1), 1 + r[3] % PIECES};
        ranges[1] = (struct msg_range){r[4] % PIECES, 1};
        object = (struct msg_object){.digest = digest_no((uint8_t)(r[5] % 3)),
                                     .size = SIZE,
                                     .pieces = PIECES,
                                     .complete = r[6] % 2,
                                     .key_count = r[7] % 2,
                                     .keys = &key};
        struct msg m = {.type = (enum msg_type)(r[8] % MSG_TYPES),
                        .ticket = r[9] % 40,
                        .job = r[10] % 3,
                        .uid = r[11] % 2,
                        .path = r[2] % 2 ? "/a" : "/b",
                        .text = "no",
                        .code = (enum vine_code)(r[3] % 4 ? 0 : r[4] % VINE_CODES),
                        .has_digest = r[5] % 2,
                        .digest = digest_no((uint8_t)(r[6] % 3)),
                        .key = key,
                        .size = SIZE,
                        .pieces = PIECES,
                        .peer = r[7] % 2 ? "n1" : "n2",
                        .switch_name = "",
                        .port = 1,
                        .range_count = r[9] % 3,
                        .ranges = ranges,
                        .object_count = r[10] % 2,
                        .objects = &object};
        if (m.type == MSG_STAGE && r[2] % 4)
            m.job |= MADE_UP;
        w->now += r[0] % 50;
        if (say(w, conn, &m) < 0 || r[1] % 500 == 0) {
            mgr_disconnected(w->mgr, conn, w->now);
            join(w, conn);
        }
        if (i % 10 == 0)
            mgr_tick(w->mgr, w->now);
        for (uint32_t c = 1; c <= 3 && w->drops > 0; c++)
            if (say(w, c, &(struct msg){.type = MSG_PING}) < 0)
                join(w, c);
        w->drops = 0;
    }
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_before_registration_nothing_is_taken),
        cmocka_unit_test(test_what_a_node_never_says_is_refused),
        cmocka_unit_test(test_registrations_that_contradict_are_refused),
        cmocka_unit_test(test_pieces_out_of_range_are_refused),
        cmocka_unit_test(test_tickets_of_others_are_refused),
        cmocka_unit_test(test_random_nonsense_does_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* The node's core: nonsense, jobs, clients, the manager's absence, restarts. */
#include "tests/unit/node_world.h"

/* ---- nonsense ---- */

static void test_without_a_manager_no_message_is_taken(void **state)
{
    struct world *w = begin_with(UINT64_MAX);

    for (int type = 0; type < MSG_TYPES; type++)
        assert_int_equal(tell(w, &(struct msg){.type = (enum msg_type)type}), -1);
    end(w);
}

static void test_what_a_manager_never_says_is_refused(void **state)
{
    static const enum msg_type types[] = {
        MSG_REGISTER, MSG_WANT,   MSG_RELEASE, MSG_RESOLVED, MSG_BUILT,
        MSG_HAVE,     MSG_FAILED, MSG_EVICTED, MSG_STAGE,    MSG_ASK_STATUS};
    struct world *w = begin();

    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++)
        assert_int_equal(tell(w, &(struct msg){.type = types[i], .path = "/a"}), -1);
    end(w);
}

static void test_broken_numbers_are_refused(void **state)
{
    struct msg_assign assign = {
        .range = {PIECES, 1}, .peer = "n2", .addr = "10.0.0.2", .port = 1};
    struct msg_range range = {1, UINT32_MAX};
    struct msg fetch_ = {.type = MSG_FETCH,
                         .digest = digest_no(1),
                         .heartbeat_ms = 1000,
                         .assigns = &assign,
                         .assign_count = 1};
    struct msg revoke = {
        .type = MSG_REVOKE, .digest = digest_no(1), .ranges = &range, .range_count = 1};
    struct world *w = begin();

    assert_int_equal(tell(w, &fetch_), 0); /* unknown: told that it fails */
    assert_int_equal(sent_last(&w->log, 0, MSG_FAILED)->m.code, VINE_ECANCELED);
    assert_int_equal(tell(w, &revoke), 0);
    stage(w, 1, JOB, UID);
    assert_int_equal(bind(w, JOB, 1), 0);
    assert_int_equal(tell(w, &fetch_), -1);
    assign.range = (struct msg_range){1, UINT32_MAX};
    assert_int_equal(tell(w, &fetch_), -1);
    assert_int_equal(tell(w, &revoke), -1);
    assert_int_equal(bind_sized(w, JOB, 1, SIZE + 1, true), -1); /* another size */
    assign.range = (struct msg_range){1, 1}; /* data before the manifest */
    assert_int_equal(tell(w, &fetch_), 0);
    assert_int_equal(w->did[OP_FETCH].count, 0);
    assert_int_equal(sent_last(&w->log, 0, MSG_FAILED)->ranges[0].first, 1);
    node_piece_done(w->node, 4711, 0, w->now); /* transfers and tickets nobody knows */
    node_transfer_failed(w->node, 4711, NULL, w->now);
    node_source_resolved(w->node, 4711, NULL, NULL, w->now);
    node_source_built(w->node, 4711, NULL, NULL, w->now);
    end(w);
}

/* What the edge, the users and the manager may do to it, from random numbers. */
static void random_local(struct world *w, const uint32_t *r, const struct vine_err *err)
{
    struct vine_digest digest = digest_no((uint8_t)(1 + r[0] % 4));
    uint32_t piece = r[1] % (PIECES + 1);
    struct node_resolved resolved = {.key = digest,
                                     .estimate = SIZE,
                                     .unopened = r[7] % 2,
                                     .has_manifest = r[8] % 2,
                                     .digest = digest,
                                     .size = SIZE,
                                     .pieces = PIECES};
    struct msg_object object = {
        .digest = digest, .size = SIZE, .pieces = PIECES, .complete = true};
    struct did *of = w->did;

    switch (r[3] % 10) {
    case 0:
        (void)stage(w, r[1] % 20, r[6] % 3, UID + (r[2] % 9 == 0));
        break;
    case 1:
        node_job_end(w->node, r[6] % 3, w->now);
        break;
    case 2:
        node_client_gone(w->node, r[1] % 20, w->now);
        break;
    case 3:
        node_piece_done(w->node, of[OP_FETCH].id - r[0] % 3, piece, w->now);
        break;
    case 4:
        node_piece_done(w->node, of[OP_FETCH_ORIGIN].id,
                        of[OP_FETCH_ORIGIN].range.first, w->now);
        break;
    case 5:
        node_transfer_failed(w->node, of[OP_FETCH].id, err, w->now);
        break;
    case 6:
        node_source_resolved(w->node, of[OP_RESOLVE].id, &resolved, err, w->now);
        node_source_opened(w->node, of[OP_OPEN].id, &resolved, err, w->now);
        node_source_proved(w->node, of[OP_PROVE].id, err, w->now);
        break;
    case 7:
        node_source_built(w->node, of[OP_BUILD].id, &object, err, w->now);
        break;
    case 8:
        node_published(w->node, &of[OP_PUBLISH].digest, err, w->now);
        node_mounted(w->node, &of[OP_MOUNT].digest, of[OP_MOUNT].uid, err, w->now);
        break;
    default:
        (void)node_evict(w->node, &digest, w->now, NULL);
    }
}

static void random_message(struct world *w, const uint32_t *r)
{
    struct msg_range range = {r[1] % (PIECES + 1), 1 + r[2] % PIECES};
    struct msg_assign assign = {
        .range = range, .peer = r[3] % 2 ? "n2" : "n3", .addr = "10.0.0.2", .port = 1};
    uint32_t types = MSG_TYPES - MSG_REGISTERED;
    struct msg m = {.type = (enum msg_type)(MSG_REGISTERED + r[4] % types),
                    .ticket = 1 + r[5] % 5,
                    .job = r[6] % 3,
                    .uid = UID,
                    .path = "/shared/ml",
                    .text = "no",
                    .digest = digest_no((uint8_t)(1 + r[0] % 4)),
                    .code = r[7] % 4 ? VINE_OK : VINE_EACCES,
                    .size = SIZE,
                    .pieces = PIECES,
                    .trusted = r[8] % 2,
                    .ranges = &range,
                    .range_count = 1,
                    .assigns = &assign,
                    .assign_count = 1,
                    .heartbeat_ms = 1000};

    (void)tell(w, &m);
}

/* ASan and the deadlines judge. */
static void test_random_nonsense_does_no_harm(void **state)
{
    struct world *w = begin_with(2 * SIZE + 10);
    uint64_t random = 3;

    manager_up(w);
    for (int i = 0; i < 60000; i++) {
        struct vine_err err = {0};
        uint32_t r[10];
        for (int k = 0; k < 10; k++) {
            random = random * 6364136223846793005ull + 1442695040888963407ull;
            r[k] = (uint32_t)(random >> 33);
        }
        w->now += r[9] % 40;
        if (r[9] % 5 == 0)
            vine_err_set(&err, (enum vine_code)(1 + r[0] % (VINE_CODES - 1)),
                         "trouble");
        if (r[9] % 700 == 0) {
            manager_down(w);
            manager_up(w);
        }
        if (r[2] % 3 == 0)
            random_message(w, r);
        else
            random_local(w, r, &err);
        if (node_next_deadline(w->node) <= w->now)
            node_tick(w->node, w->now);
        assert_true(node_next_deadline(w->node) > w->now);
    }
    end(w);
}

static void test_a_second_step_of_two_sources(void **state)
{
    struct world *w = begin();

    stage_paths(w, 1, JOB, UID, "/shared/ml", "/shared/data", NULL);
    bind(w, JOB, 1);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    struct msg m = {.type = MSG_BINDING,
                    .job = JOB,
                    .uid = UID,
                    .path = "/shared/data",
                    .text = "",
                    .digest = digest_no(1),
                    .size = SIZE,
                    .pieces = PIECES,
                    .trusted = true};
    tell(w, &m); /* the same content under another path */
    assert_int_equal(w->did[OP_REPLY].count, 1);
    stage_paths(w, 2, JOB, UID, "/shared/ml", "/shared/data", NULL);
    assert_int_equal(w->did[OP_REPLY].id, 2); /* at once, while both are looked at */
    end(w);
}

/* ---- the straight way ---- */

static void test_a_job_gets_its_object(void **state)
{
    struct world *w = begin();
    struct node_progress p;
    struct vine_digest d = digest_no(1);
    uint64_t t;

    assert_int_equal(stage(w, 42, JOB, UID), 0);
    assert_int_equal(sent_last(&w->log, 0, MSG_WANT)->m.job, JOB);
    assert_int_equal(node_progress(w->node, 42, &p), 0);
    assert_string_equal(p.phase, "resolving");
    bind(w, JOB, 1);
    t = fetch(w, 1, 0, 1, "n2");
    assert_int_equal(w->did[OP_FETCH].range.first, 0);
    node_piece_done(w->node, t, 0, w->now);
    assert_int_equal(sent_last(&w->log, 0, MSG_HAVE)->ranges[0].first, 0);
    t = fetch(w, 1, 1, 3, "n3");
    node_piece_done(w->node, t, 2, w->now); /* in any order */
    assert_true(node_may_serve(w->node, &d, (struct msg_range){2, 1}));
    assert_false(node_may_serve(w->node, &d, (struct msg_range){2, 2}));
    assert_false(node_may_serve(w->node, &d, (struct msg_range){2, UINT32_MAX}));
    assert_int_equal(node_progress(w->node, 42, &p), 0);
    assert_string_equal(p.phase, "fetching");
    assert_int_equal(p.bytes_done, 1000);
    assert_int_equal(p.bytes_peer, 1000);
    assert_int_equal(p.bytes_total, SIZE);
    node_piece_done(w->node, t, 1, w->now);
    node_piece_done(w->node, t, 3, w->now);
    assert_int_equal(w->did[OP_PUBLISH].count, 1);
    assert_int_equal(w->did[OP_REPLY].count, 0);
    node_published(w->node, &d, NULL, w->now);
    assert_int_equal(w->did[OP_MOUNT].uid, NODE_ANY_UID);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    assert_int_equal(w->did[OP_REPLY].id, 42);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    assert_int_equal(node_progress(w->node, 42, &p), -1);
    assert_int_equal(totals(w).bytes_peer, SIZE);
    assert_int_equal(stage(w, 43, JOB, UID), 0); /* the next step: at once */
    assert_int_equal(w->did[OP_REPLY].id, 43);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), 1);
    assert_int_equal(w->did[OP_CANCEL].count, 0);
    end(w);
}

/* One file as an archive and as data: two sources, each with its own object. */
static void test_data_is_a_source_of_its_own(void **state)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    struct world *w = begin();

    assert_int_equal(vine_spec_parse("/shared/x.tar", spec, NULL), 0);
    assert_int_equal(vine_spec_add_data("/shared/x.tar", spec, NULL), 0);
    assert_int_equal(node_stage(w->node, 1, JOB, UID, UID, spec, w->now, NULL), 0);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), 2);
    assert_string_equal(sent_last(&w->log, 0, MSG_WANT)->m.path, "data:/shared/x.tar");
    free(spec);
    end(w);
}

static int bind_claimed(struct world *w, enum msg_claim claim)
{
    struct msg m = {.type = MSG_BINDING,
                    .job = JOB,
                    .uid = UID,
                    .path = "/shared/ml",
                    .text = "",
                    .digest = digest_no(1),
                    .size = SIZE,
                    .pieces = PIECES,
                    .trusted = true,
                    .claim = claim};

    return tell(w, &m);
}

static void test_nobody_starts_on_a_claim(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    bind_claimed(w, MSG_CLAIM_OWN);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].count, 0);
    bind_claimed(w, MSG_CLAIM_OPEN);
    assert_int_equal(w->did[OP_REPLY].count, 0);
    bind_claimed(w, MSG_CLAIM_SHOWN);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    end(w);
}

/* All of it is here, perhaps for another job. */
static void test_a_claim_that_was_not_shown_fails(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    bind_claimed(w, MSG_CLAIM_OWN);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    bind_claimed(w, MSG_CLAIM_OPEN);
    bind_error(w, JOB, VINE_ECORRUPT, "wrong bytes");
    assert_int_equal(w->did[OP_REPLY].count, 1);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ECORRUPT);
    end(w);
}

static void test_what_was_claimed_when_the_manager_went(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    bind_claimed(w, MSG_CLAIM_OWN);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    manager_down(w); /* all of it was read from the job's own source */
    assert_int_equal(w->did[OP_REPLY].count, 1);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    end(w);
    w = begin();
    stage(w, 1, JOB, UID);
    bind_claimed(w, MSG_CLAIM_OWN);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    bind_claimed(w, MSG_CLAIM_OPEN);
    manager_down(w);
    assert_int_equal(w->did[OP_REPLY].count, 0);
    manager_up(w); /* is not told of that binding, and asked anew */
    assert_int_equal(sent_last(&w->log, 0, MSG_REGISTER)->m.binding_count, 0);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), 2);
    end(w);
}

static void test_two_sources_make_one_answer(void **state)
{
    struct world *w = begin();

    stage_paths(w, 42, JOB, UID, "/shared/ml", "/shared/data", NULL);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), 2);
    bind(w, JOB, 1);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].count, 0);
    struct msg m = {.type = MSG_BINDING,
                    .job = JOB,
                    .uid = UID,
                    .path = "/shared/data",
                    .code = VINE_EACCES,
                    .text = "cannot read it"};
    tell(w, &m);
    assert_int_equal(w->did[OP_REPLY].results, 2);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    assert_int_equal(w->did[OP_REPLY].code[1], VINE_EACCES);
    assert_string_equal(w->did[OP_REPLY].text, "cannot read it");
    end(w);
}

static void test_what_is_refused_at_once(void **state)
{
    struct world *w = begin();
    struct vine_err err = {0};

    stage(w, 1, JOB, UID);
    assert_int_equal(stage_paths(w, 2, JOB, UID + 1, "/shared/ml", NULL, &err), -1);
    assert_int_equal(err.code, VINE_EACCES);
    err = (struct vine_err){0};
    assert_int_equal(stage_paths(w, 1, JOB, UID, "/shared/ml", NULL, &err), -1);
    assert_int_equal(err.code, VINE_EINVAL); /* the same client twice */
    for (int i = 1; i < 4096; i++) {
        char path[32];
        (void)snprintf(path, sizeof(path), "/shared/x%d", i);
        assert_int_equal(stage_paths(w, 100 + (uint64_t)i, JOB, UID, path, NULL, &err),
                         0);
        node_client_gone(w->node, 100 + (uint64_t)i, w->now);
    }
    err = (struct vine_err){0};
    assert_int_equal(stage_paths(w, 999, JOB, UID, "/one/too/many", NULL, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    end(w);
}

static void test_clients_are_bounded(void **state)
{
    struct world *w = begin();
    struct vine_err err = {0};

    for (uint64_t i = 0; i < VINE_CLIENTS_MAX; i++)
        assert_int_equal(stage(w, i, JOB, UID), 0);
    assert_int_equal(stage_paths(w, 9999, JOB, UID, "/shared/ml", NULL, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    bind_error(w, JOB, VINE_ENOENT, "gone");
    assert_int_equal(w->did[OP_REPLY].count, VINE_CLIENTS_MAX);
    end(w);
}

static void test_a_failure_is_told_and_the_next_step_asks_again(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    bind_error(w, JOB, VINE_ENOENT, "no such directory");
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ENOENT);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), 1);
    stage(w, 2, JOB, UID);
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), 2);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    end(w);
}

static void test_the_end_of_a_job_ends_all_it_began(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    fetch(w, 1, 0, 1, "n2");
    node_job_end(w->node, JOB, w->now);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ECANCELED);
    assert_int_equal(w->did[OP_CANCEL].count, 1);
    assert_non_null(sent_last(&w->log, 0, MSG_RELEASE));
    assert_int_equal(sent_last(&w->log, 0, MSG_FAILED)->m.code, VINE_ECANCELED);
    assert_int_equal(totals(w).jobs, 0);
    node_job_end(w->node, JOB, w->now); /* twice: nothing */
    assert_int_equal(sent_count(&w->log, 0, MSG_RELEASE), 1);
    end(w);
}

static void test_another_lease_keeps_the_fetch_going(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    stage(w, 2, JOB + 1, UID);
    bind(w, JOB, 1);
    bind(w, JOB + 1, 1);
    fetch(w, 1, 0, 1, "n2");
    node_job_end(w->node, JOB, w->now);
    assert_int_equal(w->did[OP_CANCEL].count, 0);
    node_client_gone(w->node, 2, w->now); /* its job stays */
    assert_int_equal(w->did[OP_CANCEL].count, 0);
    assert_int_equal(totals(w).transfers, 1);
    end(w);
}

/* ---- without a manager ---- */

static void test_without_a_manager_a_wait_is_bounded(void **state)
{
    struct world *w = begin_with(UINT64_MAX);

    stage(w, 1, JOB, UID);
    wait_ms(w, 2999);
    assert_int_equal(w->did[OP_REPLY].count, 0);
    wait_ms(w, 1);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_EDOWN);
    assert_non_null(strstr(w->did[OP_REPLY].text, "no manager answers (ctl:7110)"));
    manager_up(w); /* the wish is remembered */
    assert_non_null(sent_last(&w->log, 0, MSG_WANT));
    end(w);
}

/* Its connection is still there: only silence tells. */
static void test_a_manager_that_does_not_answer_is_none(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    w->mute = true;
    wait_ms(w, 10999); /* a ping after 1 s, its answer 10 s later */
    assert_int_equal(w->did[OP_MANAGER_SILENT].count, 0);
    wait_ms(w, 1);
    assert_int_equal(w->did[OP_MANAGER_SILENT].count, 1);
    assert_false(totals(w).manager_up);
    wait_ms(w, 3000);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_EDOWN);
    assert_int_equal(w->did[OP_MANAGER_SILENT].count, 1);
    end(w);
}

static void test_a_manager_that_never_registers_a_node_is_none(void **state)
{
    struct world *w = begin_with(UINT64_MAX);

    w->mute = w->up = true;
    node_manager_up(w->node, w->now);
    wait_ms(w, 10000);
    assert_int_equal(w->did[OP_MANAGER_SILENT].count, 1);
    end(w);
}

/* What is sent need not be heard: a node that reports without end asks, too. */
static void test_who_only_speaks_asks_for_an_answer(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    w->mute = true;
    for (uint64_t i = 0; i < 8; i++) {
        wait_ms(w, 500);
        assert_int_equal(node_ask_status(w->node, 100 + i, 0, 0, false, w->now, NULL),
                         0);
    }
    assert_int_equal(sent_count(&w->log, 0, MSG_PING), 1); /* after 3 s */
    wait_ms(w, 9000);
    assert_int_equal(w->did[OP_MANAGER_SILENT].count, 1);
    end(w);
}

/* Stopped and continued: its timers come first, what others did lies unread. */
static void test_a_daemon_that_stood_still_asks_anew(void **state)
{
    struct world *w = begin();
    uint32_t pings;

    stage(w, 1, JOB, UID);
    w->mute = true;
    bind(w, JOB, 1);
    fetch(w, 1, 0, 1, "n2");
    wait_ms(w, 4500);
    pings = sent_count(&w->log, 0, MSG_PING);
    w->now += 60000;
    node_tick(w->node, w->now);
    assert_int_equal(w->did[OP_MANAGER_SILENT].count, 0);
    assert_int_equal(sent_count(&w->log, 0, MSG_PING), pings + 1);
    wait_ms(w, 10000);
    assert_int_equal(w->did[OP_MANAGER_SILENT].count, 1);
    end(w);
}

/* A short pause: the answer may lie unread, so the next tick judges. */
static void test_a_late_tick_leaves_it_to_the_next(void **state)
{
    struct world *w = begin();
    uint64_t late;

    stage(w, 1, JOB, UID);
    w->mute = true;
    bind(w, JOB, 1);
    fetch(w, 1, 0, 1, "n2");
    wait_ms(w, 4900);
    assert_int_equal(sent_count(&w->log, 0, MSG_FAILED), 0);
    late = node_next_deadline(w->node) + 900;
    assert_true(late >= 5000);
    w->now = late;
    node_tick(w->node, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_FAILED), 0);
    node_tick(w->node, w->now);
    assert_int_equal(
        w->did[OP_MANAGER_SILENT].count + sent_count(&w->log, 0, MSG_FAILED), 1);
    end(w);
}

/* A busy node speaks more often, but not before it had anything to do. */
static void test_who_was_idle_did_not_stand_still(void **state)
{
    struct world *w = begin();

    for (int after = 5; after < 20; after += 4) {
        wait_ms(w, 1000 * (uint64_t)after);
        stage(w, (uint64_t)after, JOB, UID);
        node_tick(w->node, w->now);
        assert_int_equal(w->stood_still, 0);
        node_job_end(w->node, JOB, w->now);
    }
    stage(w, 1, JOB, UID);
    w->now += 60000;
    node_tick(w->node, w->now);
    assert_int_equal(w->stood_still, 1);
    end(w);
}

static void test_what_is_here_works_without_a_manager(void **state)
{
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    fetch_all(w, 1);
    manager_down(w);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].count, 1);
    stage(w, 2, JOB, UID);
    assert_int_equal(w->did[OP_REPLY].id, 2);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    node_job_end(w->node, JOB, w->now);
    end(w);
}

static void test_a_fetch_outlives_the_manager(void **state)
{
    struct world *w = begin();
    uint64_t t;

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    t = fetch(w, 1, 0, 1, "n2");
    manager_down(w);
    wait_ms(w, 2000);
    node_piece_done(w->node, t, 0, w->now); /* nothing on its way now */
    wait_ms(w, 1500);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_EDOWN);
    sent_clear(&w->log);
    manager_up(w);
    const struct sent *s = sent_last(&w->log, 0, MSG_REGISTER);
    assert_int_equal(s->m.object_count, 1);
    assert_int_equal(s->m.binding_count, 1);
    assert_int_equal(sent_last(&w->log, 0, MSG_HAVE)->ranges[0].count, 1);
    end(w);
}

static void test_a_restart_remembers(void **state)
{
    struct world *w = begin_with(UINT64_MAX);
    struct vine_digest key = digest_no(3);
    struct msg_object whole = {.digest = digest_no(1),
                               .size = SIZE,
                               .pieces = PIECES,
                               .complete = true,
                               .trusted = true,
                               .key_count = 1,
                               .keys = &key};
    struct msg_object part = {.digest = digest_no(2), .size = SIZE, .pieces = PIECES};
    bool have[PIECES] = {true, false, true, false};
    struct msg_binding b = {
        .job = JOB, .uid = UID, .path = "/shared/ml", .digest = digest_no(1)};
    struct vine_err err = {0};

    assert_int_equal(node_restore_object(w->node, &whole, NULL, 5, NULL), 0);
    assert_int_equal(node_restore_object(w->node, &part, have, 6, NULL), 0);
    assert_int_equal(node_restore_object(w->node, &part, have, 6, NULL), -1);
    assert_int_equal(node_restore_binding(w->node, &b, UID, NULL), 0);
    b.digest = digest_no(9);
    b.job++;
    assert_int_equal(node_restore_binding(w->node, &b, UID, &err), -1);
    assert_int_equal(err.code, VINE_ENOENT);
    stage(w, 1, JOB, UID); /* no manager needed */
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    manager_up(w);
    const struct sent *s = sent_last(&w->log, 0, MSG_REGISTER);
    assert_int_equal(s->m.object_count, 2);
    assert_int_equal(s->m.binding_count, 1);
    s = sent_last(&w->log, 0, MSG_HAVE);
    assert_int_equal(s->m.range_count, 2);
    assert_int_equal(s->ranges[1].first, 2);
    assert_int_equal(totals(w).store_used, 2 * SIZE);
    end(w);
}

static void test_pings_come_often_while_there_is_work(void **state)
{
    struct world *w = begin();

    wait_ms(w, 90000);
    assert_in_range(sent_count(&w->log, 0, MSG_PING), 2, 3);
    stage(w, 1, JOB, UID);
    sent_clear(&w->log);
    wait_ms(w, 10000);
    assert_in_range(sent_count(&w->log, 0, MSG_PING), 9, 10);
    tell(w, &(struct msg){.type = MSG_PING});
    assert_int_equal(sent_count(&w->log, 0, MSG_PONG), 1);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_manager_no_message_is_taken),
        cmocka_unit_test(test_what_a_manager_never_says_is_refused),
        cmocka_unit_test(test_broken_numbers_are_refused),
        cmocka_unit_test(test_random_nonsense_does_no_harm),
        cmocka_unit_test(test_a_job_gets_its_object),
        cmocka_unit_test(test_a_second_step_of_two_sources),
        cmocka_unit_test(test_data_is_a_source_of_its_own),
        cmocka_unit_test(test_nobody_starts_on_a_claim),
        cmocka_unit_test(test_a_claim_that_was_not_shown_fails),
        cmocka_unit_test(test_what_was_claimed_when_the_manager_went),
        cmocka_unit_test(test_two_sources_make_one_answer),
        cmocka_unit_test(test_what_is_refused_at_once),
        cmocka_unit_test(test_clients_are_bounded),
        cmocka_unit_test(test_a_failure_is_told_and_the_next_step_asks_again),
        cmocka_unit_test(test_the_end_of_a_job_ends_all_it_began),
        cmocka_unit_test(test_another_lease_keeps_the_fetch_going),
        cmocka_unit_test(test_without_a_manager_a_wait_is_bounded),
        cmocka_unit_test(test_a_manager_that_does_not_answer_is_none),
        cmocka_unit_test(test_a_manager_that_never_registers_a_node_is_none),
        cmocka_unit_test(test_who_only_speaks_asks_for_an_answer),
        cmocka_unit_test(test_a_daemon_that_stood_still_asks_anew),
        cmocka_unit_test(test_a_late_tick_leaves_it_to_the_next),
        cmocka_unit_test(test_who_was_idle_did_not_stand_still),
        cmocka_unit_test(test_what_is_here_works_without_a_manager),
        cmocka_unit_test(test_a_fetch_outlives_the_manager),
        cmocka_unit_test(test_a_restart_remembers),
        cmocka_unit_test(test_pings_come_often_while_there_is_work),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

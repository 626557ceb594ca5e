/* The node's core: space and eviction, mounts, transfers, the node as origin, stage. */
#include "tests/unit/node_world.h"

/* ---- space ---- */

static void test_no_space_is_told_with_figures(void **state)
{
    struct world *w = begin_with(1000000000);

    manager_up(w);
    stage(w, 1, JOB, UID);
    bind_sized(w, JOB, 0x3f, 4400000000, true);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ENOSPC);
    assert_string_equal(
        w->did[OP_REPLY].text,
        "store '/local/vine' is 3.4 GB short for object 3f000000 (4.4 GB): "
        "raise cache_max or evict");
    const struct sent *s = sent_last(&w->log, 0, MSG_FAILED); /* no pieces, please */
    assert_string_equal(s->peer, "");
    assert_int_equal(s->ranges[0].count, PIECES);
    assert_int_equal(totals(w).store_used, 0);
    end(w);
}

static void test_the_least_recently_used_goes_first(void **state)
{
    struct world *w = begin_with(3 * SIZE);
    struct vine_digest second = digest_no(2);

    manager_up(w);
    for (uint8_t i = 1; i <= 3; i++) {
        w->now += 10;
        make_complete(w, JOB + i, i);
    }
    w->now += 10;
    stage(w, 1, JOB, UID); /* 1 is used again */
    bind(w, JOB, 1);
    node_job_end(w->node, JOB, w->now);
    stage(w, 2, JOB + 9, UID);
    bind(w, JOB + 9, 4);
    assert_int_equal(w->did[OP_REMOVE].count, 1);
    assert_true(vine_digest_equal(&w->did[OP_REMOVE].digest, &second));
    assert_false(node_may_serve(w->node, &second, (struct msg_range){0, 1}));
    assert_true(
        vine_digest_equal(&sent_last(&w->log, 0, MSG_EVICTED)->m.digest, &second));
    assert_int_equal(totals(w).store_used, 3 * SIZE);
    end(w);
}

static void test_what_was_restored_is_older(void **state)
{
    struct world *w = begin_with(2 * SIZE);
    struct msg_object whole = {
        .digest = digest_no(2), .size = SIZE, .pieces = PIECES, .complete = true};

    /* Its clock is the wall's, ours only began: the figures cannot be compared. */
    assert_int_equal(node_restore_object(w->node, &whole, NULL, 1700000000000, NULL),
                     0);
    manager_up(w);
    make_complete(w, JOB, 1);
    stage(w, 2, JOB + 9, UID);
    bind(w, JOB + 9, 4);
    assert_true(vine_digest_equal(&w->did[OP_REMOVE].digest, &whole.digest));
    end(w);
}

static void test_what_is_leased_never_goes(void **state)
{
    struct world *w = begin_with(2 * SIZE);
    struct vine_digest d = digest_no(1);
    struct vine_err err = {0};

    manager_up(w);
    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    make_complete(w, JOB + 1, 2);
    stage(w, 2, JOB + 2, UID);
    bind_sized(w, JOB + 2, 3, 2 * SIZE, true);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ENOSPC);
    assert_int_equal(w->did[OP_REMOVE].count, 0); /* in vain, so nothing goes */
    assert_int_equal(node_evict(w->node, &d, w->now, &err), -1);
    assert_int_equal(err.code, VINE_ELIMIT);
    node_job_end(w->node, JOB, w->now);
    assert_int_equal(node_evict(w->node, &d, w->now, NULL), 0);
    err = (struct vine_err){0};
    assert_int_equal(node_evict(w->node, &d, w->now, &err), -1);
    assert_int_equal(err.code, VINE_ENOENT);
    end(w);
}

static void test_a_disk_that_fails_is_told(void **state)
{
    struct world *w = begin();
    struct vine_err full = {.code = VINE_ENOSPC, .text = "No space left on device"};
    struct vine_digest d = digest_no(1);

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    node_transfer_failed(w->node, fetch(w, 1, 0, 1, "n2"), &full, w->now);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ENOSPC);
    assert_int_equal(w->did[OP_REMOVE].count, 1);
    stage(w, 2, JOB, UID); /* and again */
    bind(w, JOB, 1);
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    uint64_t t = fetch(w, 1, 1, 3, "n2");
    for (uint32_t p = 1; p < PIECES; p++)
        node_piece_done(w->node, t, p, w->now);
    full.code = VINE_ESYS;
    node_published(w->node, &d, &full, w->now);
    assert_int_equal(w->did[OP_REPLY].count, 2);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ESYS);
    assert_int_equal(totals(w).store_used, 0);
    end(w);
}

static void test_a_binding_that_crosses_a_refusal_is_asked_for_again(void **state)
{
    struct world *w = begin();
    struct vine_err full = {.code = VINE_ENOSPC, .text = "No space left on device"};

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    node_transfer_failed(w->node, fetch(w, 1, 0, 1, "n2"), &full, w->now);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ENOSPC);
    stage(w, 2, JOB, UID);
    uint32_t wants = sent_count(&w->log, 0, MSG_WANT);
    bind(w, JOB, 1); /* perhaps from before the manager heard of the refusal */
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), wants + 1);
    bind(w, JOB, 1); /* its answer */
    assert_int_equal(sent_count(&w->log, 0, MSG_WANT), wants + 1);
    end(w);
}

/* ---- mounts ---- */

static void test_untrusted_images_are_mounted_once_a_user(void **state)
{
    struct world *w = begin();
    struct vine_digest d = digest_no(1);
    struct vine_err err = {.code = VINE_ESYS, .text = "cannot mount"};

    stage(w, 1, JOB, UID);
    bind_sized(w, JOB, 1, SIZE, false);
    fetch_all(w, 1);
    assert_int_equal(w->did[OP_MOUNT].uid, UID);
    assert_false(w->did[OP_MOUNT].trusted);
    node_mounted(w->node, &d, UID, &err, w->now);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_ESYS);
    stage(w, 2, JOB, UID); /* tried again */
    assert_int_equal(w->did[OP_MOUNT].count, 2);
    mounted(w, 1, UID);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    assert_int_equal(w->did[OP_REPLY].uid, UID);
    node_unmounted(w->node, &d, UID, w->now); /* the FUSE process died */
    stage(w, 3, JOB, UID);
    assert_int_equal(w->did[OP_MOUNT].count, 3);
    assert_int_equal(w->did[OP_REPLY].count, 2);
    mounted(w, 1, UID);
    assert_int_equal(w->did[OP_REPLY].count, 3);
    end(w);
}

static void test_many_steps_make_one_mount(void **state)
{
    struct world *w = begin();

    for (uint64_t c = 1; c <= 64; c++)
        stage(w, c, JOB, UID);
    bind(w, JOB, 1);
    fetch_all(w, 1);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_MOUNT].count, 1);
    assert_int_equal(w->did[OP_REPLY].count, 64);
    end(w);
}

/* ---- transfers ---- */

static void test_a_stalled_transfer_is_given_up(void **state)
{
    struct world *w = begin();
    uint64_t t;

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    t = fetch(w, 1, 1, 3, "n2");
    wait_ms(w, 4000);
    node_transfer_progress(w->node, t, 100, w->now); /* slow is not stalled */
    node_piece_done(w->node, t, 2, w->now);
    wait_ms(w, 4900);
    assert_int_equal(w->did[OP_CANCEL].count, 0);
    wait_ms(w, 200);
    assert_int_equal(w->did[OP_CANCEL].id, t);
    const struct sent *s = sent_last(&w->log, 0, MSG_FAILED);
    assert_int_equal(s->m.code, VINE_ETIMEDOUT);
    assert_string_equal(s->peer, "n2");
    assert_int_equal(s->m.range_count, 2); /* 1 and 3, not 2 */
    assert_int_equal(s->ranges[0].first, 1);
    assert_int_equal(s->ranges[1].first, 3);
    end(w);
}

static void test_the_first_of_two_wins(void **state)
{
    struct world *w = begin();
    uint64_t slow, fast;

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    slow = fetch(w, 1, 1, 1, "n2");
    assert_int_equal(fetch(w, 1, 1, 1, "n2"), 0); /* from the same: one is enough */
    fast = fetch(w, 1, 1, 1, "n3");
    node_piece_done(w->node, fast, 1, w->now);
    assert_int_equal(w->did[OP_CANCEL].id, slow);
    uint32_t haves = sent_count(&w->log, 0, MSG_HAVE);
    node_piece_done(w->node, slow, 1, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), haves);
    assert_int_equal(fetch(w, 1, 1, 1, "n2"), 0); /* had: told once more */
    assert_int_equal(sent_count(&w->log, 0, MSG_HAVE), haves + 1);
    end(w);
}

static void test_a_revoked_transfer_ends_if_not_begun(void **state)
{
    struct msg_range range = {1, 3};
    struct msg m = {
        .type = MSG_REVOKE, .digest = digest_no(1), .ranges = &range, .range_count = 1};
    struct world *w = begin();
    uint64_t begun;

    stage(w, 1, JOB, UID);
    bind(w, JOB, 1);
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    begun = fetch(w, 1, 1, 1, "n2");
    uint64_t other = fetch(w, 1, 2, 1, "n3");
    node_transfer_progress(w->node, begun, 10, w->now);
    assert_int_equal(tell(w, &m), 0);
    assert_int_equal(w->did[OP_CANCEL].count, 1);
    assert_int_equal(w->did[OP_CANCEL].id, other);
    end(w);
}

/* ---- as origin ---- */

static void resolve(struct world *w, uint64_t ticket, uint64_t job)
{
    struct msg m = {.type = MSG_RESOLVE,
                    .ticket = ticket,
                    .job = job,
                    .uid = UID,
                    .gid = UID,
                    .path = "/shared/ml"};

    assert_int_equal(tell(w, &m), 0);
}

static int order(struct world *w, enum msg_type type, uint64_t ticket)
{
    return tell(w, &(struct msg){.type = type, .ticket = ticket});
}

static void test_only_for_jobs_that_are_here(void **state)
{
    struct world *w = begin();

    resolve(w, 1, JOB);
    assert_int_equal(w->did[OP_RESOLVE].count, 0);
    assert_int_equal(sent_last(&w->log, 0, MSG_RESOLVED)->m.code, VINE_ECANCELED);
    assert_int_equal(tell(w, &(struct msg){.type = MSG_RESOLVE, .path = "/a"}), -1);
    assert_int_equal(order(w, MSG_BUILD, 77), 0); /* ended meanwhile */
    assert_int_equal(order(w, MSG_CLOSE, 77), 0);
    end(w);
}

static void test_an_origin_builds(void **state)
{
    struct node_resolved r = {.key = digest_no(3), .estimate = 5000};
    struct msg_object object = {.digest = digest_no(1),
                                .size = SIZE,
                                .pieces = PIECES,
                                .complete = true,
                                .trusted = true};
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    assert_int_equal(order(w, MSG_BUILD, 9), -1); /* not resolved yet */
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    assert_int_equal(sent_last(&w->log, 0, MSG_RESOLVED)->m.ticket, 9);
    assert_int_equal(order(w, MSG_BUILD, 9), 0);
    assert_int_equal(totals(w).store_used, 5000);
    node_source_built(w->node, w->did[OP_BUILD].id, &object, NULL, w->now);
    assert_int_equal(totals(w).store_used, SIZE);
    assert_int_equal(w->did[OP_CLOSE].count, 1);
    assert_int_equal(sent_last(&w->log, 0, MSG_BUILT)->m.ticket, 9);
    bind(w, JOB, 1);
    mounted(w, 1, NODE_ANY_UID);
    assert_int_equal(w->did[OP_REPLY].code[0], VINE_OK);
    sent_clear(&w->log);
    manager_down(w);
    manager_up(w);
    assert_int_equal(sent_last(&w->log, 0, MSG_REGISTER)->m.object_count, 1);
    end(w);
}

static void test_an_origin_without_space_says_so(void **state)
{
    struct node_resolved r = {.key = digest_no(3), .estimate = 5000};
    struct world *w = begin_with(4000);

    manager_up(w);
    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    order(w, MSG_BUILD, 9);
    assert_int_equal(w->did[OP_BUILD].count, 0);
    assert_int_equal(sent_last(&w->log, 0, MSG_BUILT)->m.code, VINE_ENOSPC);
    assert_int_equal(w->did[OP_CLOSE].count, 1);
    assert_int_equal(totals(w).store_used, 0);
    end(w);
}

static void test_an_origin_streams_in_order(void **state)
{
    struct node_resolved r = {.key = digest_no(3),
                              .has_manifest = true,
                              .digest = digest_no(1),
                              .size = SIZE,
                              .pieces = PIECES,
                              .trusted = true};
    struct vine_digest d = digest_no(1);
    struct world *w = begin();
    uint64_t first;

    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    order(w, MSG_BUILD, 9);
    bind(w, JOB, 1);
    assert_int_equal(w->did[OP_FETCH_ORIGIN].count, 1); /* piece 0 alone */
    node_piece_done(w->node, w->did[OP_FETCH_ORIGIN].id, 0, w->now);
    assert_int_equal(w->did[OP_FETCH_ORIGIN].count, 4);
    first = w->did[OP_FETCH_ORIGIN].id - 2;
    for (uint32_t p = 1; p < PIECES; p++)
        node_piece_done(w->node, first + p - 1, p, w->now);
    assert_int_equal(w->did[OP_CLOSE].count, 0); /* until it is published */
    node_published(w->node, &d, NULL, w->now);
    assert_int_equal(w->did[OP_CLOSE].count, 1);
    assert_int_equal(totals(w).bytes_origin, SIZE);
    assert_null(sent_last(&w->log, 0, MSG_BUILT));
    end(w);
}

/* An image file: its key first, the rest only if nobody knows the key. */
static uint64_t resolve_by_key(struct world *w)
{
    struct node_resolved r = {
        .key = digest_no(3), .estimate = SIZE, .unopened = true, .has_manifest = false};

    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    assert_false(sent_last(&w->log, 0, MSG_RESOLVED)->m.has_digest);
    order(w, MSG_BUILD, 9);
    assert_int_equal(w->did[OP_OPEN].count, 1);
    assert_int_equal(w->did[OP_BUILD].count, 0);
    return w->did[OP_OPEN].id;
}

static const struct node_resolved inside = {
    .has_manifest = true, .size = SIZE, .pieces = PIECES, .trusted = true};

static void test_a_known_key_leaves_the_file_unopened(void **state)
{
    struct node_resolved r = {.key = digest_no(3), .estimate = SIZE, .unopened = true};
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    order(w, MSG_CLOSE, 9);
    assert_int_equal(w->did[OP_OPEN].count, 0);
    assert_int_equal(w->did[OP_CLOSE].count, 1);
    end(w);
}

static void test_what_others_have_is_proved_first(void **state)
{
    struct world *w = begin();
    struct node_resolved r = inside;
    uint64_t ticket = resolve_by_key(w);
    struct vine_err err = {.code = VINE_ECORRUPT, .text = "wrong bytes"};

    r.digest = digest_no(1);
    node_source_opened(w->node, ticket, &r, NULL, w->now);
    assert_int_equal(sent_count(&w->log, 0, MSG_RESOLVED), 2);
    assert_true(sent_last(&w->log, 0, MSG_RESOLVED)->m.has_digest);
    order(w, MSG_PROVE, 9);
    order(w, MSG_PROVE, 9); /* said twice, done once */
    assert_int_equal(w->did[OP_PROVE].count, 1);
    assert_int_equal(w->did[OP_FETCH_ORIGIN].count, 0);
    node_source_proved(w->node, w->did[OP_PROVE].id, NULL, w->now);
    assert_int_equal(sent_last(&w->log, 0, MSG_PROVED)->m.code, VINE_OK);
    order(w, MSG_BUILD, 9); /* not all of it is there any more */
    assert_int_equal(w->did[OP_FETCH_ORIGIN].count, 1);
    end(w);
    w = begin();
    ticket = resolve_by_key(w);
    node_source_opened(w->node, ticket, &r, NULL, w->now);
    order(w, MSG_PROVE, 9);
    node_source_proved(w->node, w->did[OP_PROVE].id, &err, w->now);
    assert_int_equal(sent_last(&w->log, 0, MSG_PROVED)->m.code, VINE_ECORRUPT);
    assert_int_equal(w->did[OP_CLOSE].count, 1);
    end(w);
}

static void test_an_unpacked_image_is_built_once_opened(void **state)
{
    struct world *w = begin();
    struct node_resolved r = {.estimate = SIZE};
    uint64_t ticket = resolve_by_key(w);

    node_source_opened(w->node, ticket, &r, NULL, w->now);
    assert_int_equal(w->did[OP_BUILD].count, 1);
    assert_int_equal(sent_count(&w->log, 0, MSG_RESOLVED), 1);
    end(w);
}

static void test_a_binding_brings_the_key(void **state)
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
                    .key = digest_no(3)};
    struct vine_digest d = digest_no(1);
    struct world *w = begin();
    uint64_t id;

    stage(w, 1, JOB, UID);
    assert_int_equal(tell(w, &m), 0);
    assert_int_equal(w->did[OP_REMEMBER].count, 0); /* it is not whole yet */
    node_piece_done(w->node, fetch(w, 1, 0, 1, "n2"), 0, w->now);
    id = fetch(w, 1, 1, PIECES - 1, "n2");
    for (uint32_t p = 1; p < PIECES; p++)
        node_piece_done(w->node, id, p, w->now);
    node_published(w->node, &d, NULL, w->now);
    assert_int_equal(w->did[OP_REMEMBER].count, 1);
    assert_true(vine_digest_equal(&w->did[OP_REMEMBER].digest, &m.key));
    m.key = digest_no(4); /* a copy of the file, in another job say */
    assert_int_equal(tell(w, &m), 0);
    assert_int_equal(w->did[OP_REMEMBER].count, 2);
    manager_down(w);
    manager_up(w);
    assert_int_equal(sent_last(&w->log, 0, MSG_REGISTER)->m.object_count, 1);
    end(w);
}

/* Beside what it reads from the source, a peer sends; both end with the job. */
static void test_the_end_of_a_streaming_job_ends_what_peers_send(void **state)
{
    struct node_resolved r = {.key = digest_no(3),
                              .has_manifest = true,
                              .digest = digest_no(1),
                              .size = SIZE,
                              .pieces = PIECES};
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    order(w, MSG_BUILD, 9);
    bind(w, JOB, 1);
    assert_int_not_equal(fetch(w, 1, 0, 1, "n2"), 0);
    node_job_end(w->node, JOB, w->now);
    assert_int_equal(totals(w).transfers, 0);
    end(w);
}

static void test_a_stream_that_fails_is_told_once(void **state)
{
    struct node_resolved r = {.key = digest_no(3),
                              .has_manifest = true,
                              .digest = digest_no(1),
                              .size = SIZE,
                              .pieces = PIECES};
    struct vine_err err = {.code = VINE_ECHANGED, .text = "it changed"};
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    order(w, MSG_BUILD, 9);
    bind(w, JOB, 1);
    node_piece_done(w->node, w->did[OP_FETCH_ORIGIN].id, 0, w->now);
    node_transfer_failed(w->node, w->did[OP_FETCH_ORIGIN].id, &err, w->now);
    assert_int_equal(w->did[OP_CANCEL].count, 2); /* the other two */
    assert_int_equal(sent_count(&w->log, 0, MSG_BUILT), 1);
    assert_int_equal(sent_last(&w->log, 0, MSG_BUILT)->m.code, VINE_ECHANGED);
    assert_int_equal(sent_count(&w->log, 0, MSG_FAILED), 0);
    assert_int_equal(totals(w).transfers, 0);
    end(w);
}

static void test_a_build_outlives_the_manager(void **state)
{
    struct node_resolved r = {.key = digest_no(3), .estimate = 5000};
    struct msg_object object = {.digest = digest_no(1),
                                .size = SIZE,
                                .pieces = PIECES,
                                .complete = true,
                                .trusted = true};
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    order(w, MSG_BUILD, 9);
    manager_down(w);
    assert_int_equal(w->did[OP_CLOSE].count, 0);
    manager_up(w);
    resolve(w, 1, JOB); /* the next manager asks: taken up again */
    assert_int_equal(w->did[OP_RESOLVE].count, 1);
    assert_int_equal(sent_last(&w->log, 0, MSG_RESOLVED)->m.ticket, 1);
    assert_int_equal(order(w, MSG_BUILD, 1), 0);
    assert_int_equal(w->did[OP_BUILD].count, 1);
    node_source_built(w->node, w->did[OP_BUILD].id, &object, NULL, w->now);
    assert_int_equal(sent_last(&w->log, 0, MSG_BUILT)->m.ticket, 1);
    end(w);
}

static void test_a_build_ends_with_its_job(void **state)
{
    struct node_resolved r = {.key = digest_no(3), .estimate = 5000};
    struct world *w = begin();

    stage(w, 1, JOB, UID);
    resolve(w, 9, JOB);
    node_source_resolved(w->node, w->did[OP_RESOLVE].id, &r, NULL, w->now);
    order(w, MSG_BUILD, 9);
    node_job_end(w->node, JOB, w->now);
    assert_int_equal(w->did[OP_CLOSE].count, 1);
    assert_int_equal(totals(w).store_used, 0);
    end(w);
}

/* ---- stage, status ---- */

static void wanted(struct world *w, uint64_t job)
{
    struct msg m = {
        .type = MSG_WANTED, .job = job, .uid = UID, .gid = UID, .path = "/shared/ml"};

    assert_int_equal(tell(w, &m), 0);
}

static void test_a_staged_job_releases_itself(void **state)
{
    struct world *w = begin();

    wanted(w, MADE_UP | 1);
    assert_int_equal(sent_last(&w->log, 0, MSG_WANT)->m.job, MADE_UP | 1);
    bind(w, MADE_UP | 1, 1);
    fetch_all(w, 1);
    assert_int_equal(sent_last(&w->log, 0, MSG_RELEASE)->m.code, VINE_OK);
    assert_int_equal(w->did[OP_MOUNT].count, 0);
    assert_int_equal(totals(w).jobs, 0);
    wanted(w, MADE_UP | 2);
    bind_error(w, MADE_UP | 2, VINE_ENOENT, "no such thing");
    const struct sent *s = sent_last(&w->log, 0, MSG_RELEASE);
    assert_int_equal(s->m.code, VINE_ENOENT);
    assert_string_equal(s->text, "no such thing");
    end(w);
}

static void test_requests_are_answered_or_fail(void **state)
{
    static const char *const names[] = {"n2"};
    struct world *w = begin();
    struct vine_err err = {0};
    uint64_t ticket;

    assert_int_equal(node_cluster_stage(w->node, 5, UID, UID, "/shared/ml", names, 1,
                                        17, w->now, &err),
                     -1); /* not a made-up job */
    assert_int_equal(node_cluster_stage(w->node, 5, UID, UID, "/shared/ml", names, 1,
                                        MADE_UP | 1, w->now, NULL),
                     0);
    ticket = sent_last(&w->log, 0, MSG_STAGE)->m.ticket;
    tell(w, &(struct msg){.type = MSG_STAGED, .ticket = ticket + 1, .text = ""});
    assert_int_equal(w->did[OP_ANSWER].count, 0);
    tell(w, &(struct msg){.type = MSG_STAGED,
                          .ticket = ticket,
                          .code = VINE_ENOSPC,
                          .text = "full"});
    assert_int_equal(w->did[OP_ANSWER].id, 5);
    assert_int_equal(w->did[OP_ANSWER].code[0], VINE_ENOSPC);
    assert_int_equal(node_ask_status(w->node, 6, 0, 0, false, w->now, NULL), 0);
    manager_down(w);
    assert_int_equal(w->did[OP_ANSWER].id, 6);
    assert_int_equal(w->did[OP_ANSWER].code[0], VINE_EDOWN);
    err = (struct vine_err){0};
    assert_int_equal(node_ask_status(w->node, 7, 0, 0, false, w->now, &err), -1);
    assert_int_equal(err.code, VINE_EDOWN);
    manager_up(w);
    node_ask_status(w->node, 8, 0, 0, false, w->now, NULL);
    node_client_gone(w->node, 8, w->now);
    ticket = sent_last(&w->log, 0, MSG_ASK_STATUS)->m.ticket;
    tell(w, &(struct msg){.type = MSG_STATUS, .ticket = ticket, .text = "{}"});
    assert_int_equal(w->did[OP_ANSWER].count, 2);
    end(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_space_is_told_with_figures),
        cmocka_unit_test(test_the_least_recently_used_goes_first),
        cmocka_unit_test(test_what_was_restored_is_older),
        cmocka_unit_test(test_what_is_leased_never_goes),
        cmocka_unit_test(test_a_disk_that_fails_is_told),
        cmocka_unit_test(test_a_binding_that_crosses_a_refusal_is_asked_for_again),
        cmocka_unit_test(test_untrusted_images_are_mounted_once_a_user),
        cmocka_unit_test(test_many_steps_make_one_mount),
        cmocka_unit_test(test_a_stalled_transfer_is_given_up),
        cmocka_unit_test(test_the_first_of_two_wins),
        cmocka_unit_test(test_a_revoked_transfer_ends_if_not_begun),
        cmocka_unit_test(test_only_for_jobs_that_are_here),
        cmocka_unit_test(test_an_origin_builds),
        cmocka_unit_test(test_an_origin_without_space_says_so),
        cmocka_unit_test(test_an_origin_streams_in_order),
        cmocka_unit_test(test_a_known_key_leaves_the_file_unopened),
        cmocka_unit_test(test_what_others_have_is_proved_first),
        cmocka_unit_test(test_an_unpacked_image_is_built_once_opened),
        cmocka_unit_test(test_a_binding_brings_the_key),
        cmocka_unit_test(test_the_end_of_a_streaming_job_ends_what_peers_send),
        cmocka_unit_test(test_a_stream_that_fails_is_told_once),
        cmocka_unit_test(test_a_build_outlives_the_manager),
        cmocka_unit_test(test_a_build_ends_with_its_job),
        cmocka_unit_test(test_a_staged_job_releases_itself),
        cmocka_unit_test(test_requests_are_answered_or_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* node_transfer.c - pieces on their way to this node.
 *
 * A transfer is a run of pieces from one peer, or from this node's own source. Two may
 * cover the same piece (the manager's endgame, or a new assignment after a restart):
 * the first to finish it counts, and a transfer of which nothing is left is cancelled.
 *
 * What a feed brought is told a heartbeat after its first piece, or when its transfer
 * is done and a part of the time it took has passed, in which others may be done as
 * well: it does not cost a message a piece. All else is told at once.
 *
 * Each has a deadline stall_ms after the last progress of anything from the same peer:
 * what waits behind another answer of that peer is not stalled. */
#include <string.h>

#include "daemon/core/node_int.h"

#define TELL_PART 8u       /* of the time that a feed took, when it is done */
#define LOCAL_FAILS_MAX 3u /* disk errors of an object before its jobs are told */

bool node_transfer_covers(const struct node_object *o, uint32_t piece)
{
    for (const struct transfer *t = o->transfers; t != NULL; t = t->object_next)
        if (piece - t->range.first < t->range.count)
            return true;
    return false;
}

static bool peer_sends(const struct node_object *o, uint32_t piece, const char *peer)
{
    for (const struct transfer *t = o->transfers; t != NULL; t = t->object_next)
        if (piece - t->range.first < t->range.count && t->origin == NULL &&
            strcmp(t->peer, peer) == 0)
            return true;
    return false;
}

struct transfer *node_transfer_new(struct node *node, struct node_object *o,
                                   struct msg_range range)
{
    struct transfer *t;

    if (node->transfers.count >= NODE_TRANSFERS_MAX)
        return NULL;
    t = calloc(1, sizeof(*t));
    if (t == NULL)
        return NULL;
    t->id = ++node->last_id;
    t->object = o;
    t->range = range;
    t->asked_ms = node->now_ms;
    t->deadline_ms = node->now_ms + node->limits.stall_ms;
    t->next = node->first_transfer;
    if (t->next != NULL)
        t->next->prev = t;
    node->first_transfer = t;
    t->object_next = o->transfers;
    if (t->object_next != NULL)
        t->object_next->object_prev = t;
    o->transfers = t;
    table_add(&node->transfers, &t->link, hash_u64(t->id));
    return t;
}

void node_transfer_free(struct node *node, struct transfer *t)
{
    table_remove(&node->transfers, &t->link);
    *(t->prev != NULL ? &t->prev->next : &node->first_transfer) = t->next;
    if (t->next != NULL)
        t->next->prev = t->prev;
    *(t->object_prev != NULL ? &t->object_prev->object_next : &t->object->transfers) =
        t->object_next;
    if (t->object_next != NULL)
        t->object_next->object_prev = t->object_prev;
    free(t);
}

void node_transfer_cancel(struct node *node, struct transfer *t)
{
    node->ops.fetch_cancel(node->ctx, t->id);
    node_transfer_free(node, t);
}

static struct transfer *transfer_find(const struct node *node, uint64_t id)
{
    struct table_link *l = table_find(&node->transfers, hash_u64(id));

    return l == NULL ? NULL : table_entry(l, struct transfer, link);
}

static void failed_tell(struct node *node, const struct vine_digest *digest,
                        const struct msg_range *ranges, uint32_t count,
                        const char *peer, enum vine_code code)
{
    struct msg m = {.type = MSG_FAILED,
                    .digest = *digest,
                    .ranges = ranges,
                    .range_count = count,
                    .peer = peer,
                    .code = code};

    if (count > 0)
        node_send(node, &m);
}

void node_have_tell(struct node *node, struct node_object *o, struct msg_range range)
{
    struct msg m = {.type = MSG_HAVE,
                    .digest = o->digest,
                    .ranges = &range,
                    .range_count = 1,
                    .reusing = node_reuse_pending(node, o)};

    node_send(node, &m);
}

void node_have_forget_untold(struct node *node, struct node_object *o)
{
    node->untold_objects -= o->untold_count > 0;
    o->untold_count = 0;
}

static void tell_untold(struct node *node, struct node_object *o)
{
    struct msg m = {.type = MSG_HAVE,
                    .digest = o->digest,
                    .ranges = o->untold,
                    .range_count = o->untold_count,
                    .reusing = node_reuse_pending(node, o)};

    if (o->untold_count == 0)
        return;
    node_have_forget_untold(node, o);
    node_send(node, &m);
}

void node_have_tell_untold(struct node *node)
{
    for (struct node_object *o = node->first_object;
         o != NULL && node->untold_objects > 0; o = o->next)
        tell_untold(node, o);
}

void node_have_tell_soon(struct node *node, struct node_object *o, uint32_t piece,
                         uint32_t wait_ms)
{
    struct msg_range *run = o->untold, *end = run + o->untold_count;

    while (run < end && run->first + run->count != piece)
        run++;
    if (run < end) {
        run->count++;
    } else {
        if (o->untold_count == NODE_UNTOLD_MAX)
            tell_untold(node, o);
        if (o->untold_count == 0) {
            node->untold_objects++;
            o->untold_ms = UINT64_MAX;
        }
        o->untold[o->untold_count++] = (struct msg_range){piece, 1};
    }
    if (wait_ms == 0)
        tell_untold(node, o);
    else if (node->now_ms + wait_ms < o->untold_ms)
        o->untold_ms = node->now_ms + wait_ms;
}

/* Before a ping is due: it says as well that this node lives. */
static uint64_t untold_deadline(const struct node *node, const struct node_object *o)
{
    uint64_t ping = node->sent_ms + node->heartbeat_ms;

    if (o->untold_count == 0)
        return UINT64_MAX;
    return node->heartbeat_ms > 0 && ping < o->untold_ms ? ping : o->untold_ms;
}

/* The next run of pieces at or after `from` that are there, or that are missing. */
static struct msg_range next_run(const struct node_object *o, uint32_t from,
                                 uint32_t end, bool have)
{
    struct msg_range run = {0};

    while (from < end && node_object_has(o, from) != have)
        from++;
    run.first = from;
    while (from < end && node_object_has(o, from) == have)
        from++;
    run.count = from - run.first;
    return run;
}

void node_have_tell_all(struct node *node, struct node_object *o)
{
    struct msg_range ranges[256];
    struct msg m = {.type = MSG_HAVE,
                    .digest = o->digest,
                    .ranges = ranges,
                    .reusing = node_reuse_pending(node, o)};
    struct msg_range run = next_run(o, 0, o->pieces, true);

    while (run.count > 0) {
        ranges[m.range_count++] = run;
        run = next_run(o, run.first + run.count, o->pieces, true);
        if (m.range_count == 256 || run.count == 0) {
            node_send(node, &m);
            m.range_count = 0;
        }
    }
}

/* What of a transfer is not here, as ranges; at most 64, the rest the manager's own
 * deadlines find. */
static uint32_t ranges_left(const struct transfer *t, struct msg_range ranges[64])
{
    uint32_t end = t->range.first + t->range.count, count = 0;
    struct msg_range run = next_run(t->object, t->range.first, end, false);

    for (; run.count > 0 && count < 64;
         run = next_run(t->object, run.first + run.count, end, false))
        ranges[count++] = run;
    return count;
}

void node_transfer_cancel_all(struct node *node, struct node_object *o)
{
    while (o->transfers != NULL)
        node_transfer_cancel(node, o->transfers);
}

/* Nothing here wants the object any more. The manager may have planned for another job
 * that began meanwhile, so it must know that nothing is on its way. */
void node_transfer_give_up(struct node *node, struct node_object *o)
{
    struct msg_range ranges[64];

    while (o->transfers != NULL) {
        struct transfer *t = o->transfers;
        if (t->origin == NULL)
            failed_tell(node, &o->digest, ranges, ranges_left(t, ranges), t->peer,
                        VINE_ECANCELED);
        node_transfer_cancel(node, t);
    }
}

static void fetch_run(struct node *node, struct node_object *o,
                      const struct msg_assign *assign, struct msg_range run)
{
    struct transfer *t = NULL;
    struct msg_assign part = *assign;

    if (strlen(assign->peer) <= VINE_NAME_MAX)
        t = node_transfer_new(node, o, run);
    if (t == NULL) {
        failed_tell(node, &o->digest, &run, 1, assign->peer, VINE_ENOMEM);
        return;
    }
    strcpy(t->peer, assign->peer);
    t->feed = assign->feed;
    part.range = run;
    node->ops.fetch(node->ctx, t->id, &o->digest, &part);
}

/* One assignment, cut where a piece is here already or on its way from this peer. */
static void fetch_assign(struct node *node, struct node_object *o,
                         const struct msg_assign *assign)
{
    uint32_t end = assign->range.first + assign->range.count;
    struct msg_range run = {assign->range.first, 0};

    for (uint32_t p = assign->range.first; p < end; p++) {
        bool have = node_object_has(o, p);
        if (have)
            node_have_tell(node, o, (struct msg_range){p, 1});
        if (!have && p > 0 && !node_object_has(o, 0)) {
            struct msg_range early = {p, end - p};
            failed_tell(node, &o->digest, &early, 1, assign->peer, VINE_ECANCELED);
            end = p;
            break;
        }
        if (!have && !peer_sends(o, p, assign->peer) && p > 0) {
            run.count++;
            continue;
        }
        if (run.count > 0)
            fetch_run(node, o, assign, run);
        if (!have && p == 0 && !peer_sends(o, p, assign->peer))
            fetch_run(node, o, assign, (struct msg_range){0, 1});
        run = (struct msg_range){p + 1, 0};
    }
    if (run.count > 0)
        fetch_run(node, o, assign, run);
}

int node_transfer_fetch(struct node *node, const struct msg *m, struct vine_err *err)
{
    struct node_object *o = node_object_find(node, &m->digest);

    for (uint32_t i = 0; o != NULL && i < m->assign_count; i++)
        if (m->assigns[i].range.first >= o->pieces ||
            m->assigns[i].range.count > o->pieces - m->assigns[i].range.first)
            return vine_err_set(err, VINE_EPROTO, "fetch: pieces %u+%u of %u",
                                m->assigns[i].range.first, m->assigns[i].range.count,
                                o->pieces);
    node->heartbeat_ms = m->heartbeat_ms;
    for (uint32_t i = 0; i < m->assign_count; i++) {
        const struct msg_assign *assign = &m->assigns[i];
        if (o != NULL && (o->leases > 0 || o->state == OBJECT_COMPLETE))
            fetch_assign(node, o, assign);
        else /* released or evicted while this was on its way */
            failed_tell(node, &m->digest, &assign->range, 1, assign->peer,
                        VINE_ECANCELED);
    }
    return 0;
}

static bool all_revoked(const struct transfer *t, const struct msg *m)
{
    for (uint32_t p = t->range.first; p - t->range.first < t->range.count; p++) {
        bool named = node_object_has(t->object, p);
        for (uint32_t i = 0; i < m->range_count && !named; i++)
            named = p - m->ranges[i].first < m->ranges[i].count;
        if (!named)
            return false;
    }
    return true;
}

/* What has begun is nearly here, unless it is a long run. */
int node_transfer_revoke(struct node *node, const struct msg *m, struct vine_err *err)
{
    struct node_object *o = node_object_find(node, &m->digest);
    struct transfer *next;

    if (o == NULL)
        return 0;
    for (uint32_t i = 0; i < m->range_count; i++)
        if (m->ranges[i].first >= o->pieces ||
            m->ranges[i].count > o->pieces - m->ranges[i].first)
            return vine_err_set(err, VINE_EPROTO, "revoke: pieces %u+%u of %u",
                                m->ranges[i].first, m->ranges[i].count, o->pieces);
    for (struct transfer *t = o->transfers; t != NULL; t = next) {
        next = t->object_next;
        if (t->origin == NULL && (!t->begun || t->range.count > 1) && all_revoked(t, m))
            node_transfer_cancel(node, t);
    }
    if (o->stream != NULL)
        node_origin_advance(node, o->stream);
    return 0;
}

static void progressed(struct node *node, struct transfer *t)
{
    t->begun = true;
    for (struct transfer *o = node->first_transfer; o != NULL; o = o->next)
        if (o == t || (o->origin == t->origin && strcmp(o->peer, t->peer) == 0))
            o->deadline_ms = node->now_ms + node->limits.stall_ms;
}

void node_transfer_finish(struct node *node, struct node_object *o)
{
    struct transfer *next;

    for (struct transfer *t = o->transfers; t != NULL; t = next) {
        uint32_t end = t->range.first + t->range.count;
        next = t->object_next;
        if (next_run(o, t->range.first, end, false).count > 0)
            continue;
        if (t->reported < t->range.count)
            node_transfer_cancel(node, t);
        else
            node_transfer_free(node, t);
    }
}

static void count_bytes(struct node *node, const struct transfer *t, uint32_t piece)
{
    struct node_object *o = t->object;
    uint64_t bytes = node_reuse_missing(o, piece);

    node_story_add(node, o, t->origin != NULL ? MSG_FROM_SOURCE : MSG_FROM_PEER,
                   t->peer, bytes, t->asked_ms);
    o->bytes_here += bytes;
    if (t->origin != NULL) {
        o->bytes_origin += bytes;
        node->bytes_origin += bytes;
    } else {
        o->bytes_peer += bytes;
        node->bytes_peer += bytes;
    }
}

/* How long the manager may go without knowing of a piece that has come. */
static uint32_t may_wait_ms(const struct node *node, const struct transfer *t)
{
    uint64_t took = node->now_ms - t->asked_ms;

    if (!t->feed || t->object->have_count == t->object->pieces)
        return 0;
    if (t->reported < t->range.count || took >= TELL_PART * node->heartbeat_ms)
        return node->heartbeat_ms;
    return (uint32_t)took / TELL_PART;
}

void node_piece_done(struct node *node, uint64_t transfer, uint32_t piece,
                     uint64_t now_ms)
{
    struct transfer *t = transfer_find(node, transfer);
    struct node_object *o;

    node_time(node, now_ms);
    if (t == NULL || piece - t->range.first >= t->range.count)
        return;
    o = t->object;
    t->reported++;
    progressed(node, t);
    if (!node_object_has(o, piece)) {
        bits_set(o->have, piece);
        o->have_count++;
        if (piece > 0)
            count_bytes(node, t, piece);
        else
            node_reuse_begin(node, o);
        node_have_tell_soon(node, o, piece, may_wait_ms(node, t));
        node_lazy_piece(node, o, piece);
    }
    node_transfer_finish(node, o);
    if (o->have_count == o->pieces)
        node_object_advance(node, o);
    else if (o->stream != NULL)
        node_origin_advance(node, o->stream);
}

void node_transfer_reused(struct node *node, uint64_t transfer, uint32_t piece,
                          uint64_t bytes)
{
    struct transfer *t = transfer_find(node, transfer);
    struct node_object *o = t == NULL ? NULL : t->object;

    /* Counters are exact or as if all had come from the peer. */
    if (o == NULL || o->missing == NULL || piece - t->range.first >= t->range.count ||
        node_object_has(o, piece) || bytes > o->missing[piece])
        return;
    o->missing[piece] -= (uint32_t)bytes;
    node_story_add(node, o, MSG_FROM_REUSED, "", bytes, t->asked_ms);
    o->bytes_here += bytes;
    o->bytes_reused += bytes;
    node->bytes_reused += bytes;
}

void node_transfer_progress(struct node *node, uint64_t transfer, uint64_t bytes,
                            uint64_t now_ms)
{
    struct transfer *t = transfer_find(node, transfer);

    node_time(node, now_ms);
    if (t != NULL && bytes > 0)
        progressed(node, t);
}

/* This node's disk or memory, not the peer. */
static bool is_local(enum vine_code code)
{
    return code == VINE_ENOSPC || code == VINE_ESYS || code == VINE_EACCES;
}

static void transfer_fail(struct node *node, struct transfer *t,
                          const struct vine_err *err)
{
    struct node_object *o = t->object;
    struct ticket *origin = t->origin;
    struct msg_range ranges[64];
    char peer[VINE_NAME_MAX + 1];
    uint32_t count = ranges_left(t, ranges);

    strcpy(peer, t->peer);
    node_transfer_free(node, t);
    if (origin != NULL) {
        node_origin_fail(node, origin, err);
        return;
    }
    node_log(node, VINE_LOG_INFO, "event=transfer-failed peer=%s code=%s reason=\"%s\"",
             peer, vine_code_name(err->code), err->text);
    failed_tell(node, &o->digest, ranges, count, peer, err->code);
    if (is_local(err->code) &&
        (err->code == VINE_ENOSPC || ++o->local_fails >= LOCAL_FAILS_MAX))
        node_object_failed(node, o, err);
    else if (o->stream != NULL) /* what the peer did not send is the source's to give */
        node_origin_advance(node, o->stream);
}

void node_transfer_failed(struct node *node, uint64_t transfer,
                          const struct vine_err *err, uint64_t now_ms)
{
    struct transfer *t = transfer_find(node, transfer);

    node_time(node, now_ms);
    if (t != NULL)
        transfer_fail(node, t, err);
}

void node_transfer_renew(struct node *node)
{
    for (struct transfer *t = node->first_transfer; t != NULL; t = t->next)
        t->deadline_ms = node->now_ms + node->limits.stall_ms;
}

void node_transfer_tick(struct node *node)
{
    struct transfer *t = node->first_transfer;

    for (struct node_object *o = node->first_object;
         o != NULL && node->untold_objects > 0; o = o->next)
        if (untold_deadline(node, o) <= node->now_ms)
            tell_untold(node, o);

    while (t != NULL) {
        struct vine_err err = {0};
        if (t->deadline_ms > node->now_ms) {
            t = t->next;
            continue;
        }
        vine_err_set(&err, VINE_ETIMEDOUT, "nothing arrived for %u ms",
                     node->limits.stall_ms);
        node->ops.fetch_cancel(node->ctx, t->id);
        transfer_fail(node, t, &err);
        t = node->first_transfer; /* it may have taken others along */
    }
}

uint64_t node_transfer_deadline(const struct node *node)
{
    uint64_t deadline = UINT64_MAX;

    for (const struct transfer *t = node->first_transfer; t != NULL; t = t->next)
        if (t->deadline_ms < deadline)
            deadline = t->deadline_ms;
    for (const struct node_object *o = node->first_object;
         o != NULL && node->untold_objects > 0; o = o->next)
        if (untold_deadline(node, o) < deadline)
            deadline = untold_deadline(node, o);
    return deadline;
}

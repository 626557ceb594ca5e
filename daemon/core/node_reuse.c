/* node_reuse.c - before data is fetched: what older objects of the store have of it.
 *
 * Once an object and start, when its manifest is there and somebody wants it. The
 * manager plans no data for this node until it is over, and a stream does not begin;
 * the manifest itself is served meanwhile. Afterwards what is missing is known to the
 * byte, so the counters are exact. A disk that does not answer costs stall_ms: then
 * all is fetched, and what comes late is taken all the same. */
#include "daemon/core/node_int.h"

bool node_reuse_pending(const struct node *node, const struct node_object *o)
{
    return node->ops.reuse != NULL && o->state == OBJECT_PARTIAL && o->pieces > 1 &&
           o->reuse != REUSE_OVER;
}

uint64_t node_reuse_missing(const struct node_object *o, uint32_t piece)
{
    uint64_t data = o->pieces - 1;

    if (o->missing != NULL)
        return o->missing[piece];
    /* What the division leaves over comes with the last piece. */
    return o->size / data + (piece == data ? o->size % data : 0);
}

void node_reuse_begin(struct node *node, struct node_object *o)
{
    if (!node_reuse_pending(node, o) || o->reuse != REUSE_UNTRIED ||
        (o->leases == 0 && o->stream == NULL))
        return;
    o->reuse = REUSE_RUNNING;
    o->reuse_since_ms = node->now_ms;
    o->reuse_deadline_ms = node->now_ms + node->limits.stall_ms;
    node->reusing++;
    /* A part holds what its builder has read as the user who waits here. */
    node->ops.reuse(node->ctx, &o->digest, o->part || o->key_count > 0);
}

bool node_knows_source(const struct node *node, const struct vine_digest *digest)
{
    const struct node_object *o = node_object_find(node, digest);

    return o != NULL && o->key_count > 0;
}

void node_reuse_end(struct node *node, struct node_object *o)
{
    node->reusing -= o->reuse == REUSE_RUNNING;
    o->reuse = REUSE_OVER;
}

/* Data may be planned and streamed from now on. */
static void go_on(struct node *node, struct node_object *o)
{
    node_reuse_end(node, o);
    node_have_forget_untold(node, o);
    node_have_tell_all(node, o);
    node_transfer_finish(node, o);
    if (o->have_count == o->pieces)
        node_object_advance(node, o);
    else if (o->stream != NULL)
        node_origin_advance(node, o->stream);
}

/* Pieces and exact bytes. What transfers brought meanwhile stays counted as theirs. */
static void take(struct node *node, struct node_object *o, const struct node_reused *r)
{
    uint32_t *missing = calloc(o->pieces, sizeof(*missing));

    o->bytes_here = o->size;
    for (uint32_t p = 1; p < o->pieces; p++) {
        if (r->have[p] && !bits_get(o->have, p)) {
            bits_set(o->have, p);
            o->have_count++;
            node_lazy_piece(node, o, p);
        }
        if (!bits_get(o->have, p))
            o->bytes_here -= r->missing[p];
        if (missing != NULL)
            missing[p] = r->missing[p];
    }
    free(o->missing);
    o->missing = missing; /* out of memory: the counters are rough */
    node_story_add(node, o, MSG_FROM_REUSED, "", r->bytes, o->reuse_since_ms);
    node_story_parts(node, o, r->bytes_parts);
    o->bytes_reused += r->bytes;
    o->bytes_peer += r->bytes_parts; /* the node's own counter has them */
    node->bytes_reused += o->part ? 0 : r->bytes;
}

void node_reused(struct node *node, const struct vine_digest *digest,
                 const struct node_reused *r, uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);
    char hex[VINE_HEX_LEN + 1];

    node_time(node, now_ms);
    if (o == NULL || o->state != OBJECT_PARTIAL || o->reuse == REUSE_UNTRIED)
        return;
    if (r != NULL)
        take(node, o, r);
    vine_digest_hex(digest, hex);
    if (r != NULL && r->bytes > 0)
        node_log(node, VINE_LOG_INFO, "event=reused object=%.8s bytes=%llu of=%llu",
                 hex, (unsigned long long)r->bytes, (unsigned long long)o->size);
    go_on(node, o);
}

void node_reuse_progress(struct node *node, const struct vine_digest *digest,
                         uint64_t now_ms)
{
    struct node_object *o = node_object_find(node, digest);

    node_time(node, now_ms);
    if (o != NULL && o->reuse == REUSE_RUNNING)
        o->reuse_deadline_ms = node->now_ms + node->limits.stall_ms;
}

void node_reuse_renew(struct node *node)
{
    for (struct node_object *o = node->first_object; o != NULL; o = o->next)
        o->reuse_deadline_ms = node->now_ms + node->limits.stall_ms;
}

static struct node_object *first_late(const struct node *node)
{
    struct node_object *o = node->reusing > 0 ? node->first_object : NULL;

    while (o != NULL &&
           (o->reuse != REUSE_RUNNING || o->reuse_deadline_ms > node->now_ms))
        o = o->next;
    return o;
}

void node_reuse_tick(struct node *node)
{
    struct node_object *o;
    char hex[VINE_HEX_LEN + 1];

    while ((o = first_late(node)) != NULL) {
        vine_digest_hex(&o->digest, hex);
        node_log(node, VINE_LOG_WARNING,
                 "event=reuse-slow object=%.8s reason=\"the store did not answer for "
                 "%u ms\"",
                 hex, node->limits.stall_ms);
        go_on(node, o);
    }
}

uint64_t node_reuse_deadline(const struct node *node)
{
    uint64_t deadline = UINT64_MAX;

    if (node->reusing == 0)
        return deadline;
    for (const struct node_object *o = node->first_object; o != NULL; o = o->next)
        if (o->reuse == REUSE_RUNNING && o->reuse_deadline_ms < deadline)
            deadline = o->reuse_deadline_ms;
    return deadline;
}

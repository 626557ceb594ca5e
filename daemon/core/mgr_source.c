/* mgr_source.c - the books of sources and wants: made, found, linked, ended.
 *
 * What a source is and does stands in mgr_resolve.c; here is what keeps its links
 * whole. A want ties a node to a source, and once that is bound to an object, to the
 * holder through which the node is supplied. */
#include <string.h>

#include "daemon/core/mgr_int.h"

static uint64_t source_hash(uint64_t job, uint32_t uid, const char *path)
{
    return hash_text(path, hash_u64(job) ^ hash_u64(~(uint64_t)uid));
}

struct source *mgr_source_find(const struct mgr *mgr, uint64_t job, uint32_t uid,
                               const char *path)
{
    struct table_link *l = table_find(&mgr->sources, source_hash(job, uid, path));

    for (; l != NULL; l = table_next_same(l)) {
        struct source *s = table_entry(l, struct source, by_name);
        if (s->job == job && s->uid == uid && strcmp(s->path, path) == 0)
            return s;
    }
    return NULL;
}

struct source *mgr_source_new(struct mgr *mgr, uint64_t job, uint32_t uid, uint32_t gid,
                              const char *path)
{
    struct source *s = calloc(1, sizeof(*s));

    if (s == NULL || (s->path = strdup(path)) == NULL) {
        free(s);
        return NULL;
    }
    s->job = job;
    s->uid = uid;
    s->gid = gid;
    s->stage = mgr_stage_find(mgr, job);
    table_add(&mgr->sources, &s->by_name, source_hash(job, uid, path));
    return s;
}

struct source *mgr_source_of_ticket(const struct mgr *mgr, uint64_t ticket)
{
    struct table_link *l = table_find(&mgr->tickets, hash_u64(ticket));

    return l == NULL ? NULL : table_entry(l, struct source, by_ticket);
}

/* Another source with the same key in that state, its ticket open. */
struct source *mgr_source_of_key(const struct mgr *mgr, const struct source *s,
                                 enum source_state state)
{
    struct table_link *l = table_find(&mgr->resolved, hash_digest(&s->key));

    for (; l != NULL; l = table_next_same(l)) {
        struct source *other = table_entry(l, struct source, by_key);
        if (other != s && other->state == state &&
            vine_digest_equal(&other->key, &s->key))
            return other;
    }
    return NULL;
}

void mgr_ticket_send(struct mgr *mgr, struct source *s, enum msg_type type)
{
    struct msg m = {.type = type,
                    .ticket = s->ticket,
                    .job = s->job,
                    .uid = s->uid,
                    .gid = s->gid,
                    .path = s->path,
                    .parts = s->wants != NULL && s->wants->source_next != NULL};

    mgr_send(mgr, s->origin, &m);
}

void mgr_build_begin(struct mgr *mgr, struct source *s)
{
    s->state = SOURCE_BUILDING;
    s->read = s->to_read = 0;
    mgr_ticket_send(mgr, s, MSG_BUILD);
}

/* A ticket that has ended meanwhile is no fault. */
void mgr_source_building(struct mgr *mgr, const struct mgr_node *node,
                         const struct msg *m)
{
    struct source *s = mgr_source_of_ticket(mgr, m->ticket);

    if (s == NULL || s->origin != node || s->state != SOURCE_BUILDING)
        return;
    s->to_read = m->size;
    s->read = m->offset < m->size ? m->offset : m->size;
}

/* One that waits for nobody but `s`, which ends. It may be queued itself: it began to
 * build, and had to wait when it was looked into. One whose manifest is known may have
 * to prove it first: the next tick's, and the others of its key wait for it. */
static struct source *next_of_key(const struct mgr *mgr, const struct source *s)
{
    struct table_link *l = table_find(&mgr->resolved, hash_digest(&s->key));
    struct source *next = NULL;

    for (; l != NULL; l = table_next_same(l)) {
        struct source *other = table_entry(l, struct source, by_key);
        if (other == s || !vine_digest_equal(&other->key, &s->key))
            continue;
        if (other->state == SOURCE_BUILDING || other->state == SOURCE_PROVING ||
            (other->state == SOURCE_QUEUED && other->packed))
            return NULL;
        if (other->state == SOURCE_QUEUED && next == NULL)
            next = other;
    }
    return next;
}

/* The origin's work is over or taken from it. If it was the builder of its key, one
 * that waits for the same key builds now. */
void mgr_ticket_end(struct mgr *mgr, struct source *s, bool tell)
{
    struct source *waiting;

    if (s->ticket == 0)
        return;
    mgr_parts_end(mgr, s);
    if (tell)
        mgr_ticket_send(mgr, s, MSG_CLOSE);
    table_remove(&mgr->tickets, &s->by_ticket);
    s->origin->tickets--;
    s->origin = NULL;
    s->ticket = 0;
    s->streaming = s->held = s->packed = s->proved = false;
    if (!s->has_key)
        return;
    s->has_key = false;
    table_remove(&mgr->resolved, &s->by_key);
    if (s->state == SOURCE_RESOLVING || s->state == SOURCE_BOUND)
        return;
    waiting = next_of_key(mgr, s);
    if (waiting != NULL)
        mgr_build_begin(mgr, waiting);
}

void mgr_source_unlink(struct mgr *mgr, struct source *s)
{
    struct object *o = s->object;

    if (o == NULL)
        return;
    *(s->object_prev != NULL ? &s->object_prev->object_next : &o->sources) =
        s->object_next;
    if (s->object_next != NULL)
        s->object_next->object_prev = s->object_prev;
    s->object = NULL;
    s->object_next = s->object_prev = NULL;
    mgr_object_put(mgr, o);
}

void mgr_source_link(struct source *s, struct object *o)
{
    s->object = o;
    s->object_prev = NULL;
    s->object_next = o->sources;
    if (o->sources != NULL)
        o->sources->object_prev = s;
    o->sources = s;
}

void mgr_source_due_clear(struct mgr *mgr, struct source *s)
{
    mgr->due_sources -= s->due;
    s->due = false;
}

void mgr_source_free(struct mgr *mgr, struct source *s)
{
    mgr_name_source_gone(mgr, s);
    mgr_source_due_clear(mgr, s);
    mgr_ticket_end(mgr, s, true);
    mgr_source_unlink(mgr, s);
    table_remove(&mgr->sources, &s->by_name);
    free(s->path);
    free(s);
}

struct want *mgr_want_find(const struct source *s, const struct mgr_node *node)
{
    struct want *w = node->wants; /* a source may have thousands */

    while (w != NULL && w->source != s)
        w = w->node_next;
    return w;
}

struct want *mgr_want_new(struct source *s, struct mgr_node *node)
{
    struct want *w = calloc(1, sizeof(*w));

    if (w == NULL)
        return NULL;
    w->source = s;
    w->node = node;
    w->source_prev = s->wants_last;
    *(s->wants_last != NULL ? &s->wants_last->source_next : &s->wants) = w;
    s->wants_last = w;
    w->node_next = node->wants;
    if (node->wants != NULL)
        node->wants->node_prev = w;
    node->wants = w;
    node->want_count++;
    return w;
}

void mgr_want_unsupply(struct mgr *mgr, struct want *w)
{
    struct holder *h = w->holder;

    if (h == NULL)
        return;
    w->holder = NULL;
    mgr_holder_unsupply(mgr, h);
    mgr_holder_put(mgr, h);
}

/* The caller looks after a source that is left without wants. */
void mgr_want_free(struct mgr *mgr, struct want *w)
{
    struct source *s = w->source;

    mgr_want_unsupply(mgr, w);
    mgr_parts_withdraw(mgr, w);
    *(w->source_prev != NULL ? &w->source_prev->source_next : &s->wants) =
        w->source_next;
    *(w->source_next != NULL ? &w->source_next->source_prev : &s->wants_last) =
        w->source_prev;
    *(w->node_prev != NULL ? &w->node_prev->node_next : &w->node->wants) = w->node_next;
    if (w->node_next != NULL)
        w->node_next->node_prev = w->node_prev;
    w->node->want_count--;
    free(w);
}

static void send_binding(struct mgr *mgr, struct want *w, enum vine_code code,
                         enum msg_claim claim, const char *text)
{
    const struct source *s = w->source;
    bool known =
        s->keyed && s->object != NULL && mgr_object_of_key(mgr, &s->key) == s->object;
    struct msg m = {.type = MSG_BINDING,
                    .job = s->job,
                    .uid = s->uid,
                    .path = s->path,
                    .code = code,
                    .text = text};

    if (code == VINE_OK) {
        m.digest = s->object->digest;
        m.size = s->object->size;
        m.pieces = s->object->pieces;
        m.trusted = s->object->trusted;
        m.claim = w->claim = claim;
        w->knows_key = known;
        if (known)
            m.key = s->key;
    }
    mgr_send(mgr, w->node, &m);
}

static enum msg_claim claim_of(const struct source *s)
{
    return s->object->unproved ? MSG_CLAIM_OWN : MSG_CLAIM_SHOWN;
}

void mgr_want_tell_key(struct mgr *mgr, struct want *w)
{
    const struct source *s = w->source;

    if ((!w->knows_key && s->keyed && mgr_object_of_key(mgr, &s->key) == s->object) ||
        w->claim != claim_of(s))
        send_binding(mgr, w, VINE_OK, claim_of(s), "");
}

void mgr_want_suspend(struct mgr *mgr, struct want *w)
{
    if (w->holder != NULL)
        send_binding(mgr, w, VINE_OK, MSG_CLAIM_OPEN, "");
    mgr_want_unsupply(mgr, w);
}

void mgr_want_fail(struct mgr *mgr, struct want *w, enum vine_code code,
                   const char *text)
{
    struct source *s = w->source;

    send_binding(mgr, w, code, MSG_CLAIM_SHOWN, text);
    if (s->stage != NULL)
        mgr_stage_node_failed(mgr, s->stage, w->node, code, text);
    mgr_name_node_failed(mgr, s, w->node, text);
    mgr_want_free(mgr, w);
}

/* Tell the node what the source is and see to it that it gets it. */
void mgr_want_bind(struct mgr *mgr, struct want *w)
{
    struct source *s = w->source;

    w->again = false;
    if (w->holder == NULL) {
        struct holder *h = mgr_holder_get(mgr, s->object, w->node);
        if (h == NULL || mgr_holder_supply(mgr, h) < 0) {
            if (h != NULL)
                mgr_holder_put(mgr, h);
            mgr_want_fail(mgr, w, VINE_ENOMEM, "the manager is out of memory");
            return;
        }
        w->holder = h;
    }
    send_binding(mgr, w, VINE_OK, claim_of(s), "");
    if (!w->holder->complete)
        mgr_lazy_tell(mgr, w->node, s->object);
    if (!w->holder->complete)
        return;
    if (s->stage != NULL)
        mgr_stage_node_done(mgr, s->stage, w->node);
    mgr_name_node_done(mgr, s, w->node);
}

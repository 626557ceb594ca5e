/* mgr_resolve.c - sources: from (job, uid, path) to an object.
 *
 * A source exists while a node wants it. One of these nodes at a time is its origin: it
 * holds a ticket, answers it with a key, and builds or streams when told. The answer is
 * bound to the source until the last want is gone: every node and step of a job sees
 * one version. When pieces are lost with the nodes that had them, the source is
 * resolved again while it stays bound; should its content have changed meanwhile,
 * either all move to the new version (nobody has the old one whole) or those without it
 * are told so.
 *
 * A uid can only get what its own resolve found: sources are told apart by job, uid and
 * path, and the key comes from a child that runs as that uid.
 *
 * What must hold: ticket != 0 exactly while a node is at work for the source; the
 * sources in `resolved` are those with a key and an open ticket, and at most one of one
 * key is BUILDING. A source without wants is freed at once. */
#include <string.h>

#include "daemon/core/mgr_int.h"
#include "vine/spec.h"

static void source_start(struct mgr *mgr, struct source *s);
static void source_fail(struct mgr *mgr, struct source *s, enum vine_code code,
                        const char *text);

static void tries_forget(struct source *s)
{
    s->tries = 0;
    s->last = (struct vine_err){0};
    for (struct want *w = s->wants; w != NULL; w = w->source_next)
        w->tried = false;
}

/* Those who have all of what is bound keep it. The source may be gone afterwards. */
static void source_fail(struct mgr *mgr, struct source *s, enum vine_code code,
                        const char *text)
{
    struct want *next;

    mgr_log(mgr, VINE_LOG_INFO, "event=source-failed job=%llu uid=%u code=%s",
            (unsigned long long)s->job, s->uid, vine_code_name(code));
    for (struct want *w = s->wants; w != NULL; w = next) {
        next = w->source_next;
        if (w->holder == NULL || !w->holder->complete)
            mgr_want_fail(mgr, w, code, text);
    }
    if (s->wants == NULL) {
        mgr_source_free(mgr, s);
        return;
    }
    mgr_ticket_end(mgr, s, true);
    mgr_source_due_clear(mgr, s);
    s->state = SOURCE_BOUND;
    tries_forget(s); /* who asks again may try again */
}

void mgr_source_look_again(struct mgr *mgr, struct source *s)
{
    mgr_ticket_end(mgr, s, true);
    for (struct want *w = s->wants; w != NULL; w = w->source_next)
        mgr_want_suspend(mgr, w);
    mgr_source_unlink(mgr, s);
    tries_forget(s);
    s->state = SOURCE_RESOLVING;
    mgr->due_sources += !s->due;
    s->due = true;
}

/* The better origin: one that has more of it already, then one with less to do. */
static bool better_origin(const struct want *a, const struct want *b)
{
    uint32_t have_a = a->holder == NULL ? 0 : a->holder->have_count;
    uint32_t have_b = b->holder == NULL ? 0 : b->holder->have_count;

    if (have_a != have_b)
        return have_a > have_b;
    return a->node->tickets < b->node->tickets;
}

/* Its bytes were wrong for others: what it reads again would be no better. */
static bool accused(const struct want *w)
{
    return w->holder != NULL && w->holder->avoided;
}

static void source_start(struct mgr *mgr, struct source *s)
{
    struct want *best = NULL;

    for (struct want *w = s->wants; w != NULL; w = w->source_next)
        if (!w->tried && !accused(w) && (best == NULL || better_origin(w, best)))
            best = w;
    if (best == NULL || s->tries >= VINE_RESOLVE_TRIES) {
        struct vine_err last = s->last;
        source_fail(mgr, s, last.code == VINE_OK ? VINE_EDOWN : last.code,
                    last.code == VINE_OK ? "no node is left that could read the source"
                                         : last.text);
        return;
    }
    mgr_source_due_clear(mgr, s);
    best->tried = true;
    s->tries++;
    s->state = SOURCE_RESOLVING;
    s->origin = best->node;
    s->origin->tickets++;
    s->ticket = ++mgr->last_ticket;
    table_add(&mgr->tickets, &s->by_ticket, hash_u64(s->ticket));
    mgr_log(mgr, VINE_LOG_INFO, "event=resolve job=%llu uid=%u origin=%s try=%u",
            (unsigned long long)s->job, s->uid, s->origin->name, s->tries);
    mgr_ticket_send(mgr, s, MSG_RESOLVE);
}

/* The source turned out to be another object than the one bound before. -1: those who
 * have the old one keep it, the others were told; the source may be gone. */
static int source_rebind(struct mgr *mgr, struct source *s)
{
    for (struct want *w = s->wants; w != NULL; w = w->source_next)
        if (w->holder != NULL && w->holder->complete) {
            source_fail(mgr, s, VINE_ECHANGED,
                        "the source changed since the job began, and no node is left "
                        "that has its first version");
            return -1;
        }
    for (struct want *w = s->wants; w != NULL; w = w->source_next)
        mgr_want_unsupply(mgr, w);
    mgr_source_unlink(mgr, s);
    return 0;
}

void mgr_source_bind(struct mgr *mgr, struct source *s, struct object *o)
{
    char hex[VINE_HEX_LEN + 1];
    struct want *next;

    mgr_source_due_clear(mgr, s);
    s->state = SOURCE_BOUND;
    if (s->object != NULL && s->object != o && source_rebind(mgr, s) < 0) {
        mgr_object_put(mgr, o);
        return;
    }
    if (!s->streaming && mgr_object_available(mgr, o))
        tries_forget(s);
    vine_digest_hex(&o->digest, hex);
    mgr_log(mgr, VINE_LOG_INFO, "event=bound job=%llu uid=%u object=%.8s",
            (unsigned long long)s->job, s->uid, hex);
    if (s->object == NULL)
        mgr_source_link(s, o);
    for (struct want *w = s->wants; w != NULL; w = next) {
        next = w->source_next;
        if (w->holder == NULL)
            mgr_want_bind(mgr, w);
    }
    if (s->wants == NULL)
        mgr_source_free(mgr, s);
}

int mgr_source_want(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                    struct vine_err *err)
{
    struct source *s = mgr_source_find(mgr, m->job, m->uid, m->path);
    struct want *w;
    bool is_new = s == NULL;

    if (node->want_count >= VINE_JOBS_MAX * VINE_SOURCES_MAX)
        return vine_err_set(err, VINE_ELIMIT, "%s wants over %d sources", node->name,
                            VINE_JOBS_MAX * VINE_SOURCES_MAX);
    if (is_new)
        s = mgr_source_new(mgr, m->job, m->uid, m->gid, m->path);
    w = s == NULL ? NULL : mgr_want_find(s, node);
    if (s != NULL && w == NULL)
        w = mgr_want_new(s, node);
    if (w == NULL) {
        if (s != NULL && is_new)
            mgr_source_free(mgr, s);
        return vine_err_set(err, VINE_ENOMEM, "no memory for a source");
    }
    if (is_new)
        source_start(mgr, s);
    else if (s->object != NULL)
        mgr_want_bind(mgr, w);
    else
        mgr_parts_offer(mgr, w);
    if (s->wants == NULL && !is_new)
        mgr_source_free(mgr, s);
    return 0;
}

/* The origin gave up, or is gone. Some reasons are the node's own: another may do. */
static void origin_failed(struct mgr *mgr, struct source *s, enum vine_code code,
                          const char *text)
{
    mgr_ticket_end(mgr, s, false);
    s->last = (struct vine_err){0};
    vine_err_set(&s->last, code, "%s", text);
    if (code == VINE_ENOSPC || code == VINE_ENOMEM || code == VINE_EDOWN ||
        code == VINE_ECANCELED || code == VINE_ETIMEDOUT)
        source_start(mgr, s);
    else
        source_fail(mgr, s, code, text);
}

/* The source of a ticket this node holds. Sets *s NULL for one that was closed while
 * the answer was on its way; -1 for one we never gave to this node. */
static int ticket_check(struct mgr *mgr, const struct mgr_node *node,
                        const struct msg *m, struct source **s, struct vine_err *err)
{
    *s = mgr_source_of_ticket(mgr, m->ticket);
    if (m->ticket == 0 || m->ticket > mgr->last_ticket ||
        (*s != NULL && (*s)->origin != node))
        return vine_err_set(err, VINE_EPROTO, "%s: ticket %llu was not given to %s",
                            msg_type_name(m->type), (unsigned long long)m->ticket,
                            node->name);
    return 0;
}

int mgr_source_resolved(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                        struct vine_err *err)
{
    struct source *s;
    struct object *o = NULL;
    bool again;

    if (ticket_check(mgr, node, m, &s, err) < 0)
        return -1;
    if (s == NULL)
        return 0;
    again = s->state == SOURCE_BUILDING && !s->packed && m->has_digest &&
            vine_digest_equal(&s->key, &m->key);
    if (s->state != SOURCE_RESOLVING && !again)
        return vine_err_set(err, VINE_EPROTO,
                            "resolved: ticket %llu was answered before",
                            (unsigned long long)m->ticket);
    if (m->code != VINE_OK) {
        origin_failed(mgr, s, m->code, m->text != NULL ? m->text : "");
        return 0;
    }
    if (m->has_digest &&
        mgr_object_get(mgr, &m->digest, m->size, m->pieces, m->trusted, &o, err) < 0)
        return -1;
    if (!again) {
        s->key = m->key;
        s->has_key = s->keyed = true;
        table_add(&mgr->resolved, &s->by_key, hash_digest(&s->key));
    }
    s->packed = m->has_digest;
    if (s->packed)
        s->offer = (struct msg_object){.digest = m->digest,
                                       .size = m->size,
                                       .pieces = m->pieces,
                                       .trusted = m->trusted};
    else
        o = mgr_object_of_key(mgr, &m->key);
    mgr_proof_decide(mgr, s, o);
    return 0;
}

int mgr_source_proved(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                      struct vine_err *err)
{
    struct source *s;

    if (ticket_check(mgr, node, m, &s, err) < 0)
        return -1;
    if (s == NULL)
        return 0;
    if (s->state != SOURCE_PROVING)
        return vine_err_set(err, VINE_EPROTO, "proved: ticket %llu was not to be",
                            (unsigned long long)m->ticket);
    if (m->code != VINE_OK) {
        origin_failed(mgr, s, m->code, m->text != NULL ? m->text : "");
        return 0;
    }
    s->proved = true;
    mgr_proof_decide_offer(mgr, s);
    return 0;
}

/* All who waited for this key have their answer now, and who built it too (two may: one
 * began for a manager that is gone). Those that wait come first: the end of a builder's
 * ticket would make a builder of the next. */
void mgr_source_bind_same_key(struct mgr *mgr, const struct vine_digest *key,
                              struct object *o)
{
    struct source probe = {.key = *key}, *s;

    while ((s = mgr_source_of_key(mgr, &probe, SOURCE_QUEUED)) != NULL ||
           (s = mgr_source_of_key(mgr, &probe, SOURCE_BUILDING)) != NULL) {
        s->state = SOURCE_BOUND; /* none of the others needs to build */
        mgr_ticket_end(mgr, s, true);
        mgr_source_bind(mgr, s, o);
    }
}

static void built_ok(struct mgr *mgr, struct source *s, struct object *o)
{
    struct vine_digest key = s->key;
    /* It may be avoided, for wrong bytes: then the next of the same key builds too. */
    bool good = mgr_object_available(mgr, o);

    (void)mgr_object_add_key(mgr, o, &key);
    s->state = good ? SOURCE_BOUND : SOURCE_BUILDING;
    mgr_ticket_end(mgr, s, false);
    mgr_source_bind(mgr, s, o);
    if (good)
        mgr_source_bind_same_key(mgr, &key, o);
}

int mgr_source_built(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                     struct vine_err *err)
{
    static const struct vine_digest no_key;
    struct source *s;
    struct object *o;
    struct holder *h;

    if (m->ticket == 0 && m->code == VINE_OK)
        s = NULL;
    else if (ticket_check(mgr, node, m, &s, err) < 0)
        return -1;
    if (s != NULL && s->state == SOURCE_RESOLVING)
        return vine_err_set(err, VINE_EPROTO, "built: ticket %llu was not to be built",
                            (unsigned long long)m->ticket);
    if (m->code != VINE_OK) {
        if (s != NULL)
            origin_failed(mgr, s, m->code, m->text != NULL ? m->text : "");
        return 0;
    }
    mgr_proof_elsewhere(mgr, &m->digest);
    s = mgr_source_of_ticket(mgr, m->ticket); /* it may have to show its content now */
    if (mgr_object_get(mgr, &m->digest, m->size, m->pieces, m->trusted, &o, err) < 0)
        return -1;
    h = mgr_holder_get(mgr, o, node);
    if (h == NULL) {
        mgr_object_put(mgr, o);
        return vine_err_set(err, VINE_ENOMEM, "no memory for an object");
    }
    (void)mgr_holder_complete(mgr, h);
    /* A stream that ends so has read nothing. */
    if (!vine_digest_equal(&m->key, &no_key) && (s == NULL || !s->streaming))
        (void)mgr_object_add_key(mgr, o, &m->key);
    if (s != NULL && !s->streaming)
        built_ok(mgr, s, o);
    else if (s != NULL)
        mgr_ticket_end(mgr, s, false); /* it had all of what it was to stream */
    return 0;
}

/* A node says what a job was bound to before this manager knew of it. */
int mgr_source_bound_before(struct mgr *mgr, struct mgr_node *node,
                            const struct msg_binding *b, struct vine_err *err)
{
    struct object *o = mgr_object_find(mgr, &b->digest);
    struct source *s = mgr_source_find(mgr, b->job, b->uid, b->path);
    struct want *w;

    if (o == NULL || mgr_holder_find(mgr, o, node) == NULL)
        return vine_err_set(err, VINE_EPROTO,
                            "register: a binding to an object it does not have");
    if (s == NULL) {
        s = mgr_source_new(mgr, b->job, b->uid, b->uid,
                           b->path); /* nodes know the gid */
        if (s == NULL)
            return vine_err_set(err, VINE_ENOMEM, "no memory for a source");
        s->state = SOURCE_BOUND;
        mgr_source_link(s, o);
    }
    mgr_name_restore(mgr, node, b->job, b->uid, b->path);
    if (mgr_want_find(s, node) != NULL)
        return 0;
    w = mgr_want_new(s, node);
    if (w == NULL)
        return vine_err_set(err, VINE_ENOMEM, "no memory for a source");
    if (s->object == NULL) { /* being resolved anew for others: the old answer stands */
        mgr_ticket_end(mgr, s, true);
        mgr_source_bind(mgr, s, o);
    } else if (s->object == o) {
        mgr_want_bind(mgr, w);
    }
    return 0;
}

/* The node is no longer to be asked for this source. */
static void origin_leaves(struct mgr *mgr, struct source *s, struct mgr_node *node,
                          bool gone)
{
    if (s->origin != node)
        return;
    s->last = (struct vine_err){0};
    vine_err_set(&s->last, VINE_EDOWN, "the node that read the source, %s, %s",
                 node->name, gone ? "is gone" : "ended its part of the job");
    mgr_ticket_end(mgr, s, !gone);
    if (s->wants == NULL || s->state == SOURCE_BOUND)
        return;
    /* When a job ends, its nodes leave one after the other: no use asking each. */
    s->due = true;
    mgr->due_sources++;
}

static void want_leave(struct mgr *mgr, struct want *w, bool gone, const char *why)
{
    struct source *s = w->source;
    struct mgr_node *node = w->node;

    mgr_name_node_failed(mgr, s, node, why);
    mgr_want_free(mgr, w);
    if (s->wants == NULL)
        mgr_source_free(mgr, s);
    else
        origin_leaves(mgr, s, node, gone);
}

void mgr_source_release(struct mgr *mgr, struct mgr_node *node, const struct msg *m)
{
    struct stage *stage = mgr_stage_find(mgr, m->job);
    struct want *next;

    for (struct want *w = node->wants; w != NULL; w = next) {
        next = w->node_next;
        if (w->source->job == m->job)
            want_leave(mgr, w, false, "the node left the job");
    }
    mgr_name_job_left(mgr, m->job);
    if (stage == NULL)
        return;
    if (m->code != VINE_OK)
        mgr_stage_node_failed(mgr, stage, node, m->code,
                              m->text != NULL ? m->text : "");
    else
        mgr_stage_node_failed(mgr, stage, node, VINE_ECANCELED, "gave up");
}

void mgr_source_leave(struct mgr *mgr, struct mgr_node *node, const struct msg *m)
{
    struct source *s = mgr_source_find(mgr, m->job, m->uid, m->path);
    struct want *w = s != NULL ? mgr_want_find(s, node) : NULL;

    if (w != NULL)
        want_leave(mgr, w, false, "a newer version came meanwhile");
    else if (s != NULL)
        mgr_name_node_failed(mgr, s, node,
                             "the job has no tasks there, or the node refused it "
                             "(its log says why)");
}

void mgr_source_node_gone(struct mgr *mgr, struct mgr_node *node)
{
    struct table_link *l, *next;

    while (node->wants != NULL)
        want_leave(mgr, node->wants, true, "the node is gone");
    /* Tickets of sources it wants no more. */
    for (l = table_each(&mgr->tickets, NULL); node->tickets > 0 && l != NULL;
         l = next) {
        struct source *s = table_entry(l, struct source, by_ticket);
        next = table_each(&mgr->tickets, l);
        if (s->origin == node)
            origin_leaves(mgr, s, node, true);
    }
}

/* Its pieces are gone. If a binding crossed that message the node wants them anew. */
void mgr_source_evicted(struct mgr *mgr, struct holder *h)
{
    struct object *o = h->object;
    struct mgr_node *node = h->node;
    struct want *next;

    for (struct want *w = node->wants; w != NULL; w = w->node_next)
        if (w->holder == h) {
            w->holder = NULL;
            w->again = true;
            mgr_holder_unsupply(mgr, h);
        }
    mgr_parts_lost(mgr, h);
    mgr_holder_free(mgr, h);
    for (struct want *w = node->wants; w != NULL; w = next) {
        next = w->node_next;
        if (w->again && w->source->object == o)
            mgr_want_bind(mgr, w);
        else
            w->again = false;
    }
}

/* The node cannot take it, and told so to those who wait there. */
void mgr_source_refused(struct mgr *mgr, struct holder *h)
{
    for (struct want *w = h->node->wants; w != NULL; w = w->node_next)
        if (w->holder == h) {
            w->holder = NULL;
            mgr_holder_unsupply(mgr, h);
            mgr_name_node_failed(mgr, w->source, h->node, "the node cannot take it");
        }
    mgr_parts_lost(mgr, h);
    mgr_holder_put(mgr, h);
}

void mgr_source_completed(struct mgr *mgr, struct holder *h)
{
    struct want *next;

    mgr_proof_completed(mgr, h->object);
    for (struct want *w = h->node->wants; w != NULL; w = next) {
        struct source *s = w->source;
        next = w->node_next;
        if (w->holder != h)
            continue;
        if (s->streaming && s->origin == h->node) {
            mgr_ticket_end(mgr, s, false); /* the node closes it by itself */
            tries_forget(s);
        }
        mgr_want_tell_key(mgr, w);
        if (s->stage != NULL)
            mgr_stage_node_done(mgr, s->stage, h->node);
        mgr_name_node_done(mgr, s, h->node);
    }
}

void mgr_source_fail_holder(struct mgr *mgr, struct holder *h, enum vine_code code,
                            const char *text)
{
    struct mgr_node *h_node = h->node;
    struct want *next;

    mgr_parts_lost(mgr, h);
    /* The holder may go with its last want, the pointer is only compared then. */
    for (struct want *w = h_node->wants; w != NULL; w = next) {
        struct source *s = w->source;
        next = w->node_next;
        if (w->holder != h)
            continue;
        mgr_want_fail(mgr, w, code, text);
        if (s->wants == NULL)
            mgr_source_free(mgr, s);
        else
            origin_leaves(mgr, s, h_node, false);
    }
}

void mgr_source_start_due(struct mgr *mgr)
{
    struct table_link *l = table_each(&mgr->sources, NULL), *next;

    for (; mgr->due_sources > 0 && l != NULL; l = next) {
        struct source *s = table_entry(l, struct source, by_name);
        next = table_each(&mgr->sources, l); /* only s itself may go */
        if (s->due)
            source_start(mgr, s);
    }
}

/* Somebody waits for the object through this source. */
static bool source_hungry(const struct source *s)
{
    for (const struct want *w = s->wants; w != NULL; w = w->source_next)
        if (w->holder != NULL && !w->holder->complete)
            return true;
    return false;
}

/* Pieces that nobody has, for so long that no node is about to register with them: one
 * of those who want the object reads the source again. What a task has put nobody but
 * its node can read, so it comes last. */
void mgr_source_check_object(struct mgr *mgr, struct object *o)
{
    struct source *s, *found = NULL;
    bool versioned;

    for (s = o->sources; s != NULL; s = s->object_next) {
        if (s->ticket != 0 || s->due)
            break;
        if (source_hungry(s) &&
            (found == NULL || !vine_source_is_named(s->path, &versioned)))
            found = s;
    }
    if (o->missing == 0 || s != NULL || found == NULL) {
        o->missing_since_ms = 0;
        return;
    }
    if (o->missing_since_ms == 0)
        o->missing_since_ms = mgr->now_ms;
    if (mgr->now_ms - o->missing_since_ms < mgr->limits.heartbeat_ms)
        return;
    o->missing_since_ms = 0;
    source_start(mgr, found);
}

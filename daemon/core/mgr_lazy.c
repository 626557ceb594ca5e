/* mgr_lazy.c - jobs that start before their object is there.
 *
 * A node names pieces that its tasks wait for, and others that they will need first:
 * they are planned before all others to that node (mgr_plan.c), and an origin that
 * streams the object reads them first. Which pieces the start of a job reads is
 * remembered for the objects used last, and told to nodes that will need it. All are
 * hints: no answer, no promise, and forgetting them costs time only.
 *
 * Nodes start the same job, so what tasks read on the one they will read on the others,
 * and in that order. Who waits least, the node with the source, tells what it reads:
 * the others get it before they ask.
 *
 * While tasks start on a node it holds (node_hold.c): it is given what is urgent there
 * or was read by others, and nothing else. */
#include <string.h>

#include "daemon/core/mgr_int.h"

static int ranges_check(const struct msg *m, uint32_t pieces, struct vine_err *err)
{
    for (uint32_t i = 0; i < m->range_count; i++)
        if (m->ranges[i].first >= pieces ||
            m->ranges[i].count > pieces - m->ranges[i].first)
            return vine_err_set(err, VINE_EPROTO, "%s: pieces %u+%u of %u",
                                msg_type_name(m->type), m->ranges[i].first,
                                m->ranges[i].count, pieces);
    return 0;
}

static void ranges_set(uint64_t *set, const struct msg *m)
{
    for (uint32_t i = 0; i < m->range_count; i++) {
        uint32_t end = m->ranges[i].first + m->ranges[i].count;
        for (uint32_t p = m->ranges[i].first; p < end; p++)
            bits_set(set, p);
    }
}

/* Who streams the object reads these first. */
static void origins_tell(struct mgr *mgr, const struct object *o,
                         const struct mgr_node *but, struct msg m)
{
    m.type = MSG_URGENT;
    for (const struct source *s = o->sources; s != NULL; s = s->object_next)
        if (s->streaming && s->origin != NULL && s->origin != but)
            mgr_send(mgr, s->origin, &m);
}

static int soon_begin(struct object *o)
{
    if (o->soon == NULL)
        o->soon = bits_new(o->pieces);
    if (o->read_at == NULL)
        o->read_at = calloc(o->pieces, sizeof(*o->read_at));
    return o->soon == NULL || o->read_at == NULL ? -1 : 0;
}

/* What tasks on one node read, those on the others will read soon. */
static void soon_add(struct mgr *mgr, struct object *o, const struct msg *m)
{
    uint32_t before = o->reads;

    if (soon_begin(o) < 0)
        return;
    for (uint32_t i = 0; i < m->range_count; i++) {
        uint32_t end = m->ranges[i].first + m->ranges[i].count;
        for (uint32_t p = m->ranges[i].first; p < end; p++) {
            if (bits_get(o->soon, p))
                continue;
            bits_set(o->soon, p);
            o->read_at[p] = ++o->reads;
        }
    }
    if (o->reads == before)
        return;
    for (struct holder *h = o->holders; h != NULL && o->held > 0; h = h->object_next)
        if (h->in != NULL && h->in->held)
            mgr_holder_changed(mgr, h);
}

/* The tops of trees have room for others while anybody waits, see mgr_plan_may_send. */
void mgr_lazy_waits(struct mgr *mgr, struct object *o, int more)
{
    bool before = o->urgents > 0;

    o->urgents += (uint32_t)more;
    for (struct holder *h = o->holders; h != NULL && before != (o->urgents > 0);
         h = h->object_next)
        if (h->top)
            mgr_holder_changed(mgr, h);
}

/* They are urgent, too. */
static void awaited_add(struct mgr *mgr, struct holder *h, const struct msg *m)
{
    if (h->in->awaited == NULL)
        h->in->awaited = bits_new(h->object->pieces);
    if (h->in->awaited != NULL)
        ranges_set(h->in->awaited, m);
    soon_add(mgr, h->object, m);
}

int mgr_lazy_urgent(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                    struct vine_err *err)
{
    struct object *o = mgr_object_find(mgr, &m->digest);
    struct holder *h = o == NULL ? NULL : mgr_holder_find(mgr, o, node);

    if (h == NULL || h->in == NULL) /* released while this was on its way */
        return 0;
    if (ranges_check(m, o->pieces, err) < 0)
        return -1;
    if (h->in->urgent == NULL) {
        h->in->urgent = bits_new(o->pieces);
        if (h->in->urgent == NULL)
            return 0;
        mgr_lazy_waits(mgr, o, 1);
    }
    ranges_set(h->in->urgent, m);
    if (m->type == MSG_AWAITED)
        awaited_add(mgr, h, m);
    origins_tell(mgr, o, node, *m);
    mgr_holder_changed(mgr, h);
    return 0;
}

static struct touched *touched_find(struct mgr *mgr, const struct vine_digest *digest)
{
    for (uint32_t i = 0; i < TOUCHED_OBJECTS_MAX; i++)
        if (mgr->touched[i].set != NULL &&
            vine_digest_equal(&mgr->touched[i].digest, digest))
            return &mgr->touched[i];
    return NULL;
}

/* A free place, else the one not used for longest. */
static struct touched *touched_place(struct mgr *mgr)
{
    struct touched *oldest = &mgr->touched[0];

    for (uint32_t i = 0; i < TOUCHED_OBJECTS_MAX; i++) {
        if (mgr->touched[i].set == NULL)
            return &mgr->touched[i];
        if (mgr->touched[i].used_ms < oldest->used_ms)
            oldest = &mgr->touched[i];
    }
    free(oldest->set);
    oldest->set = NULL;
    return oldest;
}

int mgr_lazy_touched(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                     struct vine_err *err)
{
    struct object *o = mgr_object_find(mgr, &m->digest);
    struct touched *t = touched_find(mgr, &m->digest);

    if (o == NULL || mgr_holder_find(mgr, o, node) == NULL)
        return 0;
    if (ranges_check(m, o->pieces, err) < 0)
        return -1;
    if (o->active)
        soon_add(mgr, o, m);
    if (t == NULL) {
        t = touched_place(mgr);
        t->set = bits_new(o->pieces);
        if (t->set == NULL)
            return 0;
        t->digest = m->digest;
        t->pieces = o->pieces;
    }
    t->used_ms = mgr->now_ms;
    if (t->pieces == o->pieces)
        ranges_set(t->set, m);
    return 0;
}

/* Somebody but the origin, which knows of itself, waits for all of it. Who has not even
 * the manifest has not said yet. */
static bool is_wanted_whole(const struct object *o, const struct mgr_node *origin)
{
    for (const struct holder *h = o->holders; h != NULL; h = h->object_next)
        if (h->in != NULL && h->node != origin && !h->in->held && bits_get(h->have, 0))
            return true;
    return false;
}

void mgr_lazy_tell_origins(struct mgr *mgr, struct object *o)
{
    for (struct source *s = o->sources; s != NULL; s = s->object_next) {
        struct msg m = {.type = MSG_HOLD, .digest = o->digest};
        if (!s->streaming || s->origin == NULL || (o->held == 0 && !s->held))
            continue;
        m.hold = o->held > 0 && !is_wanted_whole(o, s->origin);
        if (m.hold == s->held)
            continue;
        s->held = m.hold;
        mgr_send(mgr, s->origin, &m);
    }
}

void mgr_lazy_hold(struct mgr *mgr, struct mgr_node *node, const struct msg *m)
{
    struct object *o = mgr_object_find(mgr, &m->digest);
    struct holder *h = o == NULL ? NULL : mgr_holder_find(mgr, o, node);

    if (h == NULL || h->in == NULL || h->in->held == m->hold)
        return;
    h->in->held = m->hold;
    o->held += m->hold ? 1u : -1u;
    mgr_holder_changed(mgr, h);
    mgr_lazy_tell_origins(mgr, o);
    mgr->feed_due |= !m->hold;
}

void mgr_lazy_unhold(struct holder *h)
{
    h->object->held -= h->in->held;
    h->in->held = false;
}

void mgr_lazy_tell(struct mgr *mgr, struct mgr_node *node, const struct object *o)
{
    struct touched *t = touched_find(mgr, &o->digest);
    struct msg_range ranges[256];
    struct msg m = {.type = MSG_TOUCHED, .digest = o->digest, .ranges = ranges};
    uint32_t p = 0;

    if (t == NULL || t->pieces != o->pieces)
        return;
    t->used_ms = mgr->now_ms;
    while ((p = bits_next(t->set, o->pieces, p)) < o->pieces && m.range_count < 256) {
        struct msg_range *r = &ranges[m.range_count++];
        for (r->first = p; p < o->pieces && bits_get(t->set, p); p++)
            ;
        r->count = p - r->first;
    }
    if (m.range_count > 0)
        mgr_send(mgr, node, &m);
}

void mgr_lazy_free_all(struct mgr *mgr)
{
    for (uint32_t i = 0; i < TOUCHED_OBJECTS_MAX; i++)
        free(mgr->touched[i].set);
}

/* mgr_lazy.c - jobs that start before their object is there.
 *
 * A node names pieces that its tasks wait for: they are planned before all others to
 * that node (mgr_plan.c), and an origin that streams the object reads them first. Which
 * pieces the start of a job reads is remembered for the objects used last, and told to
 * nodes that will need it. Both are hints: no answer, no promise, and forgetting them
 * costs time only. */
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
    for (uint32_t i = 0; i < m->range_count; i++)
        for (uint32_t p = 0; p < m->ranges[i].count; p++)
            bits_set(set, m->ranges[i].first + p);
}

/* Who streams the object reads these first. */
static void origins_tell(struct mgr *mgr, const struct object *o,
                         const struct mgr_node *but, const struct msg *m)
{
    for (const struct source *s = o->sources; s != NULL; s = s->object_next)
        if (s->streaming && s->origin != NULL && s->origin != but)
            mgr_send(mgr, s->origin, m);
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
        o->urgents++;
    }
    ranges_set(h->in->urgent, m);
    origins_tell(mgr, o, node, m);
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

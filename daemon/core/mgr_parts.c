/* mgr_parts.c - parts: finished stretches of an image that is still being built.
 *
 * What an image will be called is known when its last byte is, but its first ones could
 * travel long before. So a builder announces stretches, each an object of its own whose
 * chunks the image will have too; whoever waits for the source is supplied with them
 * like with any object, peer to peer, and takes their chunks from its own store when
 * the image has a name. A part is a hint: one that turns out to be no part of the image
 * has cost its transfer and nothing else.
 *
 * They live as long as the builder's ticket. Nodes drop theirs when they have the image
 * or give the source up, and say so (EVICTED): until then a holder stays in the books,
 * even an empty one, for what it tells may be on its way.
 *
 * What must hold: bit i of want->parts is set exactly while that want counts in the
 * supply of the node's holder of part[i]. */
#include <string.h>

#include "daemon/core/mgr_int.h"

static uint64_t bit_of(uint32_t part)
{
    return 1ull << part;
}

static void offer(struct mgr *mgr, struct want *w, uint32_t part)
{
    const struct source *s = w->source;
    struct object *o = s->part[part].object;
    struct holder *h;
    struct msg m = {.type = MSG_PART,
                    .ticket = s->ticket,
                    .job = s->job,
                    .uid = s->uid,
                    .path = s->path,
                    .digest = o->digest,
                    .size = o->size,
                    .offset = s->part[part].offset,
                    .pieces = o->pieces};

    if (w->node == s->origin || w->parts & bit_of(part))
        return;
    h = mgr_holder_get(mgr, o, w->node);
    if (h == NULL || h->complete)
        return;
    if (mgr_holder_supply(mgr, h) < 0) {
        mgr_holder_put(mgr, h);
        return;
    }
    w->parts |= bit_of(part);
    mgr_send(mgr, w->node, &m);
}

void mgr_parts_offer(struct mgr *mgr, struct want *w)
{
    for (uint32_t i = 0; i < w->source->parts; i++)
        offer(mgr, w, i);
}

void mgr_parts_withdraw(struct mgr *mgr, struct want *w)
{
    for (uint32_t i = 0; i < w->source->parts; i++) {
        struct holder *h;

        if ((w->parts & bit_of(i)) == 0)
            continue;
        w->parts &= ~bit_of(i);
        h = mgr_holder_find(mgr, w->source->part[i].object, w->node);
        if (h != NULL)
            mgr_holder_unsupply(mgr, h);
    }
}

void mgr_parts_lost(struct mgr *mgr, struct holder *h)
{
    for (struct want *w = h->node->wants; w != NULL; w = w->node_next)
        for (uint32_t i = 0; w->parts != 0 && i < w->source->parts; i++)
            if (w->parts & bit_of(i) && w->source->part[i].object == h->object) {
                w->parts &= ~bit_of(i);
                mgr_holder_unsupply(mgr, h);
            }
}

void mgr_parts_end(struct mgr *mgr, struct source *s)
{
    for (struct want *w = s->wants; w != NULL; w = w->source_next)
        mgr_parts_withdraw(mgr, w);
    while (s->parts > 0) {
        struct object *o = s->part[--s->parts].object;
        o->part_of--;
        mgr_object_put(mgr, o);
    }
    free(s->part);
    s->part = NULL;
}

static bool is_known(const struct source *s, const struct object *o)
{
    for (uint32_t i = 0; i < s->parts; i++)
        if (s->part[i].object == o)
            return true;
    return false;
}

static int keep(struct mgr *mgr, struct source *s, struct mgr_node *node,
                const struct msg *m, struct vine_err *err)
{
    struct object *o;
    struct holder *h;

    if (s->part == NULL)
        s->part = calloc(VINE_PARTS_MAX, sizeof(*s->part));
    if (s->part == NULL)
        return vine_err_set(err, VINE_ENOMEM, "no memory for a part");
    if (mgr_object_get(mgr, &m->digest, m->size, m->pieces, false, &o, err) < 0)
        return -1;
    h = mgr_holder_get(mgr, o, node);
    if (h == NULL) {
        mgr_object_put(mgr, o);
        return vine_err_set(err, VINE_ENOMEM, "no memory for a part");
    }
    (void)mgr_holder_complete(mgr, h);
    if (is_known(s, o))
        return 0;
    o->part_of++;
    s->part[s->parts++] = (struct part){o, m->offset};
    return 0;
}

int mgr_parts_made(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                   struct vine_err *err)
{
    struct source *s = mgr_source_of_ticket(mgr, m->ticket);

    if (m->ticket == 0 || m->ticket > mgr->last_ticket ||
        (s != NULL && (s->origin != node || s->state == SOURCE_RESOLVING)))
        return vine_err_set(err, VINE_EPROTO,
                            "part_made: ticket %llu is not being built by %s",
                            (unsigned long long)m->ticket, node->name);
    /* Ended, or taken from it, while this was on its way. It drops the part itself. */
    if (s == NULL || s->state != SOURCE_BUILDING || s->parts == VINE_PARTS_MAX)
        return 0;
    if (keep(mgr, s, node, m, err) < 0)
        return -1;
    for (struct want *w = s->wants; w != NULL; w = w->source_next)
        mgr_parts_offer(mgr, w);
    return 0;
}

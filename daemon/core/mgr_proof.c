/* mgr_proof.c - who may have what others have.
 *
 * A packed image names its object and all its digests in a trailer, and a trailer can
 * be copied without the content. So an object that the cluster has is given to a source
 * only when that source is known to have the content:
 *  - its key is known to give this object: somebody has read all of a file with this
 *    key, or built the object from it; or
 *  - nobody has a byte of the object: then all that its job gets is what its own origin
 *    reads, as the user. The object is `unproved` and the source's key its `feeder`
 *    until one node has all of it: then the key has been read to its end; or
 *  - its origin has read all of it for comparison (PROVE) first.
 *
 * When a node has built such an object from another source, or comes with some of it
 * that it has for another one, while it is unproved, the feeder's jobs are told that
 * their claim is open, are supplied no longer, and their sources are looked at once
 * more: now they must prove.
 *
 * What must hold: while an object is unproved and a source is bound to it, no source of
 * another key is. Those wait (QUEUED) and are looked at again at each tick. */
#include <string.h>

#include "daemon/core/mgr_int.h"

/* Not a byte of it is anywhere, and nobody was promised it. */
static bool is_blank(const struct object *o, const struct source *s)
{
    for (const struct source *other = o->sources; other != NULL;
         other = other->object_next)
        if (other != s)
            return false;
    for (const struct holder *h = o->holders; h != NULL; h = h->object_next)
        if (h->complete || h->have_count > 0)
            return false;
    return true;
}

static bool is_fed_by(const struct object *o, const struct source *s)
{
    return o->unproved && vine_digest_equal(&o->feeder, &s->key);
}

/* Others are bound to it who have not shown yet that they may have all of it. */
static bool must_wait(const struct object *o, const struct source *s)
{
    if (!o->unproved || is_fed_by(o, s))
        return false;
    for (const struct source *other = o->sources; other != NULL;
         other = other->object_next)
        if (other != s)
            return true;
    return false;
}

static bool may_have(const struct mgr *mgr, const struct object *o,
                     const struct source *s)
{
    return s->proved || is_fed_by(o, s) || mgr_object_of_key(mgr, &s->key) == o;
}

static bool key_is_busy(const struct mgr *mgr, const struct source *s)
{
    return mgr_source_of_key(mgr, s, SOURCE_BUILDING) != NULL ||
           mgr_source_of_key(mgr, s, SOURCE_PROVING) != NULL;
}

/* It may have the object. */
static void give(struct mgr *mgr, struct source *s, struct object *o)
{
    struct vine_digest key = s->key, digest = o->digest;

    if (s->proved) {
        o->unproved = false;
        (void)mgr_object_add_key(mgr, o, &key);
    }
    s->state = SOURCE_BOUND;
    if (mgr_object_available(mgr, o)) {
        mgr_ticket_end(mgr, s, true);
    } else {
        mgr_ticket_send(mgr, s, MSG_BUILD);
        s->streaming = true;
    }
    mgr_source_bind(mgr, s, o);
    o = mgr_object_find(mgr, &digest); /* not if the job keeps another version */
    if (o != NULL)
        mgr_source_bind_same_key(mgr, &key, o);
}

static void decide_packed(struct mgr *mgr, struct source *s, struct object *o)
{
    if (!may_have(mgr, o, s) && is_blank(o, s)) {
        o->unproved = true;
        o->feeder = s->key;
    }
    if (must_wait(o, s)) {
        s->state = SOURCE_QUEUED;
    } else if (may_have(mgr, o, s)) {
        give(mgr, s, o);
        return;
    } else if (key_is_busy(mgr, s)) {
        s->state = SOURCE_QUEUED;
    } else {
        s->state = SOURCE_PROVING;
        mgr_ticket_send(mgr, s, MSG_PROVE);
    }
    mgr_object_put(mgr, o);
}

void mgr_proof_decide(struct mgr *mgr, struct source *s, struct object *o)
{
    if (s->packed)
        decide_packed(mgr, s, o);
    else if (o != NULL && !must_wait(o, s) && mgr_object_available(mgr, o))
        give(mgr, s, o);
    else if (key_is_busy(mgr, s))
        s->state = SOURCE_QUEUED;
    else
        mgr_build_begin(mgr, s);
}

void mgr_proof_decide_offer(struct mgr *mgr, struct source *s)
{
    struct vine_err err = {0};
    struct object *o;

    /* It was found or made with these figures; only a lack of memory is left. */
    if (mgr_object_get(mgr, &s->offer.digest, s->offer.size, s->offer.pieces,
                       s->offer.trusted, &o, &err) == 0)
        decide_packed(mgr, s, o);
    else
        s->state = SOURCE_QUEUED;
}

void mgr_proof_completed(struct mgr *mgr, struct object *o)
{
    if (!o->unproved)
        return;
    o->unproved = false;
    (void)mgr_object_add_key(mgr, o, &o->feeder);
}

void mgr_proof_elsewhere(struct mgr *mgr, const struct vine_digest *digest)
{
    struct object *o = mgr_object_find(mgr, digest);
    struct source *next;

    if (o == NULL || !o->unproved)
        return;
    o->unproved = false;
    /* With the last of them the object may go. */
    for (struct source *s = o->sources; s != NULL; s = next) {
        next = s->object_next;
        if (!s->proved && !(s->keyed && mgr_object_of_key(mgr, &s->key) == o))
            mgr_source_look_again(mgr, s);
    }
}

void mgr_proof_registered(struct mgr *mgr, const struct object *o, const struct msg *m)
{
    struct vine_digest digest = o->digest;
    bool fed = false, other = false;

    for (uint32_t i = 0; i < m->binding_count; i++) {
        const struct msg_binding *b = &m->bindings[i];
        const struct source *s;
        if (!vine_digest_equal(&b->digest, &digest))
            continue;
        s = mgr_source_find(mgr, b->job, b->uid, b->path);
        if (s != NULL && s->object == o && is_fed_by(o, s))
            fed = true;
        else
            other = true;
    }
    if (other || !fed)
        mgr_proof_elsewhere(mgr, &digest);
}

/* A source that waited for what is settled now. */
static struct source *next_settled(const struct mgr *mgr)
{
    struct table_link *l = table_each(&mgr->tickets, NULL);

    for (; l != NULL; l = table_each(&mgr->tickets, l)) {
        struct source *s = table_entry(l, struct source, by_ticket);
        const struct object *o;
        if (s->state != SOURCE_QUEUED || !s->packed)
            continue;
        o = mgr_object_find(mgr, &s->offer.digest);
        if (o == NULL || (!must_wait(o, s) && !key_is_busy(mgr, s)))
            return s;
    }
    return NULL;
}

void mgr_proof_retry(struct mgr *mgr)
{
    struct source *s = next_settled(mgr);

    if (s != NULL)
        mgr_proof_decide_offer(mgr, s);
}

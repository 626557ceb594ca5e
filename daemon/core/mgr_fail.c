/* mgr_fail.c - assignments that failed, and who is blamed.
 *
 * A receiver that could not carry out an assignment shuns its sender for a while: so a
 * broken pair cannot keep the planner busy, and a sender that only this receiver cannot
 * reach still serves the others. What is told about a sender weighs by its kind:
 *
 *  - wrong bytes: the pair is apart for corrupt_ms. A second, different accuser makes
 * the sender avoided by all for that object, its pieces no longer count as available.
 * But one who accuses CORRUPT_SENDERS senders that nobody else accuses is the one whose
 *    memory or disk is broken: it is told so and supplied no more.
 *  - no connection, closed, timed out: half the slots, and chosen last, for suspect_ms.
 *  - the receiver's own trouble (disk, memory, cancelled): nobody's blame, but a pause.
 */
#include <string.h>

#include "daemon/core/mgr_int.h"

#define CORRUPT_SENDERS 3u
#define REVOKE_MAX 512u     /* pieces of one receiver */
#define PAUSE_FIRST_MS 100u /* between tries of one pair, then doubled */

static struct shun *shun_find(const struct intake *in, uint32_t node_id)
{
    for (uint32_t i = 0; i < SHUN_MAX; i++)
        if (in->shun[i].node_id == node_id)
            return (struct shun *)&in->shun[i];
    return NULL;
}

/* The entry of this sender, or the one that ends first made anew. */
static struct shun *shun_get(struct intake *in, uint32_t node_id)
{
    struct shun *s = shun_find(in, node_id);

    if (s != NULL)
        return s;
    s = &in->shun[0];
    for (uint32_t i = 1; i < SHUN_MAX; i++)
        if (in->shun[i].until_ms < s->until_ms)
            s = &in->shun[i];
    *s = (struct shun){.node_id = node_id};
    return s;
}

bool mgr_fail_shunned(const struct mgr *mgr, const struct holder *h,
                      const struct mgr_node *from)
{
    const struct shun *s = h->in == NULL ? NULL : shun_find(h->in, from->id);

    return s != NULL && mgr->now_ms < s->until_ms;
}

/* A piece arrived from there: what was before counts no more. */
void mgr_fail_forgive(struct holder *h, const struct mgr_node *from)
{
    struct shun *s = shun_find(h->in, from->id);

    if (s != NULL && !s->corrupt)
        *s = (struct shun){0};
}

static bool is_senders_blame(enum vine_code code)
{
    return code == VINE_ETIMEDOUT || code == VINE_EDOWN || code == VINE_EPROTO ||
           code == VINE_EAUTH || code == VINE_ENOENT;
}

static void blame_corrupt(struct mgr *mgr, struct holder *to, struct mgr_node *from)
{
    struct holder *sender = mgr_holder_find(mgr, to->object, from);
    struct shun *s = shun_get(to->in, from->id);

    s->corrupt = true;
    s->until_ms = mgr->now_ms + mgr->limits.corrupt_ms;
    mgr_log(mgr, VINE_LOG_WARNING, "event=wrong-bytes node=%s peer=%s", to->node->name,
            from->name);
    if (sender == NULL)
        return;
    if (sender->accusers == 0 || sender->accuser_id == to->node->id) {
        sender->accusers = 1;
        sender->accuser_id = to->node->id;
        return;
    }
    sender->accusers++;
    mgr_holder_avoid(mgr, sender, mgr->now_ms + mgr->limits.corrupt_ms);
}

static void blame(struct mgr *mgr, struct holder *to, struct mgr_node *from,
                  enum vine_code code)
{
    struct shun *s;
    uint64_t pause = PAUSE_FIRST_MS;

    if (code == VINE_ECORRUPT) {
        blame_corrupt(mgr, to, from);
        return;
    }
    if (is_senders_blame(code)) {
        from->suspect_until_ms = mgr->now_ms + mgr->limits.suspect_ms;
        mgr_probe(mgr, from);
    }
    s = shun_get(to->in, from->id);
    for (uint32_t i = 0; i < s->fails && pause < mgr->limits.suspect_ms; i++)
        pause *= 2;
    s->fails++;
    if (s->until_ms < mgr->now_ms + pause)
        s->until_ms = mgr->now_ms + pause;
    mgr_node_changed(mgr, from);
}

/* Senders whose bytes were wrong for this receiver and for nobody else. */
static uint32_t accused_alone(const struct holder *h)
{
    uint32_t count = 0;

    for (const struct holder *s = h->object->holders; s != NULL; s = s->object_next) {
        const struct shun *shun = shun_find(h->in, s->node->id);
        count += shun != NULL && shun->corrupt && !s->avoided;
    }
    return count;
}

/* The flights of a piece that came from `peer` ("": any) end; *from: who it was. */
static void flights_end(struct mgr *mgr, struct holder *h, uint32_t piece,
                        const char *peer, struct mgr_node **from)
{
    for (uint32_t i = h->in->flights; i-- > 0;) {
        const struct flight *f = &h->in->flight[i];
        if (f->piece != piece || (peer[0] != '\0' && strcmp(f->from->name, peer) != 0))
            continue;
        *from = f->from;
        mgr_flight_remove(mgr, h, i);
    }
}

int mgr_fail_message(struct mgr *mgr, struct mgr_node *node, const struct msg *m,
                     struct vine_err *err)
{
    struct object *o = mgr_object_find(mgr, &m->digest);
    struct holder *h = o == NULL ? NULL : mgr_holder_find(mgr, o, node);
    const char *peer = m->peer != NULL ? m->peer : "";
    struct mgr_node *from = NULL;

    for (uint32_t i = 0; o != NULL && i < m->range_count; i++)
        if (m->ranges[i].first >= o->pieces ||
            m->ranges[i].count > o->pieces - m->ranges[i].first)
            return vine_err_set(err, VINE_EPROTO, "failed: pieces %u+%u of %u",
                                m->ranges[i].first, m->ranges[i].count, o->pieces);
    /* What we took back or forgot meanwhile is no fault of the node's. */
    if (h == NULL || h->in == NULL)
        return 0;
    if (peer[0] == '\0' && m->range_count == 1 && m->ranges[0].count == o->pieces) {
        mgr_source_refused(mgr, h);
        return 0;
    }
    for (uint32_t i = 0; i < m->range_count; i++)
        for (uint32_t p = 0; p < m->ranges[i].count; p++)
            if (bits_get(h->in->asked, m->ranges[i].first + p))
                flights_end(mgr, h, m->ranges[i].first + p, peer, &from);
    for (uint32_t i = 0; i < m->range_count; i++)
        mgr_feed_failed(mgr, h, m->ranges[i], peer, &from);
    if (from == NULL)
        return 0;
    mgr_log(mgr, VINE_LOG_DEBUG, "event=failed node=%s peer=%s code=%s", node->name,
            from->name, vine_code_name(m->code));
    blame(mgr, h, from, m->code);
    if (m->code == VINE_ECORRUPT && accused_alone(h) >= CORRUPT_SENDERS)
        mgr_source_fail_holder(
            mgr, h, VINE_ECORRUPT,
            "wrong bytes from three different nodes: this node's memory or "
            "disk may be broken");
    return 0;
}

/* Nothing of the object is on its way though somebody is hungry. If accusations are
 * what stands between them, believe them: the accused no longer count, and whoever can
 * reads the source again. */
void mgr_fail_starving(struct mgr *mgr, struct object *o)
{
    uint64_t until_ms = mgr->now_ms + mgr->limits.corrupt_ms;

    for (struct holder *h = o->holders; h != NULL; h = h->object_next)
        if (h->in != NULL && h->in->flights + h->in->feeds > 0)
            return;
    for (struct holder *s = o->holders; s != NULL; s = s->object_next)
        for (struct holder *h = o->holders; h != NULL && !s->avoided;
             h = h->object_next) {
            const struct shun *shun =
                h->in == NULL ? NULL : shun_find(h->in, s->node->id);
            if (shun != NULL && shun->corrupt && mgr->now_ms < shun->until_ms)
                mgr_holder_avoid(mgr, s, until_ms);
        }
}

/* This holder will send no more: what it was to send is taken back and planned anew. */
void mgr_fail_holder_gone(struct mgr *mgr, struct holder *gone)
{
    struct msg_range ranges[REVOKE_MAX];
    struct msg m = {
        .type = MSG_REVOKE, .digest = gone->object->digest, .ranges = ranges};

    for (struct holder *h = gone->object->holders; h != NULL; h = h->object_next) {
        m.range_count = 0;
        for (uint32_t i = h->in == NULL ? 0 : h->in->flights; i-- > 0;) {
            uint32_t piece = h->in->flight[i].piece;
            if (h->in->flight[i].from != gone->node)
                continue;
            mgr_flight_remove(mgr, h, i);
            if (!bits_get(h->in->asked, piece) && m.range_count < 64)
                ranges[m.range_count++] = (struct msg_range){piece, 1};
        }
        m.range_count += mgr_feed_cut(mgr, h, gone->node, ranges + m.range_count,
                                      REVOKE_MAX - m.range_count);
        if (m.range_count > 0)
            mgr_send(mgr, h->node, &m);
    }
}

void mgr_fail_node_gone(struct mgr *mgr, struct mgr_node *node)
{
    for (struct holder *h = node->active; h != NULL; h = h->active_next) {
        if (node->feeding > 0)
            mgr_feed_disturbed(mgr, h->object, DISTURBED_DEATH);
        mgr_fail_holder_gone(mgr, h);
    }
}

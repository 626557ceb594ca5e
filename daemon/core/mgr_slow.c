/* mgr_slow.c - who holds the others up.
 *
 * What is out for several times as long as is usual is late. A node that most of what
 * it awaits, from several senders, is late for receives slowly; one that most of what
 * it is to send, to several that are not slow, is late from sends slowly. Such a
 * receiver has a small window, so that it does not hold the slots of many, and feeds
 * nobody; such a sender is asked only for what nobody else has, and what it owes is
 * asked for again elsewhere. Either is tried again after a while, longer each time. */
#include "daemon/core/mgr_feed.h"

#define LATE_MS 100u    /* nothing is late before */
#define LATE_FACTOR 4u  /* times the usual duration */
#define LATE_MANY 75u   /* percent of what is out */
#define BESIDE_TREES 5u /* times what a tree takes for a piece */
#define PROVED 3u       /* pieces in good time: it is as fast as the others */
#define FIRSTS_MIN 8u
#define FIRST_LATE_MS 30u /* no manifest is late before */
#define SLOW_PART 8u      /* of the receivers may be slow by their manifests */
#define FOUND_PART 8u     /* of the receivers may be found slow at once */
#define GRACE_MS 150u
#define GRACE_OFF_MS 600u /* more, when trees have been given up */
#define CALM_MS 200u      /* and what a segment takes, after one was found slow */
#define SILENT_MS 400u
#define SLOW_FIRST_MS 300u
#define SLOW_MAX_MS 60000u

/* Beside trees a flight has a third of its sender's uplink or less. */
static uint64_t usual_ms(const struct object *o)
{
    return o->feed.state == FEED_ON ? BESIDE_TREES * o->feed.piece_ms : o->mean_ms;
}

bool mgr_slow_flight(const struct mgr *mgr, const struct object *o,
                     const struct flight *f)
{
    uint64_t age = mgr->now_ms - f->planned_ms, usual = usual_ms(o);

    if (usual == 0)
        return age > mgr->limits.slow_ms;
    return age > LATE_MS && age > LATE_FACTOR * usual;
}

/* It feeds nobody any more. Then it is tried again, where few hang on it. */
static void pace_mark(struct mgr *mgr, struct pace *pace)
{
    pace->found = false;
    if (pace->slow)
        return;
    mgr->slow++;
    pace->slow = true;
    pace->for_ms = pace->for_ms == 0 ? SLOW_FIRST_MS : 4 * pace->for_ms;
    if (pace->for_ms > SLOW_MAX_MS)
        pace->for_ms = SLOW_MAX_MS;
    pace->until_ms = mgr->now_ms + pace->for_ms;
    pace->good = 0;
}

static void slow_mark(struct mgr *mgr, struct mgr_node *node)
{
    bool in = node->in.found;

    mgr_log(mgr, VINE_LOG_INFO, "event=slow node=%s way=%s", node->name,
            in ? "in" : "out");
    if (in)
        pace_mark(mgr, &node->in);
    pace_mark(mgr, &node->out); /* what it gets slowly it cannot pass on quickly */
    mgr_node_changed(mgr, node);
}

/* Further from the mean than three times the standard deviation. Where all differ much,
 * the network or this manager is why. */
static bool is_outside(const struct object *o, uint64_t took)
{
    uint64_t n = o->firsts, sum = o->first_ms;
    uint64_t away = took * n > sum ? took * n - sum : 0;

    return away * away > 9 * (n * o->first_squares - sum * sum);
}

/* Who gets even the manifest late, and not from one who did, is not trusted with the
 * first places in trees. */
static void manifest_arrived(struct mgr *mgr, struct holder *h, const struct flight *f,
                             uint32_t took)
{
    struct object *o = h->object;

    if (mgr_slow_either(f->from) || f->from->switch_id != h->node->switch_id)
        return;
    o->first_ms += took;
    o->first_squares += (uint64_t)took * took;
    o->firsts++;
    if (took < FIRST_LATE_MS || !mgr_feed_many(mgr, o, o->hungry) ||
        o->firsts < FIRSTS_MIN || 3 * took * o->firsts <= 5 * o->first_ms ||
        !is_outside(o, took))
        return;
    h->node->in.found = true;
    slow_mark(mgr, h->node);
}

void mgr_slow_arrived(struct mgr *mgr, struct holder *h, const struct flight *f)
{
    struct object *o = h->object;
    uint64_t age = mgr->now_ms - f->planned_ms, usual = usual_ms(o);
    uint32_t took = age > 60000 ? 60000 : (uint32_t)age;

    if (f->piece == 0) {
        manifest_arrived(mgr, h, f, took);
        return;
    }
    if (2 * took <= 3 * usual) {
        h->node->in.good_ms = f->from->out.good_ms = mgr->now_ms;
        h->node->in.good++;
    } else {
        h->node->in.good = 0;
    }
    if (mgr_slow_either(h->node) || f->from->out.slow || o->feed.state == FEED_ON)
        return;
    if (usual > 0 && took > LATE_FACTOR * usual + LATE_MS)
        took = (uint32_t)(LATE_FACTOR * usual + LATE_MS);
    o->mean_ms = o->mean_ms == 0 ? took + 1 : (7 * o->mean_ms + took + 7) / 8;
}

static bool is_fed(const struct mgr_node *node)
{
    for (const struct holder *h = node->active; h != NULL; h = h->active_next)
        if (h->in != NULL && h->in->feeds > 0)
            return true;
    return false;
}

/* When that goes for many it tells nothing of any. */
void mgr_slow_trust(struct mgr *mgr, const struct object *o)
{
    uint32_t slow = 0;

    for (const struct holder *h = o->holders; h != NULL; h = h->object_next)
        slow += h->in != NULL && h->node->in.slow;
    if (slow * SLOW_PART <= o->hungry)
        return;
    for (struct holder *h = o->holders; h != NULL; h = h->object_next)
        if (h->in != NULL && h->node->in.slow) {
            h->node->in.slow = h->node->out.slow = false;
            mgr_node_changed(mgr, h->node);
        }
}

/* What it receives with a small window shows whether it is slow still. */
static bool still_slow(const struct mgr *mgr, const struct mgr_node *node)
{
    if (node->in.good >= PROVED)
        return false;
    if (mgr->now_ms < node->in.until_ms)
        return true;
    for (const struct holder *h = node->active; h != NULL; h = h->active_next)
        if (h->in != NULL && h->in->flights > 0)
            return true;
    return false;
}

static void slow_forgive(struct mgr *mgr)
{
    if (mgr->slow == 0)
        return;
    for (struct mgr_node *node = mgr->first_node; node != NULL; node = node->next) {
        bool in = node->in.slow, out = node->out.slow;
        if (!in && !out)
            continue;
        if (in && !is_fed(node) && !still_slow(mgr, node))
            node->in.slow = false;
        if (!node->in.slow && !is_fed(node) &&
            (in || mgr->now_ms >= node->out.until_ms))
            node->out.slow = false;
        if (in != node->in.slow || out != node->out.slow)
            mgr_node_changed(mgr, node);
    }
}

/* ---- by flights ---- */

static void flight_count(const struct mgr *mgr, const struct object *o,
                         struct mgr_node *to, const struct flight *f)
{
    struct mgr_node *from = f->from;
    bool late = mgr_slow_flight(mgr, o, f);

    /* It may stand behind what the same sender feeds the same receiver. */
    if (o->feed.state == FEED_ON && from->feeding > 0)
        return;
    /* Who is known to be slow tells nothing of the other. */
    if (!from->out.slow) {
        to->in.seen++;
        to->in.late += late;
        to->in.guilty += late && from->out.good_ms > f->planned_ms &&
                         to->in.good_ms <= f->planned_ms;
    }
    if (!to->in.slow) {
        from->out.seen++;
        from->out.late += late;
        from->out.guilty += late && to->in.good_ms > f->planned_ms &&
                            from->out.good_ms <= f->planned_ms;
    }
}

static bool is_guilty(const struct pace *pace)
{
    return !pace->slow && pace->guilty > 0 &&
           pace->late * 100 >= pace->seen * LATE_MANY;
}

static void flights_check(struct mgr *mgr, struct object *o)
{
    for (struct holder *h = o->holders; h != NULL; h = h->object_next)
        for (uint32_t i = 0; h->in != NULL && i < h->in->flights; i++)
            flight_count(mgr, o, h->node, &h->in->flight[i]);
    for (struct holder *h = o->holders; h != NULL; h = h->object_next) {
        struct mgr_node *node = h->node;
        node->in.found = is_guilty(&node->in);
        node->out.found = is_guilty(&node->out);
        if (node->in.found || node->out.found)
            slow_mark(mgr, node);
        node->in.late = node->in.guilty = node->in.seen = 0;
        node->out.late = node->out.guilty = node->out.seen = 0;
    }
}

/* ---- by feeds ---- */

static bool sender_has_it(const struct mgr *mgr, const struct object *o,
                          const struct feed *f)
{
    const struct holder *sender = mgr_holder_find(mgr, o, f->from);

    if (sender == NULL || sender->complete)
        return true;
    return (word_of(sender->have, bits_words(o->pieces), f->first) & f->awaited) ==
           f->awaited;
}

/* Its segment's time is over, and its sender has had all of it for as long: behind a
 * death a whole subtree gets late what it then passes on as fast as any other. */
static bool feed_late(const struct mgr *mgr, const struct object *o, struct feed *f)
{
    bool kept = f->segment + SEGMENTS_KEPT >= o->feed.segment;
    uint64_t had = kept ? o->feed.had_ms[slot_of(f->segment)] : o->feed.began_ms;
    uint64_t grace = GRACE_MS + o->feed.took_ms;

    if (o->feed.state != FEED_ON) /* the matching keeps links busy, too */
        grace += GRACE_OFF_MS;
    if (had == 0 || mgr->now_ms < had)
        return false;
    if (f->ready_ms == 0 && sender_has_it(mgr, o, f))
        f->ready_ms = mgr->now_ms;
    return f->ready_ms != 0 && mgr->now_ms >= f->ready_ms + grace;
}

/* Counts at either end what is late. */
static bool late_count(struct mgr *mgr, struct object *o, struct holder *h)
{
    const struct mgr_node *counted = NULL;

    for (uint32_t i = 0; i < FEEDS_MAX; i++) {
        struct feed *f = &h->in->feed[i];
        if (f->from == NULL || f->from == counted || !feed_late(mgr, o, f))
            continue;
        counted = f->from;
        h->node->in.late++;
        f->from->out.late++;
    }
    return counted != NULL;
}

/* Who sends late to several that get the rest in time is slow; else the receiver is. */
static void late_judge(struct mgr *mgr, struct object *o, struct holder *h)
{
    for (uint32_t i = 0; i < FEEDS_MAX; i++) {
        struct feed *f = &h->in->feed[i];
        if (f->from == NULL || !feed_late(mgr, o, f))
            continue;
        if (f->from->out.late > 1 && h->node->in.late == 1 && h->in->feeds > 1)
            f->from->out.found = true;
        else
            h->node->in.found = true;
    }
}

static bool takes_part(const struct holder *h)
{
    return h->in != NULL && h->in->feeds > 0 && !mgr_slow_either(h->node);
}

/* When that goes for many it is the fault of none of them: of the network, of what they
 * all hang on, or of this manager, which was not heard of either. */
static bool found_many(const struct object *o)
{
    uint32_t found = 0;

    for (const struct holder *h = o->holders; h != NULL; h = h->object_next)
        found += h->node->in.found || h->node->out.found;
    return found * FOUND_PART > o->hungry + FOUND_PART;
}

static void feeds_check(struct mgr *mgr, struct object *o)
{
    bool found = false;

    if (o->feed.segment == 0 || mgr->now_ms < o->feed.calm_ms)
        return;
    for (struct holder *h = o->holders; h != NULL; h = h->object_next)
        if (takes_part(h))
            found |= late_count(mgr, o, h);
    for (struct holder *h = o->holders; found && h != NULL; h = h->object_next)
        if (takes_part(h))
            late_judge(mgr, o, h);
    for (struct holder *h = o->holders; found && h != NULL; h = h->object_next)
        h->node->in.late = h->node->out.late = 0;
    if (found && found_many(o)) {
        for (struct holder *h = o->holders; h != NULL; h = h->object_next)
            h->node->in.found = h->node->out.found = false;
        o->feed.calm_ms = mgr->now_ms + CALM_MS + o->feed.took_ms;
        return;
    }
    for (struct holder *h = o->holders; found && h != NULL; h = h->object_next)
        if (h->node->in.found || h->node->out.found) {
            slow_mark(mgr, h->node);
            mgr_tree_leave(mgr, h);
            mgr_holder_changed(mgr, h);
            mgr_feed_sender_gone(mgr, o, h->node);
            mgr_feed_disturbed(mgr, o, 1);
        }
    if (found)
        o->feed.calm_ms = mgr->now_ms + CALM_MS + o->feed.took_ms / 2;
}

/* What it was to send is the others' to send. */
static void silent_mark(struct mgr *mgr, struct mgr_node *node)
{
    bool fed = node->feeding > 0;

    mgr_log(mgr, VINE_LOG_INFO, "event=silent node=%s", node->name);
    node->silent = true;
    mgr_node_changed(mgr, node);
    for (struct holder *h = node->active; h != NULL; h = h->active_next) {
        mgr_tree_leave(mgr, h);
        mgr_holder_changed(mgr, h);
        mgr_fail_holder_gone(mgr, h);
        if (fed)
            mgr_feed_disturbed(mgr, h->object, DISTURBED_DEATH);
    }
}

void mgr_slow_heard(struct mgr *mgr, struct mgr_node *node)
{
    node->silent = false;
    mgr_node_changed(mgr, node);
}

/* Who is silent though others wait for it is asked, and believed dead or frozen before
 * its connection is. */
static void silence_check(struct mgr *mgr)
{
    uint32_t silent_ms = SILENT_MS + crowd_quiet_ms(mgr->crowd);

    mgr->senders = mgr->sending = mgr->slow = 0;
    for (struct mgr_node *node = mgr->first_node; node != NULL; node = node->next) {
        mgr->slow += node->in.slow || node->out.slow;
        if (node->sending + node->feeding == 0)
            continue;
        mgr->senders++;
        mgr->sending += node->sending > 0;
        if (mgr->now_ms < node->seen_ms + silent_ms)
            continue;
        mgr_probe(mgr, node);
        if (mgr->now_ms >= node->probed_ms + SILENT_MS / 2)
            silent_mark(mgr, node);
    }
}

static void slow_count(struct object *o)
{
    o->slow_in = o->slow_out = 0;
    for (const struct holder *h = o->holders; h != NULL; h = h->object_next) {
        o->slow_in += h->in != NULL && h->node->in.slow;
        o->slow_out += h->node->out.slow;
    }
}

/* Thousands of holders are looked at only for what there is. */
void mgr_slow_check(struct mgr *mgr)
{
    slow_forgive(mgr);
    silence_check(mgr);
    for (struct object *o = mgr->first_active; o != NULL; o = o->active_next) {
        if (mgr->sending > 0)
            flights_check(mgr, o);
        feeds_check(mgr, o);
        mgr_feed_give_up(mgr, o);
        if (mgr->slow + o->slow_in + o->slow_out > 0)
            slow_count(o);
    }
}

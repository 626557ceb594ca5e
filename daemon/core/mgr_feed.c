/* mgr_feed.c - standing orders, for when many nodes want the same object.
 *
 * With one message a piece each way the manager is the bottleneck of thousands of
 * nodes, and each hop costs a round trip through it. So the pieces are given out in
 * segments, a segment in two stripes, and each stripe flows down a binary tree: a node
 * asks its parent for pieces that the parent does not have yet, the parent answers as
 * it verifies them. Who is inside the one tree is a leaf of the other, so that every
 * uplink carries what its downlink gets. Depth costs two pieces' time a level.
 *
 * Nodes of one switch hang together: the stripe enters a switch once, at its first
 * node, and the switches themselves form a binary tree. With several sources the nodes
 * are shared out, a source's own switch first.
 *
 * Trees are for what goes well. What a tree did not bring (a death, a slow node, wrong
 * bytes) becomes loose and is the matching's of mgr_plan.c, which asks only those who
 * have it; so do nodes that are slow, and what is left at the end. A feed is made once
 * a piece and a receiver, from a sender that has the piece or was given it before:
 * waits cannot form a ring.
 */
#include <string.h>

#include "daemon/core/mgr_int.h"

#define SEGMENT_FIRST 8u   /* pieces: the first ones show who is slow */
#define SEGMENT_MAX 64u    /* a stripe of it fits a feed's word */
#define SEGMENT_STREAM 16u /* while the source is still being read */
#define SEGMENT_MS 200u    /* long enough: larger ones are no cheaper */
#define SEGMENTS_AHEAD 3u  /* given out that few have yet */
#define MANY 40u           /* percent: the rest of a segment's feeds should follow */
#define GRACE_MS 60u       /* and what the segment took, for the rest */
#define GATHER_MS 100u     /* at most, for the nodes to have the manifest */

static uint64_t word_of(const uint64_t *set, uint32_t words, uint32_t first)
{
    uint32_t i = first / 64, shift = first % 64;
    uint64_t low = i < words ? set[i] >> shift : 0;

    return shift == 0 || i + 1 >= words ? low : low | set[i + 1] << (64 - shift);
}

static uint64_t mask_of(uint32_t count)
{
    return count >= 64 ? ~0ull : (1ull << count) - 1;
}

/* Pieces of the range that the holder has. */
static uint64_t has_mask(const struct holder *h, struct msg_range range)
{
    if (h->complete)
        return mask_of(range.count);
    return word_of(h->have, bits_words(h->object->pieces), range.first) &
           mask_of(range.count);
}

static uint64_t asked_mask(const struct holder *h, struct msg_range range)
{
    return word_of(h->in->asked, bits_words(h->object->pieces), range.first) &
           mask_of(range.count);
}

bool mgr_feed_awaits(const struct intake *in, uint32_t piece)
{
    for (uint32_t i = 0; i < FEEDS_MAX; i++) {
        const struct feed *f = &in->feed[i];
        if (f->from != NULL && piece - f->first < 64 &&
            (f->awaited >> (piece - f->first) & 1))
            return true;
    }
    return false;
}

static bool flight_awaits(const struct intake *in, uint32_t piece)
{
    for (uint32_t i = 0; i < in->flights; i++)
        if (in->flight[i].piece == piece)
            return true;
    return false;
}

/* ---- a feed ends ---- */

static uint32_t slot_of(uint32_t segment)
{
    return segment % SEGMENTS_KEPT;
}

/* When many of a segment's feeds are over, the others should be soon. */
static void segment_count(struct mgr *mgr, struct feeding *feed, uint32_t segment)
{
    uint32_t slot = slot_of(segment);

    if (segment + SEGMENTS_KEPT < feed->segment)
        return;
    feed->over[slot]++;
    if (feed->had_ms[slot] != 0 || feed->over[slot] * 100 < feed->total[slot] * MANY)
        return;
    feed->had_ms[slot] = mgr->now_ms;
    feed->took_ms = mgr->now_ms - feed->last_had_ms;
    feed->last_had_ms = mgr->now_ms;
    feed->pending--;
    mgr->feed_due = true;
}

static void feed_over(struct mgr *mgr, struct holder *h, struct feed *f)
{
    struct mgr_node *from = f->from;

    segment_count(mgr, &h->object->feed, f->segment);
    from->feeding--;
    h->in->feeds--;
    *f = (struct feed){0};
    mgr_node_changed(mgr, from);
}

/* What the feed still owes is nobody's now. */
static void feed_cut(struct mgr *mgr, struct holder *h, struct feed *f, uint64_t mask)
{
    uint64_t cut = f->awaited & mask;

    f->awaited &= ~mask;
    for (; cut != 0; cut &= cut - 1) {
        uint32_t piece = f->first + (uint32_t)__builtin_ctzll(cut);
        if (!flight_awaits(h->in, piece))
            bits_clear(h->in->asked, piece);
        h->in->loose = true;
    }
    if (f->awaited == 0)
        feed_over(mgr, h, f);
    mgr_holder_changed(mgr, h);
}

void mgr_feed_arrived(struct mgr *mgr, struct holder *h, uint32_t piece)
{
    for (uint32_t i = 0; i < FEEDS_MAX; i++) {
        struct feed *f = &h->in->feed[i];
        if (f->from == NULL || piece - f->first >= 64 ||
            !(f->awaited >> (piece - f->first) & 1))
            continue;
        f->awaited &= ~(1ull << (piece - f->first));
        bits_clear(h->in->asked, piece);
        if (f->awaited == 0)
            feed_over(mgr, h, f);
    }
}

void mgr_feed_failed(struct mgr *mgr, struct holder *h, struct msg_range range,
                     const char *peer, struct mgr_node **from)
{
    for (uint32_t i = 0; i < FEEDS_MAX && h->in->feeds > 0; i++) {
        struct feed *f = &h->in->feed[i];
        uint64_t mask = 0;
        if (f->from == NULL || (peer[0] != '\0' && strcmp(f->from->name, peer) != 0))
            continue;
        for (uint64_t left = f->awaited; left != 0; left &= left - 1) {
            uint32_t bit = (uint32_t)__builtin_ctzll(left);
            if (f->first + bit - range.first < range.count)
                mask |= 1ull << bit;
        }
        if (mask == 0)
            continue;
        *from = f->from;
        feed_cut(mgr, h, f, mask);
    }
}

uint32_t mgr_feed_cut(struct mgr *mgr, struct holder *h, const struct mgr_node *from,
                      struct msg_range *ranges, uint32_t room)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < FEEDS_MAX && h->in != NULL && h->in->feeds > 0; i++) {
        struct feed *f = &h->in->feed[i];
        if (f->from != from)
            continue;
        for (uint64_t left = f->awaited; left != 0 && count < room; left &= left - 1)
            ranges[count++] =
                (struct msg_range){f->first + (uint32_t)__builtin_ctzll(left), 1};
        feed_cut(mgr, h, f, ~0ull);
    }
    return count;
}

void mgr_feed_sender_gone(struct mgr *mgr, struct object *o, struct mgr_node *from)
{
    struct msg_range ranges[FEEDS_MAX * SEGMENT_MAX / 2];
    struct msg m = {.type = MSG_REVOKE, .digest = o->digest, .ranges = ranges};

    for (struct holder *h = o->holders; h != NULL && from->feeding > 0;
         h = h->object_next) {
        m.range_count = mgr_feed_cut(mgr, h, from, ranges, FEEDS_MAX * SEGMENT_MAX / 2);
        if (m.range_count > 0)
            mgr_send(mgr, h->node, &m);
    }
}

void mgr_feed_drop_all(struct mgr *mgr, struct holder *h)
{
    for (uint32_t i = 0; i < FEEDS_MAX && h->in->feeds > 0; i++)
        if (h->in->feed[i].from != NULL)
            feed_cut(mgr, h, &h->in->feed[i], ~0ull);
}

/* Is anything between what was given out and what feeds still bring missing? Only such
 * pieces are worth a fed node's downlink; what is older waits for the feeds' end. */
bool mgr_feed_loose(const struct holder *h)
{
    const struct object *o = h->object;

    if (!h->in->loose)
        return false;
    for (uint32_t first = o->feed.low; first < o->feed.next; first += 64) {
        uint32_t left = o->feed.next - first;
        struct msg_range range = {first, left < 64 ? left : 64};
        if (~(has_mask(h, range) | asked_mask(h, range)) & mask_of(range.count))
            return true;
    }
    h->in->loose = false;
    return false;
}

/* ---- a segment is planned ---- */

struct tree { /* a source and those it feeds */
    struct holder *source;
    struct holder **at; /* by switch */
    uint32_t *group;    /* first index of each group, and the end */
    uint32_t groups;
};

static struct holder *member(const struct tree *t, uint32_t stripe, uint32_t group,
                             uint32_t i)
{
    uint32_t g = stripe == 0 || group == 0 ? group : t->groups - group;
    uint32_t size = t->group[g + 1] - t->group[g];

    return t->at[t->group[g] + (stripe == 0 ? i : size - 1 - i)];
}

static uint32_t group_size(const struct tree *t, uint32_t stripe, uint32_t group)
{
    uint32_t g = stripe == 0 || group == 0 ? group : t->groups - group;

    return t->group[g + 1] - t->group[g];
}

/* Groups that hang on this one: the first has one child, the others form a heap. */
static uint32_t group_children(const struct tree *t, uint32_t group)
{
    uint32_t others = t->groups - 1, heap = group - 1;

    if (group == 0)
        return others > 0;
    return (2 * heap + 1 < others) + (2 * heap + 2 < others);
}

static void feed_add(struct mgr *mgr, struct mgr_node *from, struct holder *to,
                     struct msg_range range)
{
    struct object *o = to->object;
    struct intake *in = to->in;
    uint64_t want =
        ~(has_mask(to, range) | asked_mask(to, range)) & mask_of(range.count);
    struct feed *f = NULL;

    if (want == 0)
        return;
    in->loose = true; /* until it is seen that all is asked for */
    for (uint32_t i = 0; i < FEEDS_MAX && f == NULL; i++)
        f = in->feed[i].from == NULL ? &in->feed[i] : NULL;
    if (f == NULL || (!to->fresh && mgr_list_push(&mgr->fresh, to) < 0))
        return;
    to->fresh = true;
    *f = (struct feed){.from = from,
                       .first = range.first,
                       .awaited = want,
                       .segment = o->feed.segment,
                       .fresh = true};
    for (; want != 0; want &= want - 1)
        bits_set(in->asked, range.first + (uint32_t)__builtin_ctzll(want));
    in->feeds++;
    from->feeding++;
    from->bytes_planned_out += mgr_plan_piece_bytes(o) * range.count;
    o->feed.total[slot_of(o->feed.segment)]++;
    mgr_holder_changed(mgr, to);
    mgr_node_changed(mgr, from);
}

static struct mgr_node *group_sender(const struct tree *t, uint32_t stripe,
                                     uint32_t group)
{
    uint32_t parent, turn;

    if (group == 0)
        return t->source->node;
    parent = group == 1 ? 0 : 1 + (group - 2) / 2;
    turn = group == 1 ? 0 : group % 2; /* the second child hangs on the second node */
    if (turn >= group_size(t, stripe, parent))
        turn = 0;
    return member(t, stripe, parent, turn)->node;
}

/* One stripe down one tree. In a group the first nodes have two children each, less
 * those of other groups. */
static void plant(struct mgr *mgr, const struct tree *t, uint32_t stripe,
                  struct msg_range range)
{
    for (uint32_t g = 0; g < t->groups; g++) {
        uint32_t size = group_size(t, stripe, g), children = group_children(t, g);
        uint32_t parent = 0, used = children > 0;
        if (range.count == 0 || size == 0)
            continue;
        if (size == 1)
            used = children;
        feed_add(mgr, group_sender(t, stripe, g), member(t, stripe, g, 0), range);
        for (uint32_t i = 1; i < size; i++) {
            if (used == 2) {
                parent++;
                used = parent == 1 && children == 2;
            }
            feed_add(mgr, member(t, stripe, g, parent)->node, member(t, stripe, g, i),
                     range);
            used++;
        }
    }
}

static bool source_fits(const struct mgr *mgr, const struct holder *h,
                        struct msg_range range)
{
    if (h->avoided || mgr->now_ms < h->node->suspect_until_ms ||
        mgr->now_ms < h->node->slow_until_ms || h->node->feeding >= FEEDS_OUT_MAX)
        return false;
    return h->complete || has_mask(h, range) == mask_of(range.count);
}

static bool receiver_fits(const struct mgr *mgr, const struct holder *h,
                          struct msg_range range)
{
    uint64_t here;

    if (h->in == NULL || h->complete || !bits_get(h->have, 0) || h->avoided ||
        h->in->feeds + 2 > FEEDS_MAX || mgr->now_ms < h->node->slow_until_ms ||
        mgr->now_ms < h->node->suspect_until_ms)
        return false;
    here = has_mask(h, range) | asked_mask(h, range);
    return 2 * (uint32_t)__builtin_popcountll(here) <= range.count;
}

/* The origin that reads the object now, if it has come so far. */
static struct holder *stream_source(const struct mgr *mgr, const struct object *o,
                                    uint32_t piece)
{
    for (const struct source *s = o->sources; s != NULL; s = s->object_next) {
        struct holder *h = s->streaming && s->origin != NULL
                               ? mgr_holder_find(mgr, o, s->origin)
                               : NULL;
        if (h != NULL && !h->avoided && mgr_holder_has(h, piece))
            return h;
    }
    return NULL;
}

struct cast { /* who takes part in a segment */
    struct holder **source, **receiver;
    uint32_t sources, receivers;
};

static int by_switch(const void *a, const void *b)
{
    const struct mgr_node *x = (*(struct holder *const *)a)->node;
    const struct mgr_node *y = (*(struct holder *const *)b)->node;

    if (x->switch_id != y->switch_id)
        return x->switch_id < y->switch_id ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static void cast_collect(const struct mgr *mgr, const struct object *o,
                         struct msg_range range, struct cast *cast)
{
    struct holder *stream = stream_source(mgr, o, range.first);

    for (struct holder *h = o->holders; h != NULL; h = h->object_next) {
        if (h == stream || source_fits(mgr, h, range))
            cast->source[cast->sources++] = h;
        else if (receiver_fits(mgr, h, range))
            cast->receiver[cast->receivers++] = h;
    }
    qsort(cast->source, cast->sources, sizeof(struct holder *), by_switch);
    qsort(cast->receiver, cast->receivers, sizeof(struct holder *), by_switch);
}

static bool same_switch(const struct holder *a, const struct holder *b)
{
    return a->node->switch_id == b->node->switch_id;
}

/* The receivers of one switch, cast->receiver[from..to), to the sources there, or, as
 * `orphans`, to any. */
struct share {
    uint32_t first, count; /* receivers */
    uint32_t source;
};

static uint32_t share_out(const struct cast *cast, struct share *share)
{
    uint32_t shares = 0, lost = 0;

    for (uint32_t first = 0, end, s = 0; first < cast->receivers; first = end) {
        struct holder *head = cast->receiver[first];
        uint32_t here = 0, parts, size;
        for (end = first;
             end < cast->receivers && same_switch(cast->receiver[end], head); end++)
            ;
        while (s < cast->sources &&
               cast->source[s]->node->switch_id < head->node->switch_id)
            s++;
        while (s + here < cast->sources && same_switch(cast->source[s + here], head))
            here++;
        size = end - first;
        parts = here < size ? here : size;
        if (parts == 0)
            share[shares++] = (struct share){first, size, lost++ % cast->sources};
        for (uint32_t i = 0; i < parts; i++)
            share[shares++] =
                (struct share){first + size * i / parts,
                               size * (i + 1) / parts - size * i / parts, s + i};
    }
    return shares;
}

static void tree_grow(struct tree *t, const struct cast *cast,
                      const struct share *share)
{
    uint32_t end = t->group[t->groups];

    memcpy(t->at + end, cast->receiver + share->first,
           share->count * sizeof(struct holder *));
    t->groups++;
    t->group[t->groups] = end + share->count;
}

/* The trees of all sources, one after the other: its own switch's share first. */
static void plant_all(struct mgr *mgr, const struct cast *cast,
                      const struct share *share, uint32_t shares, struct tree *t,
                      const struct msg_range half[2])
{
    for (uint32_t s = 0; s < cast->sources; s++) {
        t->source = cast->source[s];
        t->groups = 0;
        t->group[0] = 0;
        for (int own = 1; own >= 0; own--)
            for (uint32_t i = 0; i < shares; i++)
                if (share[i].source == s &&
                    same_switch(cast->receiver[share[i].first], t->source) == own)
                    tree_grow(t, cast, &share[i]);
        for (uint32_t stripe = 0; stripe < 2 && t->groups > 0; stripe++)
            plant(mgr, t, stripe, half[stripe]);
    }
}

static void plant_segment(struct mgr *mgr, struct object *o, const struct cast *cast,
                          struct msg_range range)
{
    struct msg_range half[2] = {{range.first, (range.count + 1) / 2}};
    struct share *share = calloc(cast->receivers + 1, sizeof(*share));
    struct tree t = {.at = calloc(cast->receivers + 1, sizeof(struct holder *)),
                     .group = calloc(cast->receivers + 2, sizeof(uint32_t))};
    uint32_t slot = slot_of(o->feed.segment);

    half[1] =
        (struct msg_range){range.first + half[0].count, range.count - half[0].count};
    o->feed.total[slot] = o->feed.over[slot] = 0;
    o->feed.had_ms[slot] = 0;
    o->feed.first[slot] = range.first;
    o->feed.size = range.count;
    if (share != NULL && t.at != NULL && t.group != NULL)
        plant_all(mgr, cast, share, share_out(cast, share), &t, half);
    if (o->feed.total[slot] > 0)
        o->feed.pending++;
    else
        o->feed.had_ms[slot] = mgr->now_ms;
    o->feed.segment++;
    free(share);
    free(t.at);
    free(t.group);
}

/* ---- when ---- */

static struct msg_range next_range(const struct object *o)
{
    uint32_t left = o->pieces - o->feed.next, size = SEGMENT_FIRST;

    if (o->feed.size > 0)
        size = o->feed.took_ms < SEGMENT_MS       ? 2 * o->feed.size
               : o->feed.took_ms > 2 * SEGMENT_MS ? o->feed.size / 2
                                                  : o->feed.size;
    if (size > SEGMENT_MAX)
        size = SEGMENT_MAX;
    if (o->seeds == 0 && size > SEGMENT_STREAM)
        size = SEGMENT_STREAM;
    if (size < SEGMENT_FIRST)
        size = SEGMENT_FIRST;
    return (struct msg_range){o->feed.next, left < size ? left : size};
}

/* What is given out, and so who may be matched, has changed. */
static void holders_changed(struct mgr *mgr, struct object *o)
{
    for (struct holder *h = o->holders; h != NULL; h = h->object_next)
        mgr_holder_changed(mgr, h);
}

/* Feeds of the oldest segments that still run begin here. */
static void low_update(struct object *o)
{
    uint32_t kept = o->feed.segment < SEGMENTS_KEPT ? o->feed.segment : SEGMENTS_KEPT;

    o->feed.low = kept == 0 ? 1 : o->feed.first[slot_of(o->feed.segment - kept)];
}

/* false: nothing more can be planned now. */
static bool next_segment(struct mgr *mgr, struct object *o)
{
    struct msg_range range = next_range(o);
    struct cast cast = {0};
    bool planned = false;

    if (range.count == 0 || (o->seeds == 0 && !mgr->feed_search &&
                             stream_source(mgr, o, range.first) == NULL))
        return false;
    cast.source = calloc(o->holder_count + 1, sizeof(struct holder *));
    cast.receiver = calloc(o->holder_count + 1, sizeof(struct holder *));
    if (cast.source != NULL && cast.receiver != NULL) {
        cast_collect(mgr, o, range, &cast);
        planned = cast.sources > 0;
    }
    if (planned && cast.receivers >= mgr->limits.feed_min)
        plant_segment(mgr, o, &cast, range);
    if (planned)
        o->feed.next += range.count;
    low_update(o);
    holders_changed(mgr, o);
    free(cast.source);
    free(cast.receiver);
    return planned;
}

/* Those who lack much of what was given out already: worth another round? */
static bool many_lack(const struct mgr *mgr, const struct object *o)
{
    uint32_t count = 0;

    for (const struct holder *h = o->holders; h != NULL; h = h->object_next)
        count += h->in != NULL && h->in->feeds == 0 && 2 * h->have_count < o->pieces &&
                 mgr->now_ms >= h->node->slow_until_ms;
    return count >= mgr->limits.feed_min;
}

static void gather(struct mgr *mgr, struct object *o)
{
    if (o->feed.state == FEED_OFF) {
        o->feed.state = FEED_GATHER;
        o->feed.since_ms = mgr->now_ms;
        holders_changed(mgr, o);
    }
    if (o->copies[0] < o->holder_count && mgr->now_ms < o->feed.since_ms + GATHER_MS)
        return;
    o->feed.state = FEED_ON;
    o->feed.next = o->feed.low = 1;
    o->feed.segment = o->feed.pending = o->feed.size = 0;
    o->feed.took_ms = 0;
    o->feed.last_had_ms = mgr->now_ms;
    holders_changed(mgr, o);
}

static void object_run(struct mgr *mgr, struct object *o)
{
    if (o->feed.state != FEED_ON && mgr->limits.feed_min > 0 &&
        o->hungry >= mgr->limits.feed_min &&
        (o->feed.state == FEED_GATHER || o->feed.next == 0 ||
         (mgr->feed_search && many_lack(mgr, o))))
        gather(mgr, o);
    else if (o->feed.state == FEED_GATHER) {
        o->feed.state = FEED_OFF;
        holders_changed(mgr, o);
    }
    while (o->feed.state == FEED_ON && o->feed.pending < SEGMENTS_AHEAD)
        if (!next_segment(mgr, o))
            break;
    if (o->feed.state == FEED_ON && o->feed.next >= o->pieces && o->feed.pending == 0) {
        o->feed.state = FEED_OFF;
        holders_changed(mgr, o);
    }
}

void mgr_feed_run(struct mgr *mgr)
{
    if (!mgr->feed_due)
        return;
    mgr->feed_due = false;
    for (struct object *o = mgr->first_active; o != NULL; o = o->active_next)
        object_run(mgr, o);
}

/* ---- who holds the others up ---- */

static void slow_mark(struct mgr *mgr, struct object *o, struct mgr_node *node)
{
    if (mgr->now_ms < node->slow_until_ms)
        return;
    mgr_log(mgr, VINE_LOG_INFO, "event=slow node=%s", node->name);
    node->slow_until_ms = mgr->now_ms + mgr->limits.suspect_ms;
    mgr_feed_sender_gone(mgr, o, node);
}

/* Its segment's time is over, and its sender has all of it. */
static bool feed_late(const struct mgr *mgr, const struct object *o,
                      const struct feed *f)
{
    uint64_t had = o->feed.had_ms[slot_of(f->segment)];
    const struct holder *sender;

    if (f->segment + SEGMENTS_KEPT >= o->feed.segment &&
        (had == 0 || mgr->now_ms < had + GRACE_MS + o->feed.took_ms))
        return false;
    sender = mgr_holder_find(mgr, o, f->from);
    if (sender == NULL || sender->complete)
        return true;
    return (word_of(sender->have, bits_words(o->pieces), f->first) & f->awaited) ==
           f->awaited;
}

/* Late from both sides: it is the receiver. Else it is who sends to it. */
static void holder_check(struct mgr *mgr, struct object *o, struct holder *h)
{
    struct mgr_node *late = NULL;
    uint32_t senders = 0, others = 0;

    for (uint32_t i = 0; i < FEEDS_MAX; i++) {
        const struct feed *f = &h->in->feed[i];
        if (f->from == NULL || f->from == late)
            continue;
        if (!feed_late(mgr, o, f)) {
            others++;
            continue;
        }
        senders++;
        late = f->from;
    }
    if (senders == 0)
        return;
    slow_mark(mgr, o, senders > 1 || others == 0 ? h->node : late);
}

void mgr_feed_check(struct mgr *mgr)
{
    mgr->feed_search = true;
    mgr->feed_due = true;
    for (struct object *o = mgr->first_active; o != NULL; o = o->active_next)
        for (struct holder *h = o->holders; h != NULL && o->feed.segment > 0;
             h = h->object_next)
            if (h->in != NULL && h->in->feeds > 0 &&
                mgr->now_ms >= h->node->slow_until_ms)
                holder_check(mgr, o, h);
    mgr_feed_run(mgr);
    mgr->feed_search = false;
}

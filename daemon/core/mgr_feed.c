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
 * are shared out, a source's own switch first. The matching knows nothing of switches
 * and takes each piece across many times, so few receivers are enough for trees where
 * there is more than one switch.
 *
 * Trees are for what goes well. What a tree did not bring (a death, a slow node, wrong
 * bytes) becomes loose and is the matching's of mgr_plan.c, which asks only those who
 * have it; so do nodes that are slow, and what is left at the end. A feed is made once
 * a piece and a receiver, from a sender that has the piece or was given it before:
 * waits cannot form a ring.
 */
#include <string.h>

#include "daemon/core/mgr_feed.h"

#define APART_PART 32u      /* of feed_min are enough across switches */
#define SEGMENT_FIRST 8u    /* pieces: the first ones show who is slow; twice as many */
#define FIRST_MEMBERS 1024u /* for so many members, and again for twice as many */
#define FIRST_MAX 32u
#define SEGMENT_MAX 64u    /* a stripe of it fits a feed's word */
#define SEGMENT_STREAM 16u /* while the source is still being read */
#define SEGMENT_MS 200u    /* long enough for MEMBERS_FEW or less; */
#define SEGMENT_A_MS 2u    /* so many more need a millisecond more */
#define SEGMENTS_AHEAD 3u  /* given out that few have yet */
#define PIECES_A_LEVEL 6u  /* of the trees: this many are worth more segments */
#define MANY 50u           /* percent: the rest of a segment's feeds should follow */
#define DISTURBED_PART 16u /* of the members may join, be slow or die meanwhile */
#define SEEDED_PART 4u     /* times the seeds: so few receivers need no trees */
#define BEHIND_MS 50u      /* and what so many pieces take: after the others */
#define BEHIND_PIECES 8u
#define FULL_PART 16u    /* of the receivers may miss a segment; if more would, */
#define FULL_MS 20u      /* they are looked at again so much later, */
#define FULL_MAX_MS 500u /* but not for longer */
#define SETTLE_MS 300u   /* before trees are tried again */
#define AFTER_DEATHS_MS 5000u
#define GATHER_MS 5u /* in which nobody joined, and all have the manifest */
#define GATHER_MAX_MS 300u
#define GATHER_A_MS 4u      /* so many more members may take a millisecond more */
#define GATHER_REUSE_MS 10u /* after the last manifest, for looks at older objects */
#define REUSE_PART 64u      /* of the members may still look; if more do, longer */

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

/* Holders of it are known to hang on different switches. */
static bool is_apart(const struct object *o)
{
    uint32_t first = 0;

    for (const struct holder *h = o->holders; h != NULL; h = h->object_next) {
        if (first != 0 && h->node->switch_id != 0 && h->node->switch_id != first)
            return true;
        first = first != 0 ? first : h->node->switch_id;
    }
    return false;
}

bool mgr_feed_many(const struct mgr *mgr, const struct object *o, uint32_t receivers)
{
    uint32_t min = mgr->limits.feed_min;

    if (min == 0 || receivers >= min)
        return min > 0;
    return receivers > 1 && receivers >= min / APART_PART && is_apart(o);
}

/* ---- a feed ends ---- */

/* Long enough that messages are few, short enough that a slow node holds up little. */
static void size_adapt(struct feeding *feed)
{
    uint64_t enough_ms = SEGMENT_MS + crowd_ms(feed->members, SEGMENT_A_MS);

    if (feed->took_ms < enough_ms && feed->size < SEGMENT_MAX)
        feed->size *= 2;
    else if (feed->took_ms > 3 * enough_ms && feed->size > SEGMENT_FIRST)
        feed->size /= 2;
}

static uint32_t segment_size(const struct feeding *feed, uint32_t segment)
{
    uint32_t end =
        segment + 1 < feed->segment ? feed->first[slot_of(segment + 1)] : feed->next;
    uint32_t first = feed->first[slot_of(segment)];

    return end > first ? end - first : 1;
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
    feed->piece_ms = (uint32_t)(feed->took_ms / segment_size(feed, segment)) + 1;
    feed->last_had_ms = mgr->now_ms;
    size_adapt(feed);
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
        h->object->spread[piece]--;
        if (!flight_awaits(h->in, piece))
            mgr_unask(h->in, piece);
        h->in->loose = true;
    }
    if (f->awaited == 0)
        feed_over(mgr, h, f);
    mgr_holder_changed(mgr, h);
}

/* What of a feed's word is in the range. */
static uint64_t feed_mask(const struct feed *f, struct msg_range range)
{
    uint32_t end = range.first + range.count;
    uint64_t mask;

    if (f->first >= end || range.first >= f->first + 64)
        return 0;
    mask = mask_of(end - f->first);
    return range.first > f->first ? mask & ~mask_of(range.first - f->first) : mask;
}

void mgr_feed_arrived(struct mgr *mgr, struct holder *h, struct msg_range range)
{
    for (uint32_t i = 0; i < FEEDS_MAX && h->in->feeds > 0; i++) {
        struct feed *f = &h->in->feed[i];
        uint64_t came = f->from == NULL ? 0 : f->awaited & feed_mask(f, range);
        if (came == 0)
            continue;
        f->awaited &= ~came;
        for (; came != 0; came &= came - 1) {
            uint32_t piece = f->first + (uint32_t)__builtin_ctzll(came);
            h->object->spread[piece]--;
            mgr_unask(h->in, piece);
        }
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

uint32_t mgr_feed_cut(struct mgr *mgr, struct holder *h, struct mgr_node *from,
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

static bool is_behind(const struct mgr *mgr, const struct object *o,
                      const struct feed *f)
{
    bool kept = f->segment + SEGMENTS_KEPT >= o->feed.segment;
    uint64_t had = kept ? o->feed.had_ms[slot_of(f->segment)] : o->feed.began_ms;

    return had != 0 && mgr->now_ms > had + BEHIND_MS + BEHIND_PIECES * o->feed.piece_ms;
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

/* The trees are over, and these are behind: others have more to send by now than the
 * one they wait for. `all`: whatever they bring, since the matching gives a source's
 * link to many, and a whole tree would wait for what it sends to the first. */
static void give_up(struct mgr *mgr, struct object *o, bool all)
{
    struct msg_range ranges[FEEDS_MAX * SEGMENT_MAX / 2];
    struct msg m = {.type = MSG_REVOKE, .digest = o->digest, .ranges = ranges};

    for (struct holder *h = o->holders; h != NULL; h = h->object_next) {
        m.range_count = 0;
        for (uint32_t i = 0; i < FEEDS_MAX && h->in != NULL && h->in->feeds > 0; i++) {
            struct feed *f = &h->in->feed[i];
            if (f->from == NULL || !(all || is_behind(mgr, o, f)))
                continue;
            for (uint64_t left = f->awaited; left != 0; left &= left - 1)
                ranges[m.range_count++] =
                    (struct msg_range){f->first + (uint32_t)__builtin_ctzll(left), 1};
            feed_cut(mgr, h, f, ~0ull);
        }
        if (m.range_count > 0)
            mgr_send(mgr, h->node, &m);
    }
}

void mgr_feed_give_up(struct mgr *mgr, struct object *o)
{
    if (o->feed.state == FEED_OFF && o->feed.segment > 0)
        give_up(mgr, o, false);
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

/* ---- when ---- */

static struct msg_range next_range(const struct object *o)
{
    uint32_t left = o->pieces - o->feed.next, size = o->feed.size;

    if (o->seeds == 0 && size > SEGMENT_STREAM)
        size = SEGMENT_STREAM;
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

/* Many that take part have not told yet of what they have by now: this manager is late
 * with its messages. Who misses a segment is matched for each of its pieces. */
static bool wait_for_full(const struct mgr *mgr, struct object *o,
                          const struct cast *cast)
{
    if (cast->full * FULL_PART <= cast->receivers ||
        mgr->now_ms >= o->feed.last_had_ms + FULL_MAX_MS)
        return false;
    o->feed.wait_ms = mgr->now_ms + FULL_MS;
    return true;
}

/* false: nothing more can be planned now. */
static bool next_segment(struct mgr *mgr, struct object *o)
{
    struct msg_range range = next_range(o);
    struct cast cast = {0};
    bool planned = false;

    if (range.count == 0 || mgr->now_ms < o->feed.wait_ms ||
        (o->seeds == 0 && !mgr->feed_search &&
         mgr_tree_stream(mgr, o, range.first) == NULL))
        return false;
    cast.source = calloc(o->holder_count + 1, sizeof(struct holder *));
    cast.receiver = calloc(o->holder_count + 1, sizeof(struct holder *));
    if (cast.source != NULL && cast.receiver != NULL) {
        mgr_tree_cast(mgr, o, range, &cast);
        planned = cast.sources > 0;
    }
    if (planned && wait_for_full(mgr, o, &cast))
        planned = false;
    else if (planned && mgr_feed_many(mgr, o, cast.receivers))
        mgr_tree_plant(mgr, o, &cast, range);
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
        count += h->in != NULL && h->in->feeds == 0 && !h->reusing && !h->in->held &&
                 2 * h->have_count < o->pieces && !mgr_slow_either(h->node);
    return 2 * count > o->holder_count && mgr_feed_many(mgr, o, count);
}

/* Each segment costs every member a message or two. */
static uint32_t first_size(uint32_t members)
{
    uint32_t size = SEGMENT_FIRST;

    for (; members >= FIRST_MEMBERS && size < FIRST_MAX; members /= 2)
        size *= 2;
    return size;
}

/* Feeds of the trees before may still run: their segments are numbers of the past. */
static void feeding_begin(struct mgr *mgr, struct object *o)
{
    struct feeding *feed = &o->feed;

    mgr_slow_trust(mgr, o);
    feed->state = FEED_ON;
    feed->next = feed->low = 1;
    feed->segment += feed->segment > 0 ? SEGMENTS_KEPT : 0;
    feed->pending = 0;
    for (uint32_t i = 0; i < SEGMENTS_KEPT; i++) {
        feed->first[i] = 1;
        feed->total[i] = feed->over[i] = 0;
        feed->had_ms[i] = mgr->now_ms;
    }
    feed->members = o->hungry - o->held;
    feed->size = first_size(feed->members);
    feed->disturbed = feed->died = 0;
    feed->took_ms = 0;
    feed->piece_ms = 0;
    feed->began_ms = feed->last_had_ms = mgr->now_ms;
}

/* The last ones to have the manifest look at once whether older objects help. */
static bool wait_for_reuse(const struct mgr *mgr, const struct object *o)
{
    uint64_t enough_ms = GATHER_REUSE_MS;

    if (o->reusing * REUSE_PART > o->hungry)
        enough_ms += crowd_ms(o->hungry, GATHER_A_MS);
    return o->reusing > 0 && mgr->now_ms < o->feed.lacked_ms + enough_ms;
}

static void gather(struct mgr *mgr, struct object *o)
{
    if (o->feed.state == FEED_OFF) {
        o->feed.state = FEED_GATHER;
        o->feed.since_ms = mgr->now_ms;
        holders_changed(mgr, o);
    }
    if (o->copies[0] < o->holder_count)
        o->feed.lacked_ms = mgr->now_ms;
    if (mgr->now_ms < o->feed.since_ms + GATHER_MAX_MS + o->hungry / GATHER_A_MS &&
        (o->copies[0] < o->holder_count ||
         mgr->now_ms < o->feed.joined_ms + GATHER_MS || wait_for_reuse(mgr, o)))
        return;
    feeding_begin(mgr, o);
    mgr_log(mgr, VINE_LOG_INFO, "event=trees-begin object=%u members=%u", o->id,
            o->feed.members);
    holders_changed(mgr, o);
}

static void feeding_over(struct mgr *mgr, struct object *o)
{
    o->feed.state = FEED_OFF;
    o->feed.next = o->pieces;
    holders_changed(mgr, o);
}

uint32_t mgr_feed_heartbeat_ms(const struct mgr *mgr, const struct object *o)
{
    uint32_t members = o->feed.segment > 0 ? o->feed.members : 0;

    return mgr->limits.heartbeat_ms + crowd_ms(members, HEARTBEAT_A_MS);
}

void mgr_feed_disturbed(struct mgr *mgr, struct object *o, uint32_t weight)
{
    o->feed.joined_ms = mgr->now_ms;
    if (o->feed.state != FEED_GATHER)
        o->feed.since_ms = mgr->now_ms;
    if (o->feed.state != FEED_ON)
        return;
    o->feed.disturbed += weight;
    o->feed.died += weight == DISTURBED_DEATH;
    if (o->feed.disturbed * DISTURBED_PART <= o->feed.members)
        return;
    mgr_log(mgr, VINE_LOG_INFO, "event=trees-end object=%u members=%u disturbed=%u",
            o->id, o->feed.members, o->feed.disturbed);
    o->feed.again_ms = mgr->now_ms + (o->feed.died > 0 ? AFTER_DEATHS_MS : SETTLE_MS);
    feeding_over(mgr, o);
    give_up(mgr, o, true);
}

/* Pieces of segments that few have yet. */
static uint32_t pieces_out(const struct feeding *feed)
{
    uint32_t kept = feed->segment < SEGMENTS_KEPT ? feed->segment : SEGMENTS_KEPT;
    uint32_t out = 0;

    for (uint32_t s = feed->segment - kept; s < feed->segment; s++)
        if (feed->had_ms[slot_of(s)] == 0)
            out += segment_size(feed, s);
    return out;
}

/* A segment is had no sooner than its last piece is at the ends of the trees. While
 * segments are small, more of them are out, so that the source need not wait for it. */
static bool may_give_out(const struct feeding *feed)
{
    uint32_t levels = 1;

    while ((feed->members >> levels) > 0)
        levels++;
    return feed->pending < SEGMENTS_AHEAD ||
           (feed->pending < SEGMENTS_KEPT - 1 &&
            pieces_out(feed) < PIECES_A_LEVEL * levels);
}

static void object_run(struct mgr *mgr, struct object *o)
{
    if (o->feed.state != FEED_ON && mgr_feed_many(mgr, o, o->hungry - o->held) &&
        mgr->now_ms >= o->feed.again_ms &&
        (SEEDED_PART * o->seeds < o->hungry || is_apart(o)) &&
        (o->feed.state == FEED_GATHER || o->feed.next == 0 ||
         (mgr->feed_search && mgr->now_ms >= o->feed.since_ms + SETTLE_MS &&
          many_lack(mgr, o))))
        gather(mgr, o);
    else if (o->feed.state == FEED_GATHER) {
        o->feed.state = FEED_OFF;
        holders_changed(mgr, o);
    }
    while (o->feed.state == FEED_ON && may_give_out(&o->feed))
        if (!next_segment(mgr, o))
            break;
    if (o->feed.state == FEED_ON && o->feed.next >= o->pieces && o->feed.pending == 0)
        feeding_over(mgr, o);
}

void mgr_feed_run(struct mgr *mgr)
{
    if (!mgr->feed_due)
        return;
    mgr->feed_due = false;
    for (struct object *o = mgr->first_active; o != NULL; o = o->active_next)
        object_run(mgr, o);
}

void mgr_feed_tick(struct mgr *mgr)
{
    mgr->feed_search = true;
    mgr->feed_due = true;
    mgr_feed_run(mgr);
    mgr->feed_search = false;
}

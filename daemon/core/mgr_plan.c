/* mgr_plan.c - who fetches which piece from whom.
 *
 * A greedy matching, kept up at every event. A holder whose state changed is looked at
 * once: as a sender with a free slot it is given receivers that lack something it has,
 * the poorest of the first few, as a receiver with room any sender that has something
 * it lacks. Where the search begins changes each time, so that all have their turn. For
 * a pair the rarest piece is chosen, flights counted as copies, so that two receivers
 * do not fetch the same rare piece while another is left alone.
 *
 * The search per event is bounded (PAIRS_PER_EVENT); mgr_plan_sweep, a few times a
 * second, searches without that bound and so finds whatever was missed. It also runs
 * the endgame: a piece that is out for long is asked for a second time from somebody
 * else.
 *
 * What must hold: a flight is only made from a sender that has the piece verified and
 * has a free slot, to a receiver that lacks it and has room; piece 0 comes first and
 * alone. */
#include <string.h>

#include "daemon/core/mgr_int.h"

#define PAIRS_PER_EVENT 8u      /* tried for one holder; more wait for the sweep */
#define FITS 3u                 /* receivers, of which the poorest is taken */
#define TURN 2654435761u        /* odd, so that turns begin anywhere */
#define WINDOW_SLOW 2u          /* of a slow receiver, and slots of a slow sender */
#define SLOTS_FEEDING 1u        /* a sender's, beside its feeds */
#define SLOTS_MANIFEST 2u       /* while few have the manifest */
#define CROWD 64u               /* holders */
#define TRIES_AT_ONCE 3u        /* of one piece */
#define FORGOTTEN_FACTOR 30u    /* times slow_ms: nobody is that slow, ask again */
#define WINDOW_BESIDE_URGENT 2u /* other pieces out while a task waits for one */
#define WINDOW_AWAITED 2u /* kept free, while tasks start, for what these wait for */
#define READS_A_COPY 32u  /* a piece read so much later goes before one with a copy */
#define FLIGHTS_A_COPY 2u /* at a time; the others get it sooner from those */

enum level {                /* of what is looked for */
             LEVEL_AWAITED, /* tasks wait for it */
             LEVEL_URGENT,  /* they will need it, or are likely to */
             LEVEL_ANY,
};

static uint32_t slots_of(const struct mgr *mgr, const struct holder *h)
{
    const struct mgr_node *node = h->node;
    uint32_t slots = mgr->limits.uploads;

    if (node->out.slow && slots > WINDOW_SLOW)
        slots = WINDOW_SLOW;
    if (mgr->now_ms < node->suspect_until_ms)
        slots = slots > 1 ? slots / 2 : 1;
    if (node->feeding > 0 && h->object->feed.state == FEED_ON && slots > SLOTS_FEEDING)
        slots = SLOTS_FEEDING;
    return slots;
}

bool mgr_plan_may_send(const struct mgr *mgr, const struct holder *h)
{
    if (mgr_plan_is_top(h) && h->object->urgents == 0)
        return false;
    return h->have_count > 0 && !h->avoided && !h->node->silent &&
           h->node->sending < slots_of(mgr, h);
}

/* A piece of `among` (NULL: none) is neither at `to` nor asked for. */
static bool lacks(const struct holder *to, const uint64_t *among)
{
    for (uint32_t i = 0; among != NULL && i < bits_words(to->object->pieces); i++)
        if ((among[i] & ~to->have[i] & ~to->in->asked[i]) != 0)
            return true;
    return false;
}

static uint32_t window_of(const struct mgr *mgr, const struct mgr_node *node)
{
    return node->in.slow && mgr->limits.window > WINDOW_SLOW ? WINDOW_SLOW
                                                             : mgr->limits.window;
}

/* Room for what no task waits for. */
static bool has_room_beside(const struct mgr *mgr, const struct holder *h)
{
    uint32_t window = window_of(mgr, h->node);

    if (h->in->held && window > 2 * WINDOW_AWAITED)
        window -= WINDOW_AWAITED;
    return h->node->receiving < window;
}

bool mgr_plan_has_room(const struct mgr *mgr, const struct holder *h)
{
    const struct feeding *feed = &h->object->feed;

    if (h->in == NULL || h->complete)
        return false;
    if (!bits_get(h->have, 0))
        return h->in->outstanding == 0 && has_room_beside(mgr, h);
    if (h->reusing)
        return false;
    if (lacks(h, h->in->awaited))
        return h->node->receiving < window_of(mgr, h->node);
    if (!has_room_beside(mgr, h))
        return false;
    if (h->in->held)
        return lacks(h, h->in->urgent) || lacks(h, h->object->soon);
    if (feed->state == FEED_GATHER ||
        h->have_count + h->in->asked_count >= h->object->pieces)
        return false;
    if (feed->state != FEED_ON || lacks(h, h->in->urgent))
        return true;
    if (h->in->order == 0 || feed->next >= h->object->pieces)
        return true;
    return !h->node->in.slow && mgr_feed_loose(h);
}

uint64_t mgr_plan_piece_bytes(const struct object *o)
{
    return o->pieces > 1 ? o->size / (o->pieces - 1) : o->size;
}

/* Of word i of the pieces: those between what feeds bring now and what is given out;
 * any for who has no place in the trees, and at their end. */
static uint64_t fed_word(const struct holder *to, uint32_t i)
{
    const struct object *o = to->object;
    uint32_t first = i * 64;
    uint64_t word = ~0ull;

    if (to->in->order == 0 || o->feed.next >= o->pieces)
        return word;
    if (o->feed.low >= first + 64 || o->feed.next <= first)
        return 0;
    if (o->feed.low > first)
        word &= ~0ull << (o->feed.low - first);
    if (o->feed.next < first + 64)
        word &= (1ull << (o->feed.next - first)) - 1;
    return word;
}

struct choice {
    const uint64_t *among;   /* NULL: any piece */
    const uint32_t *read_at; /* NULL: in no order */
    uint32_t a_copy;         /* flights; 0: any number */
};

/* Nodes that start the same job wait for the same piece at the same time: sent to all
 * of them by the one that has it, it would come late to all. */
static bool is_crowded(const struct object *o, uint32_t piece, uint32_t a_copy)
{
    return a_copy > 0 && o->spread[piece] >= (a_copy + 1) * o->copies[piece];
}

/* The rarest piece that `from` has and `to` neither has nor awaits; of what was read
 * some time, the rarest of the first ones. pieces: none. */
static uint32_t rarest_piece(const struct object *o, const struct holder *from,
                             const struct holder *to, struct choice choice)
{
    uint32_t best = o->pieces, words = bits_words(o->pieces);
    uint64_t best_cost = UINT64_MAX;
    /* From who is slow only what others may not have; or when nothing else comes. */
    uint32_t most =
        from->node->out.slow && to->in->flights > 0 ? o->slow_out : UINT32_MAX;

    for (uint32_t i = 0; i < words; i++) {
        uint64_t has = from->complete ? bits_full_word(o->pieces, i) : from->have[i];
        uint64_t left = has & ~to->have[i] & ~to->in->asked[i];
        if (choice.among != NULL)
            left &= choice.among[i];
        else if (o->feed.state == FEED_ON)
            left &= fed_word(to, i);
        for (; left != 0; left &= left - 1) {
            uint32_t piece = i * 64 + (uint32_t)__builtin_ctzll(left);
            uint64_t cost = o->spread[piece];
            if (o->copies[piece] > most || is_crowded(o, piece, choice.a_copy))
                continue;
            if (choice.read_at != NULL)
                cost = cost * READS_A_COPY + choice.read_at[piece];
            if (cost < best_cost) {
                best_cost = cost;
                best = piece;
            }
        }
    }
    return best;
}

/* What tasks at `to` will need: first what they or others read, in its order. */
static uint32_t pick_urgent(const struct object *o, const struct holder *from,
                            const struct holder *to)
{
    uint32_t piece = o->pieces;

    if (o->soon != NULL && (to->in->held || to->in->urgent != NULL))
        piece = rarest_piece(o, from, to,
                             (struct choice){o->soon, o->read_at, FLIGHTS_A_COPY});
    if (piece == o->pieces && to->in->urgent != NULL)
        piece = rarest_piece(o, from, to,
                             (struct choice){to->in->urgent, NULL, FLIGHTS_A_COPY});
    return piece;
}

struct search {
    bool h_sends;     /* the other side receives */
    enum level level; /* no less than that */
    bool again;       /* nothing was found for pairs that have nothing under way */
    uint32_t tries;   /* pairs looked at */
    uint32_t a_copy;  /* flights of what a task waits for; 0: any number */
};

/* What tasks at `to` wait for comes first; while such a piece is still to be had, the
 * way is kept short for it. */
static uint32_t pick_piece(const struct mgr *mgr, const struct holder *from,
                           const struct holder *to, const struct search *how)
{
    const struct object *o = from->object;
    enum level level = how->level;
    uint32_t piece = o->pieces;

    /* Few at a time are sooner at the next ones, as long as few have it. */
    if (!bits_get(to->have, 0) && from->node->sending >= SLOTS_MANIFEST &&
        o->holder_count >= CROWD && 2 * o->copies[0] < o->holder_count)
        return o->pieces;
    if (!bits_get(to->have, 0))
        return level == LEVEL_ANY && mgr_holder_has(from, 0) &&
                       !bits_get(to->in->asked, 0)
                   ? 0
                   : o->pieces;
    if (to->in->awaited != NULL)
        piece = rarest_piece(o, from, to,
                             (struct choice){to->in->awaited, NULL, how->a_copy});
    if (piece < o->pieces || level == LEVEL_AWAITED || !has_room_beside(mgr, to))
        return piece;
    piece = pick_urgent(o, from, to);
    if (piece < o->pieces || level == LEVEL_URGENT || to->in->held ||
        (to->in->outstanding >= WINDOW_BESIDE_URGENT && lacks(to, to->in->urgent)))
        return piece;
    return rarest_piece(o, from, to, (struct choice){0});
}

static struct flight *flight_push(struct intake *in)
{
    if (in->flights == in->room) {
        uint32_t room = in->room == 0 ? 8 : 2 * in->room;
        struct flight *bigger = realloc(in->flight, room * sizeof(*bigger));
        if (bigger == NULL)
            return NULL;
        in->flight = bigger;
        in->room = room;
    }
    return &in->flight[in->flights++];
}

static bool assign(struct mgr *mgr, struct holder *from, struct holder *to,
                   uint32_t piece, bool second)
{
    struct flight *f = flight_push(to->in);

    if (f == NULL || (!to->fresh && mgr_list_push(&mgr->fresh, to) < 0)) {
        if (f != NULL)
            to->in->flights--;
        return false;
    }
    to->fresh = true;
    *f = (struct flight){
        .piece = piece, .fresh = true, .from = from->node, .planned_ms = mgr->now_ms};
    if (!second) {
        mgr_ask(to->in, piece);
        to->in->outstanding++;
        to->node->receiving++;
    }
    to->object->spread[piece]++;
    from->node->sending++;
    from->node->bytes_planned_out += mgr_plan_piece_bytes(to->object);
    mgr_node_changed(mgr, from->node);
    mgr_node_changed(mgr, to->node);
    return true;
}

static bool pair_ok(const struct mgr *mgr, const struct holder *from,
                    const struct holder *to)
{
    /* A slow receiver keeps a slot for long: those of the few who have it all are for
     * others. */
    const struct object *o = from->object;

    if (to->node->in.slow && from->complete && o->slow_in < o->hungry &&
        2 * o->seeds < o->holder_count)
        return false;
    return from->node != to->node && !mgr_fail_shunned(mgr, to, from->node);
}

static bool has_little_to_do(const struct mgr *mgr, const struct holder *from)
{
    return 2 * from->node->sending < slots_of(mgr, from);
}

/* Pieces from one sender to one receiver at a time. They come one behind the other, at
 * what is left of the receiver's link: a sender that serves several receivers instead
 * keeps its own link busy. What a task waits for goes out at once. A second, where no
 * other pair is to be had, for a sender that would have little to do. */
static bool pair_has_room(const struct mgr *mgr, const struct holder *from,
                          const struct holder *to, const struct search *how)
{
    uint32_t others = to->object->holder_count - 1, most = 1, count = 0;

    if (how->level < LEVEL_ANY || (how->again && has_little_to_do(mgr, from)))
        return true;
    if (others > 0 && others < mgr->limits.window)
        most = (mgr->limits.window + others - 1) / others;
    for (uint32_t i = 0; i < to->in->flights && count < most; i++)
        count += to->in->flight[i].from == from->node;
    return count < most;
}

/* A piece that may go from the one to the other now; pieces: none. */
static uint32_t pair_piece(const struct mgr *mgr, const struct holder *from,
                           const struct holder *to, const struct search *how)
{
    bool kept = mgr_plan_is_top(from) && how->level == LEVEL_ANY;

    if (kept || !pair_ok(mgr, from, to) || !pair_has_room(mgr, from, to, how))
        return from->object->pieces;
    return pick_piece(mgr, from, to, how);
}

/* Of receivers the poorest; of senders who sends least, if a task waits. */
static bool is_better(const struct search *how, const struct holder *other,
                      const struct holder *best)
{
    if (best == NULL)
        return true;
    return how->h_sends ? other->have_count < best->have_count
                        : other->node->sending < best->node->sending;
}

/* One flight between `h` and one of these, from somewhere in the middle on: the first
 * that fits, and of some receivers that fit the poorest. */
static bool match_among(struct mgr *mgr, struct holder *h, const struct list *others,
                        struct search *how)
{
    uint32_t i = others->count > 0 ? (mgr->turn += TURN) % others->count : 0;
    uint32_t piece = h->object->pieces;
    uint32_t fits = how->h_sends || how->level == LEVEL_AWAITED ? FITS : 1;
    struct holder *best = NULL;

    for (uint32_t n = 0; n < others->count && how->tries > 0 && fits > 0; n++) {
        struct holder *other = others->at[i];
        struct holder *from = how->h_sends ? h : other, *to = how->h_sends ? other : h;
        uint32_t found = h->object->pieces;
        if (is_better(how, other, best))
            found = pair_piece(mgr, from, to, how);
        if (found < h->object->pieces) {
            best = other;
            piece = found;
            fits--;
        }
        how->tries--;
        i = i + 1 < others->count ? i + 1 : 0;
    }
    if (best == NULL)
        return false;
    return assign(mgr, how->h_sends ? h : best, how->h_sends ? best : h, piece, false);
}

static bool match_once(struct mgr *mgr, struct holder *h, struct search how)
{
    struct object *o = h->object;

    if (how.h_sends)
        return match_among(mgr, h, &o->receivers, &how);
    return match_among(mgr, h, &o->senders, &how) ||
           match_among(mgr, h, &o->last_senders, &how);
}

static bool match_one(struct mgr *mgr, struct holder *h, bool h_sends, enum level level,
                      uint32_t tries)
{
    struct search how = {h_sends, level, false, tries, FLIGHTS_A_COPY};

    if (tries == UINT32_MAX) /* some time has passed: who has it now may be slow */
        how.a_copy = 0;

    if (match_once(mgr, h, how))
        return true;
    how.again = level == LEVEL_ANY && (!h_sends || has_little_to_do(mgr, h));
    return how.again && match_once(mgr, h, how);
}

static void plan_for(struct mgr *mgr, struct holder *h, uint32_t tries)
{
    enum level first = h->object->urgents > 0 ? LEVEL_AWAITED : LEVEL_ANY;

    for (enum level l = first; l <= LEVEL_ANY; l++)
        while (h->send.list != NULL && match_one(mgr, h, true, l, tries))
            ;
    for (enum level l = first; l <= LEVEL_ANY; l++)
        while (h->receive.list != NULL && match_one(mgr, h, false, l, tries))
            ;
}

/* A FETCH that is sent when it is full, and at the end. */
struct telling {
    struct mgr *mgr;
    struct holder *to;
    const struct mgr_node *last;
    struct msg m;
    struct msg_assign assigns[ASSIGNS_MAX];
};

static void tell_send(struct telling *t)
{
    t->m.assigns = t->assigns;
    if (t->m.assign_count > 0)
        mgr_send(t->mgr, t->to->node, &t->m);
    t->m.assign_count = 0;
    t->last = NULL;
}

/* Runs of pieces from one sender become one range. */
static void tell_piece(struct telling *t, const struct mgr_node *from, uint32_t piece,
                       bool feed)
{
    if (from == t->last) {
        struct msg_assign *a = &t->assigns[t->m.assign_count - 1];
        if (a->range.first + a->range.count == piece && a->feed == feed) {
            a->range.count++;
            return;
        }
    }
    if (t->m.assign_count == ASSIGNS_MAX)
        tell_send(t);
    t->last = from;
    t->assigns[t->m.assign_count++] = (struct msg_assign){.range = {piece, 1},
                                                          .peer = from->name,
                                                          .addr = from->addr,
                                                          .port = from->port,
                                                          .feed = feed};
}

static void fresh_tell(struct mgr *mgr, struct holder *h)
{
    struct telling t; /* large: not cleared */

    t.mgr = mgr;
    t.to = h;
    t.last = NULL;
    t.m = (struct msg){.type = MSG_FETCH,
                       .digest = h->object->digest,
                       .heartbeat_ms = mgr_feed_heartbeat_ms(mgr, h->object)};
    h->fresh = false;
    for (uint32_t i = 0; h->in != NULL && i < h->in->flights; i++) {
        struct flight *f = &h->in->flight[i];
        if (f->fresh)
            tell_piece(&t, f->from, f->piece, false);
        f->fresh = false;
    }
    for (uint32_t i = 0; h->in != NULL && h->in->feeds > 0 && i < FEEDS_MAX; i++) {
        struct feed *f = &h->in->feed[i];
        for (uint64_t left = f->fresh ? f->awaited : 0; left != 0; left &= left - 1)
            tell_piece(&t, f->from, f->first + (uint32_t)__builtin_ctzll(left), true);
        f->fresh = false;
    }
    tell_send(&t);
}

static void fresh_tell_all(struct mgr *mgr)
{
    for (uint32_t i = 0; i < mgr->fresh.count; i++)
        fresh_tell(mgr, mgr->fresh.at[i]);
    mgr->fresh.count = 0;
}

static void dirty_drain(struct mgr *mgr)
{
    for (uint32_t i = 0; i < mgr->dirty.count; i++) {
        struct holder *h = mgr->dirty.at[i];
        h->dirty_at = 0;
        plan_for(mgr, h, PAIRS_PER_EVENT);
    }
    mgr->dirty.count = 0;
}

void mgr_plan_run(struct mgr *mgr)
{
    dirty_drain(mgr);
    fresh_tell_all(mgr);
}

/* Late, and nothing speaks for waiting longer: its sender is slow, or nothing else is
 * left to be asked for. */
static bool flight_overdue(const struct mgr *mgr, const struct holder *h,
                           const struct flight *f)
{
    uint64_t age = mgr->now_ms - f->planned_ms;
    uint64_t enough = mgr->limits.slow_ms;

    if (f->doubled || !mgr_slow_flight(mgr, h->object, f))
        return false;
    if (h->node->in.slow)
        enough *= FORGOTTEN_FACTOR;
    else if (f->from->out.slow ||
             h->have_count + h->in->asked_count >= h->object->pieces)
        enough = 0;
    return age > enough;
}

/* So many flights of the piece that one more would not help. */
static bool tried_enough(const struct intake *in, uint32_t piece)
{
    uint32_t tries = 0;

    for (uint32_t i = 0; i < in->flights; i++)
        tries += in->flight[i].piece == piece;
    return tries >= TRIES_AT_ONCE;
}

static bool flies_from(const struct intake *in, uint32_t piece,
                       const struct mgr_node *from)
{
    for (uint32_t i = 0; i < in->flights; i++)
        if (in->flight[i].piece == piece && in->flight[i].from == from)
            return true;
    return false;
}

static struct holder *another_of(struct mgr *mgr, struct holder *h,
                                 const struct flight *f, const struct list *senders)
{
    for (uint32_t i = 0; i < senders->count; i++) {
        struct holder *from = senders->at[(mgr->turn + i) % senders->count];
        if (!flies_from(h->in, f->piece, from->node) && pair_ok(mgr, from, h) &&
            mgr_holder_has(from, f->piece))
            return from;
    }
    return NULL;
}

static struct holder *another_sender(struct mgr *mgr, struct holder *h,
                                     const struct flight *f)
{
    struct holder *from = another_of(mgr, h, f, &h->object->senders);

    mgr->turn += TURN;
    return from != NULL ? from : another_of(mgr, h, f, &h->object->last_senders);
}

/* Ask once more, from another, for what is out for too long. To a receiver that is slow
 * twice as many pieces on its link would make it worse. */
static void endgame(struct mgr *mgr, struct holder *h)
{
    uint32_t flights = h->in->flights;

    for (uint32_t i = 0; i < flights; i++) {
        struct flight f = h->in->flight[i];
        struct holder *from;
        if (!flight_overdue(mgr, h, &f) || tried_enough(h->in, f.piece))
            continue;
        from = another_sender(mgr, h, &f);
        if (from == NULL || !assign(mgr, from, h, f.piece, true))
            continue;
        h->in->flight[i].doubled = true;
        mgr_log(mgr, VINE_LOG_DEBUG, "event=slow node=%s peer=%s piece=%u",
                h->node->name, f.from->name, f.piece);
    }
}

void mgr_plan_endgame(struct mgr *mgr)
{
    for (struct object *o = mgr->first_active; o != NULL; o = o->active_next)
        for (struct holder *h = o->holders; h != NULL; h = h->object_next)
            if (h->in != NULL)
                endgame(mgr, h);
}

void mgr_plan_sweep(struct mgr *mgr)
{
    for (struct object *o = mgr->first_active; o != NULL; o = o->active_next) {
        mgr_object_sweep_avoided(mgr, o);
        for (struct holder *h = o->holders; h != NULL; h = h->object_next) {
            if (h->receive.list != NULL)
                plan_for(mgr, h, UINT32_MAX);
        }
        mgr_fail_starving(mgr, o);
    }
    mgr_plan_run(mgr);
}

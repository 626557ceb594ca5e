/* mgr_tree.c - the trees of a segment.
 *
 * Each half of a segment, a stripe, flows down a binary tree; who is inside the one is
 * a leaf of the other. Nodes of one switch hang together: a stripe enters a switch
 * once, at its first node, and the switches form a tree of their own. With several
 * sources the receivers are shared out, those of a source's own switch first. */
#include <string.h>

#include "daemon/core/mgr_feed.h"

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
    if (f == NULL || from->feeding >= FEEDS_OUT_MAX ||
        (!to->fresh && mgr_list_push(&mgr->fresh, to) < 0))
        return;
    to->fresh = true;
    *f = (struct feed){.from = from,
                       .first = range.first,
                       .awaited = want,
                       .segment = o->feed.segment,
                       .fresh = true};
    for (; want != 0; want &= want - 1) {
        uint32_t piece = range.first + (uint32_t)__builtin_ctzll(want);
        mgr_ask(in, piece);
        o->spread[piece]++;
    }
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
        for (uint32_t i = 0; i < size; i++)
            member(t, stripe, g, i)->top |=
                children > 0 ? i < size / 4 + 1 : 4 * i + 4 < size;
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
    if (h->avoided || mgr->now_ms < h->node->suspect_until_ms || h->node->silent ||
        mgr_slow_either(h->node) || h->node->feeding >= FEEDS_OUT_MAX)
        return false;
    return h->complete || has_mask(h, range) == mask_of(range.count);
}

void mgr_tree_leave(struct mgr *mgr, struct holder *h)
{
    struct holder *newest = h;

    if (h->in == NULL || h->in->order == 0)
        return;
    for (struct holder *x = h->object->holders; x != NULL; x = x->object_next)
        if (x->in != NULL && x->in->order > newest->in->order &&
            x->node->switch_id == h->node->switch_id)
            newest = x;
    newest->in->order = h->in->order;
    h->in->order = 0;
}

/* It has a place in the trees. */
static bool is_member(const struct mgr *mgr, const struct holder *h)
{
    return h->in != NULL && !h->complete && bits_get(h->have, 0) && !h->avoided &&
           !h->reusing && !h->in->held && !h->node->silent &&
           !mgr_slow_either(h->node) && mgr->now_ms >= h->node->suspect_until_ms;
}

static bool is_full(const struct holder *h)
{
    return h->in->feeds + 2 > FEEDS_MAX;
}

/* This segment is worth a feed to it. */
static bool receiver_fits(const struct holder *h, struct msg_range range)
{
    uint64_t here = has_mask(h, range) | asked_mask(h, range);

    return !is_full(h) && 2 * (uint32_t)__builtin_popcountll(here) <= range.count;
}

struct holder *mgr_tree_stream(const struct mgr *mgr, const struct object *o,
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

static int by_switch(const void *a, const void *b)
{
    const struct mgr_node *x = (*(struct holder *const *)a)->node;
    const struct mgr_node *y = (*(struct holder *const *)b)->node;
    const struct intake *g = (*(struct holder *const *)a)->in;
    const struct intake *h = (*(struct holder *const *)b)->in;

    if (x->switch_id != y->switch_id)
        return x->switch_id < y->switch_id ? -1 : 1;
    if (g != NULL && h != NULL && g->order != h->order)
        return g->order < h->order ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static bool same_switch(const struct holder *a, const struct holder *b)
{
    return a->node->switch_id == b->node->switch_id;
}

/* Who does not take part in this segment is replaced by the newest of its switch: all
 * others keep their places, and so whom they feed. */
static void fill_places(struct cast *cast, struct msg_range range)
{
    uint32_t kept = 0;

    for (uint32_t first = 0, next; first < cast->receivers; first = next) {
        uint32_t end = first;
        while (end < cast->receivers &&
               same_switch(cast->receiver[first], cast->receiver[end]))
            end++;
        next = end;
        for (uint32_t i = first; i < end; i++) {
            while (end > i && !receiver_fits(cast->receiver[end - 1], range))
                end--;
            if (i < end && !receiver_fits(cast->receiver[i], range))
                cast->receiver[i] = cast->receiver[--end];
            if (i < end)
                cast->receiver[kept++] = cast->receiver[i];
        }
    }
    cast->receivers = kept;
}

void mgr_tree_cast(struct mgr *mgr, const struct object *o, struct msg_range range,
                   struct cast *cast)
{
    struct holder *stream = mgr_tree_stream(mgr, o, range.first);

    for (struct holder *h = o->holders; h != NULL; h = h->object_next) {
        bool source = h == stream || source_fits(mgr, h, range);
        if (source)
            cast->source[cast->sources++] = h;
        if (source || !is_member(mgr, h)) {
            mgr_tree_leave(mgr, h);
        } else {
            if (h->in->order == 0)
                h->in->order = ++mgr->last_order;
            cast->receiver[cast->receivers++] = h;
            cast->full += is_full(h);
        }
        if (h->in != NULL && !h->node->in.slow)
            h->in->loose = true;
    }
    qsort(cast->source, cast->sources, sizeof(struct holder *), by_switch);
    qsort(cast->receiver, cast->receivers, sizeof(struct holder *), by_switch);
    fill_places(cast, range);
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

/* Who began first comes first in the one tree or in the other; in the middle, where few
 * or none hang on a node, are the newest. */
static void tree_grow(struct tree *t, const struct cast *cast,
                      const struct share *share)
{
    uint32_t end = t->group[t->groups];

    for (uint32_t i = 0; i < share->count; i++)
        t->at[end + (i % 2 == 0 ? i / 2 : share->count - 1 - i / 2)] =
            cast->receiver[share->first + i];
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
        t->source->top = true;
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

void mgr_tree_plant(struct mgr *mgr, struct object *o, const struct cast *cast,
                    struct msg_range range)
{
    struct msg_range half[2] = {{range.first, (range.count + 1) / 2}};
    struct share *share = calloc(cast->receivers + 1, sizeof(*share));
    struct tree t = {.at = calloc(cast->receivers + 1, sizeof(struct holder *)),
                     .group = calloc(cast->receivers + 2, sizeof(uint32_t))};
    uint32_t slot = slot_of(o->feed.segment);

    for (uint32_t i = 0; i < cast->receivers; i++)
        cast->receiver[i]->top = false;
    half[1] =
        (struct msg_range){range.first + half[0].count, range.count - half[0].count};
    if (o->feed.total[slot] > 0 && o->feed.had_ms[slot] == 0)
        o->feed.pending--; /* so few want it still that it is forgotten */
    o->feed.total[slot] = o->feed.over[slot] = 0;
    o->feed.had_ms[slot] = 0;
    o->feed.first[slot] = range.first;
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

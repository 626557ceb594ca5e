/* net.c - data between nodes.
 *
 * A pipe is a connection from one node to another; requests on it are answered in
 * order. An uplink serves its pipes in turn, a quantum at a time; a quantum then passes
 * the receiver's downlink, first come first served. At most PIPE_WINDOW quanta of a
 * pipe are under way, as TCP's window would have it, so that a slow receiver does not
 * take more of a sender than it can swallow. Between switches it passes the uplinks of
 * both. The time of a downlink, and of a switch's uplink, is reserved when a quantum
 * leaves its sender: with unequal latencies that is nearly the order of arrival. */
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define PIPE_WINDOW 4u
#define TOLD_US (500 * MS)        /* between two words of progress below a piece */
#define VERIFY_RATE 1200000000ull /* bytes a second of one core's SHA-256 */

static void uplink_kick(struct sim *sim, struct host *from);

uint64_t net_latency_us(const struct sim *sim, const struct host *a,
                        const struct host *b)
{
    return sim->latency_us + a->far_us + (b == NULL ? 0 : b->far_us);
}

static void ring_add(struct host *from, struct pipe *p)
{
    if (p->in_ring)
        return;
    p->in_ring = true;
    if (from->ring_last == NULL) {
        p->next = p;
    } else {
        p->next = from->ring_last->next;
        from->ring_last->next = p;
    }
    from->ring_last = p;
}

static void ring_remove(struct host *from, struct pipe *gone)
{
    struct pipe *p = from->ring_last;

    if (!gone->in_ring)
        return;
    while (p->next != gone)
        p = p->next;
    p->next = gone->next;
    if (from->ring_last == gone)
        from->ring_last = p == gone ? NULL : p;
    gone->in_ring = false;
    gone->next = NULL;
}

static void pipe_put(struct sim *sim, struct pipe *p)
{
    struct host *from = &sim->hosts[p->from];

    if (!p->dead && p->first < p->count)
        return;
    ring_remove(from, p);
    if (p->in_flight > 0)
        return;
    free(p->queue);
    free(p);
}

static struct pipe *pipe_get(struct sim *sim, struct host *from, const struct host *to)
{
    struct pipe *p = from->ring_last;

    do {
        if (p != NULL && p->to == to->index && p->to_epoch == to->epoch && !p->dead)
            return p;
        p = p == NULL ? NULL : p->next;
    } while (p != from->ring_last);
    p = calloc(1, sizeof(*p));
    if (p == NULL)
        abort();
    p->from = from->index;
    p->to = to->index;
    p->from_epoch = from->epoch;
    p->to_epoch = to->epoch;
    ring_add(from, p);
    return p;
}

static void pipe_push(struct pipe *p, struct pipe_piece piece)
{
    if (p->count == p->room) {
        p->room = p->room == 0 ? 16 : 2 * p->room;
        p->queue = realloc(p->queue, p->room * sizeof(*p->queue));
        if (p->queue == NULL)
            abort();
    }
    p->queue[p->count++] = piece;
}

/* The rest of a fetch is not wanted or not to be had. */
static void pipe_drop_fetch(struct pipe *p, uint64_t fetch, bool head_too)
{
    uint32_t kept = p->first;

    for (uint32_t i = p->first; i < p->count; i++) {
        bool head = i == p->first && p->left > 0 && !head_too;
        if (p->queue[i].fetch != fetch || head)
            p->queue[kept++] = p->queue[i];
    }
    p->count = kept;
}

static void refused(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->epoch == e->epoch && h->core != NULL && !host_held(sim, h, e))
        host_fetch_failed(sim, h, e->a, (enum vine_code)e->b,
                          e->b == VINE_ENOENT ? "the peer does not have it"
                                              : "the connection was lost");
}

static void refuse(struct sim *sim, const struct host *from, const struct host *to,
                   uint64_t fetch, enum vine_code code)
{
    at(sim, sim->now_us + net_latency_us(sim, from, to),
       (struct event){.run = refused,
                      .host = to->index,
                      .epoch = to->epoch,
                      .a = fetch,
                      .b = code});
}

static void verified(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    const struct fetch *f;

    if (h->epoch != e->epoch || h->core == NULL || host_held(sim, h, e))
        return;
    f = host_find_fetch(h, e->a);
    if (f != NULL)
        host_reuse_piece(sim, h, f, (uint32_t)e->b);
    host_piece(sim, h, e->a, (uint32_t)e->b);
}

struct quantum {
    struct pipe *pipe;
    struct pipe_piece piece;
    uint64_t bytes;
    bool last, corrupt;
};

static void arrived(struct sim *sim, struct event *e)
{
    struct quantum *q = e->p;
    struct pipe *p = q->pipe;
    struct host *from = &sim->hosts[p->from], *to = &sim->hosts[p->to];

    /* A frozen receiver's buffers are full: the window stays closed. */
    if (!p->dead && to->epoch == p->to_epoch && host_held(sim, to, e))
        return;
    p->in_flight--;
    sim->bytes_sent += q->bytes;
    if (!p->dead && to->core != NULL && to->epoch == p->to_epoch &&
        (q->last || sim->now_us >= p->told_us + TOLD_US)) {
        struct fetch *f = host_find_fetch(to, q->piece.fetch);
        p->told_us = sim->now_us;
        if (f != NULL && q->last && q->corrupt) {
            host_fetch_failed(sim, to, f->id, VINE_ECORRUPT, "wrong bytes");
            pipe_drop_fetch(p, q->piece.fetch, true);
        } else if (f != NULL && q->last) {
            uint64_t bytes = piece_bytes(sim, q->piece.thing, q->piece.piece);
            at(sim, sim->now_us + bytes * SECOND / VERIFY_RATE * (to->disk_us / MS),
               (struct event){.run = verified,
                              .host = to->index,
                              .epoch = to->epoch,
                              .a = f->id,
                              .b = q->piece.piece});
        } else if (f != NULL) {
            node_transfer_progress(to->core, f->id, q->bytes, now_ms(sim));
        }
    }
    free(q);
    pipe_put(sim, p);
    uplink_kick(sim, from);
}

static uint64_t link_us(uint64_t bytes, uint64_t rate)
{
    return (bytes * SECOND + rate - 1) / rate;
}

static uint64_t passed(uint64_t *free_us, uint64_t start, uint64_t bytes, uint64_t rate)
{
    if (*free_us < start)
        *free_us = start;
    *free_us += link_us(bytes, rate);
    return *free_us;
}

static void left_uplink(struct sim *sim, struct event *e)
{
    struct quantum *q = e->p;
    struct host *from = &sim->hosts[q->pipe->from], *to = &sim->hosts[q->pipe->to];
    uint64_t here = sim->now_us + net_latency_us(sim, from, to), when = here;

    from->uplink_busy = false;
    if (from->leaf != to->leaf) {
        struct leaf_switch *up = &sim->leaves[from->leaf];
        struct leaf_switch *down = &sim->leaves[to->leaf];
        sim->bytes_crossed += q->bytes;
        when = passed(&up->up_free_us, when, q->bytes, up->rate);
        when = passed(&down->down_free_us, when, q->bytes, down->rate);
    }
    when = passed(&to->down_free_us, when, q->bytes, to->down_rate);
    at(sim, when < here ? here : when,
       (struct event){.run = arrived, .p = q, .owned = true});
    uplink_kick(sim, from);
}

static bool may_serve(const struct sim *sim, const struct host *from,
                      const struct pipe_piece *piece)
{
    struct msg_range range = {piece->piece, 1};

    return node_may_serve(from->core, &sim->things[piece->thing].digest, range);
}

static bool may_wait(const struct sim *sim, const struct host *from,
                     const struct pipe_piece *piece)
{
    struct msg_range range = {piece->piece, 1};

    return node_may_wait(from->core, &sim->things[piece->thing].digest, range) &&
           sim->now_us < piece->since_us + NODE_HOLD_MS * MS;
}

static void held_too_long(struct sim *sim, struct event *e)
{
    struct host *from = &sim->hosts[e->host];

    if (from->core != NULL && from->epoch == e->epoch && !host_held(sim, from, e))
        net_kick(sim, from);
}

/* Another request that need not wait goes before this one. */
static bool pipe_overtake(struct sim *sim, struct host *from, struct pipe *p)
{
    uint64_t held = p->queue[p->first].fetch;

    for (uint32_t i = p->first + 1; i < p->count; i++) {
        struct pipe_piece piece = p->queue[i];
        if (piece.fetch == held)
            continue;
        held = piece.fetch; /* in order within a request */
        if (!may_serve(sim, from, &piece))
            continue;
        memmove(&p->queue[p->first + 1], &p->queue[p->first],
                (i - p->first) * sizeof(piece));
        p->queue[p->first] = piece;
        return true;
    }
    return false;
}

/* The next piece of a pipe that may be served; false: none now. */
static bool pipe_begin_piece(struct sim *sim, struct host *from, struct pipe *p)
{
    while (p->left == 0 && p->first < p->count) {
        struct pipe_piece *piece = &p->queue[p->first];
        uint64_t fetch = piece->fetch;
        if (may_serve(sim, from, piece)) {
            check_served(sim, from, piece->thing, piece->piece);
            p->left =
                host_piece_bytes(sim, &sim->hosts[p->to], piece->thing, piece->piece);
            break;
        }
        if (may_wait(sim, from, piece)) {
            if (!pipe_overtake(sim, from, p))
                return false;
            continue;
        }
        refuse(sim, from, &sim->hosts[p->to], fetch,
               sim->now_us < piece->since_us + NODE_HOLD_MS * MS ? VINE_ENOENT
                                                                 : VINE_ECANCELED);
        pipe_drop_fetch(p, fetch, true);
    }
    return p->left > 0;
}

static void uplink_send(struct sim *sim, struct host *from, struct pipe *p)
{
    struct quantum *q = calloc(1, sizeof(*q));

    if (q == NULL)
        abort();
    q->pipe = p;
    q->piece = p->queue[p->first];
    q->bytes = p->left < sim->quantum ? p->left : sim->quantum;
    q->corrupt = from->corrupt;
    p->left -= q->bytes;
    q->last = p->left == 0;
    if (q->last) {
        uint64_t fetch = p->queue[p->first++].fetch;
        for (uint32_t i = p->first; i < p->count; i++)
            if (p->queue[i].fetch == fetch)
                p->queue[i].since_us = sim->now_us;
    }
    p->in_flight++;
    from->uplink_busy = true;
    at(sim, sim->now_us + link_us(q->bytes, from->up_rate),
       (struct event){.run = left_uplink, .p = q, .owned = true});
    if (q->last && p->first == p->count)
        ring_remove(from, p);
}

static void uplink_kick(struct sim *sim, struct host *from)
{
    struct pipe *p, *end;

    if (from->uplink_busy || from->core == NULL || from->frozen_until_us > 0 ||
        from->ring_last == NULL)
        return;
    end = from->ring_last;
    p = end->next;
    for (;;) {
        struct pipe *next = p->next;
        bool was_end = p == end;
        if (p->in_flight < PIPE_WINDOW && pipe_begin_piece(sim, from, p)) {
            from->ring_last = p; /* its turn is over, the next comes first */
            uplink_send(sim, from, p);
            return;
        }
        if (p->first == p->count)
            pipe_put(sim, p);
        if (was_end || from->ring_last == NULL)
            return;
        p = next;
    }
}

static void requested(struct sim *sim, struct event *e)
{
    struct host *from = &sim->hosts[e->b], *to = &sim->hosts[e->host];
    struct fetch *f = host_find_fetch(to, e->a);
    struct pipe *p;

    if (to->epoch != e->epoch || to->core == NULL || f == NULL)
        return;
    if (from->core == NULL) {
        if (!from->silent)
            refuse(sim, from, to, f->id, VINE_EDOWN);
        return;
    }
    if (host_held(sim, from, e))
        return;
    p = pipe_get(sim, from, to);
    for (uint32_t i = 0; i < f->range.count; i++)
        pipe_push(
            p, (struct pipe_piece){f->id, f->thing, f->range.first + i, sim->now_us});
    if (!may_serve(sim, from, &p->queue[p->count - 1]))
        at(sim, sim->now_us + NODE_HOLD_MS * MS,
           (struct event){
               .run = held_too_long, .host = from->index, .epoch = from->epoch});
    uplink_kick(sim, from);
}

void net_fetch(struct sim *sim, struct host *h, struct fetch *f)
{
    at(sim, sim->now_us + net_latency_us(sim, h, &sim->hosts[f->peer]),
       (struct event){.run = requested,
                      .host = h->index,
                      .epoch = h->epoch,
                      .a = f->id,
                      .b = f->peer});
}

void net_kick(struct sim *sim, struct host *h)
{
    uplink_kick(sim, h);
}

void net_cancel(struct sim *sim, struct host *h, const struct fetch *f)
{
    struct host *from = &sim->hosts[f->peer];
    struct pipe *p = from->ring_last;

    if (p == NULL)
        return;
    do {
        p = p->next;
        if (p->to == h->index)
            pipe_drop_fetch(p, f->id, false);
    } while (p != from->ring_last);
}

/* Its pipes end; those it sent to learn it, unless it died silently. */
void net_host_gone(struct sim *sim, struct host *h)
{
    while (h->ring_last != NULL) {
        struct pipe *p = h->ring_last;
        p->dead = true;
        pipe_put(sim, p);
    }
    for (uint32_t i = 0; i < sim->host_count; i++) {
        struct host *other = &sim->hosts[i];
        for (struct fetch *f = other->fetches; f != NULL && !h->silent; f = f->next)
            if (f->peer == h->index)
                refuse(sim, h, other, f->id, VINE_EDOWN);
    }
}

/* At the end of a run: what still stands in its ring. */
void net_free(struct host *h)
{
    struct pipe *p = h->ring_last, *next = p == NULL ? NULL : p->next;

    if (p == NULL)
        return;
    p->next = NULL; /* a chain now */
    for (p = next; p != NULL; p = next) {
        next = p->next;
        free(p->queue);
        free(p);
    }
    h->ring_last = NULL;
}

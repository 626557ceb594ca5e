/* reuse.c - what a host's store has of a new thing: an older one that shares pieces.
 *
 * Thing i + 1 shares with thing i: by piece all of it, half of it, or nothing. A disk
 * may have damaged some of that, and may take longer than the core waits. */
#include <stdlib.h>
#include <string.h>

#include "daemon/core/bits.h"
#include "tests/sim/sim.h"

#define REUSE_RATE 500000000ull
#define PATIENCE_US (4 * SECOND) /* the core has a little more */

struct reuse {
    uint64_t bytes, bytes_parts;
    bool have[VINE_PIECES_MAX];
    uint32_t missing[VINE_PIECES_MAX];
};

/* Percent of a piece that is in the thing before. */
static uint32_t shared_percent(const struct thing *t, uint32_t thing, uint32_t piece)
{
    uint32_t lot = (piece * 2654435761u ^ thing * 40503u) >> 8;

    if (thing == 0 || lot % 100 >= t->shares)
        return 0;
    return lot % 7 == 0 ? 50 : 100;
}

bool piece_claimed(const struct sim *sim, uint32_t thing, uint32_t piece)
{
    const struct thing *t = &sim->things[thing];

    return t->forged && piece > 0 && shared_percent(t, thing, piece) > 0;
}

bool thing_claims(const struct sim *sim, uint32_t thing)
{
    for (uint32_t p = 1; p < sim->things[thing].pieces; p++)
        if (piece_claimed(sim, thing, p))
            return true;
    return false;
}

static bool has_older(const struct host *h, uint32_t thing)
{
    return thing > 0 && h->stored[thing - 1].complete;
}

/* Of a piece that a peer has, while its source is not proved. */
static uint64_t piece_share(const struct sim *sim, const struct host *h, uint32_t thing,
                            uint32_t piece)
{
    if (!h->stored[thing].unproved || !has_older(h, thing))
        return 0;
    return piece_bytes(sim, thing, piece) *
           shared_percent(&sim->things[thing], thing, piece) / 100;
}

/* A quarter of the thing is in each of its parts, if the builder did not take it back.
 */
static bool in_a_part(const struct sim *sim, const struct host *h, uint32_t thing,
                      uint32_t piece)
{
    for (uint32_t i = sim->thing_count; i < sim->thing_count + sim->part_count; i++)
        if (sim->things[i].part_of == thing && h->stored[i].complete && i % 5 != 0 &&
            piece % 4 == i % 4)
            return true;
    return false;
}

uint64_t host_piece_bytes(const struct sim *sim, const struct host *h, uint32_t thing,
                          uint32_t piece)
{
    const uint32_t *missing = h->stored[thing].missing;
    uint64_t share = piece > 0 ? piece_share(sim, h, thing, piece) : 0;

    if (share > 0) /* the peer's word that it has it takes some, too */
        return piece_bytes(sim, thing, piece) - share + 1;
    return missing != NULL && missing[piece] > 0 ? missing[piece]
                                                 : piece_bytes(sim, thing, piece);
}

static void reused(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct stored *s = &h->stored[e->a];
    struct reuse *r = e->p;
    struct node_reused result = {.have = r->have,
                                 .missing = r->missing,
                                 .bytes = r->bytes,
                                 .bytes_parts = r->bytes_parts};

    if (h->core != NULL && h->epoch == e->epoch && s->present && s->reuse == e->b) {
        s->reuse = 0;
        for (uint32_t p = 1; p < sim->things[e->a].pieces; p++)
            if (r->have[p]) {
                if (piece_claimed(sim, e->a, p))
                    fail(sim, "%s reuses piece %u, which nobody could read", h->name,
                         p);
                bits_set(s->have, p);
            }
        free(s->missing);
        s->missing = r->bytes + r->bytes_parts > 0 ? malloc(sizeof(r->missing)) : NULL;
        if (s->missing != NULL)
            memcpy(s->missing, r->missing, sizeof(r->missing));
        sim->bytes_reused += r->bytes;
        note(sim, "%s reuses %llu bytes", h->name, (unsigned long long)r->bytes);
        node_reused(h->core, &sim->things[e->a].digest, &result, now_ms(sim));
        net_kick(sim, h);
        host_timer(sim, h);
    }
    free(r);
}

void host_reuse_piece(struct sim *sim, struct host *h, const struct fetch *f,
                      uint32_t piece)
{
    uint64_t share = piece > 0 ? piece_share(sim, h, f->thing, piece) : 0;

    if (share == 0 || h->stored[f->thing].missing != NULL)
        return;
    sim->bytes_reused += share;
    node_transfer_reused(h->core, f->id, piece, share);
}

/* Ends with the object: what is left of it does not count for another of its name. */
void host_reuse(void *ctx, const struct vine_digest *digest, bool proved)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    uint32_t thing = thing_of(sim, digest);
    const struct thing *t = &sim->things[thing];
    bool older = proved && has_older(h, thing);
    uint32_t damaged = chance(sim, 10) ? (uint32_t)draw(sim, 60) : 0;
    struct reuse *r = calloc(1, sizeof(*r));
    uint64_t took;

    if (r == NULL)
        abort();
    if (!h->stored[thing].present || !bits_get(h->stored[thing].have, 0))
        fail(sim, "%s reuses without a manifest", h->name);
    if (proved && thing_claims(sim, thing))
        fail(sim, "%s takes what was never read for proved", h->name);
    for (uint32_t p = 1; p < t->pieces; p++) {
        uint64_t size = piece_bytes(sim, thing, p);
        uint64_t share = older && draw(sim, 100) >= damaged
                             ? size * shared_percent(t, thing, p) / 100
                             : 0;
        if (bits_get(h->stored[thing].have, p))
            share = size;
        else if (proved && in_a_part(sim, h, thing, p)) {
            r->bytes += share;
            r->bytes_parts += size - share;
            share = size;
        } else
            r->bytes += share;
        r->have[p] = share == size;
        r->missing[p] = (uint32_t)(size - share);
    }
    took = r->bytes + r->bytes_parts;
    took = took == 0 ? 0 : 1 * MS + took * SECOND / REUSE_RATE;
    if (!sim->options.calm && chance(sim, 2))
        took += draw(sim, 3 * PATIENCE_US);
    h->stored[thing].unproved = !proved;
    h->stored[thing].reuse = ++sim->seq;
    h->stored[thing].reuse_until_us =
        sim->now_us + (took < PATIENCE_US ? took : PATIENCE_US);
    at(sim, sim->now_us + took,
       (struct event){.run = reused,
                      .host = h->index,
                      .epoch = h->epoch,
                      .a = thing,
                      .b = h->stored[thing].reuse,
                      .p = r,
                      .owned = true});
}

/* origin.c - sources: resolving, building, streaming.
 *
 * All nodes read the same shared file system, first come first served. */
#include <stdlib.h>
#include <string.h>

#include "daemon/core/bits.h"
#include "tests/sim/sim.h"

#define RESOLVE_US (20 * MS)

static struct origin_ticket *ticket_find(struct host *h, uint64_t id)
{
    struct origin_ticket *t = h->tickets;

    while (t != NULL && t->id != id)
        t = t->next;
    return t;
}

static struct origin_ticket *ticket_owe(struct sim *sim, struct host *h, uint64_t id)
{
    struct origin_ticket *t = ticket_find(h, id);

    if (t == NULL)
        fail(sim, "%s works on a source that is not open", h->name);
    else
        t->owed++;
    return t;
}

struct vine_digest origin_key(const struct sim *sim, uint32_t source)
{
    struct vine_digest key = sim->things[sim->sources[source].thing].key;

    if (sim->sources[source].packed)
        key.b[0] ^= (uint8_t)(source / sim->thing_count);
    if (strncmp(sim->sources[source].path, "data:vine:", 10) == 0)
        key.b[1] ^= (uint8_t)(source + 1); /* of this version alone */
    return key;
}

static void opened(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct origin_ticket *t = h->epoch == e->epoch ? ticket_find(h, e->a) : NULL;
    const struct thing *thing;
    struct vine_err err = {0};

    if (h->core == NULL || t == NULL || host_held(sim, h, e))
        return;
    t->owed--;
    if (t->changed)
        vine_err_set(&err, VINE_ECHANGED, "it changed while it was read");
    thing = &sim->things[sim->sources[t->source].thing];
    struct node_resolved r = {.key = origin_key(sim, t->source),
                              .estimate = thing->size,
                              .trusted = !sim->sources[t->source].foreign,
                              .has_manifest = true,
                              .digest = thing->digest,
                              .size = thing->size,
                              .pieces = thing->pieces};
    node_source_opened(h->core, e->a, &r, &err, now_ms(sim));
    host_timer(sim, h);
}

void origin_open(void *ctx, uint64_t ticket)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);

    ticket_owe(sim, h, ticket);
    at(sim, sim->now_us + RESOLVE_US + draw(sim, RESOLVE_US),
       (struct event){.run = opened, .host = h->index, .epoch = h->epoch, .a = ticket});
}

static void resolved(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct origin_ticket *t = h->epoch == e->epoch ? ticket_find(h, e->a) : NULL;
    struct vine_err err = {0};
    const struct origin_source *s;
    const struct thing *thing;

    if (h->core == NULL || t == NULL || host_held(sim, h, e))
        return;
    t->owed--;
    t->changed = false; /* the edge begins anew by itself */
    s = &sim->sources[t->source];
    thing = &sim->things[s->thing];
    if (s->denied_uid != 0 && s->denied_uid == (uint32_t)e->b)
        vine_err_set(&err, VINE_EACCES, "cannot read '%s': Permission denied", s->path);
    if (names_only(sim, t->source, h->index))
        vine_err_set(&err, VINE_ELOST, "the nodes that had it are gone");
    struct node_resolved r = {.key = origin_key(sim, t->source),
                              .estimate = thing->size,
                              .trusted = !s->foreign};
    r.unopened = s->packed;
    node_source_resolved(h->core, e->a, &r, &err, now_ms(sim));
    host_timer(sim, h);
}

void origin_resolve(void *ctx, uint64_t ticket, uint32_t uid, uint32_t gid,
                    const char *path)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    struct origin_ticket *t = calloc(1, sizeof(*t));

    if (t == NULL)
        abort();
    t->id = ticket;
    t->owed = 1;
    while (t->source < sim->source_count &&
           strcmp(sim->sources[t->source].path, path) != 0)
        t->source++;
    t->next = h->tickets;
    h->tickets = t;
    note(sim, "%s resolves %s", h->name, path);
    at(sim, sim->now_us + RESOLVE_US + draw(sim, RESOLVE_US),
       (struct event){.run = resolved,
                      .host = h->index,
                      .epoch = h->epoch,
                      .a = ticket,
                      .b = uid});
}

/* Time at which the shared file system has given so many bytes. */
static uint64_t read_until(struct sim *sim, uint32_t source, uint64_t bytes)
{
    uint64_t start =
        sim->source_free_us > sim->now_us ? sim->source_free_us : sim->now_us;

    sim->source_free_us = start + bytes * SECOND / sim->source_rate;
    sim->sources[source].bytes_read += bytes;
    check_read(sim, source);
    return sim->source_free_us;
}

static void proved(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct origin_ticket *t = h->epoch == e->epoch ? ticket_find(h, e->a) : NULL;
    struct vine_err err = {0};

    if (h->core == NULL || h->epoch != e->epoch || host_held(sim, h, e))
        return;
    if (t != NULL)
        t->owed--;
    if (t != NULL && t->changed)
        vine_err_set(&err, VINE_ECHANGED, "it changed while it was read");
    if (t != NULL && (thing_claims(sim, sim->sources[t->source].thing) ||
                      sim->sources[t->source].hollow))
        vine_err_set(&err, VINE_ECORRUPT, "wrong bytes");
    node_source_proved(h->core, e->a, &err, now_ms(sim));
    host_timer(sim, h);
}

void origin_prove(void *ctx, uint64_t ticket)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    struct origin_ticket *t = ticket_owe(sim, h, ticket);
    uint64_t size = sim->things[sim->sources[t->source].thing].size;

    note(sim, "%s proves", h->name);
    at(sim, read_until(sim, t->source, size),
       (struct event){.run = proved, .host = h->index, .epoch = h->epoch, .a = ticket});
}

static void built(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct origin_ticket *t = h->epoch == e->epoch ? ticket_find(h, e->a) : NULL;
    const struct thing *thing;
    struct vine_digest key;
    struct msg_object object;
    struct vine_err err = {0};

    if (h->core == NULL || t == NULL || host_held(sim, h, e))
        return;
    t->owed--;
    thing = &sim->things[sim->sources[t->source].thing];
    key = origin_key(sim, t->source);
    object = (struct msg_object){.digest = thing->digest,
                                 .size = thing->size,
                                 .pieces = thing->pieces,
                                 .complete = true,
                                 .trusted = true,
                                 .key_count = 1,
                                 .keys = &key};
    if (t->changed)
        vine_err_set(&err, VINE_ECHANGED, "it changed while it was read");
    else if (h->full)
        vine_err_set(&err, VINE_ENOSPC, "No space left on device");
    else
        host_store(sim, h, sim->sources[t->source].thing);
    note(sim, "%s has built it: %s", h->name, vine_code_name(err.code));
    sim->last_done_us = sim->now_us;
    node_source_built(h->core, e->a, &object, &err, now_ms(sim));
    if (err.code == VINE_OK)
        lazy_complete(sim, h, thing_of(sim, &object.digest)); /* tasks read it lazily */
    host_timer(sim, h);
}

/* A stretch of what is being built is finished. */
static void part_made(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    const struct thing *thing = &sim->things[e->b];
    struct msg_object object = {
        .digest = thing->digest, .size = thing->size, .pieces = thing->pieces};

    if (h->core == NULL || h->epoch != e->epoch || ticket_find(h, e->a) == NULL ||
        h->stored[e->b].present)
        return;
    host_store(sim, h, (uint32_t)e->b);
    note(sim, "%s has built a part", h->name);
    node_source_part(h->core, e->a, &object, 0, now_ms(sim));
    host_timer(sim, h);
}

static void parts_plan(struct sim *sim, const struct host *h, uint64_t ticket,
                       uint32_t thing, uint64_t until)
{
    for (uint32_t i = sim->thing_count; i < sim->thing_count + sim->part_count; i++)
        if (sim->things[i].part_of == thing)
            at(sim, sim->now_us + draw(sim, until - sim->now_us),
               (struct event){.run = part_made,
                              .host = h->index,
                              .epoch = h->epoch,
                              .a = ticket,
                              .b = i});
}

void origin_build(void *ctx, uint64_t ticket)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    struct origin_ticket *t = ticket_owe(sim, h, ticket);
    uint64_t size = sim->things[sim->sources[t->source].thing].size;
    uint64_t until = read_until(sim, t->source, size);
    uint64_t work = sim->now_us + size * SECOND / sim->build_rate;

    note(sim, "%s builds", h->name);
    until = until > work ? until : work;
    parts_plan(sim, h, ticket, sim->sources[t->source].thing, until);
    at(sim, until,
       (struct event){.run = built, .host = h->index, .epoch = h->epoch, .a = ticket});
}

void origin_close(void *ctx, uint64_t ticket)
{
    struct host *h = ctx;
    struct origin_ticket **at_ = &h->tickets, *t;

    while (*at_ != NULL && (*at_)->id != ticket)
        at_ = &(*at_)->next;
    t = *at_;
    if (t == NULL) {
        fail(sim_of(h), "%s closes a source that is not open", h->name);
        return;
    }
    *at_ = t->next;
    free(t);
}

/* What is being read of it is of no use. */
void origin_changed(struct sim *sim, uint32_t source)
{
    note(sim, "%s changes", sim->sources[source].path);
    for (uint32_t i = 0; i < sim->host_count; i++)
        for (struct origin_ticket *t = sim->hosts[i].tickets; t != NULL; t = t->next)
            t->changed |= t->source == source;
}

static void streamed(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    const struct origin_ticket *t = ticket_find(h, (uint64_t)(uintptr_t)e->p);

    if (h->core == NULL || h->epoch != e->epoch || host_held(sim, h, e))
        return;
    if (t != NULL && t->changed)
        host_fetch_failed(sim, h, e->a, VINE_ECHANGED, "it changed while it was read");
    else if (t != NULL &&
             (piece_claimed(sim, sim->sources[t->source].thing, (uint32_t)e->b) ||
              (sim->sources[t->source].hollow && e->b > 0)))
        host_fetch_failed(sim, h, e->a, VINE_ECORRUPT, "wrong bytes");
    else
        host_piece(sim, h, e->a, (uint32_t)e->b);
}

void origin_fetch(void *ctx, uint64_t transfer, const struct vine_digest *digest,
                  uint64_t ticket, struct msg_range range)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    struct origin_ticket *t = ticket_find(h, ticket);
    uint64_t bytes, when = sim->now_us;

    if (t == NULL) {
        fail(sim, "%s streams from a source that is not open", h->name);
        return;
    }
    for (uint32_t i = 0; i < range.count; i++) {
        bytes = piece_bytes(sim, thing_of(sim, digest), range.first + i);
        if (range.first + i > 0)
            when = read_until(sim, t->source, bytes);
        at(sim, when + MS / 2,
           (struct event){.run = streamed,
                          .host = h->index,
                          .epoch = h->epoch,
                          .a = transfer,
                          .b = range.first + i,
                          .p = (void *)(uintptr_t)ticket});
    }
}

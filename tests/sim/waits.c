/* waits.c - every wait of a node ends: what it waits for is owed by the edge, or by a
 * manager it can reach, or a deadline of its own is set, and its next deadline is not
 * later than that. */
#include "daemon/core/node_int.h"
#include "tests/sim/sim.h"

#define QUIET_MS 3200u  /* until it is asked, see node.c */
#define HOLD_MS 60000u  /* see node_hold.c */
#define MATCH_EVERY 16u /* events: transfers against what the edge carries out */

/* A deadline in the past is the next tick's; that it comes, host.c sees to. */
static void check_deadline(struct sim *sim, const struct host *h, uint64_t latest_ms,
                           const char *what)
{
    if (node_next_deadline(h->core) > latest_ms)
        fail(sim, "%s: a %s has no deadline", h->name, what);
}

static void check_transfers(struct sim *sim, struct host *h)
{
    uint64_t earliest_ms = EVER;
    uint32_t count = 0;

    for (const struct transfer *t = h->core->first_transfer; t != NULL; t = t->next) {
        count++;
        if (sim->events % MATCH_EVERY == 0 && host_find_fetch(h, t->id) == NULL)
            fail(sim, "%s: nobody carries out a transfer", h->name);
        if (t->object->leases == 0 && t->object->stream == NULL)
            fail(sim, "%s: a transfer is for nobody", h->name);
        if (t->deadline_ms > now_ms(sim) + h->core->limits.stall_ms)
            fail(sim, "%s: a transfer may stall for long", h->name);
        if (t->deadline_ms < earliest_ms)
            earliest_ms = t->deadline_ms;
    }
    check_deadline(sim, h, earliest_ms, "transfer");
    for (const struct fetch *f = h->fetches; f != NULL; f = f->next)
        count--;
    if (count != 0)
        fail(sim, "%s carries out a transfer that it does not want", h->name);
}

/* Without a manager a client gives up. */
static void check_manager_wait(struct sim *sim, const struct host *h,
                               const struct client *c)
{
    uint64_t since = c->since_ms;

    if (h->core->manager_up)
        return;
    if (since < h->core->manager_down_ms)
        since = h->core->manager_down_ms;
    check_deadline(sim, h, since + h->core->limits.manager_wait_ms, "client");
}

/* Who has something to do is answered by the manager, asks it, or gives it up. */
static void check_silence(struct sim *sim, const struct host *h)
{
    const struct node *node = h->core;
    uint64_t most = node->limits.manager_silent_ms + QUIET_MS;
    bool waits = node->first_client != NULL || node->first_transfer != NULL;

    if (h->up && waits && now_ms(sim) > h->heard_ms + most)
        fail(sim, "%s: waits for a manager that is silent for %llu ms", h->name,
             (unsigned long long)(now_ms(sim) - h->heard_ms));
}

static void check_bound(struct sim *sim, const struct host *h, const struct client *c,
                        const struct job_source *s)
{
    const struct node_object *o = s->object;
    uint32_t thing = thing_of(sim, &o->digest);
    const struct mount *m = node_mount_find(o, node_source_mount_uid(s));

    if (o->reuse == REUSE_RUNNING &&
        o->reuse_deadline_ms > now_ms(sim) + h->core->limits.stall_ms)
        fail(sim, "%s: its store may be silent for long", h->name);
    if (o->reuse == REUSE_RUNNING)
        check_deadline(sim, h, o->reuse_deadline_ms, "look into the store");
    else if (o->state == OBJECT_PARTIAL && o->transfers == NULL)
        check_manager_wait(sim, h, c);
    if (o->state == OBJECT_PUBLISHING && h->publishing[thing] == 0)
        fail(sim, "%s: nobody publishes what a client waits for", h->name);
    if (o->state == OBJECT_COMPLETE && (m == NULL || (!m->mounted && h->mounting == 0)))
        fail(sim, "%s: nobody mounts what a client waits for", h->name);
}

static void check_client(struct sim *sim, const struct host *h, const struct client *c)
{
    bool waits = false;

    for (uint32_t i = 0; i < c->count; i++) {
        const struct job_source *s = c->source[i];
        if (c->err[i].code != VINE_OK)
            continue;
        waits |= !node_source_ready(s) && !(c->lazy && node_lazy_ready(s));
        if (s->state == SOURCE_IDLE)
            fail(sim, "%s: a client waits for what nobody was asked for", h->name);
        else if (s->state == SOURCE_WANTED)
            check_manager_wait(sim, h, c);
        else
            check_bound(sim, h, c, s);
    }
    if (!waits)
        fail(sim, "%s: a client waits for nothing", h->name);
}

static void check_ticket(struct sim *sim, const struct host *h, const struct ticket *t)
{
    const struct origin_ticket *o = h->tickets;

    while (o != NULL && o->id != t->id)
        o = o->next;
    if (o == NULL)
        fail(sim, "%s: a ticket without a source", h->name);
    else if (t->state != TICKET_RESOLVED && t->state != TICKET_STREAMING &&
             o->owed == 0)
        fail(sim, "%s: a ticket in state %d, and no child works", h->name, t->state);
    else if (t->state == TICKET_RESOLVED && t->mgr_ticket == 0)
        fail(sim, "%s: nobody will say what becomes of a source", h->name);
}

static uint32_t listed(struct node_object *const *list, uint32_t count,
                       const struct node_object *o)
{
    uint32_t times = 0;

    for (uint32_t i = 0; i < count; i++)
        times += list[i] == o;
    return times;
}

/* Leases are those of sources and tickets; room is taken by objects and builds. */
static void check_books(struct sim *sim, const struct host *h)
{
    const struct node *node = h->core;
    uint64_t used = 0;

    for (const struct node_object *o = node->first_object; o != NULL; o = o->next) {
        uint32_t leases = 0;
        used += o->size;
        for (const struct node_job *j = node->first_job; j != NULL; j = j->next)
            for (const struct job_source *s = j->sources; s != NULL; s = s->next)
                leases += (s->object == o) + listed(s->part, s->part_count, o);
        for (const struct ticket *t = node->first_ticket; t != NULL; t = t->next)
            leases += listed(t->part, t->part_count, o);
        if (leases != o->leases)
            fail(sim, "%s: an object has %u leases, counted %u", h->name, o->leases,
                 leases);
    }
    for (const struct ticket *t = node->first_ticket; t != NULL; t = t->next)
        used += t->admitted;
    if (used != node->store_used)
        fail(sim, "%s: uses %llu bytes, counted %llu", h->name,
             (unsigned long long)node->store_used, (unsigned long long)used);
}

/* What is not urgent stays back for a while, and no longer. */
static void check_hold(struct sim *sim, const struct host *h)
{
    for (const struct node_object *o = h->core->first_object; o != NULL; o = o->next)
        if (o->others_hold && !h->core->manager_up)
            fail(sim, "%s: others hold, says a manager that is gone", h->name);
    for (const struct node_object *o = h->core->first_object; o != NULL; o = o->next)
        if (o->holding)
            check_deadline(sim, h, o->hold_since_ms + HOLD_MS, "hold");
}

void check_waits(struct sim *sim, struct host *h)
{
    if (h->core == NULL || h->frozen_until_us > 0)
        return;
    check_transfers(sim, h);
    check_silence(sim, h);
    check_hold(sim, h);
    if (sim->events % MATCH_EVERY == 0)
        check_books(sim, h);
    for (const struct client *c = h->core->first_client; c != NULL; c = c->next)
        check_client(sim, h, c);
    for (const struct ticket *t = h->core->first_ticket; t != NULL; t = t->next)
        check_ticket(sim, h, t);
}

/* lazy.c - jobs that start before their object is there: mounts of what is on its way,
 * and the tasks that read from them.
 *
 * vine-lazy outlives its daemon, and so do tasks: they read what is known to be there,
 * and wait for the rest until the next daemon has it, or for LAZY_TIMEOUT_US. A daemon
 * that starts takes over what it finds. */
#include <stdlib.h>

#include "daemon/core/bits.h"
#include "tests/sim/sim.h"

#define LAZY_TIMEOUT_US (30 * SECOND)
#define READS_MAX 24u

struct task {
    struct task *next;
    struct sim_job *job;
    uint32_t host, thing;
    uint32_t reads, done;
    uint32_t piece;          /* waits for this one; 0: not */
    uint64_t since_us, wait; /* of that; its number */
    bool over;
};

static uint32_t task_piece(const struct sim *sim, const struct task *t)
{
    uint32_t data = sim->things[t->thing].pieces - 1;
    uint32_t lot = (t->done + 1) * 2654435761u ^ t->thing * 40503u;

    return 1 + (t->thing % 2 == 0 ? t->done : lot >> 8) % data;
}

bool lazy_busy(const struct sim *sim, const struct sim_job *j)
{
    for (const struct task *t = sim->tasks; t != NULL; t = t->next)
        if (t->job == j && !t->over)
            return true;
    return false;
}

static void task_ends(struct sim *sim, struct task *t)
{
    t->over = true;
    t->piece = 0;
    scenario_task_over(sim, t->job);
}

/* Its file has not what its trailer says, so the job is not to get it. */
static bool is_hollow(const struct sim *sim, const struct task *t)
{
    for (uint32_t i = 0; i < t->job->source_count; i++) {
        const struct origin_source *s = &sim->sources[t->job->source[i]];
        if (s->thing == t->thing && s->hollow)
            return true;
    }
    return false;
}

/* No piece came for so long: nobody could read it, or something is broken here, or was
 * while it waited. */
static void task_eio(struct sim *sim, struct task *t)
{
    const struct host *h = &sim->hosts[t->host];
    bool broken = h->core == NULL || h->full || h->cache_max != EVER ||
                  h->frozen_until_us > 0 || thing_claims(sim, t->thing) ||
                  is_hollow(sim, t) || t->job->ended;

    note(sim, "n%u: a task gets EIO for piece %u", t->host, t->piece);
    if (!broken && (!sim->faulty || sim->now_us > sim->quiet_us + 8 * SECOND))
        fail(sim, "n%u: a task waited in vain for piece %u", t->host, t->piece);
    task_ends(sim, t);
}

static void needed(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL || host_held(sim, h, e) || h->stored[e->a].complete)
        return;
    node_lazy_need(h->core, &sim->things[e->a].digest,
                   (struct msg_range){(uint32_t)e->b, 1}, now_ms(sim));
    host_timer(sim, h);
}

static void need(struct sim *sim, const struct task *t)
{
    at(sim, sim->now_us,
       (struct event){.run = needed, .host = t->host, .a = t->thing, .b = t->piece});
}

static void gave_up(struct sim *sim, struct event *e)
{
    struct task *t = e->p;

    if (!t->over && t->piece != 0 && t->wait == e->a)
        task_eio(sim, t);
}

static void task_step(struct sim *sim, struct event *e)
{
    struct task *t = e->p;
    struct host *h = &sim->hosts[t->host];
    struct lazy_mount *l = &h->lazy[t->thing];
    bool whole = h->stored[t->thing].complete;
    uint32_t piece = task_piece(sim, t);

    if (t->over)
        return;
    if (t->job->ended || t->done == t->reads || (!whole && !l->standing)) {
        task_ends(sim, t);
        return;
    }
    if (!whole && !bits_get(l->told, piece)) {
        t->piece = piece;
        t->since_us = sim->now_us;
        t->wait = ++sim->seq;
        at(sim, sim->now_us + LAZY_TIMEOUT_US,
           (struct event){.run = gave_up, .host = t->host, .a = t->wait, .p = t});
        need(sim, t);
        return;
    }
    check_served(sim, h, t->thing, piece);
    t->piece = 0;
    t->done++;
    if (!whole && h->core != NULL && h->frozen_until_us == 0) {
        node_lazy_read(h->core, &sim->things[t->thing].digest,
                       (struct msg_range){piece, 1}, now_ms(sim));
        host_timer(sim, h);
    }
    at(sim, sim->now_us + MS + draw(sim, chance(sim, 5) ? 4 * SECOND : 100 * MS),
       (struct event){.run = task_step, .host = t->host, .p = t});
}

void lazy_task(struct sim *sim, struct host *h, struct sim_job *j, uint32_t thing)
{
    struct task *t = calloc(1, sizeof(*t));

    if (t == NULL)
        abort();
    t->job = j;
    t->host = h->index;
    t->thing = thing;
    t->reads = 1 + (uint32_t)draw(sim, READS_MAX);
    t->next = sim->tasks;
    sim->tasks = t;
    note(sim, "%s: a task starts lazily", h->name);
    at(sim, sim->now_us + draw(sim, SECOND),
       (struct event){.run = task_step, .host = h->index, .p = t});
}

/* Those that waited for it go on. */
static void wake(struct sim *sim, const struct host *h, uint32_t thing)
{
    for (struct task *t = sim->tasks; t != NULL; t = t->next)
        if (t->host == h->index && t->thing == thing && t->piece != 0 &&
            (h->stored[thing].complete || !h->lazy[thing].standing ||
             bits_get(h->lazy[thing].told, t->piece))) {
            t->piece = 0;
            at(sim, sim->now_us,
               (struct event){.run = task_step, .host = h->index, .p = t});
        }
}

void lazy_complete(struct sim *sim, struct host *h, uint32_t thing)
{
    struct msg_range read = {1, 1};

    wake(sim, h, thing);
    if (h->lazy[thing].standing)
        node_touched(h->core, &sim->things[thing].digest, &read, 1, now_ms(sim));
    lazy_drop(h, thing);
}

void lazy_drop(struct host *h, uint32_t thing)
{
    free(h->lazy[thing].told);
    h->lazy[thing] = (struct lazy_mount){0};
}

/* The daemon's disk failed it: what tasks read of it is lost. */
void lazy_removed(struct sim *sim, struct host *h, uint32_t thing)
{
    bool read = false;

    for (const struct task *t = sim->tasks; t != NULL; t = t->next)
        read |= t->host == h->index && t->thing == thing && !t->over && !t->job->ended;
    if (read && !h->full && h->lazy[thing].standing)
        fail(sim, "%s removes what a task reads", h->name);
    lazy_drop(h, thing);
    wake(sim, h, thing);
}

/* vine-lazy ends: reads of what is not complete fail. */
void lazy_lost(struct sim *sim, struct host *h)
{
    for (uint32_t i = 0; i < sim->thing_count; i++) {
        if (!h->lazy[i].standing || h->core == NULL || h->frozen_until_us > 0)
            continue;
        note(sim, "%s: vine-lazy ends", h->name);
        lazy_drop(h, i);
        h->lazy[i].lost = true;
        wake(sim, h, i);
        node_lazy_lost(h->core, &sim->things[i].digest, now_ms(sim));
        host_timer(sim, h);
    }
}

/* Power lost: its tasks end, too. */
void lazy_host_gone(struct sim *sim, struct host *h, bool power)
{
    for (uint32_t i = 0; i < THINGS_MAX; i++) {
        if (power || !h->lazy[i].standing)
            lazy_drop(h, i);
        if (power)
            wake(sim, h, i);
    }
}

void lazy_booted(struct sim *sim, struct host *h)
{
    for (uint32_t i = 0; i < sim->thing_count; i++) {
        struct lazy_mount *l = &h->lazy[i];
        if (!l->standing || !h->stored[i].present || h->stored[i].complete)
            continue;
        node_lazy_adopt(h->core, &sim->things[i].digest);
        for (uint32_t w = 0; w < bits_words(sim->things[i].pieces); w++)
            l->told[w] |= h->stored[i].have[w];
        wake(sim, h, i);
    }
    for (struct task *t = sim->tasks; t != NULL; t = t->next)
        if (t->host == h->index && t->piece != 0)
            need(sim, t);
}

/* ---- what the core asks for ---- */

static void looked(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    const struct thing *t = &sim->things[e->a];
    uint32_t count = 1 + (uint32_t)draw(sim, 3);
    struct vine_err err = {0};

    if (h->core == NULL || h->epoch != e->epoch || host_held(sim, h, e))
        return;
    count = count < t->pieces ? count : t->pieces - 1;
    if (!sim->options.calm && chance(sim, 3))
        vine_err_set(&err, VINE_EINVAL, "no image that can be read");
    h->lazy[e->a].tables = (struct msg_range){t->pieces - count, count};
    node_lazy_tables(h->core, &t->digest, h->lazy[e->a].tables, &err, now_ms(sim));
    host_timer(sim, h);
}

void lazy_look(void *ctx, const struct vine_digest *digest)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    uint32_t thing = thing_of(sim, digest);

    check_served(sim, h, thing, 0);
    check_served(sim, h, thing, 1);
    at(sim, sim->now_us + h->disk_us,
       (struct event){.run = looked, .host = h->index, .epoch = h->epoch, .a = thing});
}

static void lazily_mounted(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct lazy_mount *l = &h->lazy[e->a];
    struct vine_err err = {0};

    if (h->core == NULL || h->epoch != e->epoch || host_held(sim, h, e))
        return;
    h->mounting--;
    if (!h->stored[e->a].present)
        vine_err_set(&err, VINE_ENOENT, "it was removed meanwhile");
    else if (!sim->options.calm && chance(sim, 3))
        vine_err_set(&err, VINE_ESYS, "no FUSE");
    if (err.code == VINE_OK && !l->standing) {
        l->standing = true;
        l->told = bits_new(sim->things[e->a].pieces);
        for (uint32_t w = 0; w < bits_words(sim->things[e->a].pieces); w++)
            l->told[w] = h->stored[e->a].have[w];
    }
    note(sim, "%s lazily mounted: %s", h->name, vine_code_name(err.code));
    node_lazy_mounted(h->core, &sim->things[e->a].digest, &err, now_ms(sim));
    host_timer(sim, h);
}

void lazy_mount(void *ctx, const struct vine_digest *digest)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    uint32_t thing = thing_of(sim, digest);
    struct msg_range tables = h->lazy[thing].tables;

    for (uint32_t i = 0; i < tables.count; i++)
        check_served(sim, h, thing, tables.first + i);
    h->mounting++;
    at(sim, sim->now_us + h->disk_us,
       (struct event){
           .run = lazily_mounted, .host = h->index, .epoch = h->epoch, .a = thing});
}

void lazy_have(void *ctx, const struct vine_digest *digest, uint32_t piece)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    uint32_t thing = thing_of(sim, digest);

    check_served(sim, h, thing, piece);
    if (!h->lazy[thing].standing)
        return;
    bits_set(h->lazy[thing].told, piece);
    wake(sim, h, thing);
}

static void left(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct msg_range read = {1, 1};

    if (h->core == NULL || h->epoch != e->epoch || host_held(sim, h, e))
        return;
    h->mounting--;
    if (h->lazy[e->a].standing)
        node_touched(h->core, &sim->things[e->a].digest, &read, 1, now_ms(sim));
    lazy_drop(h, (uint32_t)e->a);
    node_unmounted(h->core, &sim->things[e->a].digest, NODE_ANY_UID, now_ms(sim));
    host_timer(sim, h);
}

void lazy_leave(void *ctx, const struct vine_digest *digest)
{
    struct host *h = ctx;
    struct sim *sim = sim_of(h);
    uint32_t thing = thing_of(sim, digest);

    for (const struct task *t = sim->tasks; t != NULL; t = t->next)
        if (t->host == h->index && t->thing == thing && !t->over && !t->job->ended &&
            h->lazy[thing].standing && !h->full)
            fail(sim, "%s unmounts what a task reads", h->name);
    h->mounting++;
    at(sim, sim->now_us + h->disk_us,
       (struct event){.run = left, .host = h->index, .epoch = h->epoch, .a = thing});
}

void lazy_touched(void *ctx, const struct vine_digest *digest,
                  const struct msg_range *ranges, uint32_t count)
{ /* a hint */
}

void lazy_free(struct sim *sim)
{
    while (sim->tasks != NULL) {
        struct task *t = sim->tasks;
        sim->tasks = t->next;
        free(t);
    }
}

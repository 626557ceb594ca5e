/* names.c - files that the tasks of a job offer to each other.
 *
 * One node of a job makes a file's version and offers it, sometimes with copies; the
 * others look the name up and want that version, again and again until they have it.
 * To be lost, away or unknown it needs a reason: a death, a broken connection, a new
 * manager. Only the one that offers it can ever read it. Two may offer the same name:
 * then the one that is offered last stands, and nobody keeps the other. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"
#include "vine/spec.h"

#define NAME_BIT (1ull << 61)
#define STEP_US (300 * MS)
#define TRIES_MAX 60

enum part_state { PART_IDLE, PART_LOOKS, PART_STAGES, PART_NAMES, PART_DONE };

struct part { /* one node's */
    enum part_state state;
    uint32_t epoch, tries, absent;
    bool got; /* it waited for that version, which stays with the job then */
};

struct named {
    struct sim_job *job;
    uint32_t host, source; /* who offers what */
    uint32_t copies;
    uint64_t named_us; /* 0: not yet */
    uint32_t troubles; /* there had been so many then */
    char id[64], bare[32];
    struct part *part; /* by host */
};

static void step(struct sim *sim, struct event *e);

/* One with the same name and another version; NULL: none. */
static struct named *rival(const struct sim *sim, const struct named *n)
{
    for (uint32_t i = 0; i < sim->named_count; i++)
        if (&sim->named[i] != n && sim->named[i].job == n->job &&
            strcmp(sim->named[i].bare, n->bare) == 0)
            return &sim->named[i];
    return NULL;
}

struct keeping {
    struct sim *sim;
    const struct named *n;
    const struct host *host;
};

static void check_kept(void *arg, const struct node_job_info *job)
{
    const struct keeping *k = arg;

    if (job->job == k->n->job->job && strcmp(job->path, k->n->id) == 0)
        fail(k->sim, "%s keeps %s, which was replaced", k->host->name, k->n->id);
}

/* When a job ends: what was replaced a while ago is nowhere, if nothing was amiss
 * since. Those with copies are answered later than they are named. */
void names_check(struct sim *sim, const struct sim_job *j)
{
    for (uint32_t i = 0; i < sim->named_count; i++) {
        const struct named *n = &sim->named[i], *other = rival(sim, n);
        if (n->job != j || other == NULL || n->named_us == 0 ||
            n->troubles != sim->troubles || n->copies + other->copies > 0 ||
            n->named_us >= other->named_us || sim->now_us < other->named_us + 100 * MS)
            continue;
        for (uint32_t h = 0; h < sim->host_count; h++) {
            struct keeping k = {sim, n, &sim->hosts[h]};
            if (k.host->core != NULL && n->part[h].state == PART_DONE &&
                !n->part[h].got)
                node_each_job(k.host->core, check_kept, &k);
        }
    }
}

bool names_only(const struct sim *sim, uint32_t source, uint32_t host)
{
    for (uint32_t i = 0; i < sim->named_count; i++)
        if (sim->named[i].source == source)
            return sim->named[i].host != host;
    return false;
}

uint32_t names_tries(const struct sim *sim, uint32_t source)
{
    for (uint32_t i = 0; i < sim->named_count; i++)
        if (sim->named[i].source == source)
            return sim->named[i].part[sim->named[i].host].tries;
    return 0;
}

bool names_make(const struct sim *sim, uint32_t thing)
{
    for (uint32_t i = 0; i < sim->named_count; i++)
        if (sim->sources[sim->named[i].source].thing == thing)
            return true;
    return false;
}

bool names_busy(const struct sim *sim, const struct sim_job *j)
{
    for (uint32_t i = 0; i < sim->named_count; i++)
        for (uint32_t h = 0; sim->named[i].job == j && h < sim->host_count; h++)
            if (j->member[h] && j->wait[h].state != WAIT_GONE &&
                sim->named[i].part[h].state != PART_DONE)
                return true;
    return false;
}

static uint64_t client_of(const struct sim *sim, const struct named *n, uint32_t host)
{
    return NAME_BIT | (uint64_t)n->part[host].tries << 32 |
           (uint64_t)(n - sim->named) << 16 | host;
}

static struct named *asked(struct sim *sim, struct host *h, uint64_t client)
{
    struct named *n = &sim->named[client >> 16 & 0xffff];

    if (client == client_of(sim, n, h->index) &&
        (n->part[h->index].state != PART_IDLE && n->part[h->index].state != PART_DONE))
        return n;
    if (n->job->ended || n->part[h->index].absent > TRIES_MAX)
        return NULL; /* nobody waits any more */
    fail(sim, "%s answers for a name what was not asked", h->name);
    return NULL;
}

static void done(struct sim *sim, struct named *n, uint32_t host)
{
    n->part[host].state = PART_DONE;
    scenario_task_over(sim, n->job);
}

/* May somebody not find it now? */
static bool excused(const struct sim *sim, const struct named *n)
{
    const struct host *h = &sim->hosts[n->host];

    return sim->troubles > 0 || h->deaths > 0 || h->lost_pieces || sim->mgr_epoch > 0 ||
           !h->up || h->core == NULL || n->job->ended || rival(sim, n) != NULL;
}

static void stage(struct sim *sim, struct named *n, struct host *h)
{
    struct vine_spec *spec = calloc(1, sizeof(*spec));
    struct vine_err err = {0};

    if (spec == NULL)
        abort();
    spec->count = 1;
    spec->source[0].data = true;
    strcpy(spec->source[0].path, n->id + strlen(VINE_DATA));
    n->part[h->index].state = PART_STAGES;
    if (node_stage(h->core, client_of(sim, n, h->index), n->job->job, n->job->uid,
                   n->job->uid, spec, now_ms(sim), &err) < 0)
        fail(sim, "%s refuses a named file: %s", h->name, err.text);
    free(spec);
}

static void ask_name(struct sim *sim, struct named *n, struct host *h, bool offer)
{
    const char *names[64];
    uint32_t count = 0;
    struct part *p = &n->part[h->index];

    for (uint32_t i = 0; offer && i < sim->host_count && count < 64; i++)
        if (n->job->member[i] && i != h->index)
            names[count++] = sim->hosts[i].name;
    p->state = offer ? PART_NAMES : PART_LOOKS;
    if (node_name(h->core, client_of(sim, n, h->index), n->job->job, n->job->uid,
                  n->job->uid, offer ? n->id : n->bare, names, count,
                  !offer              ? 0
                  : n->copies < count ? n->copies
                                      : count,
                  now_ms(sim), NULL) < 0)
        p->state = PART_IDLE; /* no manager */
}

static void ask(struct sim *sim, struct named *n, struct host *h)
{
    struct part *p = &n->part[h->index];

    if (++p->tries > TRIES_MAX) {
        done(sim, n, h->index);
        return;
    }
    note(sim, "%s asks for %s, try %u", h->name, n->bare, p->tries);
    if (h->index == n->host)
        stage(sim, n, h);
    else
        ask_name(sim, n, h, false);
    host_timer(sim, h);
}

static void step(struct sim *sim, struct event *e)
{
    struct named *n = e->p;
    struct host *h = &sim->hosts[e->host];
    struct part *p = &n->part[e->host];

    if (p->state == PART_DONE)
        return;
    if (n->job->ended) {
        p->state = PART_DONE;
        return;
    }
    if (h->core != NULL && h->frozen_until_us == 0) {
        if (p->epoch != h->epoch) /* who asked died with the node */
            p->state = PART_IDLE;
        p->epoch = h->epoch;
        if (p->state == PART_IDLE)
            ask(sim, n, h);
    } else if (++p->absent > TRIES_MAX) { /* gone for good, it seems */
        done(sim, n, e->host);
    }
    if (p->state != PART_DONE)
        at(sim, sim->now_us + STEP_US,
           (struct event){.run = step, .host = e->host, .p = n});
}

/* The next question, not from inside an answer. */
static void go_on(struct sim *sim, struct event *e)
{
    struct named *n = e->p;
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL || h->epoch != e->epoch || n->job->ended ||
        n->part[e->host].state == PART_DONE || host_held(sim, h, e))
        return;
    if (e->a != 0)
        ask_name(sim, n, h, true);
    else
        stage(sim, n, h);
    host_timer(sim, h);
}

static void go_on_later(struct sim *sim, struct named *n, struct host *h, bool offer)
{
    at(sim, sim->now_us + 1,
       (struct event){
           .run = go_on, .host = h->index, .epoch = h->epoch, .a = offer, .p = n});
}

bool names_reply(struct sim *sim, struct host *h, uint64_t client,
                 const struct node_result *r)
{
    struct named *n;
    uint32_t thing;

    if (!(client & NAME_BIT))
        return false;
    n = asked(sim, h, client);
    if (n == NULL)
        return true;
    thing = sim->sources[n->source].thing;
    if (r->code != VINE_OK) {
        note(sim, "%s: %s: %s", h->name, n->bare, r->text);
        n->part[h->index].state = PART_IDLE;
        return true;
    }
    if (!vine_digest_equal(&r->digest, &sim->things[thing].digest) ||
        !h->stored[thing].complete)
        fail(sim, "%s says that it has %s and has not", h->name, n->bare);
    n->part[h->index].got = h->index != n->host;
    if (h->index == n->host)
        go_on_later(sim, n, h, true);
    else
        done(sim, n, h->index);
    return true;
}

static void looked_up(struct sim *sim, struct named *n, struct host *h,
                      enum vine_code code, const char *text)
{
    struct part *p = &n->part[h->index];

    if (code == VINE_OK) {
        const struct named *other = rival(sim, n);
        if (other != NULL && strcmp(text, other->id) == 0) {
            done(sim, n, h->index); /* its own part gets that */
            return;
        }
        if (strcmp(text, n->id) != 0)
            fail(sim, "%s is %s, not %s", n->bare, text, n->id);
        go_on_later(sim, n, h, false);
        return;
    }
    p->state = PART_IDLE;
    if (code == VINE_ETIMEDOUT && sim->now_us < 12 * SECOND)
        return; /* the manager is new */
    if ((n->named_us > 0 || code != VINE_ENOENT) && code != VINE_EDOWN &&
        !excused(sim, n))
        fail(sim, "%s: %s without a reason: %s", h->name, n->bare, text);
    if (code == VINE_ELOST)
        done(sim, n, h->index);
}

bool names_answer(struct sim *sim, struct host *h, uint64_t client, enum vine_code code,
                  const char *text)
{
    struct named *n;
    uint32_t have = 0, thing;

    if (!(client & NAME_BIT))
        return false;
    n = asked(sim, h, client);
    if (n == NULL)
        return true;
    note(sim, "%s: %s: %s %s", h->name, n->bare, vine_code_name(code), text);
    if (n->part[h->index].state == PART_LOOKS) {
        looked_up(sim, n, h, code, text);
        return true;
    }
    n->part[h->index].state = PART_IDLE;
    if (code != VINE_OK)
        return true;
    thing = sim->sources[n->source].thing;
    for (uint32_t i = 0; i < sim->host_count; i++)
        have +=
            sim->hosts[i].stored[thing].complete || sim->hosts[i].publishing[thing] > 0;
    if (have <= n->copies && !excused(sim, n) && !sim->faulty)
        fail(sim, "%s has %u copies, %u were asked for", n->bare, have, n->copies);
    n->named_us = sim->now_us;
    n->troubles = sim->troubles;
    done(sim, n, h->index);
    return true;
}

void names_draw(struct sim *sim)
{
    uint32_t wanted = chance(sim, 40) ? 1 + (uint32_t)draw(sim, NAMED_MAX) : 0;

    sim->named = calloc(NAMED_MAX, sizeof(*sim->named));
    if (sim->named == NULL)
        abort();
    for (uint32_t i = 0; i < wanted && sim->source_count < SOURCES_MAX; i++) {
        struct named *n = &sim->named[sim->named_count];
        struct sim_job *j = i > 0 && sim->named_count > 0 && chance(sim, 60)
                                ? n[-1].job
                                : &sim->jobs[draw(sim, sim->job_count)];
        uint32_t thing = (uint32_t)draw(sim, sim->thing_count), others = 0;
        n->host = (uint32_t)draw(sim, sim->host_count);
        if (j->stage || !j->member[n->host] || sim->things[thing].forged)
            continue;
        for (uint32_t h = 0; h < sim->host_count; h++)
            others += j->member[h] && h != n->host;
        n->job = j;
        n->source = sim->source_count++;
        n->copies =
            (uint32_t)draw(sim, 3) < others ? (uint32_t)draw(sim, 3) % (others + 1) : 0;
        (void)snprintf(n->bare, sizeof(n->bare), VINE_DATA VINE_NAMED "f%u", i);
        if (i > 0 && sim->named_count > 0 && n[-1].job == j &&
            rival(sim, n - 1) == NULL && chance(sim, 80))
            strcpy(n->bare, n[-1].bare);
        (void)snprintf(n->id, sizeof(n->id), "%s#%024x", n->bare, i + 1);
        strcpy(sim->sources[n->source].path, n->id);
        sim->sources[n->source].thing = thing;
        n->part = calloc(sim->host_count, sizeof(*n->part));
        if (n->part == NULL)
            abort();
        sim->named_count++;
        for (uint32_t h = 0; h < sim->host_count; h++)
            if (j->member[h])
                at(sim, j->start_us + 50 * MS + draw(sim, 2 * SECOND),
                   (struct event){.run = step, .host = h, .p = n});
    }
}

void names_free(struct sim *sim)
{
    for (uint32_t i = 0; i < sim->named_count; i++)
        free(sim->named[i].part);
    free(sim->named);
}

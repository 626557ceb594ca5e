/* scenario.c - what happens in a run, drawn from the seed.
 *
 * Jobs come, their steps wait on their nodes, ask again where a user's next step or a
 * restarted daemon would make them ask again, and end. Meanwhile nodes die and come
 * back, the manager restarts, connections break, a node lies, links are slow, jobs are
 * cancelled. All faults end after some seconds; then everybody must come through. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

#define TRIES_MAX 60
#define STAGE_BIT (1ull << 62)
#define MADE_UP (1ull << 63)

static void ask(struct sim *sim, struct event *e);

static uint64_t client_id(const struct sim *sim, const struct sim_job *j, uint32_t host)
{
    return (uint64_t)(j->wait[host].tries + 1) << 32 | (uint64_t)(j - sim->jobs) << 16 |
           host;
}

static void make_spec(const struct sim *sim, const struct sim_job *j,
                      struct vine_spec *spec)
{
    spec->count = j->source_count;
    spec->lazy = j->lazy;
    for (uint32_t i = 0; i < j->source_count; i++) {
        strcpy(spec->source[i].path, sim->sources[j->source[i]].path);
        spec->source[i].dst[0] = '\0';
    }
}

/* ---- the end of a job ---- */

static void end_on(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    struct sim_job *j = e->p;

    if (h->core == NULL || !j->member[h->index] || host_held(sim, h, e))
        return;
    node_job_end(h->core, j->job, now_ms(sim));
    host_timer(sim, h);
}

void scenario_job_end(struct sim *sim, struct event *e)
{
    struct sim_job *j = e->p;

    if (j->ended)
        return;
    names_check(sim, j);
    j->ended = true;
    j->cancelled |= e->a != 0;
    sim->troubles += e->a != 0;
    note(sim, "job %llu %s", (unsigned long long)j->job,
         j->cancelled ? "is cancelled" : "ends");
    for (uint32_t i = 0; i < sim->host_count; i++)
        end_on(sim, &(struct event){.run = end_on, .host = i, .p = j});
}

static void job_check(struct sim *sim, struct sim_job *j)
{
    for (uint32_t i = 0; i < sim->host_count; i++)
        if (j->member[i] && j->wait[i].state < WAIT_DONE)
            return;
    if (lazy_busy(sim, j) || names_busy(sim, j))
        return;
    at(sim, sim->now_us + 200 * MS, (struct event){.run = scenario_job_end, .p = j});
}

void scenario_task_over(struct sim *sim, struct sim_job *j)
{
    if (!j->ended)
        job_check(sim, j);
}

/* ---- asking and being answered ---- */

static void ask_later(struct sim *sim, struct sim_job *j, uint32_t host, uint64_t delay)
{
    j->wait[host].state = WAIT_RETRY;
    at(sim, sim->now_us + delay,
       (struct event){
           .run = ask, .host = host, .epoch = sim->hosts[host].epoch, .p = j});
}

static void ask(struct sim *sim, struct event *e)
{
    struct sim_job *j = e->p;
    struct host *h = &sim->hosts[e->host];
    struct wait *w = &j->wait[e->host];
    struct vine_err err = {0};
    struct vine_spec *spec;

    if (j->ended || h->core == NULL || h->epoch != e->epoch || w->state > WAIT_RETRY ||
        w->state == WAIT_ASKED || host_held(sim, h, e))
        return;
    spec = calloc(1, sizeof(*spec));
    if (spec == NULL)
        abort();
    make_spec(sim, j, spec);
    w->state = WAIT_ASKED;
    note(sim, "%s asks for job %llu", h->name, (unsigned long long)j->job);
    if (node_stage(h->core, client_id(sim, j, e->host), j->job, j->uid, j->uid, spec,
                   now_ms(sim), &err) < 0)
        fail(sim, "%s refuses to stage: %s", h->name, err.text);
    free(spec);
    host_timer(sim, h);
}

static bool any_was_away(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->host_count; i++)
        if (sim->hosts[i].deaths > 0 || sim->hosts[i].lost_manager)
            return true;
    return false;
}

static void check_result(struct sim *sim, struct host *h, struct sim_job *j, uint32_t i,
                         const struct node_result *r)
{
    uint32_t thing = sim->sources[j->source[i]].thing;

    if (strcmp(r->path, sim->sources[j->source[i]].path) != 0)
        fail(sim, "%s answers for another path", h->name);
    if (r->code != VINE_OK)
        return;
    /* See PROTOCOL.md, section 6, for who comes back meanwhile. */
    if (sim->sources[j->source[i]].hollow && sim->mgr_epoch == 0 && !any_was_away(sim))
        fail(sim, "%s: a job gets what its source does not have", h->name);
    if (!vine_digest_equal(&r->digest, &sim->things[thing].digest) ||
        !(h->stored[thing].complete || (j->lazy && h->lazy[thing].standing)))
        fail(sim, "%s says ready and is not", h->name);
    else if (!h->stored[thing].complete)
        lazy_task(sim, h, j, thing);
}

void scenario_reply(struct sim *sim, struct host *h, uint64_t client,
                    const struct node_result *results, uint32_t count)
{
    if (names_reply(sim, h, client, results))
        return;
    struct sim_job *j = &sim->jobs[client >> 16 & 0xffff];
    struct wait *w = &j->wait[h->index];
    enum vine_code code = VINE_OK;

    if (w->state != WAIT_ASKED || client != client_id(sim, j, h->index) ||
        count != j->source_count) {
        fail(sim, "%s answers a client that does not wait", h->name);
        return;
    }
    for (uint32_t i = 0; i < count; i++) {
        check_result(sim, h, j, i, &results[i]);
        if (results[i].code != VINE_OK && (code == VINE_OK || code == VINE_EDOWN))
            code = results[i].code;
        if (results[i].code != VINE_OK)
            note(sim, "%s: job %llu: %s", h->name, (unsigned long long)j->job,
                 results[i].text);
    }
    w->tries++;
    w->code = code;
    w->done_us = sim->now_us;
    if (code == VINE_OK)
        w->state = WAIT_DONE;
    else if (w->tries < TRIES_MAX && (code == VINE_EDOWN || code == VINE_ECHANGED ||
                                      (code == VINE_ENOSPC && sim->room_comes)))
        ask_later(sim, j, h->index, 500 * MS);
    else
        w->state = WAIT_FAILED;
    job_check(sim, j);
}

void scenario_answer(struct sim *sim, struct host *h, uint64_t client,
                     enum vine_code code, const char *text)
{
    if (names_answer(sim, h, client, code, text))
        return;
    struct sim_job *j = &sim->jobs[client & 0xffff];

    if (!(client & STAGE_BIT) || j->answered || j->asker != h->index)
        fail(sim, "%s answers what was not asked", h->name);
    note(sim, "%s: stage answered: %s %s", h->name, vine_code_name(code), text);
    j->answered = true;
    j->ended = true;
}

/* ---- the beginning ---- */

static void stage_start(struct sim *sim, struct sim_job *j)
{
    struct host *h = &sim->hosts[j->asker];
    const char **names = calloc(sim->host_count, sizeof(*names));
    uint32_t count = 0;

    if (names == NULL)
        abort();
    for (uint32_t i = 0; i < sim->host_count; i++)
        if (j->member[i])
            names[count++] = sim->hosts[i].name;
    note(sim, "%s stages on %u nodes", h->name, count);
    if (h->core == NULL || h->frozen_until_us > 0 ||
        node_cluster_stage(h->core, STAGE_BIT | (uint64_t)(j - sim->jobs), j->uid,
                           j->uid, sim->sources[j->source[0]].path, names, count,
                           j->job, now_ms(sim), NULL) < 0)
        j->answered = j->ended = true;
    free(names);
    host_timer(sim, h);
}

uint64_t scenario_ideal_us(const struct sim *sim)
{
    return sim->things[0].size * SECOND / RATE;
}

static uint64_t ask_delay(struct sim *sim, struct host *h)
{
    uint64_t delay = sim->options.seeded ? 0 : draw(sim, 300 * MS);

    if (sim->options.shape == SHAPE_LATE && h->index % 2 == 1)
        delay = draw(sim, scenario_ideal_us(sim));
    h->joined_us = sim->now_us + delay;
    return delay;
}

static void job_start(struct sim *sim, struct event *e)
{
    struct sim_job *j = e->p;
    struct vine_spec *spec = calloc(1, sizeof(*spec));

    if (spec == NULL)
        abort();
    make_spec(sim, j, spec);
    note(sim, "job %llu starts", (unsigned long long)j->job);
    for (uint32_t i = 0; i < sim->host_count && !j->stage; i++) {
        struct host *h = &sim->hosts[i];
        struct vine_err err = {0};
        if (!j->member[i])
            continue;
        if (h->core != NULL && h->frozen_until_us == 0 && e->a == 0 &&
            sim->options.shape != SHAPE_LATE &&
            node_job_begin(h->core, j->job, j->uid, j->uid, spec, now_ms(sim), &err) <
                0)
            fail(sim, "%s refuses a job: %s", h->name, err.text);
        host_timer(sim, h);
        if (h->core != NULL && j->wait[i].state < WAIT_DONE) /* else when it boots */
            ask_later(sim, j, i, ask_delay(sim, h));
    }
    if (j->stage)
        stage_start(sim, j);
    free(spec);
}

void scenario_booted(struct sim *sim, struct host *h)
{
    for (uint32_t i = 0; i < sim->job_count; i++) {
        struct sim_job *j = &sim->jobs[i];
        if (!j->member[h->index] || j->stage)
            continue;
        if (j->ended)
            end_on(sim, &(struct event){.run = end_on, .host = h->index, .p = j});
        else if (j->wait[h->index].state < WAIT_DONE && sim->now_us >= j->start_us)
            ask_later(sim, j, h->index, 50 * MS + draw(sim, 500 * MS));
    }
}

void scenario_died(struct sim *sim, struct host *h, bool for_good)
{
    for (uint32_t i = 0; i < sim->job_count; i++) {
        struct sim_job *j = &sim->jobs[i];
        struct wait *w = &j->wait[h->index];
        if (j->stage && j->asker == h->index && sim->now_us >= j->start_us)
            j->answered = j->ended = true;
        if (!j->member[h->index] || j->stage || w->state >= WAIT_DONE)
            continue;
        w->tries++;
        w->state = for_good ? WAIT_GONE : WAIT_RETRY;
        if (!j->ended)
            job_check(sim, j);
    }
}

/* Of a stage whose asker has given it up: the others go on. */
static bool still_fetches(const struct host *h)
{
    struct node_totals totals;

    if (h->core == NULL || h->frozen_until_us == EVER)
        return false;
    node_totals(h->core, &totals);
    return totals.transfers > 0;
}

bool scenario_over(const struct sim *sim)
{
    for (uint32_t i = 0; i < sim->job_count; i++)
        if (!sim->jobs[i].ended)
            return false;
    for (uint32_t i = 0; sim->quiet && i < sim->host_count; i++)
        if (still_fetches(&sim->hosts[i]))
            return false;
    return sim->quiet;
}

/* ---- drawing ---- */

static void die_for_good(struct sim *sim, struct event *e)
{
    host_die(sim, &sim->hosts[e->host], chance(sim, 50));
    scenario_died(sim, &sim->hosts[e->host], true);
}

static void be_quiet(struct sim *sim, struct event *e)
{
    sim->quiet = true;
}

static void draw_things(struct sim *sim)
{
    uint32_t pieces = sim->options.pieces;

    sim->thing_count = 1 + (sim->options.seeded ? 0 : (uint32_t)draw(sim, 3));
    for (uint32_t i = 0; i < sim->thing_count; i++) {
        struct thing *t = &sim->things[i];
        t->pieces = pieces > 0 ? pieces : 2 + (uint32_t)draw(sim, 100);
        t->size = (uint64_t)(t->pieces - 1) *
                  (sim->options.seeded ? 400000 : 100000 + draw(sim, 400000));
        t->shares = chance(sim, 50) ? (uint32_t)draw(sim, 101) : 0;
        t->forged = !sim->options.calm && i > 0 && chance(sim, 15);
        for (int b = 0; b < VINE_DIGEST_LEN; b++) {
            t->digest.b[b] = (uint8_t)draw(sim, 256);
            t->key.b[b] = (uint8_t)draw(sim, 256);
        }
    }
}

/* Stretches that a build has before it is over. */
static void draw_parts(struct sim *sim)
{
    uint32_t wanted = sim->options.seeded ? 0 : (uint32_t)draw(sim, 6);

    for (uint32_t i = 0; i < wanted; i++) {
        uint32_t whole = (uint32_t)draw(sim, sim->thing_count);
        struct thing *t = &sim->things[sim->thing_count + sim->part_count++];
        t->part_of = whole;
        t->pieces = 2 + (uint32_t)draw(sim, 20);
        t->size = 1 + sim->things[whole].size / 4;
        for (int b = 0; b < VINE_DIGEST_LEN; b++)
            t->digest.b[b] = (uint8_t)draw(sim, 256);
    }
}

static void draw_sources(struct sim *sim)
{
    sim->source_count =
        sim->thing_count + (sim->options.seeded ? 0 : (uint32_t)draw(sim, 2));
    for (uint32_t i = 0; i < sim->source_count; i++) {
        struct origin_source *s = &sim->sources[i];
        (void)snprintf(s->path, sizeof(s->path), "/shared/source%u", i);
        s->thing = i % sim->thing_count;
        s->packed = chance(sim, 60) || sim->things[s->thing].forged;
        s->hollow =
            i >= sim->thing_count && s->packed && !sim->options.calm && chance(sim, 40);
        sim->hollow |= s->hollow;
        s->foreign = s->packed && chance(sim, 25);
        if (!sim->options.calm && chance(sim, 10))
            s->denied_uid = 1000 + (uint32_t)draw(sim, 2);
    }
}

static void draw_hosts(struct sim *sim)
{
    uint32_t count = sim->options.nodes;

    if (count == 0)
        count =
            chance(sim, 15) ? 2 + (uint32_t)draw(sim, 60) : 2 + (uint32_t)draw(sim, 14);
    sim->host_count = count + sim->options.seeded;
    sim->hosts = calloc(sim->host_count, sizeof(*sim->hosts));
    if (sim->hosts == NULL)
        abort();
    for (uint32_t i = 0; i < sim->host_count; i++) {
        struct host *h = &sim->hosts[i];
        host_init(sim, i);
        h->up_rate = h->down_rate = RATE;
        if (sim->options.shape == SHAPE_SLOW && i % 16 == 8) {
            h->slow = true;
            h->up_rate = h->down_rate = RATE / 10;
        }
        if (!sim->options.calm && chance(sim, 4))
            h->cache_max = sim->things[0].size * (50 + draw(sim, 200)) / 100;
        /* It may evict the only copy there is, which is then read again. */
        sim->faulty |= h->cache_max != UINT64_MAX;
    }
}

/* Of a seeded run: who has it, who is late, who dies. */
static void draw_shape(struct sim *sim, struct sim_job *j)
{
    j->member[0] = false;
    for (uint32_t i = 1; i < sim->host_count; i++) {
        if (sim->options.shape == SHAPE_WARM && i % 2 == 1) {
            j->member[i] = false;
            host_store(sim, &sim->hosts[i], 0);
        }
        if (sim->options.shape == SHAPE_DEATHS && i % 20 == 7)
            at(sim, j->start_us + draw(sim, scenario_ideal_us(sim)),
               (struct event){.run = die_for_good, .host = i});
    }
    sim->faulty |= sim->options.shape == SHAPE_DEATHS;
}

/* Switches, and how far away each node is. */
static void draw_topology(struct sim *sim)
{
    bool leaves =
        sim->options.seeded ? sim->options.shape == SHAPE_LEAVES : chance(sim, 25);
    bool far = !sim->options.seeded && chance(sim, 30);
    uint32_t size = sim->host_count > 16 ? 16 : 4; /* of a switch */
    uint32_t rate = sim->options.seeded ? 4 : 1 + (uint32_t)draw(sim, 4);

    sim->leaf_count = !leaves               ? 1
                      : sim->options.seeded ? (sim->host_count + size - 1) / size
                                            : 2 + (uint32_t)draw(sim, 3);
    sim->leaves = calloc(sim->leaf_count, sizeof(*sim->leaves));
    if (sim->leaves == NULL)
        abort();
    for (uint32_t i = 0; i < sim->leaf_count; i++)
        sim->leaves[i].rate = (uint64_t)RATE * rate;
    for (uint32_t i = 0; i < sim->host_count; i++) {
        sim->hosts[i].leaf = sim->options.seeded ? i / size % sim->leaf_count
                                                 : (uint32_t)draw(sim, sim->leaf_count);
        sim->hosts[i].far_us = far ? draw(sim, 5 * MS) : 0;
    }
}

static void draw_job(struct sim *sim, uint32_t index)
{
    struct sim_job *j = &sim->jobs[index];
    bool everybody = sim->options.seeded || chance(sim, 50);
    uint32_t sure = (uint32_t)draw(sim, sim->host_count);

    j->uid = 1000 + (uint32_t)draw(sim, 2);
    j->job = 100 + index;
    j->stage = !sim->options.seeded && chance(sim, 15);
    if (j->stage) {
        j->job |= MADE_UP;
        j->asker = (uint32_t)draw(sim, sim->host_count);
    }
    j->lazy = !sim->options.seeded && !j->stage && chance(sim, 40);
    sim->lazy_jobs += j->lazy;
    j->source_count = 1 + (sim->source_count > 1 && !j->stage && chance(sim, 30));
    j->source[0] = (uint32_t)draw(sim, sim->source_count);
    j->source[1] = (j->source[0] + 1) % sim->source_count;
    j->wait = calloc(sim->host_count, sizeof(*j->wait));
    j->member = calloc(sim->host_count, sizeof(*j->member));
    if (j->wait == NULL || j->member == NULL)
        abort();
    for (uint32_t i = 0; i < sim->host_count; i++)
        j->member[i] = everybody || i == sure || chance(sim, 50);
    j->start_us = 100 * MS + (index == 0 ? 0 : draw(sim, 3 * SECOND));
    if (sim->options.seeded)
        draw_shape(sim, j);
    at(sim, j->start_us,
       (struct event){.run = job_start, .a = chance(sim, 30), .p = j});
}

static void draw_network(struct sim *sim)
{
    sim->latency_us = 100 + draw(sim, 2000);
    sim->quantum = 64 << 10;
    sim->source_rate = 20000000 + draw(sim, 180000000);
    sim->build_rate = 20000000 + draw(sim, 180000000);
    mgr_limits_default(&sim->mgr_limits);
    if (sim->options.seeded)
        sim->latency_us = 200;
    if (sim->options.window > 0)
        sim->mgr_limits.window = sim->options.window;
    if (sim->options.uploads > 0)
        sim->mgr_limits.uploads = sim->options.uploads;
    if (sim->options.trees >= 0)
        sim->mgr_limits.feed_min = (uint32_t)sim->options.trees;
    if (!sim->options.seeded && chance(sim, 30)) {
        sim->mgr_limits.window = 1 + (uint32_t)draw(sim, 8);
        sim->mgr_limits.uploads = 1 + (uint32_t)draw(sim, 8);
    }
    if (!sim->options.seeded && sim->options.trees < 0 &&
        chance(sim, 60)) /* trees with few nodes, too */
        sim->mgr_limits.feed_min = 1 + (uint32_t)draw(sim, 8);
}

void scenario_draw(struct sim *sim)
{
    uint32_t faults = 0;

    draw_network(sim);
    draw_things(sim);
    draw_parts(sim);
    draw_sources(sim);
    draw_hosts(sim);
    draw_topology(sim);
    if (sim->options.seeded)
        host_store(sim, &sim->hosts[0], 0);
    sim->job_count = sim->options.seeded ? 1 : 1 + (uint32_t)draw(sim, 4);
    for (uint32_t i = 0; i < sim->job_count; i++)
        draw_job(sim, i);
    if (!sim->options.seeded)
        names_draw(sim);
    manager_start(sim);
    for (uint32_t i = 0; i < sim->host_count; i++)
        host_boot(sim, &sim->hosts[i]);
    if (!sim->options.calm && !sim->options.seeded) {
        faults = (uint32_t)draw(sim, 6);
        if (chance(sim, 20)) {
            faults += 3;
            sim->storm_us = 20 * MS + draw(sim, 3 * SECOND);
        }
        sim->quiet_us = 15 * SECOND;
    }
    for (uint32_t i = 0; i < faults; i++)
        fault_draw(sim);
    at(sim, sim->quiet_us, (struct event){.run = be_quiet});
}

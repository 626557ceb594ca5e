/* faults.c - what goes wrong in a run, drawn from the seed.
 *
 * Nodes die and come back or freeze, the manager restarts, connections break, a node
 * lies, links are slow, jobs are cancelled. All of it begins within some seconds. */
#include "tests/sim/sim.h"

#define FAULTS_BEGIN_US (8 * SECOND) /* the last */
#define FREEZE_MAX_US (20 * SECOND)
#define TROUBLE_MAX_US (6 * SECOND) /* of a disk that recovers */
#define STORM_US (300 * MS)         /* several at once */

static void reboot(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core == NULL)
        host_boot(sim, h);
}

static void fault_die(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    bool for_good = chance(sim, 15), silent = chance(sim, 50);

    if (h->core == NULL)
        return;
    host_die(sim, h, silent);
    scenario_died(sim, h, for_good);
    if (!for_good)
        at(sim, sim->now_us + 100 * MS + draw(sim, 6 * SECOND),
           (struct event){.run = reboot, .host = e->host});
}

static void restart_manager(struct sim *sim, struct event *e)
{
    if (sim->mgr == NULL)
        manager_start(sim);
}

static void fault_manager(struct sim *sim, struct event *e)
{
    if (sim->mgr == NULL)
        return;
    manager_stop(sim);
    at(sim, sim->now_us + 50 * MS + draw(sim, 5 * SECOND),
       (struct event){.run = restart_manager});
}

/* Stopped, or swapped out, or a kernel in trouble: it neither answers nor closes. */
static void fault_freeze(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];
    bool for_good = chance(sim, 15);
    uint64_t pause = SECOND + draw(sim, FREEZE_MAX_US - SECOND);

    if (h->core == NULL || h->frozen_until_us > 0)
        return;
    host_freeze(sim, h, for_good ? EVER : sim->now_us + pause);
    if (for_good)
        scenario_died(sim, h, true);
}

/* When it goes on nodes have given it up, or what it believes is old; or it is killed.
 */
static void fault_freeze_manager(struct sim *sim, struct event *e)
{
    uint64_t pause = SECOND / 2 + draw(sim, FREEZE_MAX_US - SECOND);

    if (sim->mgr == NULL)
        return;
    if (chance(sim, 30)) {
        manager_freeze(sim, EVER);
        at(sim, sim->now_us + pause, (struct event){.run = fault_manager});
    } else {
        manager_freeze(sim, sim->now_us + pause);
    }
}

static void room_again(struct sim *sim, struct event *e)
{
    note(sim, "the disk of %s has room again", sim->hosts[e->host].name);
    sim->hosts[e->host].full = false;
}

static void fault_full(struct sim *sim, struct event *e)
{
    bool for_good = chance(sim, 50);

    if (sim->hosts[e->host].full)
        return;
    note(sim, "the disk of %s is full", sim->hosts[e->host].name);
    sim->hosts[e->host].full = sim->hosts[e->host].was_full = true;
    sim->troubles++;
    if (for_good)
        return;
    sim->room_comes = true;
    at(sim, sim->now_us + 100 * MS + draw(sim, TROUBLE_MAX_US),
       (struct event){.run = room_again, .host = e->host});
}

static void fast_again(struct sim *sim, struct event *e)
{
    note(sim, "the disk of %s recovers", sim->hosts[e->host].name);
    sim->hosts[e->host].disk_us = MS;
}

static void fault_slow_disk(struct sim *sim, struct event *e)
{
    note(sim, "the disk of %s is slow", sim->hosts[e->host].name);
    sim->hosts[e->host].disk_us = 10 * MS;
    if (chance(sim, 50))
        at(sim, sim->now_us + 100 * MS + draw(sim, TROUBLE_MAX_US),
           (struct event){.run = fast_again, .host = e->host});
}

static void fault_lazy(struct sim *sim, struct event *e)
{
    lazy_lost(sim, &sim->hosts[e->host]);
}

static void fault_change(struct sim *sim, struct event *e)
{
    sim->troubles++;
    origin_changed(sim, (uint32_t)draw(sim, sim->source_count));
}

static void fault_cut(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    if (h->core != NULL)
        control_cut(sim, h, true);
}

static void fault_corrupt(struct sim *sim, struct event *e)
{
    note(sim, "%s lies from now on", sim->hosts[e->host].name);
    sim->hosts[e->host].corrupt = true;
}

static void fault_slow(struct sim *sim, struct event *e)
{
    struct host *h = &sim->hosts[e->host];

    note(sim, "%s is slow from now on", h->name);
    h->up_rate = h->down_rate = RATE / 10;
}

void fault_draw(struct sim *sim)
{
    static void (*const kinds[])(struct sim * sim, struct event * e) = {
        fault_die,       fault_die,    fault_manager, fault_cut,
        fault_freeze,    fault_slow,   fault_corrupt, fault_full,
        fault_slow_disk, fault_change, fault_change,  fault_freeze_manager,
        fault_lazy};
    uint32_t kind = (uint32_t)draw(sim, sizeof(kinds) / sizeof(kinds[0]) + 1);
    uint32_t host = (uint32_t)draw(sim, sim->host_count);
    uint64_t when = 20 * MS + draw(sim, FAULTS_BEGIN_US);

    if (sim->storm_us > 0 && chance(sim, 80))
        when = sim->storm_us + draw(sim, STORM_US);
    else if (chance(sim, 60)) /* most of it while things are moving */
        when = 20 * MS + draw(sim, 2 * SECOND);
    if (kind == sizeof(kinds) / sizeof(kinds[0])) {
        struct sim_job *j = &sim->jobs[draw(sim, sim->job_count)];
        sim->faulty = true; /* what was read for it is lost */
        if (!j->stage)
            at(sim, j->start_us + draw(sim, SECOND),
               (struct event){.run = scenario_job_end, .a = 1, .p = j});
        return;
    }
    if (kinds[kind] == fault_corrupt) {
        for (uint32_t i = 0; i < sim->host_count; i++)
            if (sim->hosts[i].corrupt)
                return; /* one liar is what we promise to survive */
        when = 0;
        sim->hosts[host].corrupt = true;
    }
    sim->faulty |= kinds[kind] != fault_slow && kinds[kind] != fault_slow_disk;
    if (kinds[kind] == fault_freeze || kinds[kind] == fault_freeze_manager)
        sim->quiet_us = FAULTS_BEGIN_US + FREEZE_MAX_US + SECOND;
    at(sim, when, (struct event){.run = kinds[kind], .host = host});
}

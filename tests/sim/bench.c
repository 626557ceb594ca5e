/* bench.c - makespans against the optimum, and what the manager takes for them.
 *
 * One seed has the object, N receivers want it: at once on equal links, or with slow
 * nodes, late ones, half of them warm, deaths, switches. The optimum is that of k
 * pieces on equal links, (S/B)(1 + floor(log2 N)/k); each shape says what is compared
 * with it. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/sim/sim.h"

#define PIECES 513u /* the manifest is one */
#define MANAGER_CPU_S 2.0
#define MANAGER_MIB 64.0
#define CROSS_MAX 1.1

static const struct run {
    enum shape shape;
    uint32_t nodes;
    double limit; /* over the optimum */
} runs[] = {
    {SHAPE_EQUAL, 15, 1.05},   {SHAPE_EQUAL, 63, 1.05},    {SHAPE_EQUAL, 255, 1.05},
    {SHAPE_EQUAL, 1023, 1.05}, {SHAPE_EQUAL, 4095, 1.05},  {SHAPE_SLOW, 15, 1.10},
    {SHAPE_SLOW, 63, 1.10},    {SHAPE_SLOW, 255, 1.10},    {SHAPE_SLOW, 1023, 1.10},
    {SHAPE_LATE, 15, 1.25},    {SHAPE_LATE, 63, 1.25},     {SHAPE_LATE, 255, 1.25},
    {SHAPE_LATE, 1023, 1.25},  {SHAPE_WARM, 15, 1.1},      {SHAPE_WARM, 63, 1.1},
    {SHAPE_WARM, 255, 1.1},    {SHAPE_WARM, 1023, 1.1},    {SHAPE_DEATHS, 15, 1.25},
    {SHAPE_DEATHS, 63, 1.25},  {SHAPE_DEATHS, 255, 1.25},  {SHAPE_DEATHS, 1023, 1.25},
    {SHAPE_LEAVES, 7, 1.15},   {SHAPE_LEAVES, 15, 1.15},   {SHAPE_LEAVES, 63, 1.15},
    {SHAPE_LEAVES, 255, 1.15}, {SHAPE_LEAVES, 1023, 1.15},
};

static const char *const shape_names[SHAPES] = {
    [SHAPE_EQUAL] = "equal", [SHAPE_SLOW] = "slow",     [SHAPE_LATE] = "late",
    [SHAPE_WARM] = "warm",   [SHAPE_DEATHS] = "deaths", [SHAPE_LEAVES] = "switches",
};

struct result {
    double makespan_s, ratio, cross, manager_s, manager_mib, wall_s;
};

int bench_shape(const char *name)
{
    for (int i = 0; i < SHAPES; i++)
        if (strcmp(name, shape_names[i]) == 0)
            return i;
    return -1;
}

static double seconds_now(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* The longest that a node took which neither died nor is slow. */
static uint64_t longest_us(const struct sim *sim)
{
    uint64_t longest = 0;

    for (uint32_t i = 1; i < sim->host_count; i++) {
        const struct host *h = &sim->hosts[i];
        uint64_t start =
            h->joined_us > sim->first_fetch_us ? h->joined_us : sim->first_fetch_us;
        if (sim->jobs[0].member[i] && h->deaths == 0 && !h->slow &&
            h->done_us - start > longest)
            longest = h->done_us - start;
    }
    return longest;
}

static double optimum_s(const struct sim *sim, uint32_t receivers)
{
    double log2_n = 0;

    while (sim->options.shape != SHAPE_WARM && (2u << (uint32_t)log2_n) <= receivers)
        log2_n++;
    return (double)scenario_ideal_us(sim) / (double)SECOND *
           (1 + log2_n / (double)(sim->things[0].pieces - 1));
}

static struct result measure(struct sim *sim, const struct options *options,
                             double start)
{
    struct result r = {
        .makespan_s = (double)longest_us(sim) / (double)SECOND,
        .manager_s = (double)sim->meter.ns / 1e9,
        .manager_mib = (double)sim->meter.peak / (1 << 20),
        .wall_s = seconds_now() - start,
    };

    r.ratio = r.makespan_s / optimum_s(sim, options->nodes);
    if (sim->leaf_count > 1)
        r.cross = (double)sim->bytes_crossed /
                  ((double)sim->things[0].size * (sim->leaf_count - 1));
    return r;
}

static void print(const struct options *o, const struct result *r, bool json,
                  bool first)
{
    if (json)
        printf("%s{\"shape\": \"%s\", \"nodes\": %u, \"pieces\": %u, "
               "\"makespan_s\": %.4f, \"over_optimum\": %.4f, \"cross\": %.4f, "
               "\"manager_cpu_s\": %.3f, \"manager_mib\": %.1f}",
               first ? "[" : ",\n ", shape_names[o->shape], o->nodes, o->pieces - 1,
               r->makespan_s, r->ratio, r->cross, r->manager_s, r->manager_mib);
    else
        printf("%-8s  %5u  %6.3f s  %7.3f  %7.3f  %7.2f s  %6.1f MiB  %6.1f s\n",
               shape_names[o->shape], o->nodes, r->makespan_s, r->ratio, r->cross,
               r->manager_s, r->manager_mib, r->wall_s);
    (void)fflush(stdout);
}

static bool held(const struct options *o, const struct result *r, double limit)
{
    bool ok = true;

    if (limit > 0 && r->ratio > limit)
        ok = fprintf(stderr, "MISSED: %s, %u nodes: %.3f x the optimum, limit %.2f\n",
                     shape_names[o->shape], o->nodes, r->ratio, limit) < 0;
    if (o->shape == SHAPE_LEAVES && limit > 0 && r->cross > CROSS_MAX)
        ok = fprintf(stderr, "MISSED: %u nodes: %.3f x between switches, limit %.2f\n",
                     o->nodes, r->cross, CROSS_MAX) < 0;
    if (o->shape != SHAPE_EQUAL || limit == 0)
        return ok;
    if (r->manager_s > MANAGER_CPU_S || r->manager_mib > MANAGER_MIB)
        ok = fprintf(stderr, "MISSED: %u nodes: manager %.2f s, %.1f MiB\n", o->nodes,
                     r->manager_s, r->manager_mib) < 0;
    return ok;
}

static bool one(const struct options *options, double limit, bool json, bool first)
{
    struct sim *sim = calloc(1, sizeof(*sim));
    double start = seconds_now();
    struct result r = {0};
    bool ok;

    if (sim == NULL)
        abort();
    ok = sim_run(sim, options);
    if (ok) {
        r = measure(sim, options, start);
        print(options, &r, json, first);
        ok = held(options, &r, limit);
    } else {
        fprintf(stderr, "%s, %u nodes FAILED: %s\n", shape_names[options->shape],
                options->nodes, sim->why);
    }
    sim_free(sim);
    free(sim);
    return ok;
}

/* Nodes given: that run alone, without a limit. Else all of them with theirs. */
int bench(const struct options *base, bool json)
{
    struct options options = *base;
    bool ok = true;

    options.seeded = options.calm = true;
    if (options.pieces == 0)
        options.pieces = PIECES;
    if (!json)
        printf("%-8s  %5s  %8s  %7s  %7s  %9s  %10s  %8s\n", "shape", "nodes",
               "makespan", "/opt", "crossed", "manager", "memory", "took");
    if (base->nodes > 0)
        ok = one(&options, 0, json, true);
    for (size_t i = 0; base->nodes == 0 && i < sizeof(runs) / sizeof(runs[0]); i++) {
        if (base->shape != SHAPES && base->shape != runs[i].shape)
            continue;
        options.shape = runs[i].shape;
        options.nodes = runs[i].nodes;
        ok = one(&options, base->trees == 0 ? 0 : runs[i].limit, json, i == 0) && ok;
    }
    if (json)
        printf("]\n");
    return ok ? 0 : 1;
}

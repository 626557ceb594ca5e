/* sim.c - runs of the simulator: one seed, many seeds, the bench of makespans.
 *
 * See README.md. Exit status 0: all that was asked for held; 1: it did not, and the
 * seed is printed; 2: bad usage. */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/sim/sim.h"

#define VIRTUAL_MAX_US (900 * SECOND)
#define SETTLE_US                                                                      \
    (8 * SECOND) /* after the last job: releases, refusals, dead nodes                 \
                  */
#define EVENTS_MAX 200000000ull
#define CHECK_EVERY 997u
#define TWICE_EVERY                                                                    \
    25u /* seeds run a second time, to see that nothing else matters                   \
         */

static void event_drop(struct sim *sim, struct event *e)
{
    if (e->owned)
        free(e->p);
    event_free(sim, e);
}

static void run_events(struct sim *sim)
{
    uint64_t end_us = VIRTUAL_MAX_US;
    bool over = false;
    struct event *e;

    while (!sim->failed && (e = next_event(sim)) != NULL) {
        if (e->at_us > end_us) {
            event_drop(sim, e);
            break;
        }
        sim->now_us = e->at_us;
        e->run(sim, e);
        event_free(sim, e);
        if (++sim->events % CHECK_EVERY == 0 && sim->host_count <= 64)
            check_deep(sim);
        if (sim->events > EVENTS_MAX)
            fail(sim, "more than %llu events: does it run in circles?", EVENTS_MAX);
        if (!over && scenario_over(sim)) {
            over = true;
            end_us = sim->now_us + SETTLE_US;
        }
    }
    if (!over)
        fail(sim, "not over after %llu s", VIRTUAL_MAX_US / SECOND);
}

void sim_free(struct sim *sim)
{
    struct event *e;

    /* Messages on their way at the end. */
    while ((e = next_event(sim)) != NULL)
        event_drop(sim, e);
    while ((e = sim->spare) != NULL) {
        sim->spare = e->p;
        free(e);
    }
    free(sim->heap);
    mgr_free(sim->mgr);
    for (uint32_t i = 0; i < sim->host_count; i++)
        host_free(&sim->hosts[i]);
    for (uint32_t i = 0; i < sim->job_count; i++) {
        free(sim->jobs[i].wait);
        free(sim->jobs[i].member);
    }
    free(sim->hosts);
    free(sim->conns);
}

bool sim_run(struct sim *sim, const struct options *options)
{
    memset(sim, 0, sizeof(*sim));
    sim->options = *options;
    sim->random = options->seed * 0x9e3779b97f4a7c15ull + 1;
    sim->hash = 0xcbf29ce484222325ull;
    scenario_draw(sim);
    run_events(sim);
    if (!sim->failed) {
        control_bury(sim);
        check_end(sim);
    }
    if (sim->failed)
        check_dump(sim);
    return !sim->failed;
}

static bool run_seed(const struct options *options, bool print, uint64_t *hash)
{
    struct sim *sim = calloc(1, sizeof(*sim));
    bool ok;

    if (sim == NULL)
        abort();
    ok = sim_run(sim, options);
    if (!ok)
        printf("seed %" PRIu64 " FAILED at %.3f ms: %s\n", options->seed,
               (double)sim->now_us / 1000.0, sim->why);
    if (print || !ok)
        printf("seed %" PRIu64 ": %u nodes, %u jobs, %" PRIu64 " events, %.1f s, trace "
               "%016" PRIx64 "\n",
               options->seed, sim->host_count, sim->job_count, sim->events,
               (double)sim->now_us / (double)SECOND, sim->hash);
    *hash = sim->hash;
    sim_free(sim);
    free(sim);
    return ok;
}

static double seconds_now(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int run_seeds(const struct options *base, uint64_t first, uint64_t last)
{
    struct options options = *base;
    double start = seconds_now();

    for (options.seed = first; options.seed <= last; options.seed++) {
        uint64_t hash, again;
        if (!run_seed(&options, false, &hash)) {
            printf("replay: sim --seed %" PRIu64 " --trace\n", options.seed);
            return 1;
        }
        if (options.seed % TWICE_EVERY != 0)
            continue;
        (void)run_seed(&options, false, &again);
        if (hash != again) {
            printf("seed %" PRIu64 " FAILED: a second run went another way\n",
                   options.seed);
            return 1;
        }
    }
    printf("%" PRIu64 " seeds held, %.1f s\n", last - first + 1, seconds_now() - start);
    return 0;
}

static double ratio_to_optimum(const struct sim *sim, uint32_t receivers)
{
    const struct thing *t = &sim->things[0];
    double pieces = t->pieces - 1, log2_n = 0;
    double best = (double)t->size / (double)sim->hosts[0].up_rate;

    while ((2u << (uint32_t)log2_n) <= receivers)
        log2_n++;
    best *= 1 + log2_n / pieces;
    return (double)(sim->last_done_us - sim->first_fetch_us) / (double)SECOND / best;
}

/* One seed, N receivers, equal links, nothing goes wrong. */
static int bench(const struct options *base, double limit)
{
    static const uint32_t counts[] = {8, 15, 64, 255};
    struct sim *sim = calloc(1, sizeof(*sim));
    int status = 0;

    if (sim == NULL)
        abort();
    printf("receivers  pieces  makespan  over optimum  events    seconds\n");
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct options options = *base;
        double start = seconds_now(), ratio;
        options.seeded = options.calm = true;
        options.nodes = base->nodes > 0 ? base->nodes : counts[i];
        options.pieces = base->pieces > 0 ? base->pieces : 513;
        if (!sim_run(sim, &options)) {
            printf("%u receivers FAILED: %s\n", options.nodes, sim->why);
            status = 1;
        }
        ratio = ratio_to_optimum(sim, options.nodes);
        printf("%9u  %6u  %6.2f s  %12.3f  %8" PRIu64 "  %.1f\n", options.nodes,
               options.pieces - 1,
               (double)(sim->last_done_us - sim->first_fetch_us) / (double)SECOND,
               ratio, sim->events, seconds_now() - start);
        if (ratio > limit && options.nodes >= 15) {
            printf("%u receivers: over %.2f x the optimum\n", options.nodes, limit);
            status = 1;
        }
        sim_free(sim);
        if (base->nodes > 0)
            break;
    }
    free(sim);
    return status;
}

static int usage(FILE *to, int status)
{
    (void)fputs(
        "usage: sim --seed N [--nodes N] [--pieces K] [--calm] [--trace]\n"
        "       sim --seeds A-B [--nodes N] [--pieces K] [--calm]\n"
        "       sim --bench [--nodes N] [--pieces K] [--window W] [--uploads U]\n"
        "\n"
        "Manager and nodes in virtual time. One seed is one run, the same each\n"
        "time. Many seeds: stops at the first that fails and prints it.\n",
        to);
    return status;
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {{"seed", required_argument, NULL, 's'},
                                          {"seeds", required_argument, NULL, 'S'},
                                          {"nodes", required_argument, NULL, 'n'},
                                          {"pieces", required_argument, NULL, 'p'},
                                          {"window", required_argument, NULL, 'w'},
                                          {"uploads", required_argument, NULL, 'u'},
                                          {"calm", no_argument, NULL, 'c'},
                                          {"trace", no_argument, NULL, 't'},
                                          {"bench", no_argument, NULL, 'b'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct options options = {.seed = 1};
    uint64_t first = 0, last = 0;
    bool many = false, benching = false;
    int c;

    while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        switch (c) {
        case 's':
            options.seed = strtoull(optarg, NULL, 10);
            break;
        case 'S':
            many = sscanf(optarg, "%" SCNu64 "-%" SCNu64, &first, &last) == 2;
            if (!many)
                return usage(stderr, 2);
            break;
        case 'n':
            options.nodes = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'p':
            options.pieces = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'w':
            options.window = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'u':
            options.uploads = (uint32_t)strtoul(optarg, NULL, 10);
            break;
        case 'c':
            options.calm = true;
            break;
        case 't':
            options.trace = true;
            break;
        case 'b':
            benching = true;
            break;
        case 'h':
            return usage(stdout, 0);
        default:
            return usage(stderr, 2);
        }
    }
    if (options.nodes > HOSTS_MAX - 1 || options.pieces > VINE_PIECES_MAX ||
        options.pieces == 1 || optind < argc)
        return usage(stderr, 2);
    if (benching)
        return bench(&options, 1.25);
    if (many)
        return run_seeds(&options, first, last);
    return run_seed(&options, true, &first) ? 0 : 1;
}

/* sim.c - runs of the simulator: one seed, or many.
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
        if (!sim->options.seeded)
            check_waits(sim, &sim->hosts[e->host]);
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
    lazy_free(sim);
    names_free(sim);
    mgr_free(sim->mgr);
    for (uint32_t i = 0; i < sim->host_count; i++)
        host_free(&sim->hosts[i]);
    for (uint32_t i = 0; i < sim->job_count; i++) {
        free(sim->jobs[i].wait);
        free(sim->jobs[i].member);
    }
    free(sim->hosts);
    free(sim->conns);
    free(sim->leaves);
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

static int usage(FILE *to, int status)
{
    (void)fputs(
        "usage: sim --seed N [--nodes N] [--pieces K] [--calm] [--trace]\n"
        "       sim --seeds A-B [--nodes N] [--pieces K] [--calm]\n"
        "       sim --bench [--shape S] [--nodes N] [--pieces K] [--json]\n"
        "           [--window W] [--uploads U] [--trees T]\n"
        "\n"
        "Manager and nodes in virtual time. One seed is one run, the same each\n"
        "time. Many seeds: stops at the first that fails and prints it.\n"
        "\n"
        "--bench: makespans; without --nodes all of them, exit status 1 where a bound\n"
        "is missed. Shapes: equal, slow, late, warm, deaths, switches. --trees T: "
        "from\n"
        "T receivers on (0: never).\n",
        to);
    return status;
}

struct command {
    struct options options;
    uint64_t first, last;
    bool many, bench, json, help;
    int shape;
};

/* -1: bad usage. */
static int parse_option(struct command *command, int c, const char *value)
{
    struct options *o = &command->options;

    switch (c) {
    case 's':
        o->seed = strtoull(value, NULL, 10);
        return 0;
    case 'S':
        command->many = true;
        return sscanf(value, "%" SCNu64 "-%" SCNu64, &command->first, &command->last) ==
                       2
                   ? 0
                   : -1;
    case 'n':
        o->nodes = (uint32_t)strtoul(value, NULL, 10);
        return 0;
    case 'p':
        o->pieces = (uint32_t)strtoul(value, NULL, 10);
        return 0;
    case 'w':
        o->window = (uint32_t)strtoul(value, NULL, 10);
        return 0;
    case 'u':
        o->uploads = (uint32_t)strtoul(value, NULL, 10);
        return 0;
    case 'c':
        o->calm = true;
        return 0;
    case 't':
        o->trace = true;
        return 0;
    case 'b':
        command->bench = true;
        return 0;
    case 'H':
        command->shape = bench_shape(value);
        return command->shape < 0 ? -1 : 0;
    case 'T':
        o->trees = atoi(value);
        return 0;
    case 'j':
        command->json = true;
        return 0;
    case 'h':
        command->help = true;
        return 0;
    default:
        return -1;
    }
}

static int run_bench(const struct command *command)
{
    struct options options = command->options;

    options.shape = options.nodes > 0 && command->shape == SHAPES
                        ? SHAPE_EQUAL
                        : (enum shape)command->shape;
    return bench(&options, command->json);
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
                                          {"shape", required_argument, NULL, 'H'},
                                          {"trees", required_argument, NULL, 'T'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    struct command command = {.options = {.seed = 1, .trees = -1}, .shape = SHAPES};
    const struct options *o = &command.options;
    uint64_t hash;
    int c;

    while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1)
        if (parse_option(&command, c, optarg) < 0)
            return usage(stderr, 2);
    if (command.help)
        return usage(stdout, 0);
    if (o->nodes > HOSTS_MAX - 1 || o->pieces > VINE_PIECES_MAX || o->pieces == 1 ||
        optind < argc)
        return usage(stderr, 2);
    if (command.bench)
        return run_bench(&command);
    if (command.many)
        return run_seeds(o, command.first, command.last);
    return run_seed(o, true, &hash) ? 0 : 1;
}

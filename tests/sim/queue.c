/* queue.c - events in order of virtual time, random numbers, the trace.
 *
 * Events of one moment run in the order they were made, so a run depends on its seed
 * and on nothing else. Every note goes into a running hash: two runs are the same
 * exactly when their hashes are. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"

static bool before(const struct event *a, const struct event *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->seq < b->seq;
}

void at(struct sim *sim, uint64_t at_us, struct event e)
{
    struct event *copy = malloc(sizeof(*copy));
    uint32_t i = sim->heap_count++;

    if (sim->heap_count > sim->heap_room) {
        sim->heap_room = sim->heap_room == 0 ? 1024 : 2 * sim->heap_room;
        sim->heap = realloc(sim->heap, sim->heap_room * sizeof(*sim->heap));
    }
    if (copy == NULL || sim->heap == NULL)
        abort();
    *copy = e;
    copy->at_us = at_us < sim->now_us ? sim->now_us : at_us;
    copy->seq = ++sim->seq;
    while (i > 0 && before(copy, sim->heap[(i - 1) / 2])) {
        sim->heap[i] = sim->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    sim->heap[i] = copy;
}

struct event *next_event(struct sim *sim)
{
    struct event *first, *last;
    uint32_t i = 0;

    if (sim->heap_count == 0)
        return NULL;
    first = sim->heap[0];
    last = sim->heap[--sim->heap_count];
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= sim->heap_count)
            break;
        if (child + 1 < sim->heap_count &&
            before(sim->heap[child + 1], sim->heap[child]))
            child++;
        if (!before(sim->heap[child], last))
            break;
        sim->heap[i] = sim->heap[child];
        i = child;
    }
    sim->heap[i] = last;
    return first;
}

uint64_t draw(struct sim *sim, uint64_t below)
{
    uint64_t z = sim->random += 0x9e3779b97f4a7c15ull;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return below == 0 ? 0 : z % below;
}

bool chance(struct sim *sim, uint32_t percent)
{
    return draw(sim, 100) < percent;
}

uint64_t now_ms(const struct sim *sim)
{
    return sim->now_us / MS;
}

void note(struct sim *sim, const char *format, ...)
{
    char line[600];
    va_list ap;

    va_start(ap, format);
    (void)vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    sim->hash = (sim->hash ^ sim->now_us) * 0x100000001b3ull;
    for (const char *c = line; *c != '\0'; c++)
        sim->hash = (sim->hash ^ (unsigned char)*c) * 0x100000001b3ull;
    if (sim->options.trace)
        printf("%10.3f ms  %s\n", (double)sim->now_us / 1000.0, line);
}

void fail(struct sim *sim, const char *format, ...)
{
    va_list ap;

    if (sim->failed)
        return;
    sim->failed = true;
    va_start(ap, format);
    (void)vsnprintf(sim->why, sizeof(sim->why), format, ap);
    va_end(ap);
    note(sim, "FAILED: %s", sim->why);
}

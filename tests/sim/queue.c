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

/* A heap of four children a node, with the keys in it: a big run has a hundred thousand
 * events waiting, and following a pointer for each comparison costs more than all else.
 */
#define CHILDREN 4u

static bool before(const struct waiting *a, const struct waiting *b)
{
    return a->at_us != b->at_us ? a->at_us < b->at_us : a->seq < b->seq;
}

static struct event *event_new(struct sim *sim)
{
    struct event *e = sim->spare;

    if (e == NULL)
        e = malloc(sizeof(*e));
    else
        sim->spare = e->p;
    if (e == NULL)
        abort();
    return e;
}

void event_free(struct sim *sim, struct event *e)
{
    e->p = sim->spare;
    sim->spare = e;
}

void at(struct sim *sim, uint64_t at_us, struct event e)
{
    struct waiting w = {.at_us = at_us < sim->now_us ? sim->now_us : at_us,
                        .seq = ++sim->seq,
                        .event = event_new(sim)};
    uint32_t i = sim->heap_count++;

    if (sim->heap_count > sim->heap_room) {
        sim->heap_room = sim->heap_room == 0 ? 1024 : 2 * sim->heap_room;
        sim->heap = realloc(sim->heap, sim->heap_room * sizeof(*sim->heap));
        if (sim->heap == NULL)
            abort();
    }
    *w.event = e;
    w.event->at_us = w.at_us;
    for (; i > 0 && before(&w, &sim->heap[(i - 1) / CHILDREN]); i = (i - 1) / CHILDREN)
        sim->heap[i] = sim->heap[(i - 1) / CHILDREN];
    sim->heap[i] = w;
}

struct event *next_event(struct sim *sim)
{
    struct event *first;
    struct waiting last;
    uint32_t i = 0;

    if (sim->heap_count == 0)
        return NULL;
    first = sim->heap[0].event;
    last = sim->heap[--sim->heap_count];
    for (;;) {
        uint32_t child = CHILDREN * i + 1, best = child;
        if (child >= sim->heap_count)
            break;
        for (uint32_t c = child + 1; c < child + CHILDREN && c < sim->heap_count; c++)
            if (before(&sim->heap[c], &sim->heap[best]))
                best = c;
        if (!before(&sim->heap[best], &last))
            break;
        sim->heap[i] = sim->heap[best];
        i = best;
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

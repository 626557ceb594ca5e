/* meter.c - what the manager's core takes: processor time and memory.
 *
 * Time is that between entering and leaving the core, as the clock on the wall shows
 * it: on a busy machine it is too long, never too short. Memory is what the core has
 * from malloc, counted by wrapping it at link time (sim.mk). */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/sim/sim.h"

static struct meter *counting; /* NULL: outside of the core */
static uint64_t entered_ns;

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
char *__real_strdup(const char *text);
void __real_free(void *p);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *p);

static uint64_t now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void meter_enter(struct sim *sim)
{
    counting = &sim->meter;
    entered_ns = now_ns();
}

void meter_leave(struct sim *sim)
{
    sim->meter.ns += now_ns() - entered_ns;
    counting = NULL;
}

static void *count(void *p)
{
    if (counting == NULL || p == NULL)
        return p;
    counting->bytes += malloc_usable_size(p) + sizeof(size_t);
    if (counting->bytes > counting->peak)
        counting->peak = counting->bytes;
    return p;
}

static void discount(void *p)
{
    if (counting != NULL && p != NULL)
        counting->bytes -= malloc_usable_size(p) + sizeof(size_t);
}

void *__wrap_malloc(size_t size)
{
    return count(__real_malloc(size));
}

void *__wrap_calloc(size_t n, size_t size)
{
    return count(__real_calloc(n, size));
}

void *__wrap_realloc(void *old, size_t size)
{
    discount(old);
    return count(__real_realloc(old, size));
}

char *__wrap_strdup(const char *text)
{
    return count(__real_strdup(text));
}

void __wrap_free(void *p)
{
    discount(p);
    __real_free(p);
}

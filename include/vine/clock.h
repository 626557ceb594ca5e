/* clock.h - how long something takes. */
#ifndef VINE_CLOCK_H
#define VINE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Milliseconds of the monotonic clock; not for daemon/core, which is told the time. */
static inline int64_t vine_now_ms(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

#endif

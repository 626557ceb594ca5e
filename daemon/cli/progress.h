/* progress.h - one line on a terminal that tells how far, how fast, how long still. */
#ifndef VINE_CLI_PROGRESS_H
#define VINE_CLI_PROGRESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define PROGRESS_MS 500 /* asked of the daemon */

struct progress {
    const char *name; /* borrowed */
    bool shown;       /* stderr is a terminal and --json was not given */
    bool drawn;
    int64_t started_ms, last_ms;
    uint64_t last_bytes, rate; /* bytes a second, smoothed */
    char phase[16];
};

void progress_begin(struct progress *p, const char *name, bool quiet);
void progress_show(struct progress *p, const char *phase, uint64_t done,
                   uint64_t total);
void progress_end(struct progress *p); /* wipes the line */

/* A cli_progress; arg is the struct. */
int progress_event(void *arg, const json_t *event);

/* SIGINT and SIGTERM since progress_begin: the work should be given up. */
bool progress_interrupted(void);

#endif

/* settings.h - the words of plugstack.conf's line and the configuration file. */
#ifndef VINE_SPANK_SETTINGS_H
#define VINE_SPANK_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "vine/err.h"

struct settings {
    char socket_path[108];
    char private_dir[512]; /* RUN_DIR/env: where default destinations appear */
    char job_dir[512];     /* RUN_DIR/job: what jobs ask for while they run */
    char ended_dir[512];   /* RUN_DIR/ended: jobs that ended while no daemon ran */
    bool fallback_origin, start_lazy;
    uint64_t stage_timeout_s, progress_s, prolog_timeout_ms;
};

/* From `config=PATH` and `socket=PATH` in av, else the defaults. A wrong configuration
 * file leaves the defaults and its error in *err, returning -1: the settings are usable
 * all the same. */
int settings_load(int ac, char *const av[], struct settings *out, struct vine_err *err);

/* The first word of av that is no setting, or NULL. Borrowed. */
const char *settings_unknown(int ac, char *const av[]);

#endif

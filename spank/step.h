/* step.h - one job step on one node: what user_init learns and the tasks use.
 *
 * slurmstepd fills it in user_init; the tasks are forked from it and have a copy. */
#ifndef VINE_SPANK_STEP_H
#define VINE_SPANK_STEP_H

#include <slurm/spank.h>

#include "spank/settings.h"

/* user_init: ask the daemon, wait, keep results and errors. */
void step_stage(spank_t sp, const struct settings *settings);

/* task_init_privileged: mount; or warn; or raise. -1: the task must not start. */
int step_mount(spank_t sp);

/* task_init: the environment. Never fails the task. */
void step_activate(spank_t sp);

/* job_prolog and job_epilog: tell the daemon, keep silent about failures. */
void step_job_begin(spank_t sp, const struct settings *settings);
void step_job_end(spank_t sp, const struct settings *settings);

/* A task has ended: if it started lazily and could not read all it wanted, say why. */
void step_task_exit(spank_t sp, const struct settings *settings);

#endif

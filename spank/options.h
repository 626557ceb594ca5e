/* options.h - the plugin's command line options in all SPANK contexts. */
#ifndef VINE_SPANK_OPTIONS_H
#define VINE_SPANK_OPTIONS_H

#include <stdbool.h>

#include <slurm/spank.h>

#include "vine/err.h"
#include "vine/spec.h"

#define OPTIONS_SPEC_VARIABLE "VINE_ENV_SPEC"
#define OPTIONS_DATA_VARIABLE "VINE_DATA_SPEC"
#define OPTIONS_START_VARIABLE "VINE_ENV_START"

/* From slurm_spank_init. 0 or -1. */
int options_register(spank_t sp);

/* Client contexts: what the command line (else the environment) gave is well-formed,
 * and no source is absent here. */
int options_check_client(struct vine_err *err);

/* Remote and job script contexts: what --vine-env and --vine-data name, each else (if
 * `env`) the job's variable of that. *spec: caller frees; NULL when the user asked for
 * nothing. */
int options_spec(spank_t sp, bool env, struct vine_spec **spec, struct vine_err *err);

/* --vine-fallback, or the site's default; --vine-quiet. */
bool options_fallback_origin(spank_t sp, bool site_default);
/* --vine-start, else (if `env`) OPTIONS_START_VARIABLE, else the site's default. */
bool options_start_lazy(spank_t sp, bool env, bool site_default);
bool options_quiet(spank_t sp);

#endif

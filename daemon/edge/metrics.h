/* metrics.h - GET /metrics for Prometheus, on the daemon's own loop.
 *
 * libmicrohttpd serves it. That library is loaded only where the configuration asks for
 * it: with what it brings along it would be a third of a daemon's memory.
 * Text format: https://prometheus.io/docs/instrumenting/exposition_formats/ */
#ifndef VINE_EDGE_METRICS_H
#define VINE_EDGE_METRICS_H

#include <stdint.h>
#include <stdio.h>

#include <uv.h>

#include "vine/err.h"

struct metrics;

/* Write all figures to `out`, by the functions below. Called once a request. */
typedef void (*metrics_write_fn)(void *ctx, FILE *out);

/* Listen on `where` ("off": *out is NULL; "addr:port" or "addr", then default_port).
 * Errors: VINE_EINVAL (where), VINE_EDOWN (no library, address taken). */
int metrics_start(uv_loop_t *loop, const char *where, uint16_t default_port,
                  metrics_write_fn write, void *ctx, struct metrics **out,
                  struct vine_err *err);

/* NULL is fine. Frees *m once the loop has closed its handles. */
void metrics_stop(struct metrics *m);

/* A family: "# HELP" and "# TYPE". type: "counter" or "gauge". */
void metrics_family(FILE *out, const char *name, const char *type, const char *help);

/* One value of it; label NULL: none. The label's value may be any text. */
void metrics_value(FILE *out, const char *name, const char *label, const char *is,
                   uint64_t value);

/* A family of one value without a label. */
void metrics_one(FILE *out, const char *name, const char *type, const char *help,
                 uint64_t value);

/* By the names that Prometheus gives every process: CPU in seconds, memory in
 * bytes. */
void metrics_process(FILE *out);

#endif

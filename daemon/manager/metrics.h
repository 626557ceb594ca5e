/* metrics.h - the manager's page for Prometheus. */
#ifndef VINE_MANAGER_METRICS_H
#define VINE_MANAGER_METRICS_H

#include <stdio.h>

#include "daemon/core/mgr.h"

struct manager_figures {
    const struct mgr *mgr;
    uint64_t messages_in, messages_out;
};

/* metrics_write_fn; ctx: struct manager_figures. */
void manager_metrics_write(void *ctx, FILE *out);

#endif

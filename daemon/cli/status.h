/* status.h - what the views of `vine-env status` share. */
#ifndef VINE_CLI_STATUS_H
#define VINE_CLI_STATUS_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/cli/table.h"

#define DIGEST_SHOWN 12 /* enough to tell apart what one cluster holds */

struct short_digest {
    char text[DIGEST_SHOWN + 1];
};
struct short_digest status_digest(const char *digest);
unsigned status_percent(uint64_t done, uint64_t total); /* total 0: 0 */

/* The answer that was shown `ms` ago; ms 0: none. */
struct status_before {
    json_t *document;
    uint64_t ms;
};
struct figure status_rate(const struct status_before *before, uint64_t was,
                          uint64_t now); /* bytes a second */

/* status_cluster.c. 0, or -1: no memory, or `out` failed. */
int status_print_cluster(FILE *out, const json_t *document,
                         const struct status_before *before);
int status_print_job(FILE *out, const json_t *document,
                     const struct status_before *before);

#endif

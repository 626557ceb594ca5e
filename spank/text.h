/* text.h - what the job's owner reads: pure functions, no SPANK, no system calls. */
#ifndef VINE_SPANK_TEXT_H
#define VINE_SPANK_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "vine/err.h"

#define TEXT_LINE_MAX 1024 /* longest line printed; paths in it are cut */

struct text_progress {
    const char *phase; /* the daemon's word */
    uint64_t bytes_done, bytes_total, bytes_peer, bytes_origin, bytes_reused;
    uint64_t bytes_per_s; /* over the last interval; 0: unknown */
    /* Of the job's other nodes; "" and 0: not known. */
    const char *worker;  /* who builds or reads, if another one does */
    const char *slowest; /* who has least of it */
    unsigned nodes, slowest_percent;
};

/* "vine-env: ml: fetching 43 % (210 of 480 MB, 52 MB/s, 98 % from peers, 2 % from the
 * source), about 6 s left; slowest of 8 nodes: n3, 12 %" */
void text_progress_line(char *out, size_t size, const char *name,
                        const struct text_progress *p);

/* "210 MB", "1.5 GB": decimal units. */
void text_bytes(char *out, size_t size, uint64_t bytes);

/* Control bytes become '?': one message is one line, whatever a path holds. */
void text_clean(char *text);

/* What to do about a failure, for messages: "" or "; ...". */
const char *text_mend(enum vine_code code);

#endif

/* hostlist.h - Slurm's node list form: n[1-4,07-09],login,a[1-2]b[3,5]. */
#ifndef VINE_BASE_HOSTLIST_H
#define VINE_BASE_HOSTLIST_H

#include <stddef.h>

#include "vine/err.h"
#include "vine/limits.h"

struct hostlist {
    size_t count;
    char **names; /* in the order of the text, doubles dropped */
};

/* Expand `text`. Leading zeros are kept: [08-10] is 08 09 10. VINE_EINVAL names what is
 * wrong, VINE_ELIMIT: more than VINE_NODES_MAX names. On error *out is untouched. */
int hostlist_parse(const char *text, struct hostlist *out, struct vine_err *err);
void hostlist_free(struct hostlist *list);

#endif

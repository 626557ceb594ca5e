/* transfers.h - the transfer log: how each job's objects came to its nodes.
 *
 * A line of JSON a node and an object, told by the node (MSG_STORY), in a file a job,
 * DIR/JOB.UID.jsonl. Root's alone; users are shown their own jobs. Bounded: what a job
 * may write, and all of them together; the oldest go. */
#ifndef VINE_MANAGER_TRANSFERS_H
#define VINE_MANAGER_TRANSFERS_H

#include <stdint.h>

#include "vine/err.h"
#include "vine/msg.h"

struct transfers;

/* Makes the directory; "": no log is kept, *out is NULL, which all others take. */
int transfers_open(const char *dir, struct transfers **out, struct vine_err *err);
void transfers_close(struct transfers *t);

/* A log is not worth a job: what cannot be written is left out, and said once. */
void transfers_add(struct transfers *t, const char *node, const struct msg *story);

/* What is known of a job, from a byte on, as {"stories": [...], "next": N}; next is 0
 * at the end. uid 0 may see all. Caller frees *out. */
int transfers_read(struct transfers *t, const struct msg *asked, char **out,
                   struct vine_err *err);

#endif

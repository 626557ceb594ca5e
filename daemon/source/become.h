/* become.h - from root to the user a source belongs to, for good. */
#ifndef VINE_SOURCE_BECOME_H
#define VINE_SOURCE_BECOME_H

#include <sys/types.h>

#include "vine/err.h"

/* Become uid, gid and the user's supplementary groups, so that neither the user can
 * trace or dump this process nor it become root again; and die with `parent`. Before
 * threads and before anything is opened. uid 0 stays root. Not started by root: only
 * the own uid is allowed, and kept. */
int source_become(uid_t uid, gid_t gid, pid_t parent, struct vine_err *err);

#endif

/* bind.h - a private view of the file system with environments and data at their paths.
 *
 * Called as root in a process that is about to become one task. No SPANK in here. */
#ifndef VINE_SPANK_BIND_H
#define VINE_SPANK_BIND_H

#include <stdbool.h>

#include "spank/identity.h"
#include "vine/err.h"

struct bind_source {
    const char *from; /* the daemon's mount; or, if origin, the source itself */
    const char *dst;
    bool data;   /* `from` may be a file */
    bool origin; /* `from` is looked up as the user and bound as it is, not read-only */
    bool own_path; /* `dst` is the path that the user gave as the source */
};

struct bind_place {
    struct identity_user user;
    const char *node_name;   /* for messages */
    const char *private_dir; /* default destinations: <this>/NAME; e.g. /run/vine/env */
};

/* A new mount namespace for this process, with slave propagation. Once, before
 * bind_sources. */
int bind_enter(struct vine_err *err);

/* Bind all sources, parents before what lies below them, or none: on failure what was
 * bound is undone. Files go onto files, directories onto directories. A destination
 * that belongs to the system is refused (VINE_EACCES): see target.c. */
int bind_sources(const struct bind_source *sources, unsigned count,
                 const struct bind_place *place, struct vine_err *err);

#endif

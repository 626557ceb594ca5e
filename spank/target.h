/* target.h - the place where an environment or data is mounted: found, and judged, as
 * the user.
 */
#ifndef VINE_SPANK_TARGET_H
#define VINE_SPANK_TARGET_H

#include <stdbool.h>
#include <sys/types.h>

#include "vine/err.h"

/* Open directory, or if `file` regular file, `dst` (O_PATH; symlinks are followed) for
 * user `uid`, whose identity the thread has already taken (identity_fs_become). Refuses
 * what the user must not cover: see target.c. Returns the descriptor, caller closes; or
 * -1. */
int target_open(const char *dst, bool file, bool own_path, uid_t uid,
                const char *node_name, struct vine_err *err);

#endif

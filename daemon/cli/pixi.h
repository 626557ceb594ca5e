/* pixi.h - an environment from an archive of pixi-pack, for as long as it is packed. */
#ifndef VINE_CLI_PIXI_H
#define VINE_CLI_PIXI_H

#include <sys/types.h>

#include "daemon/cli/progress.h"
#include "vine/err.h"
#include "vine/limits.h"

struct pixi_tree {
    pid_t pid;                   /* of who removes it; 0: there is none */
    int hold_fd;                 /* when that is closed */
    char env[VINE_PATH_MAX + 8]; /* the environment, as it must be at its prefix */
};

/* Install the packages of `archive` with Python's rattler into a new directory: in
 * TMPDIR if that is set, else beside `output` (absolute). It is removed by pixi_end,
 * and by a process of its own if this one is gone, however it ended. */
int pixi_unpack(const char *archive, const char *output, const char *prefix,
                struct progress *progress, struct pixi_tree *out, struct vine_err *err);
void pixi_end(struct pixi_tree *tree);

#endif

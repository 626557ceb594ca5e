/* cleanup.h - nothing stays behind when a command is interrupted.
 *
 * From cleanup_begin on a thread of its own waits for SIGINT, SIGTERM and SIGHUP, those
 * that are not ignored: it ends the child that was named, removes what was named, and
 * lets the signal end this process. So work need not look whether it is to be given up,
 * wherever it hangs. */
#ifndef VINE_CLI_CLEANUP_H
#define VINE_CLI_CLEANUP_H

#include <sys/types.h>

#include "vine/err.h"

/* Before the first other thread. Children that are started must unblock signals. */
int cleanup_begin(struct vine_err *err);

/* What to remove: one file, one directory with all in it; NULL: nothing any more. */
void cleanup_file(const char *path);
void cleanup_tree(const char *path);
/* What to end first; 0: nothing any more. */
void cleanup_child(pid_t pid);

/* Remove the directory now, and forget it. */
void cleanup_remove_tree(void);

#endif

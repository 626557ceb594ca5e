/* watch.h - run a command and hear of every file that it and its children open.
 *
 * The kernel tells by seccomp's user notification (Linux 5.5 and newer): open, openat,
 * openat2, execve and execveat wait until we have looked at the path, then go on as if
 * nothing had been. Any user may do so, no process is traced (debuggers work), programs
 * need not be dynamic or written in any language. What it does not see: files opened by
 * io_uring, by programs of another architecture (32 bit), by processes the command did
 * not start itself (daemons, other steps of a job), and the paths of processes that
 * forbid to read their memory. The command cannot gain rights by set-user-id
 * programs, and its opens wait, so a signal may interrupt them as it may a read. */
#ifndef VINE_CLI_WATCH_H
#define VINE_CLI_WATCH_H

#include <stdbool.h>
#include <stdint.h>

#include "vine/err.h"

struct watch {
    /* An absolute path that something is about to open or run; it need not exist. */
    void (*opened)(void *ctx, const char *path);
    void *ctx;
    bool stdout_to_stderr; /* the command's */
    /* Set: */
    int status;      /* exit code, or 128 and the signal's number */
    uint64_t unseen; /* openings whose path could not be read */
};

/* argv[0] is searched in PATH. 0 when the command has run, whatever its status. What it
 * leaves running goes on, and is not heard of any more. */
int watch_run(struct watch *watch, char *const argv[], struct vine_err *err);

#endif

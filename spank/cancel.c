/* cancel.c - notice scancel and Ctrl-C from inside a callback.
 *
 * Slurm interrupts no callback: scancel makes slurmd connect to the step's socket
 * (SlurmdSpoolDir/NODE_JOB.STEP), and the thread of slurmstepd that accepts it waits
 * until the tasks run before it delivers the signal. All other requests (state, pids,
 * statistics) are answered at once. So a connection on our own listening socket that
 * stays open means that a signal is waiting for the tasks. The wait for staging then
 * ends and no task is started. Which signal it is cannot be seen: a harmless one, sent
 * while the job is still being staged, ends the step too.
 *
 * Verified with Slurm 22.05; where the socket is named otherwise nothing is found and
 * the wait lasts until it is answered or its deadline passes. */
#include "spank/cancel.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define FD_MAX 1024 /* slurmstepd has some twenty open at this time */

/* Is `fd` a Unix socket bound to the step's name? */
static bool is_step_socket(int fd, const char *mark)
{
    struct sockaddr_un addr;
    socklen_t len = sizeof(addr);
    char path[sizeof(addr.sun_path) + 1];
    const char *base;

    if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0 ||
        addr.sun_family != AF_UNIX || len <= sizeof(addr.sun_family))
        return false;
    (void)snprintf(path, sizeof(path), "%.*s", (int)sizeof(addr.sun_path),
                   addr.sun_path);
    base = strrchr(path, '/');
    return base != NULL && strstr(base, mark) != NULL;
}

static bool is_listening(int fd)
{
    int on = 0;
    socklen_t len = sizeof(on);

    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &len) == 0 && on;
}

/* The oldest known request that is still waiting, else any; 0: none. */
static ino_t find_request(uint32_t job, ino_t known)
{
    char mark[32];
    ino_t found = 0;

    (void)snprintf(mark, sizeof(mark), "_%u.", job);
    for (int fd = 0; fd < FD_MAX; fd++) {
        struct stat st;

        if (!is_step_socket(fd, mark) || is_listening(fd) || fstat(fd, &st) < 0)
            continue;
        if (found == 0 || st.st_ino == known)
            found = st.st_ino;
    }
    return found;
}

bool cancel_look(struct cancel_watch *watch)
{
    ino_t found = find_request(watch->job, watch->pending);

    if (found == 0 || found != watch->pending)
        watch->looks = 0;
    watch->pending = found;
    if (found != 0)
        watch->looks++;
    return watch->looks >= CANCEL_LOOKS;
}

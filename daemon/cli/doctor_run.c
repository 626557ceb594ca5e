/* doctor_run.c - other programs' words, within a time limit. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/cli/doctor.h"
#include "vine/clock.h"

#define SBIN ":/usr/local/sbin:/usr/sbin:/sbin"

static void run_child(char *const argv[], int out_fd)
{
    int null = open("/dev/null", O_RDWR);

    (void)dup2(null, STDIN_FILENO);
    (void)dup2(out_fd, STDOUT_FILENO);
    (void)dup2(null, STDERR_FILENO);
    (void)execvp(argv[0], argv);
    _exit(127);
}

/* What comes until end of file, a full buffer or the deadline; -1: time is up. */
static int collect(int fd, int64_t deadline, char *out, size_t size)
{
    size_t used = 0;
    char spill[4096];

    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - vine_now_ms();
        bool full = used + 1 >= size;
        ssize_t n;

        if (left <= 0 || (poll(&p, 1, (int)left) == 0))
            return -1;
        n = read(fd, full ? spill : out + used, full ? sizeof(spill) : size - 1 - used);
        if (n == 0 || (n < 0 && errno != EINTR))
            return 0;
        if (n > 0 && !full)
            used += (size_t)n;
        out[used] = '\0';
    }
}

int doctor_run(char *const argv[], int timeout_ms, char *out, size_t size)
{
    int fds[2], status = 0, result;
    pid_t pid;

    out[0] = '\0';
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -1;
    pid = fork();
    if (pid == 0)
        run_child(argv, fds[1]);
    (void)close(fds[1]);
    if (pid < 0) {
        (void)close(fds[0]);
        return -1;
    }
    result = collect(fds[0], vine_now_ms() + timeout_ms, out, size);
    (void)close(fds[0]);
    if (result < 0)
        (void)kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    if (result < 0 || !WIFEXITED(status) || WEXITSTATUS(status) == 127)
        return -1;
    return WEXITSTATUS(status);
}

bool doctor_has_program(const char *name)
{
    const char *env = getenv("PATH");
    char *path = NULL, *rest, *dir;
    bool found = false;

    if (asprintf(&path, "%s%s", env != NULL ? env : "/usr/bin:/bin", SBIN) < 0)
        return false;
    for (rest = path; !found && (dir = strsep(&rest, ":")) != NULL;) {
        char file[1024];
        (void)snprintf(file, sizeof(file), "%s/%s", dir, name);
        found = access(file, X_OK) == 0;
    }
    free(path);
    return found;
}

/* step.c - of which job's step is a process?
 *
 * slurmstepd, which runs as root, titles itself "slurmstepd: [JOB.STEP]"; a task is a
 * descendant of it. One that has lost its ancestors (a shell's background process
 * whose shell ended) is still in its step's control group, which root made too: below
 * /slurm or slurmstepd.scope, where no user makes any. Both are looked at as they are
 * now: a process may end, and its number be given anew, so the uid must fit. */
#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/node/vined.h"

#define ANCESTORS_MAX 64

/* A file of /proc/PID, terminated. */
static ssize_t read_proc(uint32_t pid, const char *name, char *out, size_t size)
{
    char path[48];
    ssize_t n;
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%u/%s", pid, name);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    n = read(fd, out, size - 1);
    (void)close(fd);
    if (n < 0)
        return -1;
    out[n] = '\0';
    return n;
}

/* Real, effective and saved uid. Who owns the files of /proc/PID does not tell: root
 * owns them, too, of a user's process that is not dumpable. */
static int read_uids(uint32_t pid, uint32_t uid[3])
{
    char status[2048];
    const char *line;

    if (read_proc(pid, "status", status, sizeof(status)) <= 0 ||
        (line = strstr(status, "\nUid:")) == NULL ||
        sscanf(line, " Uid: %u %u %u", &uid[0], &uid[1], &uid[2]) != 3)
        return -1;
    return 0;
}

/* "slurmstepd: [JOB.STEP]"; 0: no such title. */
static uint64_t step_of_title(const char *title, size_t len, bool *external)
{
    static const char prefix[] = "slurmstepd: [";
    unsigned long long job;
    char *end;

    if (strncmp(title, prefix, sizeof(prefix) - 1) != 0 ||
        !isdigit((unsigned char)title[sizeof(prefix) - 1]))
        return 0;
    /* Only NULs follow: a set-uid program that a user calls so was given arguments. */
    for (size_t i = strlen(title); i < len; i++)
        if (title[i] != '\0')
            return 0;
    job = strtoull(title + sizeof(prefix) - 1, &end, 10);
    *external = strncmp(end, ".extern]", 8) == 0;
    return *end == '.' ? job : 0;
}

uint64_t step_of_daemon(uint32_t pid, bool *external)
{
    char title[256];
    ssize_t n = read_proc(pid, "cmdline", title, sizeof(title));
    uint64_t job = n > 0 ? step_of_title(title, (size_t)n, external) : 0;
    uint32_t uid[3];

    /* Anybody can title a process so; only root's are Slurm's, which may act as the
     * job's user for a while. */
    if (job != 0 && (read_uids(pid, uid) < 0 || uid[0] != 0 || uid[2] != 0))
        return 0;
    return job;
}

/* 0: none, or the process is gone. */
static uint32_t parent_of(uint32_t pid)
{
    char stat[512];
    const char *end;
    unsigned parent;

    /* PID (NAME) STATE PARENT; a name may hold any character. */
    if (read_proc(pid, "stat", stat, sizeof(stat)) <= 0 ||
        (end = strrchr(stat, ')')) == NULL || sscanf(end + 1, " %*c %u", &parent) != 1)
        return 0;
    return parent;
}

static uint64_t job_of_ancestors(uint32_t pid)
{
    for (int i = 0; i < ANCESTORS_MAX && pid > 1; i++) {
        bool external;
        uint64_t job = step_of_daemon(pid, &external);
        if (job != 0)
            return job;
        pid = parent_of(pid);
    }
    return 0;
}

/* "0::/system.slice/slurmstepd.scope/job_7/step_0/..", "4:memory:/slurm/uid_1/job_7/.."
 */
static uint64_t job_of_group(const char *groups)
{
    static const char *const tops[] = {
        "/slurm/", "/slurm_", "/system.slice/slurmstepd.scope/",
        "/system.slice/slurmd.service/slurmstepd.scope/"};

    for (const char *line = groups; line != NULL; line = strchr(line, '\n')) {
        const char *path, *job;
        size_t len;
        line += *line == '\n';
        path = strchr(line, '/');
        len = path != NULL ? strcspn(path, "\n") : 0;
        job = path != NULL ? strstr(path, "/job_") : NULL;
        if (job == NULL || job >= path + len)
            continue;
        for (size_t i = 0; i < sizeof(tops) / sizeof(tops[0]); i++)
            if (strncmp(path, tops[i], strlen(tops[i])) == 0)
                return strtoull(job + 5, NULL, 10);
    }
    return 0;
}

uint64_t step_of_process(uint32_t pid, uint32_t uid)
{
    char groups[4096];
    uint32_t owner[3];
    uint64_t job;

    if (read_uids(pid, owner) < 0 || owner[1] != uid ||
        read_proc(pid, "cgroup", groups, sizeof(groups)) < 0)
        return 0;
    job = job_of_ancestors(pid);
    return job != 0 ? job : job_of_group(groups);
}
